"""Words in token ids: which entries of a vocabulary begin a word or continue one.

A word is a run of letters, as in `inspect-tokenizer`. It begins where an entry carries the space before it (Ġ in
byte-level BPE, ▁ in Unigram), or right after an entry that isn't of letters.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders

from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import TOKENIZER_FOLDER
from tokenizer_tools.shard_reading import WholeNotes
from tokenizer_tools.tokenizer.words import MANY_PIECES, Kind, kind_of

_OF_WORD, _BEGINS, _HAS_LETTERS = 1, 2, 4


@dataclass(frozen=True)
class WordFinder:
    """Finds the words in notes of token ids."""

    kind: Kind
    flags: npt.NDArray[np.uint8]
    """(vocabulary,): _OF_WORD for letters, with or without the space before them; _BEGINS with it; _HAS_LETTERS if it
    isn't the space alone."""

    def count(self, notes: WholeNotes) -> npt.NDArray[np.int64]:
        """Words, their tokens, and the words in `MANY_PIECES` or more: (notes, 3)."""
        flags = self.flags[notes.ids]
        is_part = (flags & _OF_WORD).astype(bool)
        begins = is_part.copy()
        begins[1:] &= ~is_part[:-1] | (flags[1:] & _BEGINS).astype(bool)
        goes_on = np.append(is_part[1:] & ~begins[1:], False)
        starts, ends = np.flatnonzero(begins), np.flatnonzero(is_part & ~goes_on)
        pieces = ends - starts + 1
        is_word = (pieces > 1) | (flags[starts] & _HAS_LETTERS > 0)  # the space alone goes on with letters, or is none
        first_words = np.searchsorted(starts, notes.starts)
        columns = (is_word, pieces * is_word, is_word & (pieces >= MANY_PIECES))
        return np.column_stack([_sums(column, first_words) for column in columns])


def _sums(values: npt.NDArray[Any], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(runs,): the sum of each run of values, which ends where the next one starts; a run may be empty."""
    totals = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return np.diff(totals[starts], append=totals[-1])


def word_finder(folder: Path, vocab_size: int) -> WordFinder | None:
    """A finder for the tokenizer of a shard folder; None for kinds whose entries don't show where words begin.

    Args:
        folder: of the shards.
        vocab_size: the highest id, plus 1.

    Raises:
        UserError: the tokenizer can't be read.
    """
    path = folder / TOKENIZER_FOLDER / "tokenizer.json"
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception:  # tokenizers has no class of its own for errors
        raise UserError(f"{path}: missing or damaged, not a tokenizer; build or copy the shards again") from None
    try:
        kind = kind_of(backend, path.name)
    except UserError:
        return None
    flags = np.zeros(vocab_size, np.uint8)
    added: dict[int, Any] = backend.get_added_tokens_decoder()
    byte_level, space = decoders.ByteLevel(), "Ġ" if kind == "byte-level BPE" else "▁"
    for entry, number in backend.get_vocab().items():
        if number in added:
            text = "" if added[number].special else added[number].content
        else:
            text = entry.replace(space, " ")
            if kind == "byte-level BPE" and not text.isascii():
                text = byte_level.decode([entry])
        letters = text.removeprefix(" ")
        begins = text != letters
        if letters.isalpha() or (begins and not letters):
            flags[number] = _OF_WORD | _BEGINS * begins | _HAS_LETTERS * bool(letters)
    return WordFinder(kind, flags)
