"""What a tokenizer can't see: characters that become its unknown token."""

from __future__ import annotations

import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

NAMED_CHARACTERS = 20
"""So many of the most frequent ones are named."""
_BLANKS = "".join(character for character in map(chr, range(sys.maxunicode + 1)) if character.isspace())


def unseen_blanks(backend: Tokenizer, unknown_id: int) -> str:
    """The white space, newline and tab first of all, that becomes the unknown token within a text, and takes its word
    start from the next word. BigBird's vocabulary has none of it but the blank."""
    return "".join(
        blank for blank in _BLANKS if unknown_id in backend.encode(f"a{blank}b", add_special_tokens=False).ids
    )


def count_unknown(
    backend: Tokenizer, texts: Sequence[str], ids: Sequence[Sequence[int]], unknown_token: str, unknown_id: int
) -> tuple[int, Counter[str]]:
    """Unknown tokens of some texts, without those that a text spells out as a placeholder, and the characters behind.

    Args:
        backend: the tokenizer.
        texts: cleaned.
        ids: of each text, as the tokenizer gives them.
        unknown_token: how the unknown token is written.
        unknown_id: its id.
    """
    total, characters = 0, Counter[str]()
    for text, tokens in zip(texts, ids, strict=True):
        unknown = list(tokens).count(unknown_id) - text.count(unknown_token)
        if unknown <= 0:
            continue
        total += unknown
        encoding = backend.encode(text, add_special_tokens=False)
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token == unknown_id and text[start:end].strip() != unknown_token:
                characters.update("".join(text[start:end].split()))
    return total, characters


def name_of(character: str) -> str:
    """A character for a message: itself, where it can be printed, and its code point."""
    shown = f"{character} " if character.isprintable() and not unicodedata.combining(character) else ""
    return f"{shown}U+{ord(character):04X}"


def describe_unknown(unknown: dict[str, Any]) -> str:
    """A manifest's `unknown`, in a line."""
    named = ", ".join(f"{name_of(c)} {count:,}" for c, count in list(unknown["characters"].items())[:8])
    line = "no token is unknown to the tokenizer"
    if unknown["tokens"]:
        line = f"{unknown['share']:.2%} of the tokens are unknown to the tokenizer ({named})"
    blanks = unknown["written_as_blanks"]
    names = [name for blank, name in (("\n", "newline"), ("\t", "tab")) if blank in blanks] or ["other white space"]
    if blanks:
        line += f"; {' and '.join(names)}, which it doesn't know, became blanks"
    return line
