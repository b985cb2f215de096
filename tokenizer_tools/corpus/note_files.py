"""One file's notes, in blocks if it can be divided; and where blocks begin, so that a machine reads only its own."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizer_tools.corpus.blocks import BlockReader, IndivisibleError
from tokenizer_tools.corpus.compressed_files import COMPRESSIONS, open_file
from tokenizer_tools.corpus.input_files import ONE_NOTE, Input
from tokenizer_tools.corpus.input_options import InputOptions
from tokenizer_tools.corpus.read_notes import Note, NoteReader
from tokenizer_tools.corpus.rows import Block, count_parquet
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.progress import Progress


class NoteFile:
    """A file's notes, read from its beginning.

    Args:
        path: the file.
        reader: of its input.
        before: notes of the input that stand before it.
        stack: closes the file.
    """

    def __init__(self, path: Path, reader: NoteReader, before: int, stack: ExitStack) -> None:
        self.path, self._reader, self._before, self._stack, self._taken = path, reader, before, stack, 0
        self._notes: Iterator[Note] | None = None
        self._blocks: BlockReader | None = None

    def take(self, most: int) -> Block | list[Note]:
        """The next notes, at most so many; none at the end."""
        if self._notes is None and self._blocks is None:
            self._open()
        if self._notes is None and self._blocks is not None:
            try:
                block = self._blocks.take(most)
            except IndivisibleError:
                self._parse()
            else:
                self._taken += len(block)
                return block
        assert self._notes is not None
        notes = list(itertools.islice(self._notes, most))
        self._taken += len(notes)
        return notes

    def skip(self, most: int) -> int:
        """Pass over the next notes, at most so many, and count them."""
        kind = self._reader.input.kind
        if kind not in ("parquet", *ONE_NOTE):
            return len(self.take(most))
        count = min(most, (count_parquet(self.path) if kind == "parquet" else 1) - self._taken)
        if self._notes is not None:
            next(itertools.islice(self._notes, count, count), None)
        self._taken += count
        return count

    def _open(self) -> None:
        kind, columns = self._reader.input.kind, self._reader.source.columns
        if kind not in ("csv", "jsonl"):
            self._parse()
            return
        stream = self._stack.enter_context(open_file(self.path))
        try:
            self._blocks = BlockReader.of_csv(stream, columns) if kind == "csv" else BlockReader.of_jsonl(stream)
        except IndivisibleError:
            self._parse()
        else:
            header_alone = Block(self._blocks.header, b"", 0, 0)
            next(self._reader.notes(self.path, self._before, header_alone), None)  # without rows it may be wrong, too

    def _parse(self) -> None:
        """Parse the file from here on, as it can't be divided."""
        self._notes = itertools.islice(self._reader.notes(self.path, self._before), self._taken, None)


@dataclass(frozen=True)
class FilePositions:
    """Where a CSV or JSONL file can be cut so that each piece lies in one part."""

    headers: tuple[bytes, bytes]
    """`Block.header` of the first piece, which stands in the file, and of all others."""
    pieces: Sequence[tuple[int, int, int]]
    """Of each piece: notes; bytes, 0 if it can't be read alone; `Block.before`."""

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"headers": [header.decode("latin-1") for header in self.headers], "pieces": self.pieces}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> FilePositions:
        """What `to_json` gave."""
        first, later = (header.encode("latin-1") for header in record["headers"])
        return cls((first, later), [(notes, size, before) for notes, size, before in record["pieces"]])


class DividedFile:
    """The notes of a file of which it is known where its pieces begin: what is passed over isn't read.

    Args:
        file: the same file, for pieces that can't be read alone.
        positions: of its pieces.
    """

    def __init__(self, file: NoteFile, positions: FilePositions) -> None:
        self._file, self._positions = file, positions
        self._next, self._offset, self._behind = 0, len(positions.headers[0]), 0

    def take(self, most: int) -> Block | list[Note]:
        """The next piece, which has so many notes, or fewer at the file's end; none at the end.

        Raises:
            UserError: the file isn't what it was.
        """
        offset, number = self._offset, self._next
        count = self.skip(most)
        if not count:
            return []
        _, size, before = self._positions.pieces[number]
        if size:
            with self._file.path.open("rb") as stream:
                stream.seek(offset)
                content = stream.read(size)
            is_whole = len(content) == size
            records: Block | list[Note] = Block(self._positions.headers[min(number, 1)], content, before, count)
        else:
            for notes, _, _ in self._positions.pieces[self._behind : number]:
                self._file.skip(notes)
            self._behind = self._next
            records = self._file.take(count)
            is_whole = len(records) == count
        if not is_whole:
            raise UserError(f"{self._file.path}: changed while it was read; run the same command again")
        return records

    def skip(self, most: int) -> int:
        """Pass over the next piece, and count its notes."""
        if self._next == len(self._positions.pieces):
            return 0
        count, size, _ = self._positions.pieces[self._next]
        assert count <= most, f"{self._file.path}: pieces of other parts"
        self._next, self._offset = self._next + 1, self._offset + size
        return count


def find_positions(
    inputs: Sequence[Input], size: int, options: InputOptions, rule: SplitRule
) -> list[list[FilePositions | None]]:
    """Read all CSV and JSONL files once, to find where the pieces of parts of so many notes begin.

    Returns:
        For each file of each input. None for files of other kinds.

    Raises:
        UserError: see `read_notes`.
    """
    found, filled = [list[FilePositions | None]() for _ in inputs], 0
    with Progress("finding where parts begin") as progress:
        for source, entry in enumerate(inputs):
            reader, before = NoteReader(entry, source, options, rule), 0
            for path in entry.files:
                with ExitStack() as stack:
                    file = NoteFile(path, reader, before, stack)
                    if entry.kind not in ("csv", "jsonl"):
                        count = file.skip(sys.maxsize)
                        found[source].append(None)
                    else:
                        positions = _positions_of(file, filled, size, progress)
                        count = sum(notes for notes, _, _ in positions.pieces)
                        found[source].append(positions)
                before, filled = before + count, (filled + count) % size
    return found


def _positions_of(file: NoteFile, filled: int, size: int, progress: Progress) -> FilePositions:
    """The positions of a file before which so many notes of a part stand."""
    headers = [b"", b""]
    pieces: list[tuple[int, int, int]] = []
    can_be_cut = not file.path.name.lower().endswith(COMPRESSIONS)
    while len(records := file.take(size - filled)):
        if isinstance(records, Block):
            headers[min(len(pieces), 1)] = records.header
            pieces.append((len(records), len(records.content) if can_be_cut else 0, records.before))
        else:
            pieces.append((len(records), 0, 0))
        filled = (filled + len(records)) % size
        progress.advance(len(records))
    return FilePositions((headers[0], headers[1]), pieces)
