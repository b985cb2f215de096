"""Find words and phrases of a list in token ids, without making text of them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from clinical_pretrain.data.masking import Vocabulary, word_starts


class Match(NamedTuple):
    """A term that was found."""

    start: int
    """Position of its first token."""
    end: int
    """Position behind its last one."""
    group: int
    """The term's group."""


class TermFinder:
    """Finds whole words, in lower case, capitalized and in capitals. Of terms that overlap, the longest counts.

    Args:
        terms: the group of each term.
        tokenizer_json: by which the ids were made.
        vocabulary: of these ids.
    """

    def __init__(self, terms: dict[str, int], tokenizer_json: Path, vocabulary: Vocabulary) -> None:
        tokenizer = Tokenizer.from_file(str(tokenizer_json))
        self._vocabulary = vocabulary
        spelt: dict[tuple[int, ...], int] = {}
        for term, group in terms.items():
            for form in (term, term.capitalize(), term.title(), term.upper()):
                for text in (form, f" {form}"):
                    ids = tuple(tokenizer.encode(text, add_special_tokens=False).ids)
                    if ids and vocabulary.maskable[list(ids)].all():  # not an unknown token
                        spelt[ids] = group
        self._by_first: dict[int, list[tuple[tuple[int, ...], int]]] = defaultdict(list)
        for ids in sorted(spelt, key=len, reverse=True):
            self._by_first[ids[0]].append((ids, spelt[ids]))
        self._first = np.array(sorted(self._by_first), np.int64)

    def find(self, input_ids: npt.NDArray[np.integer]) -> list[Match]:
        """Find all terms.

        Args:
            input_ids: (tokens,), unmasked.

        Returns:
            In order; none overlaps another.
        """
        found: list[Match] = []
        starts = np.append(word_starts(input_ids, self._vocabulary), True)
        for start in np.flatnonzero(np.isin(input_ids, self._first) & starts[:-1]).tolist():
            if found and start < found[-1].end:
                continue
            for ids, group in self._by_first[int(input_ids[start])]:
                end = start + len(ids)
                if end < len(starts) and starts[end] and tuple(input_ids[start:end].tolist()) == ids:
                    found.append(Match(start, end, group))
                    break
        return found
