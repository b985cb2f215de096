"""Characters that become a tokenizer's unknown token."""

from __future__ import annotations

import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tokenizer_tools.manifest import UnknownTokens
from tokenizer_tools.wording import counted

NAMED_CHARACTERS = 20
"""Number of the most frequent characters that the manifest names."""
_WHITESPACE = "".join(character for character in map(chr, range(sys.maxunicode + 1)) if character.isspace())


@dataclass
class UnknownCount:
    """What a tokenizer can't represent of some texts."""

    tokens: int = 0
    """Unknown tokens."""
    lost_word_starts: int = 0
    """Words right after an unknown character that is none of a word. Where the vocabulary marks a word's start by the
    space before it, they have no such mark."""
    characters: Counter[str] = field(default_factory=Counter)
    """Those behind the tokens, and how often each occurs."""

    @classmethod
    def of(cls, fields: dict[str, Any]) -> UnknownCount:
        """Of its fields as JSON has them."""
        return cls(**fields | {"characters": Counter(fields["characters"])})

    def __add__(self, other: UnknownCount) -> UnknownCount:
        tokens, lost = self.tokens + other.tokens, self.lost_word_starts + other.lost_word_starts
        return UnknownCount(tokens, lost, self.characters + other.characters)

    def __sub__(self, other: UnknownCount) -> UnknownCount:
        tokens, lost = self.tokens - other.tokens, self.lost_word_starts - other.lost_word_starts
        return UnknownCount(tokens, lost, self.characters - other.characters)


def unknown_whitespace(backend: Tokenizer, unknown_id: int) -> str:
    """White space that becomes the unknown token within a text, and so hides where the next word starts. BigBird's
    vocabulary has no white space but the space, not even newline and tab."""
    return "".join(
        character
        for character in _WHITESPACE
        if unknown_id in backend.encode(f"a{character}b", add_special_tokens=False).ids
    )


def count_unknown(
    backend: Tokenizer,
    texts: Sequence[str],
    ids: Sequence[Sequence[int] | npt.NDArray[np.integer]],
    unknown_token: str,
    unknown_id: int,
) -> UnknownCount:
    """Count the unknown tokens of texts, the characters behind them, and what becomes of the words after them. Unknown
    tokens that a text spells out, as a placeholder, don't count.

    Args:
        backend: the tokenizer.
        texts: cleaned.
        ids: token ids of each text.
        unknown_token: the unknown token as text.
        unknown_id: its id.
    """
    count = UnknownCount()
    is_unknown: dict[str, bool] = {}
    for text, tokens in zip(texts, ids, strict=True):
        unknown = int(np.count_nonzero(np.asarray(tokens) == unknown_id)) - text.count(unknown_token)
        if unknown <= 0:
            continue
        count.tokens += unknown
        encoding = backend.encode(text, add_special_tokens=False)
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token == unknown_id and text[start:end].strip() != unknown_token:
                behind = "".join(text[start:end].split())
                for character in set(behind) - is_unknown.keys():
                    is_unknown[character] = unknown_id in backend.encode(character, add_special_tokens=False).ids
                # WordPiece makes a whole word unknown for one character.
                count.characters.update([character for character in behind if is_unknown[character]] or behind)
                count.lost_word_starts += text[end : end + 1].isalnum() and not _is_of_a_word(text[end - 1])
    return count


def _is_of_a_word(character: str) -> bool:
    return character.isalnum() or unicodedata.combining(character) > 0


def unknown_tokens(count: UnknownCount, tokens: int, written_as_spaces: str) -> UnknownTokens:
    """What a manifest says of unknown tokens.

    Args:
        count: what is unknown; the most frequent characters are named.
        tokens: all tokens.
        written_as_spaces: from `unknown_whitespace`.
    """
    most_frequent = sorted(count.characters.items(), key=lambda item: (-item[1], item[0]))[:NAMED_CHARACTERS]
    share = round(count.tokens / tokens, 6) if tokens else 0.0
    return UnknownTokens(count.tokens, share, dict(most_frequent), written_as_spaces, count.lost_word_starts)


def name_of(character: str) -> str:
    """Name a character for a message: by itself, if it can be printed, and by its code point."""
    shown = f"{character} " if character.isprintable() and not unicodedata.combining(character) else ""
    return f"{shown}U+{ord(character):04X}"


def describe_unknown(unknown: UnknownTokens) -> str:
    """Say in one line what the tokenizer can't represent."""
    named = ", ".join(f"{name_of(c)} {count:,}" for c, count in list(unknown.characters.items())[:8])
    line = "no token is unknown to the tokenizer"
    if unknown.tokens:
        line = f"{unknown.share:.2%} of the tokens are unknown to the tokenizer{f' ({named})' if named else ''}"
    if unknown.lost_word_starts:
        words = counted(unknown.lost_word_starts, "word stands", "words stand")
        line += f"; {words} right after one, without the mark of a word's start"
    whitespace = unknown.written_as_spaces
    names = [name for character, name in (("\n", "newline"), ("\t", "tab")) if character in whitespace]
    if whitespace:
        line += f"; {' and '.join(names) or 'other white space'}, which it doesn't know, became spaces"
    return line
