"""De-identification placeholders: where they stand in a note, and what replaces them."""

from __future__ import annotations

import re

# MIMIC-III writes [**Known lastname 123**], sometimes over a line break, but not over an empty line; MIMIC-IV writes
# exactly three underscores.
_BRACKETS = re.compile(r"\[\*\*|\*\*\]|\n[ \t\r]*\n")
_UNDERSCORES = re.compile(r"___(?<!____)(?!_)")  # begins with what is looked for, which is found faster


def replace_placeholders(text: str, placeholder: str | None) -> str:
    """Replace `[**Name**]` and `___`, and the spaces before them, by a token, or by a space if it is None. The spaces
    go because the token of a word carries its own.

    >>> replace_placeholders("Dr. [**Last Name**] saw ___.", "<unk>")
    'Dr.<unk> saw<unk>.'
    """
    replacement = " " if placeholder is None else placeholder
    pieces, end = [], 0
    for start, stop in placeholder_spans(text):
        pieces += [text[end:start].rstrip(" \t"), replacement]
        end = stop
    return "".join([*pieces, text[end:]])


def placeholder_spans(text: str) -> list[tuple[int, int]]:
    """Where the placeholders stand: (start, end) of each, in order.

    `[**` belongs to the `**]` that closes it, so a placeholder may hold others and be of any length, but it ends
    within its paragraph. A `[**` that nothing closes is text, and so are the words after it.

    >>> placeholder_spans("[**Name [**1**] **] saw ___")
    [(0, 19), (24, 27)]
    """
    spans: list[tuple[int, int]] = []
    opened: list[int] = []
    for match in _BRACKETS.finditer(text) if "[**" in text else ():
        if match[0] == "[**":
            opened.append(match.start())
        elif match[0] != "**]":
            opened.clear()
        elif opened:
            start = opened.pop()
            while spans and spans[-1][0] > start:
                spans.pop()
            spans.append((start, match.end()))
    found: list[tuple[int, int]] = []
    end = 0
    for start, stop in spans:
        found += [match.span() for match in _UNDERSCORES.finditer(text, end, start)]
        found.append((start, stop))
        end = stop
    return found + [match.span() for match in _UNDERSCORES.finditer(text, end)]


def blank_form_fields(text: str) -> str:
    """Replace `___` by a space: where placeholders are `[**...**]`, as in MIMIC-III, it is an empty field of a form.

    >>> blank_form_fields("Signed: ___ [**Name**]")
    'Signed:   [**Name**]'
    """
    return _UNDERSCORES.sub(" ", text)
