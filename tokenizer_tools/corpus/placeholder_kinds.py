"""What a de-identification placeholder stands for: a name, a date, a place and so on, by what is in its brackets.

The words are those of PhysioNet's deid, with which MIMIC-III was de-identified, as in `[**Telephone/Fax (1) 123**]` or
`[**First Name8 (NamePattern2) 12**]`, and others that say the same, as `[**Patient Name**]` or `[**MRN**]`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Kind = Literal["name", "date", "place", "id", "contact", "age", "other"]

_LONGEST = 80
"""Characters. What is longer is a piece of the note, no label."""
_MOST_WORDS = 5
_WORDS: tuple[tuple[Kind, frozenset[str]], ...] = (
    ("contact", frozenset(("telephone", "phone", "fax", "pager", "mail", "email", "url", "website", "contact"))),
    ("place", frozenset(("hospital", "ward", "wardname", "location", "street", "address", "apartment", "po", "city",
                         "town", "county", "state", "zip", "zipcode", "country", "company", "university", "college"))),
    ("id", frozenset(("number", "numeric", "identifier", "id", "mrn", "ssn"))),
    ("age", frozenset(("age",))),
    ("date", frozenset(("date", "day", "month", "year", "holiday"))),
    ("name", frozenset(("name", "firstname", "lastname", "surname", "initial", "initials", "doctor", "dictator",
                        "attending"))),
)  # fmt: skip
"""The first that has one of the label's words decides: a Hospital Ward Name is a place, an E-mail address a contact."""
_IN_PARENTHESES = re.compile(r"\([^()]*\)")
_MARKS = re.compile(r"(\[\*\*|\*\*\])")
_LETTERS = re.compile(r"[^\W\d_]+")
_DATES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<year>[0-9]{4})([-/.])(?P<month>[0-9]{1,2})\2(?P<day>[0-9]{1,2})",
        r"(?P<month>[0-9]{1,2})([-/.])(?P<day>[0-9]{1,2})\2(?P<year>[0-9]{4}|[0-9]{2})",
        r"(?P<month>[0-9]{1,2})(?:-?/|-)(?P<year>[0-9]{4})",  # 3-/2151 in MIMIC-III
        r"(?P<year>[0-9]{4})[-/](?P<month>[0-9]{1,2})-?",
        r"(?P<month>[0-9]{1,2})[-/](?P<day>[0-9]{1,2})",
        r"(?P<year>[12][0-9]{3})",
    )
)
_RANGES = {"month": range(1, 13), "day": range(1, 32)}


@dataclass(frozen=True)
class Label:
    """What stands between the brackets of a placeholder."""

    kind: Kind
    content: str
    """All that is written, in one line, without brackets of placeholders."""
    words: frozenset[str] = frozenset()
    """In lower case, without numbers and what is in parentheses."""
    date: re.Match[str] | None = None
    """Of a date in digits, with a group for each of year, month and day that it has."""


@lru_cache(maxsize=10_000)  # a note's placeholders often are those of the note before
def label_of(placeholder: str) -> Label:
    """Tell what a placeholder stands for.

    A date in digits has the year or the month first; its month must be one of 12, its day one of 31. What is longer
    than 80 characters or five words, or has no known word, is of the kind `other`, and so is `___`. Placeholders within
    say nothing of the kind of the one around them, unless that has no words of its own.

    >>> [label_of(f"[**{text}**]").kind for text in ("Known lastname 5", "Hospital1 18", "7-16", "Age over 90 ", "X")]
    ['name', 'place', 'date', 'age', 'other']
    """
    content, own = _contents(placeholder)
    if len(own) > _LONGEST:
        return Label("other", content)
    for pattern in _DATES if own[:1].isdecimal() else ():
        match = pattern.fullmatch(own)
        if match and all(int(match[name]) in _RANGES.get(name, (int(match[name]),)) for name in pattern.groupindex):
            return Label("date", content, date=match)
    words = _LETTERS.findall(_IN_PARENTHESES.sub(" ", own.lower()))
    if len(words) <= _MOST_WORDS:
        for kind, known in _WORDS:
            if not known.isdisjoint(words):
                return Label(kind, content, frozenset(words))
    return Label("other", content)


def _contents(placeholder: str) -> tuple[str, str]:
    """What a placeholder contains, with and without the placeholders within, in one line each."""
    if placeholder.count("[**") < 2:
        content = " ".join(placeholder.removeprefix("[**").removesuffix("**]").split())
        return content, content
    pieces: list[str] = []
    own: list[str] = []
    depth = 0
    for piece in _MARKS.split(placeholder):
        if piece in ("[**", "**]"):
            depth += 1 if piece == "[**" else -1
        else:
            pieces.append(piece)
            own += [piece] if depth == 1 else []
    content = " ".join(" ".join(pieces).split())
    return content, " ".join(" ".join(own).split()) or content
