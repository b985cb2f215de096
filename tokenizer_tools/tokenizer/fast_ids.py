"""Token ids by tiktoken or by a memory of words (word_ids.py), where they are the tokenizer's own: the same ids in less
than half the time.

tiktoken is a byte-level BPE alone, of another implementation. So it is used only where a `tokenizer.json` has exactly
this form, and only for texts for which both are known to agree:

- a text that spells out a special token other than a placeholder's is left to `tokenizers`, and so is one with a run of
  thousands of characters without white space, in which tiktoken takes quadratic time;
- a character outside ASCII is tried with both when it first occurs, as two libraries may have two versions of Unicode;
- of all others a sample is compared, as it is with the memory of words. If it differs, `tokenizers` is used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import compress
from operator import not_
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tokenizer_tools.progress import say
from tokenizer_tools.tokenizer.load import encode
from tokenizer_tools.tokenizer.word_ids import WordEncoding

Ids = npt.NDArray[np.int32]

_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
"""How GPT-2's byte-level pre-tokenizer divides text (Radford et al., 2019)."""
_LONGEST_RUN = 1000
"""Characters without white space, or of white space beyond one between two words."""
_SAMPLE = 100
"""One text of so many is encoded by both."""
_PLAIN = {"dropout": (None,), "continuing_subword_prefix": ("", None), "end_of_word_suffix": ("", None),
          "byte_fallback": (False,), "ignore_merges": (False,)}  # fmt: skip
"""The settings of a BPE without extras. What is unknown to it doesn't matter, as each byte has an entry."""


class IdEncoder:
    """Encodes texts, without begin and end tokens, truncation and padding.

    Args:
        backend: the tokenizer.
        placeholders: the special tokens that texts may contain.

    Attributes:
        is_fast: whether one of the two is used.
    """

    def __init__(self, backend: Tokenizer, placeholders: tuple[str, ...]) -> None:
        self._backend = backend
        state = json.loads(backend.to_str())
        self._fast: _FastEncoding | WordEncoding | None = _FastEncoding.of(state, placeholders)
        if self._fast is None:
            self._fast = WordEncoding.of(state, backend, placeholders)
        self._special = [entry["content"] for entry in state["added_tokens"] if entry["content"] not in placeholders]
        self._agrees: dict[str, bool] = {}

    @property
    def is_fast(self) -> bool:
        return self._fast is not None

    def __call__(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, (tokens,)."""
        fast = self._fast
        if fast is not None:
            sample = list(texts[::_SAMPLE])
            if not all(map(np.array_equal, self._slow(sample), self._mixed(sample, fast))):
                say(f"{fast.name} gives other token ids than the tokenizer for some text; it isn't used any more")
                fast = self._fast = None
        return self._slow(texts) if fast is None else self._mixed(texts, fast)

    def _mixed(self, texts: Sequence[str], fast: _FastEncoding | WordEncoding) -> list[Ids]:
        is_safe = [self._is_safe(text, fast) for text in texts]
        both = fast.encode(list(compress(texts, is_safe))), self._slow([*compress(texts, map(not_, is_safe))])
        quick, slow = map(iter, both)
        return [next(quick if safe else slow) for safe in is_safe]

    def _slow(self, texts: Sequence[str]) -> list[Ids]:
        return [np.array(ids, dtype=np.int32) for ids in encode(self._backend, list(texts))]

    def _is_safe(self, text: str, fast: _FastEncoding | WordEncoding) -> bool:
        if isinstance(fast, WordEncoding):
            return fast.is_safe(text)
        if any(token in text for token in self._special):
            return False
        if len(text) > _LONGEST_RUN:
            lengths = list(map(len, text.split()))
            white_space = len(text) - sum(lengths)
            if max(lengths, default=0) > _LONGEST_RUN or white_space - len(lengths) > _LONGEST_RUN:
                return False
        return text.isascii() or all(self._is_same(character, fast) for character in set(text) if character > "\x7f")

    def _is_same(self, character: str, fast: _FastEncoding) -> bool:
        """Whether both libraries take a character alike, next to a letter, a digit, a space and a sign."""
        if character not in self._agrees:
            probe = " ".join(f"{character}{other}{character} {other}{character}" for other in ("a", "1", "  ", "-", ""))
            self._agrees[character] = np.array_equal(self._slow([probe])[0], fast(probe))
        return self._agrees[character]


class _FastEncoding:
    """A tokenizer's byte-level BPE in tiktoken's form."""

    name = "tiktoken"

    def __init__(self, encoding: Any, ids: Ids, placeholders: tuple[str, ...]) -> None:
        self._encoding, self._ids = encoding, ids
        self._allowed = set(placeholders)

    def __call__(self, text: str) -> Ids:
        ranks = self._encoding.encode_to_numpy(text, allowed_special=self._allowed, disallowed_special=())
        return self._ids[ranks]

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, (tokens,)."""
        return list(map(self, texts))

    @classmethod
    def of(cls, state: dict[str, Any], placeholders: tuple[str, ...]) -> _FastEncoding | None:
        """Of a tokenizer.json; None if it has another form."""
        added = [entry for entry in state["added_tokens"] if entry["content"] in placeholders]
        is_plain = is_byte_level(state) and all(
            state["model"][name] in values for name, values in _PLAIN.items() if name in state["model"]
        )
        if not is_plain or len(added) < len(placeholders) or not all(map(_is_bare, added)):
            return None
        vocabulary = state["model"]["vocab"]
        of_byte = _characters_of_bytes()
        if not all(character in vocabulary for character in of_byte):
            return None
        byte_of = {character: byte for byte, character in enumerate(of_byte)}
        ranks = {bytes([byte]): byte for byte in range(256)}
        ids = [vocabulary[character] for character in of_byte]
        for merge in state["model"]["merges"]:
            merged = "".join(merge if isinstance(merge, list) else merge.split(" "))
            entry = bytes(byte_of[character] for character in merged)
            if entry in ranks:  # made in two ways, which tiktoken doesn't tell apart
                return None
            ranks[entry] = len(ranks)
            ids.append(vocabulary[merged])
        special = {entry["content"]: len(ranks) + number for number, entry in enumerate(added)}
        ids += [entry["id"] for entry in added]
        import tiktoken

        encoding = tiktoken.Encoding(
            "of the tokenizer", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens=special
        )
        return cls(encoding, np.array(ids, dtype=np.int32), placeholders)


def is_byte_level(state: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is a byte-level BPE's that divides text as GPT-2's, before anything that changes it."""
    model, step = state["model"], state["pre_tokenizer"] or {}
    plain = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    return (
        model["type"] == "BPE"
        and state["normalizer"] is None
        and all(step.get(name) == value for name, value in plain.items())
    )


def _is_bare(token: dict[str, Any]) -> bool:
    """Whether a special token takes nothing of what is around it."""
    return not (token["single_word"] or token["lstrip"] or token["rstrip"])


def _characters_of_bytes() -> list[str]:
    """The character by which byte-level BPE writes each byte: itself where it can be printed, else one above 255."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
