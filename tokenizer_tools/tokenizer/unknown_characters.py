"""Characters that become a tokenizer's unknown token."""

from __future__ import annotations

import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tokenizer_tools.manifest import UnknownTokens

NAMED_CHARACTERS = 20
"""Number of the most frequent characters that the manifest names."""
_WHITESPACE = "".join(character for character in map(chr, range(sys.maxunicode + 1)) if character.isspace())


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
) -> tuple[int, Counter[str]]:
    """Count the unknown tokens of texts, and the characters behind them. Unknown tokens that a text spells out, as a
    placeholder, don't count.

    Args:
        backend: the tokenizer.
        texts: cleaned.
        ids: token ids of each text.
        unknown_token: the unknown token as text.
        unknown_id: its id.
    """
    total, characters = 0, Counter[str]()
    is_unknown: dict[str, bool] = {}
    for text, tokens in zip(texts, ids, strict=True):
        unknown = int(np.count_nonzero(np.asarray(tokens) == unknown_id)) - text.count(unknown_token)
        if unknown <= 0:
            continue
        total += unknown
        encoding = backend.encode(text, add_special_tokens=False)
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token == unknown_id and text[start:end].strip() != unknown_token:
                behind = "".join(text[start:end].split())
                for character in set(behind) - is_unknown.keys():
                    is_unknown[character] = unknown_id in backend.encode(character, add_special_tokens=False).ids
                # WordPiece makes a whole word unknown for one character.
                characters.update([character for character in behind if is_unknown[character]] or behind)
    return total, characters


def unknown_tokens(count: int, characters: Counter[str], tokens: int, written_as_spaces: str) -> UnknownTokens:
    """What a manifest says of unknown tokens.

    Args:
        count: unknown tokens.
        characters: those behind them, and how often each occurs; the most frequent are named.
        tokens: all tokens.
        written_as_spaces: from `unknown_whitespace`.
    """
    most_frequent = sorted(characters.items(), key=lambda item: (-item[1], item[0]))[:NAMED_CHARACTERS]
    share = round(count / tokens, 6) if tokens else 0.0
    return UnknownTokens(count, share, dict(most_frequent), written_as_spaces)


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
    whitespace = unknown.written_as_spaces
    names = [name for character, name in (("\n", "newline"), ("\t", "tab")) if character in whitespace]
    if whitespace:
        line += f"; {' and '.join(names) or 'other white space'}, which it doesn't know, became spaces"
    return line
