"""All notes of all inputs in parts of a fixed number, in input order, to be parsed by whoever gets the part."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizer_tools.corpus.blocks import BlockReader, IndivisibleError
from tokenizer_tools.corpus.compressed_files import open_file
from tokenizer_tools.corpus.input_files import Input
from tokenizer_tools.corpus.input_options import InputOptions
from tokenizer_tools.corpus.read_notes import Note, NoteReader
from tokenizer_tools.corpus.rows import Block
from tokenizer_tools.corpus.split_patients import SplitRule


@dataclass(frozen=True)
class FileBlock:
    """Notes of one file that aren't parsed yet."""

    entry: Input
    """Their input, with this file alone."""
    source: int
    """Its number."""
    before: int
    """Notes of the input that stand before them."""
    block: Block

    def notes(self, options: InputOptions, rule: SplitRule) -> Iterator[Note]:
        """Parse them; see `read_notes`."""
        reader, count = NoteReader(self.entry, self.source, options, rule), 0
        for note in reader.notes(self.entry.files[0], self.before, self.block):
            count += 1
            yield note
        assert count == len(self.block), f"{self.entry.path}: {count} notes in {len(self.block)} records"


Part = list[Note | FileBlock]


def notes_of(part: Part, options: InputOptions, rule: SplitRule) -> Iterator[Note]:
    """Yield the notes of a part; see `read_notes`."""
    for piece in part:
        if isinstance(piece, FileBlock):
            yield from piece.notes(options, rule)
        else:
            yield piece


def parts_of(inputs: Sequence[Input], size: int, options: InputOptions, rule: SplitRule) -> Iterator[Part]:
    """Yield parts of so many notes; the last may have fewer.

    Raises:
        UserError: see `read_notes`. What is wrong with single rows of CSV and JSONL shows when they are parsed.
    """
    part: Part = []
    missing = size
    for source, entry in enumerate(inputs):
        reader, before = NoteReader(entry, source, options, rule), 0
        for path in entry.files:
            with ExitStack() as stack:
                file = _File(path, reader, before, stack)
                while len(records := file.take(missing)):
                    if isinstance(records, Block):
                        part.append(FileBlock(replace(entry, files=[path]), source, before, records))
                    else:
                        part += records
                    before, missing = before + len(records), missing - len(records)
                    if not missing:
                        yield part
                        part, missing = [], size
    if part:
        yield part


class _File:
    """One file, in blocks if it can be divided."""

    def __init__(self, path: Path, reader: NoteReader, before: int, stack: ExitStack) -> None:
        self._path, self._reader, self._before, self._taken = path, reader, before, 0
        self._notes: Iterator[Note] | None = None
        self._blocks: BlockReader | None = None
        kind, columns = reader.input.kind, reader.source.columns
        if kind not in ("csv", "jsonl"):
            self._parse()
            return
        stream = stack.enter_context(open_file(path))
        try:
            self._blocks = BlockReader.of_csv(stream, columns) if kind == "csv" else BlockReader.of_jsonl(stream)
        except IndivisibleError:
            self._parse()
        else:
            header_alone = Block(self._blocks.header, b"", 0, 0)
            next(reader.notes(path, before, header_alone), None)  # a file without rows has a header to be wrong, too

    def _parse(self) -> None:
        """Parse the file from here on, as it can't be divided."""
        self._notes = itertools.islice(self._reader.notes(self._path, self._before), self._taken, None)

    def take(self, most: int) -> Block | list[Note]:
        """The next notes, at most so many."""
        if self._notes is None and self._blocks is not None:
            try:
                block = self._blocks.take(most)
            except IndivisibleError:
                self._parse()
            else:
                self._taken += len(block)
                return block
        assert self._notes is not None
        return list(itertools.islice(self._notes, most))
