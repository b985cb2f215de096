"""Token ids by a memory of words, for vocabularies in which each word is encoded by itself, as BigBird's.

A Unigram model (Kudo, 2018) searches each word's best pieces anew. Notes repeat their words, so most of them are found
in a dictionary, and only new ones go to `tokenizers`. That is exact where the tokenizer divides text at spaces alone
and its normalizer changes nothing but runs of spaces; texts with such runs, and those that spell out another added
token than a placeholder, are left to `tokenizers` whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

_MOST_CHARACTERS = 1_500_000
"""Characters of all words that are remembered: 200,000 words, 60 MB with their ids. Then the memory is emptied."""
_SPACE = "▁"
_DIVIDES_AT_SPACES = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "always", "split": True}
_ON_SPACES_ALONE: tuple[dict[str, Any], ...] = (
    {"type": "Strip", "strip_left": False, "strip_right": False},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": _SPACE},
)


class _Memory(dict[str, bytes]):
    """The ids of words, back to back as bytes, which are joined faster than lists. A new word is encoded when it is
    looked up.

    Args:
        model: of the tokenizer.
        known: words of which the ids are known.

    Attributes:
        characters: of all words.
    """

    def __init__(self, model: Any, known: dict[str, int]) -> None:
        super().__init__({word: np.int32(number).tobytes() for word, number in known.items()})
        self._model, self.characters = model, 0

    def __missing__(self, word: str) -> bytes:
        ids = [token.id for token in self._model.tokenize(_SPACE + word)] if word else []
        self[word] = packed = np.array(ids, np.int32).tobytes()
        self.characters += len(word)
        return packed


class WordEncoding:
    """A Unigram tokenizer with a memory of words.

    Args:
        backend: the tokenizer.
        placeholders: the special tokens that texts may contain, and their ids.
        others: all other added tokens.
    """

    name = "the memory of words"

    def __init__(self, backend: Tokenizer, placeholders: dict[str, int], others: Sequence[str]) -> None:
        self._placeholders, self._others = placeholders, others
        self._other_starts = {token[0] for token in others}
        alternatives = "|".join(map(re.escape, sorted(placeholders, key=len, reverse=True)))
        self._divide = re.compile(f"({alternatives})") if placeholders else None
        self._model = backend.model
        self._memory = _Memory(backend.model, placeholders)

    @classmethod
    def of(cls, state: dict[str, Any], backend: Tokenizer, placeholders: Sequence[str]) -> WordEncoding | None:
        """Of a tokenizer.json; None if its words aren't encoded by themselves."""
        added = {entry["content"]: entry for entry in state["added_tokens"]}
        found = [added[token] for token in placeholders if token in added]
        takes_surroundings = any(entry[key] for entry in found for key in ("single_word", "lstrip", "rstrip"))
        if not divides_at_spaces(state) or len(found) < len(placeholders) or takes_surroundings:
            return None
        ids = {entry["content"]: entry["id"] for entry in found}
        return cls(backend, ids, [token for token in added if token and token not in ids])

    def is_safe(self, text: str) -> bool:
        """Whether a text's words can be encoded by themselves."""
        if "  " in text or _SPACE in text or text.endswith(" "):
            return False
        if any(f" {token}" in text for token in self._placeholders):
            return False
        rest = self._divide.sub("", text) if self._divide else text
        return not any(start in rest for start in self._other_starts) or not any(
            token in text for token in self._others
        )

    def encode(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """The ids of each safe text, (tokens,)."""
        if self._memory.characters > _MOST_CHARACTERS:
            self._memory = _Memory(self._model, self._placeholders)
        ids_of = self._memory.__getitem__
        # Text by text: a text's words are looked up while they are in the processor's cache.
        return [np.frombuffer(b"".join(map(ids_of, self._words(text))), np.int32) for text in texts]

    def _words(self, text: str) -> list[str]:
        """A safe text's words and placeholders, in order."""
        if self._divide is None:
            return text.removeprefix(" ").split(" ") if text else []
        words: list[str] = []
        for piece in self._divide.split(text):
            if piece:
                words += piece.removeprefix(" ").split(" ")
        return words


def divides_at_spaces(state: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is a Unigram's that divides text at spaces alone, before anything that changes it."""
    normalizer = state["normalizer"] or {"type": "Sequence", "normalizers": []}
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    return (
        state["model"]["type"] == "Unigram"
        and state["pre_tokenizer"] == _DIVIDES_AT_SPACES
        and all(step in _ON_SPACES_ALONE for step in steps)
    )
