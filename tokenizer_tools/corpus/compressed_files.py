"""Open files that may be compressed: the one place that knows gzip and Zstandard."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from tokenizer_tools.errors import UserError

_unpack: Any = gzip.open
_broken: Any = zlib.error
with suppress(ImportError):  # it isn't made for every processor
    from isal import igzip, isal_zlib

    _unpack, _broken = igzip.open, isal_zlib.error

COMPRESSIONS = (".gz", ".zst")
"""Endings after those of a kind of files, as in .csv.gz."""


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading its bytes, unpacked if its name ends in .gz or .zst.

    ISA-L unpacks gzip, three times as fast as zlib, where the processor has it. Arrow unpacks Zstandard: unlike other
    readers it notices that a file was cut off.

    Raises:
        UserError: the compressed file is broken or cut off, also later, while it is read.
    """
    name = path.name.lower()
    if name.endswith(".gz"):
        try:
            with path.open("rb") as raw, _unpack(raw) as unpacked:
                yield unpacked
        except (EOFError, gzip.BadGzipFile, _broken) as error:
            raise UserError(f"{path}: broken or cut-off gzip file ({error}); copy it again") from None
    elif name.endswith(".zst"):
        import pyarrow as pa

        with (
            path.open("rb") as raw,
            io.BufferedReader(_Unpacked(pa.CompressedInputStream(raw, "zstd"), path)) as stream,
        ):
            yield stream
    else:
        with path.open("rb") as stream:
            yield stream


class _Unpacked(io.RawIOBase):
    """Arrow's stream as a raw stream of Python's, with its errors in our words."""

    def __init__(self, stream: object, path: Path) -> None:
        self._stream, self._path = stream, path

    def readable(self) -> bool:
        """As in Python's own class."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """As in Python's own class."""
        try:
            return int(self._stream.readinto(buffer))  # type: ignore[attr-defined]
        except OSError as error:
            raise UserError(f"{self._path}: broken or cut-off Zstandard file ({error}); copy it again") from None
