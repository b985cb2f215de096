"""All notes of all inputs in parts of a fixed number, in input order, to be parsed by whoever gets the part."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from tokenizer_tools.corpus.input_files import Input
from tokenizer_tools.corpus.input_options import InputOptions
from tokenizer_tools.corpus.note_files import DividedFile, FilePositions, NoteFile
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


def parts_of(
    inputs: Sequence[Input],
    size: int,
    options: InputOptions,
    rule: SplitRule,
    is_wanted: Callable[[int], bool] = lambda _: True,
    positions: Sequence[Sequence[FilePositions | None]] | None = None,
) -> Iterator[Part]:
    """Yield parts of so many notes; the last may have fewer.

    Args:
        inputs, options, rule: see `read_notes`.
        size: notes per part.
        is_wanted: whether a part is needed, by its number. Others are yielded empty, and files aren't read for them
            where it is known how many notes they hold.
        positions: of each file of each input, from `find_positions`.

    Raises:
        UserError: see `read_notes`. What is wrong with single rows of CSV and JSONL shows when they are parsed.
    """
    numbers = itertools.count()
    part: Part = []
    missing, is_needed = size, is_wanted(next(numbers))
    for source, entry in enumerate(inputs):
        reader, before = NoteReader(entry, source, options, rule), 0
        for index, path in enumerate(entry.files):
            with ExitStack() as stack:
                known = positions[source][index] if positions else None
                whole = NoteFile(path, reader, before, stack)
                file = whole if known is None else DividedFile(whole, known)
                while True:
                    records = file.take(missing) if is_needed else []
                    count = len(records) if is_needed else file.skip(missing)
                    if not count:
                        break
                    if isinstance(records, Block):
                        part.append(FileBlock(replace(entry, files=[path]), source, before, records))
                    else:
                        part += records
                    before, missing = before + count, missing - count
                    if not missing:
                        yield part
                        part, missing, is_needed = [], size, is_wanted(next(numbers))
    if missing < size:
        yield part
