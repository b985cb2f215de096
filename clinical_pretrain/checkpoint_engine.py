"""How DeepSpeed's files get to the disk: hashed as they are written, flushed, and without an error that leaves ranks
waiting for each other."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine


class HashedFile:
    """A file that torch.save and safetensors can write to, which knows its size and sha256 in the end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._sha256, self.size = stream, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of it."""
        try:
            self._stream.write(data)
        except OSError as error:
            self.error = error  # torch.save's own says nothing of the cause
            raise
        self._sha256.update(data)
        self.size += memoryview(data).nbytes
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Nothing to do: it is flushed once, to the disk, in the end."""

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {"size": self.size, "sha256": self._sha256.hexdigest()}


def write_hashed(path: Path, write: Callable[[HashedFile], object]) -> dict[str, Any]:
    """Write a file and flush it to the disk.

    Returns:
        Its size in bytes and its sha256.

    Raises:
        OSError: it can't be written.
    """
    with path.open("wb") as stream:
        file = HashedFile(stream)
        try:
            write(file)
        except RuntimeError:
            if file.error is None:
                raise
            raise file.error from None
        stream.flush()
        os.fsync(stream.fileno())
    return file.facts()


class QuietCheckpointEngine(TorchCheckpointEngine):
    """DeepSpeed's plug point. Writes this rank's files, and remembers the first error instead of raising it:
    `save_checkpoint` meets at a barrier in the end, where the other ranks would wait for ever."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, Any]] = {}
        self.error: str | None = None

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing to do: the folder is there."""

    def save(self, state_dict: Any, path: str) -> None:
        """Write one of DeepSpeed's files."""
        if self.error is None:
            try:
                self.files[Path(path).name] = write_hashed(
                    Path(path), lambda file: torch.save(state_dict, cast(Any, file))
                )
            except OSError as error:
                self.error = error.strerror or str(error)
