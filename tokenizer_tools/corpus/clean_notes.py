"""Cleaning rules: each a pure function from text to text, each named, each to be switched off.

No rule changes a number, a unit, a sign or a negation, and none changes case: that is the tokenizer's business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

# MIMIC-III writes [**Known lastname 123**], sometimes over a line break; MIMIC-IV writes exactly three underscores.
# The blank before it goes too, as the tokens for a word carry their own. The lookbehind keeps it linear: a run of
# blanks is entered at its start alone.
_PLACEHOLDER = re.compile(r"(?<![ \t])[ \t]*(?:\[\*\*[^\[\]]{0,300}?\*\*\]|(?<!_)___(?!_))")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ufeff\ufffe\uffff]+")
_SEPARATOR_LINE = re.compile(r"^[ \t]*(?:_{4,}|={4,}|-{4,}|\*{4,}|~{4,}|#{4,})[ \t]*$", re.MULTILINE)
_BLANKS = re.compile(r"[ \t\v\f\u00a0]+")
_BLANK_AT_LINE_END = re.compile(r" +$", re.MULTILINE)
_EMPTY_LINES = re.compile(r"\n{3,}")
_LINE_BREAK = re.compile(r"(?<!\s)\s*\n\s*")


@dataclass(frozen=True)
class CleaningRules:
    """Which cleaning rules run, in this order."""

    line_endings: bool = True
    """Write every line ending as a newline."""
    control_characters: bool = True
    """Write a blank for each run of control characters and byte-order marks, so that no numbers are joined."""
    placeholders: bool = True
    """Put one token for each de-identification placeholder ([**...**], ___), or nothing: see --placeholder."""
    separator_lines: bool = True
    """Empty the lines that hold only a run of four or more of one of _ = - * ~ #."""
    whitespace: bool = True
    """Write runs of blanks as one, at most one empty line in a row, none at either end."""
    join_lines: bool = False
    """Write newlines as blanks, as the corpus of Clinical-Longformer had it."""

    def names(self) -> list[str]:
        """The rules that are on, in order."""
        return [field.name for field in fields(self) if getattr(self, field.name)]


def clean(text: str, rules: CleaningRules, placeholder: str | None, unseen_blanks: str = "") -> str:
    """Apply the rules that are on.

    Args:
        text: a note.
        rules: which rules.
        placeholder: the token to write for a de-identification placeholder; None drops it.
        unseen_blanks: white space that the tokenizer doesn't know (BigBird's: newline, tab), each written as a blank.
    """
    if rules.line_endings:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if rules.control_characters:
        text = _CONTROL.sub(" ", text)
    if rules.placeholders:
        text = replace_placeholders(text, placeholder)
    if rules.separator_lines:
        text = _SEPARATOR_LINE.sub("", text)
    if unseen_blanks:
        text = text.translate(dict.fromkeys(map(ord, unseen_blanks), " "))
    if rules.whitespace:
        text = squeeze_whitespace(text)
    if rules.join_lines:
        text = _LINE_BREAK.sub(" ", text)
    return text


def replace_placeholders(text: str, placeholder: str | None) -> str:
    """`[**Name**]` and `___` to one token (or to a blank, where it is None), with the blanks before them."""
    replacement = " " if placeholder is None else placeholder
    return _PLACEHOLDER.sub(lambda _: replacement, text)


def squeeze_whitespace(text: str) -> str:
    """One blank for a run of blanks, one empty line for a run of them, none at the ends."""
    text = _BLANKS.sub(" ", text)
    text = _BLANK_AT_LINE_END.sub("", text)
    return _EMPTY_LINES.sub("\n\n", text).strip()
