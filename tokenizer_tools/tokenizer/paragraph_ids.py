"""Which of a text's token ids are a paragraph's, so that it can be taken out as if it had never been there.

Byte-level BPE and BigBird's Unigram divide text at white space before anything else, and encode each piece by itself.
So the ids of a text without some paragraphs are the ids of those that stay, each with the white space before it, back
to back; only the first loses that white space. Of each text, it is checked that its paragraphs' ids are its own ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tokenizer_tools.tokenizer.fast_ids import IdEncoder, Ids, is_byte_level
from tokenizer_tools.tokenizer.word_ids import divides_at_spaces


def divides_at(backend: Tokenizer) -> str:
    """White space before which a text can be divided after any other character: both parts have the ids that they have
    in the whole. Empty if that isn't known of the tokenizer."""
    state = json.loads(backend.to_str())
    if any(character.isspace() for entry in state["added_tokens"] for character in entry["content"]):
        return ""
    if divides_at_spaces(state):
        return " "
    return " \t\n" if is_byte_level(state) and not state["model"].get("dropout") else ""


@dataclass(frozen=True)
class ParagraphTokens:
    """How many tokens each of a text's paragraphs has."""

    lengths: list[int]
    """(paragraphs,): of each with the white space before it. Together, the text's tokens."""
    leading: list[int]
    """(paragraphs,): how many of them, the first ones, are that white space's; -1 if it can't be taken away, or if
    that wasn't asked."""


class ParagraphEncoder:
    """Counts paragraphs' tokens.

    Args:
        backend: the tokenizer.
        encode: gives its ids.
    """

    def __init__(self, backend: Tokenizer, encode: IdEncoder) -> None:
        self._borders, self._encode = divides_at(backend), encode

    def count(
        self, texts: Sequence[Sequence[str]], last_first: Sequence[int], ids: Sequence[npt.NDArray[Any]]
    ) -> list[ParagraphTokens | None]:
        """Count the tokens of texts' paragraphs; None for a text that can't be divided there.

        Args:
            texts: of each, its paragraphs, each with the white space before it. At least one.
            last_first: of each, the number of the last paragraph that may come to stand first.
            ids: of each, without begin and end tokens.
        """
        alone = [[body.lstrip() for body in text[1 : last + 1]] for text, last in zip(texts, last_first, strict=True)]
        encoded = iter(self._encode([*chain.from_iterable(texts), *chain.from_iterable(alone)]))
        bodies = [list(islice(encoded, len(text))) for text in texts]
        starts = [list(islice(encoded, len(text))) for text in alone]
        return [
            _count(own, first) if self._divides(text) and np.array_equal(np.concatenate(own), whole) else None
            for text, whole, own, first in zip(texts, ids, bodies, starts, strict=True)
        ]

    def _divides(self, text: Sequence[str]) -> bool:
        return all(body[0] in self._borders for body in text[1:])


def _count(bodies: list[Ids], alone: list[Ids]) -> ParagraphTokens:
    """Of each paragraph's ids, and those that some have without the white space before, from the second one on."""
    leading = [0] + [-1] * (len(bodies) - 1)
    for number, (body, start) in enumerate(zip(bodies[1:], alone, strict=False), 1):
        spaces = len(body) - len(start)
        if spaces >= 0 and np.array_equal(body[spaces:], start):
            leading[number] = spaces
    return ParagraphTokens(list(map(len, bodies)), leading)
