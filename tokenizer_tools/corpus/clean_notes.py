"""Cleaning rules for a note's text. Each has a name and can be switched off.

No rule changes a number, a unit, a sign or a negation, and none changes case, which is left to the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, fields

# MIMIC-III writes [**Known lastname 123**], sometimes over a line break; MIMIC-IV writes exactly three underscores.
# The space before it is removed too, because the token of a word carries its own. The lookbehind keeps the search
# linear: a run of spaces is entered only at its start.
_PLACEHOLDER = re.compile(r"(?<![ \t])[ \t]*(?:\[\*\*[^\[\]]{0,300}?\*\*\]|(?<!_)___(?!_))")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ufeff\ufffe\uffff]+")
_SEPARATOR_LINE = re.compile(r"^[ \t]*(?:_{4,}|={4,}|-{4,}|\*{4,}|~{4,}|#{4,})[ \t]*$", re.MULTILINE)
_SPACES = re.compile(r"[ \t\v\f\u00a0]+")
_SPACE_AT_LINE_END = re.compile(r" +$", re.MULTILINE)
_EMPTY_LINES = re.compile(r"\n{3,}")
_LINE_BREAK = re.compile(r"(?<!\s)\s*\n\s*")


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
    """Replace `[**Name**]` and `___`, and the spaces before them, by a token, or by a space if it is None."""
    replacement = " " if placeholder is None else placeholder
    return _PLACEHOLDER.sub(lambda _: replacement, text)


def squeeze_whitespace(text: str) -> str:
    """Reduce runs of spaces and of empty lines to one, and remove both at the ends."""
    text = _SPACES.sub(" ", text)
    text = _SPACE_AT_LINE_END.sub("", text)
    return _EMPTY_LINES.sub("\n\n", text).strip()
