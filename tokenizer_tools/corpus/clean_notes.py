"""Cleaning rules for a note's text. Each has a name and can be switched off.

No rule changes a number, a unit, a sign or a negation, and none changes case, which is left to the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, fields

# MIMIC-III writes [**Known lastname 123**], sometimes over a line break, but not over an empty line; MIMIC-IV writes
# exactly three underscores.
_BRACKETS = re.compile(r"\[\*\*|\*\*\]|\n[ \t\r]*\n")
_UNDERSCORES = re.compile(r"(?<!_)___(?!_)")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ufeff\ufffe\uffff]+")
_SEPARATOR_LINE = re.compile(r"^[ \t]*(?:_{4,}|={4,}|-{4,}|\*{4,}|~{4,}|#{4,})[ \t]*$", re.MULTILINE)
_SPACES = re.compile(r"[ \t\v\f\u00a0]+")
_SPACE_AT_LINE_END = re.compile(r"(?<! ) +$", re.MULTILINE)  # a run is entered only at its start: linear time
_EMPTY_LINES = re.compile(r"\n{3,}")
_LINE_BREAK = re.compile(r"(?<!\s)[^\S\n]*\n\s*")


@dataclass(frozen=True)
class CleaningRules:
    """Which cleaning rules run, in this order."""

    line_endings: bool = True
    """Replace every line ending by a newline."""
    control_characters: bool = True
    """Replace each run of control characters and byte-order marks by a space, so that no numbers are joined."""
    placeholders: bool = True
    """Replace each de-identification placeholder ([**...**], ___) as --placeholder says."""
    separator_lines: bool = True
    """Empty the lines that consist of four or more of one of the characters _ = - * ~ #."""
    whitespace: bool = True
    """Reduce runs of spaces to one space and runs of empty lines to one, and remove both at the ends."""
    join_lines: bool = False
    """Replace newlines by spaces, as in the corpus of Clinical-Longformer."""

    def names(self) -> list[str]:
        """The rules that are switched on, in order."""
        return [field.name for field in fields(self) if getattr(self, field.name)]

    @classmethod
    def named(cls, names: Collection[str]) -> CleaningRules:
        """The rules of which `names()` gave the names."""
        return cls(**{field.name: field.name in names for field in fields(cls)})


def clean(text: str, rules: CleaningRules, placeholder: str | None, unknown_whitespace: str = "") -> str:
    """Apply the rules that are switched on.

    Args:
        text: a note.
        rules: which rules.
        placeholder: the token that replaces a de-identification placeholder; None removes it.
        unknown_whitespace: white space that the tokenizer doesn't know (BigBird: newline, tab), each replaced by a
            space.
    """
    if rules.line_endings:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if rules.control_characters:
        text = _CONTROL.sub(" ", text)
    if rules.placeholders:
        text = replace_placeholders(text, placeholder)
    if rules.separator_lines:
        text = _SEPARATOR_LINE.sub("", text)
    if unknown_whitespace:
        text = text.translate(dict.fromkeys(map(ord, unknown_whitespace), " "))
    if rules.whitespace:
        text = squeeze_whitespace(text)
    if rules.join_lines:
        text = _LINE_BREAK.sub(" ", text)
    return text


def replace_placeholders(text: str, placeholder: str | None) -> str:
    """Replace `[**Name**]` and `___`, and the spaces before them, by a token, or by a space if it is None. The spaces
    go because the token of a word carries its own."""
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
    for match in _BRACKETS.finditer(text):
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


def squeeze_whitespace(text: str) -> str:
    """Reduce runs of spaces and of empty lines to one, and remove both at the ends."""
    text = _SPACES.sub(" ", text)
    text = _SPACE_AT_LINE_END.sub("", text)
    return _EMPTY_LINES.sub("\n\n", text).strip()
