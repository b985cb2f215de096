"""Divide CSV and JSONL files into blocks of whole records without parsing them, so that many processes can parse.

A line break ends a CSV record if an even number of quotes stands before it. That holds where every quote that opens a
field stands at the field's start, and every quote that closes one at its end, as RFC 4180 asks. Each quote is checked.
A file with another quote, such as 5'11" in a field without quotes, is parsed in one go, from its beginning.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from tokenizer_tools.corpus.columns import Columns
from tokenizer_tools.corpus.rows import Block, separator_of

_CHUNK = 1 << 22
"""Bytes read at once."""
_LONGEST_RECORD = 1 << 26
"""Bytes. What is longer may be an unclosed quote, which csv.reader describes better."""
_BOM = b"\xef\xbb\xbf"
_QUOTE, _NEWLINE, _RETURN = map(ord, '"\n\r')

_Ends = npt.NDArray[np.int64]


class IndivisibleError(Exception):
    """Where a file's records end can't be told without parsing all that stands before."""


class BlockReader:
    """Takes block after block of an open file.

    Args:
        stream: the file, at its beginning.
        find_ends: finds where whole records end in bytes that begin a record; see `csv_ends`.
        counts_lines: whether `Block.before` counts lines, and not records.
    """

    def __init__(self, stream: BinaryIO, find_ends: Callable[[bytes, bool], _Ends], counts_lines: bool) -> None:
        self._stream, self._find_ends, self._counts_lines = stream, find_ends, counts_lines
        self.header = b""
        self._before = 0
        self._data, self._ends = b"", np.zeros(0, np.int64)
        self._start = self._used = 0
        self._is_last = False

    @classmethod
    def of_csv(cls, stream: BinaryIO, columns: Columns) -> BlockReader:
        """Of a CSV file, behind its header."""
        bom, start = _start_of(stream)
        first_line = io.TextIOWrapper(io.BytesIO(start), "utf-8", "surrogateescape", newline="").readline()
        separator = ord(separator_of(first_line, columns))
        reader = cls(stream, lambda data, is_last: csv_ends(data, is_last, separator), counts_lines=False)
        reader._data = start
        reader.header, reader._before = bom + reader.take(1).content, 0
        return reader

    @classmethod
    def of_jsonl(cls, stream: BinaryIO) -> BlockReader:
        """Of a JSONL file."""
        reader = cls(stream, jsonl_ends, counts_lines=True)
        reader.header, reader._data = _start_of(stream)
        return reader

    def take(self, most: int) -> Block:
        """The next records, at most so many; none at the end of the file.

        Raises:
            IndivisibleError: the file must be parsed in one go.
        """
        pieces, taken = [], 0
        while taken < most and (self._used < len(self._ends) or self._read_on()):
            count = min(most - taken, len(self._ends) - self._used)
            stop = int(self._ends[self._used + count - 1])
            pieces.append(self._data[self._start : stop])
            self._start, self._used, taken = stop, self._used + count, taken + count
        block = Block(self.header, b"".join(pieces), self._before, taken)
        self._before += block.content.count(b"\n") if self._counts_lines else taken
        if self._counts_lines:
            self.header = _BOM  # dropped when it is read, while one in the text stays
        return block

    def _read_on(self) -> bool:
        """Read until there is another whole record. False at the end of the file."""
        self._data, self._start = self._data[self._start :], 0
        self._used, self._ends = 0, self._ends[:0]
        while not len(self._ends) and not self._is_last:
            chunk = self._stream.read(_CHUNK)
            self._is_last = not chunk
            self._data += chunk
            self._ends = self._find_ends(self._data, self._is_last)
            if not len(self._ends) and len(self._data) > _LONGEST_RECORD:
                raise IndivisibleError
        return len(self._ends) > 0


def _start_of(stream: BinaryIO) -> tuple[bytes, bytes]:
    """The byte-order mark, if there is one, and the first chunk behind it."""
    start = stream.read(_CHUNK)
    bom = _BOM if start.startswith(_BOM) else b""
    return bom, start.removeprefix(bom)


def csv_ends(data: bytes, is_last: bool, separator: int) -> _Ends:
    """Where whole CSV records end, empty lines not counted: positions behind each.

    Args:
        data: begins a record.
        is_last: whether the file ends here.
        separator: the character between fields.

    Raises:
        IndivisibleError: a quote stands where it is part of the text or a fault, or a line ends in a carriage return.
    """
    array = np.frombuffer(data, np.uint8)
    quotes, breaks = np.flatnonzero(array == _QUOTE), np.flatnonzero(array == _NEWLINE)
    ends = breaks[_is_outside(quotes, breaks)] + 1
    if is_last and len(array) and (not len(ends) or ends[-1] < len(array)):
        if len(quotes) % 2:
            raise IndivisibleError
        ends = np.append(ends, len(array))
    if not len(ends):
        return ends
    whole = array[: ends[-1]]
    _check_quotes(whole, quotes[: np.searchsorted(quotes, ends[-1])], separator)
    returns = np.flatnonzero(whole == _RETURN)
    returns = returns[_is_outside(quotes, returns)]
    if not _is_among(whole, returns + 1, (_NEWLINE,), at_end=False):
        raise IndivisibleError
    lengths = np.diff(ends, prepend=0)
    is_break = whole[ends - 1] == _NEWLINE
    is_empty = (is_break & (lengths == 1)) | (is_break & (lengths == 2) & (whole[ends - lengths] == _RETURN))
    return ends[~is_empty]


def _is_outside(quotes: _Ends, places: _Ends) -> npt.NDArray[np.bool_]:
    return np.searchsorted(quotes, places) % 2 == 0


def _check_quotes(data: npt.NDArray[np.uint8], quotes: _Ends, separator: int) -> None:
    """Check that each quote opens or closes a field, or is half of a doubled one, which closes and opens at once."""
    opening, closing = quotes[0::2], quotes[1::2]
    if not (
        _is_among(data, opening - 1, (separator, _NEWLINE, _QUOTE), at_end=True)
        and _is_among(data, closing + 1, (separator, _NEWLINE, _RETURN, _QUOTE), at_end=True)
    ):
        raise IndivisibleError


def _is_among(data: npt.NDArray[np.uint8], places: _Ends, characters: tuple[int, ...], at_end: bool) -> bool:
    """Whether one of some characters stands at each place. What holds before and behind the data is `at_end`."""
    within = (places >= 0) & (places < len(data))
    return bool(np.isin(data[places[within]], characters).all()) and (at_end or bool(within.all()))


def jsonl_ends(data: bytes, is_last: bool) -> _Ends:
    """Where lines that aren't empty end: positions behind each. Arguments as for `csv_ends`."""
    ends, start = [], 0
    for line in data.split(b"\n")[: None if is_last else -1]:
        start += len(line) + 1
        if line.startswith(b"{") or line.decode("utf-8", "surrogateescape").strip():
            ends.append(min(start, len(data)))
    return np.array(ends, np.int64)
