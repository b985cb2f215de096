"""DeepSpeed's checkpoint files, copied to memory first: training waits for the copy, not for the disk, and an error on
one rank doesn't leave the others waiting at a barrier."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

from clinical_pretrain.engine.deepspeed_internals import use_checkpoint_engine


class MemoryFile:
    """A file in memory that torch.save() can write to again and again. Its memory is reused: to allocate it anew takes
    several times as long as to copy."""

    def __init__(self) -> None:
        self.chunks: list[bytearray] = []
        """The content: one chunk per write()."""
        self._count = 0

    def write(self, data: Any) -> int:
        """Append a copy of the data."""
        view = memoryview(data).cast("B")
        if self._count == len(self.chunks):
            self.chunks.append(bytearray(view))
        elif len(self.chunks[self._count]) != len(view):
            self.chunks[self._count] = bytearray(view)
        else:
            memoryview(self.chunks[self._count])[:] = view
        self._count += 1
        return len(view)

    def flush(self) -> None:
        """Do nothing; torch.save() calls it."""

    def serialize(self, content: Any) -> None:
        """Replace the content by what torch.save() writes, without the archive's checksums: the manifest has sha256."""
        checksums, self._count = torch.serialization.get_crc32_options(), 0
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(content, cast(Any, self))
        finally:
            torch.serialization.set_crc32_options(checksums)
        del self.chunks[self._count :]


class MemoryCheckpointEngine(TorchCheckpointEngine):
    """What DeepSpeed's engine writes its files with. Keeps this rank's files in memory, by name, and the first error,
    which it doesn't raise: `save_checkpoint` ends in a barrier, where the other ranks would wait for ever."""

    def __init__(self) -> None:
        self.files: dict[str, MemoryFile] = {}
        self.error: str | None = None

    @classmethod
    def of(cls, engine: Any) -> MemoryCheckpointEngine:
        """The engine's own one, installed at the first save; its error is cleared."""
        if not isinstance(engine.checkpoint_engine, cls):
            use_checkpoint_engine(engine, cls())
        engine.checkpoint_engine.error = None
        return cast(MemoryCheckpointEngine, engine.checkpoint_engine)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing: the folder exists."""

    def save(self, state_dict: Any, path: str) -> None:
        """Keep one of DeepSpeed's files."""
        if self.error is None:
            try:
                self.files.setdefault(Path(path).name, MemoryFile()).serialize(state_dict)
            except (MemoryError, RuntimeError) as error:  # RuntimeError: CUDA's out of memory
                self.error = f"{Path(path).name}: {type(error).__name__}: {error}".split("\n")[0]


def write_hashed(path: Path, chunks: Iterable[bytes | bytearray]) -> dict[str, Any]:
    """Write a file and flush it to the disk.

    Returns:
        Its size in bytes and its sha256, for the manifest.

    Raises:
        OSError: it can't be written.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as stream:
        for chunk in chunks:
            stream.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        stream.flush()
        os.fsync(stream.fileno())
    return {"size": size, "sha256": digest.hexdigest()}
