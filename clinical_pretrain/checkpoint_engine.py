"""How DeepSpeed's files get to the disk: by way of memory, so that training waits for a copy, not for the disk; and
without an error that leaves ranks waiting for each other."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, cast

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine


class Memory:
    """A file in memory that torch.save can write to."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: Any) -> int:
        """Keep a copy."""
        self.pieces.append(bytes(data))
        return len(self.pieces[-1])

    def flush(self) -> None:
        """Nothing to do."""


class MemoryCheckpointEngine(TorchCheckpointEngine):
    """DeepSpeed's plug point. Keeps this rank's files in memory, by name, and remembers the first error instead of
    raising it: `save_checkpoint` meets at a barrier in the end, where the other ranks would wait for ever."""

    def __init__(self) -> None:
        self.files: dict[str, list[bytes]] = {}
        self.error: str | None = None

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing to do: the folder is there."""

    def save(self, state_dict: Any, path: str) -> None:
        """Take one of DeepSpeed's files."""
        if self.error is None:
            try:
                self.files[Path(path).name] = in_memory(state_dict)
            except (MemoryError, RuntimeError) as error:  # of CUDA's, too
                self.error = f"{Path(path).name}: {type(error).__name__}: {error}".split("\n")[0]


def in_memory(content: Any) -> list[bytes]:
    """What torch.save would write, without the archive's own checksums: the manifest has better ones."""
    file, checksums = Memory(), torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, cast(Any, file))
    finally:
        torch.serialization.set_crc32_options(checksums)
    return file.pieces


def write_hashed(path: Path, pieces: list[bytes]) -> dict[str, Any]:
    """Write a file, flush it to the disk, and let go of its pieces.

    Returns:
        Its size in bytes and its sha256, for the manifest.

    Raises:
        OSError: it can't be written.
    """
    digest, size = hashlib.sha256(), 0
    pieces.reverse()
    with path.open("wb") as stream:
        while pieces:
            piece = pieces.pop()
            stream.write(piece)
            digest.update(piece)
            size += len(piece)
        stream.flush()
        os.fsync(stream.fileno())
    return {"size": size, "sha256": digest.hexdigest()}
