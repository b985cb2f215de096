"""How DeepSpeed's files get to the disk: by way of memory, so that training waits for a copy, not for the disk; and
without an error that leaves ranks waiting for each other."""

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
    """A file in memory that torch.save can write to, again and again: what it took once, it keeps, for new memory costs
    several times what a copy does."""

    def __init__(self) -> None:
        self.chunks: list[bytearray] = []
        self._count = 0

    def write(self, data: Any) -> int:
        """Keep a copy."""
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
        """Nothing to do."""

    def serialize(self, content: Any) -> None:
        """What torch.save would write, without the archive's own checksums: the manifest has better ones."""
        checksums, self._count = torch.serialization.get_crc32_options(), 0
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(content, cast(Any, self))
        finally:
            torch.serialization.set_crc32_options(checksums)
        del self.chunks[self._count :]


class MemoryCheckpointEngine(TorchCheckpointEngine):
    """DeepSpeed's plug point. Keeps this rank's files in memory, by name, and remembers the first error instead of
    raising it: `save_checkpoint` meets at a barrier in the end, where the other ranks would wait for ever."""

    def __init__(self) -> None:
        self.files: dict[str, MemoryFile] = {}
        self.error: str | None = None

    @classmethod
    def of(cls, engine: Any) -> MemoryCheckpointEngine:
        """The engine's, put in place at the first save."""
        if not isinstance(engine.checkpoint_engine, cls):
            use_checkpoint_engine(engine, cls())
        engine.checkpoint_engine.error = None
        return cast(MemoryCheckpointEngine, engine.checkpoint_engine)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing to do: the folder is there."""

    def save(self, state_dict: Any, path: str) -> None:
        """Take one of DeepSpeed's files."""
        if self.error is None:
            try:
                self.files.setdefault(Path(path).name, MemoryFile()).serialize(state_dict)
            except (MemoryError, RuntimeError) as error:  # of CUDA's, too
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
