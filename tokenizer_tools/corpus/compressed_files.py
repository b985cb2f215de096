"""Open files that may be compressed."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizer_tools.errors import UserError


@contextmanager
def open_file(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file for reading its bytes, unpacked if its name ends in .gz.

    Raises:
        UserError: the compressed file is broken or cut off, also later, while it is read.
    """
    try:
        with path.open("rb") as raw, gzip.open(raw) if path.name.lower().endswith(".gz") else raw as stream:
            yield stream  # type: ignore[misc]  # gzip's has all methods of a BufferedReader
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: broken or cut-off gzip file ({error}); copy it again") from None
