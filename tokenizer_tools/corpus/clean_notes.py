"""Which cleaning rules run on a note's text, and in which order. Each has a name and can be switched on and off.

A rule that isn't in `LOSSY` changes no number, unit, date, comparison sign or negation: see fidelity.py. The default
rules change no case, which is left to the tokenizer.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from functools import cache, partial, reduce
from typing import Literal

from tokenizer_tools.corpus.cleaning_rules import (
    drop_brackets,
    drop_date_headings,
    drop_double_marks,
    drop_list_numbers,
    empty_separator_lines,
    expand_titles,
    join_lines,
    lower_case,
    repair_mojibake,
    replace_control_characters,
    squeeze_whitespace,
    unify_line_endings,
)
from tokenizer_tools.corpus.placeholders import WAYS, Replacement, blank_form_fields, replace_placeholders
from tokenizer_tools.errors import UserError

Profile = Literal["minimal", "default", "paper", "mimic3", "mimic4"]

_DEFAULT = ("line_endings", "control_characters", "placeholders", "separator_lines", "whitespace")
PROFILES: dict[Profile, frozenset[str]] = {
    "minimal": frozenset(("line_endings", "control_characters")),
    "default": frozenset(_DEFAULT),
    # Clinical-Longformer's authors published no code for this step. Asked for it (issue 2 of
    # luoyuanlab/Clinical-Longformer), they pointed to preprocess.py of kexinhuang12345/clinicalBERT, which is what
    # these rules follow. There, `[0-9]+\.` is dropped, so that a pH of 7.35 becomes 35, and dropped dashes join
    # numbers: not here. Whether they ran that script as it stands isn't known.
    "paper": frozenset(
        (
            "line_endings",
            "control_characters",
            "lower_case",
            "brackets",
            "list_numbers",
            "titles",
            "date_headings",
            "double_marks",
            "whitespace",
            "join_lines",
        )
    ),
    "mimic3": frozenset((*_DEFAULT, "form_fields")),
    "mimic4": frozenset(_DEFAULT),
}
LOSSY = frozenset(
    ("mojibake", "lower_case", "brackets", "placeholders", "list_numbers", "titles", "date_headings", "double_marks")
)
"""Rules that may change something protected. `clean` counts what they changed."""

_LAYOUT = frozenset(("unknown_whitespace", "whitespace", "join_lines"))
"""The last steps, which change nothing but white space."""
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


@dataclass(frozen=True)
class CleaningRules:
    """Which cleaning rules run, in this order."""

    profile: Profile = "default"
    """Which rules are on where nothing else is said (null: as the profile says): default; minimal (line endings and
    control characters alone); paper (the preprocessing of Clinical-Longformer, without its fault on decimals); mimic3
    or mimic4 (the default rules; in MIMIC-III ___ is an empty field of a form)."""
    mojibake: bool | None = None
    """Repair UTF-8 that was read as another encoding (needs ftfy; in no profile)."""
    line_endings: bool | None = None
    """Replace every line ending by a newline (in all profiles)."""
    control_characters: bool | None = None
    """Replace each run of control characters and byte-order marks by a space, so that no numbers are joined (in all
    profiles)."""
    lower_case: bool | None = None
    """Lower the case of all letters (in paper)."""
    brackets: bool | None = None
    """Drop what stands in square brackets, placeholders [**...**] included (in paper)."""
    form_fields: bool | None = None
    """Replace ___ by a space: an empty field, no placeholder (in mimic3)."""
    placeholders: bool | None = None
    """Replace each de-identification placeholder ([**...**], ___) as --placeholder says (in default, mimic3 and
    mimic4)."""
    separator_lines: bool | None = None
    """Empty the lines that consist of four or more of one of the characters _ = - * ~ # (in default, mimic3 and
    mimic4)."""
    list_numbers: bool | None = None
    """Drop the numbers of lists: 1. and 12. at the start of a line, before a word (in paper)."""
    titles: bool | None = None
    """Write Dr. as doctor, and M.D. as md (in paper)."""
    date_headings: bool | None = None
    """Drop the words 'Admission Date:' and 'Discharge Date:' (in paper)."""
    double_marks: bool | None = None
    """Replace --, __ and == by a space where no number or arrow is next to them (in paper)."""
    whitespace: bool | None = None
    """Reduce runs of spaces to one space and runs of empty lines to one, and remove both at the ends (in all profiles
    but minimal)."""
    join_lines: bool | None = None
    """Replace newlines by spaces (in paper)."""

    def __post_init__(self) -> None:
        if "mojibake" in self.names() and importlib.util.find_spec("ftfy") is None:
            raise UserError(
                "ftfy is missing, which --cleaning.mojibake needs: pip install 'clinical-pretrain[cleaning]'"
            )

    def names(self) -> list[str]:
        """The rules that are switched on, in order."""
        return [name for name in RULES if self._is_on(name)]

    def _is_on(self, name: str) -> bool:
        said: bool | None = getattr(self, name)
        return name in PROFILES[self.profile] if said is None else said

    @classmethod
    def named(cls, names: Collection[str]) -> CleaningRules:
        """The rules of which `names()` gave the names."""
        return cls(**{name: name in names for name in RULES})  # type: ignore[arg-type]


RULES = tuple(entry.name for entry in fields(CleaningRules) if entry.name != "profile")
"""The rules, in the order in which they run."""


def check_placeholder_choice(choice: str, rules: CleaningRules) -> None:
    """Refuse what --placeholder says if the rules leave no placeholders, or don't replace them.

    Raises:
        UserError: with the rule to switch on or off.
    """
    if choice not in WAYS:
        return
    if "placeholders" not in rules.names() and choice != "keep":
        raise UserError(f"--placeholder {choice}: the rule for it is off; add --cleaning.placeholders true")
    if "brackets" in rules.names():
        raise UserError(
            f"--placeholder {choice}: the rule brackets drops placeholders before; add --cleaning.brackets false"
        )


def clean(
    text: str,
    rules: CleaningRules,
    replacement: Replacement,
    unknown_whitespace: str = "",
    person: str = "",
    counts: Counter[str] | None = None,
) -> str:
    """Apply the rules that are switched on.

    Args:
        text: a note.
        rules: which rules.
        replacement: what replaces a de-identification placeholder.
        unknown_whitespace: white space that the tokenizer doesn't know (BigBird: newline, tab), each replaced by a
            space.
        person: whose note it is, from `Note.person`; surrogates depend on it.
        counts: is raised by the placeholders that are replaced; see `replace_placeholders`.
    """
    for _, function in cleaning_steps(rules, replacement, unknown_whitespace, person, counts):
        text = function(text)
    return text


def clean_in_paragraphs(
    text: str,
    rules: CleaningRules,
    replacement: Replacement,
    unknown_whitespace: str = "",
    person: str = "",
    counts: Counter[str] | None = None,
) -> tuple[str, list[int]]:
    r"""Apply the rules that are switched on, and tell the paragraphs apart, which blank lines divided before the last
    rules may have joined them.

    >>> clean_in_paragraphs("Pain:\nnone \n\n\n Plan: rest", CleaningRules(), Replacement(None), "\n")
    ('Pain: none Plan: rest', [10, 21])

    Args:
        text, rules, replacement, unknown_whitespace, person, counts: as for `clean`.

    Returns:
        What `clean` returns, and where each paragraph ends in it. White space before a paragraph is of it.
    """
    layout = []
    for name, function in cleaning_steps(rules, replacement, unknown_whitespace, person, counts):
        if name in _LAYOUT:
            layout.append(function)
        else:
            text = function(text)
    cleaned, *paragraphs = (
        reduce(lambda piece, function: function(piece), layout, piece) for piece in (text, *_BLANK_LINES.split(text))
    )
    ends, place = [], 0
    for paragraph in filter(None, map(str.strip, paragraphs)):
        place = cleaned.index(paragraph, place) + len(paragraph)
        ends.append(place)
    return cleaned, [*ends[:-1], *([len(cleaned)] if ends else [])]


def cleaning_steps(
    rules: CleaningRules,
    replacement: Replacement,
    unknown_whitespace: str = "",
    person: str = "",
    counts: Counter[str] | None = None,
) -> list[tuple[str, Callable[[str], str]]]:
    """What `clean` does, in order: the names of rules, and the functions that they are.

    White space that the tokenizer doesn't know is the step `unknown_whitespace`, which can't be switched off.
    """
    replace = partial(replace_placeholders, replacement=replacement, person=person, counts=counts)
    return [(name, function or replace) for name, function in _steps(rules, unknown_whitespace)]


@cache
def _steps(rules: CleaningRules, unknown_whitespace: str) -> list[tuple[str, Callable[[str], str] | None]]:
    """The steps; None for the one that depends on more than the text."""
    spaces = dict.fromkeys(map(ord, unknown_whitespace), " ")
    functions: dict[str, Callable[[str], str] | None] = {
        "mojibake": repair_mojibake,
        "line_endings": unify_line_endings,
        "control_characters": replace_control_characters,
        "lower_case": lower_case,
        "brackets": drop_brackets,
        "form_fields": blank_form_fields,
        "placeholders": None,
        "separator_lines": empty_separator_lines,
        "list_numbers": drop_list_numbers,
        "titles": expand_titles,
        "date_headings": drop_date_headings,
        "double_marks": drop_double_marks,
        "unknown_whitespace": lambda text: text.translate(spaces),
        "whitespace": squeeze_whitespace,
        "join_lines": join_lines,
    }
    wanted = {*rules.names(), *(["unknown_whitespace"] if unknown_whitespace else [])}
    return [(name, function) for name, function in functions.items() if name in wanted]
