"""De-identification placeholders: where they stand in a note, and what replaces them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tokenizer_tools.corpus.deduplicate import text_hash
from tokenizer_tools.corpus.placeholder_kinds import Kind, Label, label_of
from tokenizer_tools.corpus.surrogates import surrogate_of
from tokenizer_tools.errors import UserError

Way = Literal["token", "typed", "surrogates", "keep"]
WAYS: dict[str, Way] = {"typed": "typed", "surrogates": "surrogates", "keep": "keep"}
"""The choices that are no single token; drop is none at all."""
TYPED_TOKENS: dict[Kind, str] = {
    "name": "[NAME]",
    "date": "[DATE]",
    "place": "[PLACE]",
    "id": "[ID]",
    "contact": "[CONTACT]",
    "age": "[AGE]",
    "other": "[DEID]",
}
"""The token of each kind. `___`, which says nothing of its kind, is [DEID], too."""
COUNTED = (*TYPED_TOKENS, "underscores", "without_surrogate", "notes_without_patient")
"""What `replace_placeholders` counts, in the order in which it is told."""

# MIMIC-III writes [**Known lastname 123**], sometimes over a line break, but not over an empty line; MIMIC-IV writes
# exactly three underscores.
_BRACKETS = re.compile(r"\[\*\*|\*\*\]|\n[ \t\r]*\n")
_UNDERSCORES = re.compile(r"___(?<!____)(?!_)")  # begins with what is looked for, which is found faster
_TOKEN = re.compile(r"\[[A-Za-z][A-Za-z0-9_-]*\]|<[A-Za-z][A-Za-z0-9_-]*>")
_OPENING = '([{"“|'
_MAY_FOLLOW = re.compile(r"(?:['’]s)?[.,;:!?]{0,3}(?=\s|\Z|[\[\](){}\"“”|])")


def check_token(option: str, token: str) -> None:
    """Refuse a placeholder token that could be taken for a word.

    Raises:
        UserError: naming the option.
    """
    if not is_placeholder_token(token):
        raise UserError(f"{option}: {token!r} must be letters and digits in brackets, as [NAME] or <name>")


def is_placeholder_token(token: str) -> bool:
    """Whether a token has the form of one for placeholders, which no word has."""
    return _TOKEN.fullmatch(token) is not None


def token_of(choice: str, unknown_token: str) -> str | None:
    """The token that `--placeholder` asks for: of each placeholder, or of those whose kind isn't known. None: none.

    Args:
        choice: unk, drop, keep, typed, surrogates, or a token.
        unknown_token: of the tokenizer.
    """
    named = {"drop": None, "keep": None, "typed": TYPED_TOKENS["other"]}
    return unknown_token if choice in ("unk", "surrogates") else named.get(choice, choice)


@dataclass(frozen=True)
class Replacement:
    """What replaces placeholders."""

    token: str | None
    """Of each placeholder, or of those whose kind isn't known; None: a space."""
    how: Way = "token"
    """By the token; by a token for each kind; by realistic surrogates; or not at all."""
    seed: int = 0
    """Another seed gives other surrogates."""

    @classmethod
    def chosen(cls, choice: str, token: str | None, seed: int) -> Replacement:
        """As `--placeholder` says it.

        Args:
            choice: unk, drop, keep, typed, surrogates, or a token.
            token: from `token_of`.
            seed: of surrogates.
        """
        return cls(token, WAYS.get(choice, "token"), seed)

    @property
    def without_tokens(self) -> Replacement:
        """With a space in place of each token."""
        return Replacement(None, "token" if self.how == "typed" else self.how, self.seed)

    def of(self, label: Label, person: str) -> tuple[str | None, bool]:
        """What replaces one placeholder, and whether it is ordinary text, no token."""
        if self.how == "surrogates" and (surrogate := surrogate_of(label, person, self.seed)):
            return surrogate, True
        return (TYPED_TOKENS[label.kind] if self.how == "typed" else self.token), False


def replace_placeholders(
    text: str, replacement: Replacement, person: str = "", counts: Counter[str] | None = None
) -> str:
    """Replace `[**Name**]` and `___`.

    A token, or the space of one that is dropped, replaces also the spaces before it, because the token of a word
    carries its own. A surrogate never touches a word or number: a space parts them.

    Args:
        text: of a note.
        replacement: what replaces them.
        person: whose note it is, in any form, for surrogates. Without one, the text counts as the person.
        counts: is raised by the placeholders of each kind, `underscores` for `___`; and with surrogates by those
            `without_surrogate`, and by `notes_without_patient`, whose person isn't "patient …".

    >>> replace_placeholders("Dr. [**Last Name**] saw ___.", Replacement("<unk>"))
    'Dr.<unk> saw<unk>.'
    >>> replace_placeholders("Dr. [**Last Name**] saw ___ on [**7-16**].", Replacement("[DEID]", "typed"))
    'Dr.[NAME] saw[DEID] on[DATE].'
    >>> replace_placeholders("from [**2151-12-30**] to [**2152-1-2**]", Replacement("<unk>", "surrogates"), "patient 1")
    'from 2151-8-5 to 2151-8-8'
    """
    spans = placeholder_spans(text)
    if not spans:
        return text
    surrogates = replacement.how == "surrogates"
    if surrogates and not person:
        person = f"text {text_hash(text)}"
    counts = Counter[str]() if counts is None else counts
    counts["notes_without_patient"] += surrogates and not person.startswith("patient ")
    pieces, end = [], 0
    for start, stop in spans:
        label = label_of(text[start:stop])
        counts["underscores" if text[start] == "_" else label.kind] += 1
        new, is_text = replacement.of(label, person)
        counts["without_surrogate"] += surrogates and not is_text
        if is_text:
            pieces += [text[end:start], _parted(text, start, stop, new or "")]
        else:
            pieces += [text[end:start].rstrip(" \t"), " " if new is None else new]
        end = stop
    return text if replacement.how == "keep" else "".join([*pieces, text[end:]])


def sorted_counts(counts: Counter[str]) -> dict[str, int]:
    """Counts of `replace_placeholders` in a fixed order, without those that are 0."""
    return {name: counts[name] for name in COUNTED if counts[name]}


def describe_placeholders(counts: Mapping[str, int], most: str = "") -> list[str]:
    """Say in lines how many placeholders there are of each kind, and which have no surrogate.

    Args:
        counts: from `sorted_counts`.
        most: stands before each count: "at most " of an upper bound.
    """
    names = {"other": "of other kinds", "underscores": "___"}
    found = [f"{count:,} {names.get(name, name)}" for name, count in counts.items() if not name.count("without")]
    lines = [f"placeholders: {most}{', '.join(found)}"] if found else []
    if count := counts.get("without_surrogate"):
        lines.append(
            f"{most}{count:,} placeholders have no surrogate, as their kind or date isn't known: unk replaces them"
        )
    if count := counts.get("notes_without_patient"):
        lines.append(
            f"{most}{count:,} notes with surrogates name no patient: these are consistent within the admission or note "
            "alone"
        )
    return lines


def _parted(text: str, start: int, stop: int, surrogate: str) -> str:
    """A surrogate with a space wherever it would touch a word, number or sign of the text."""
    before = "" if start == 0 or text[start - 1].isspace() or text[start - 1] in _OPENING else " "
    return f"{before}{surrogate}{'' if _MAY_FOLLOW.match(text, stop) else ' '}"


def placeholder_spans(text: str) -> list[tuple[int, int]]:
    """Where the placeholders stand: (start, end) of each, in order.

    `[**` belongs to the `**]` that closes it, so a placeholder may hold others and be of any length, but it ends
    within its paragraph. A `[**` that nothing closes is text, and so are the words after it.

    >>> placeholder_spans("[**Name [**1**] **] saw ___")
    [(0, 19), (24, 27)]
    """
    spans: list[tuple[int, int]] = []
    opened: list[int] = []
    first, last = text.find("[**"), text.rfind("**]")
    for match in _BRACKETS.finditer(text, first, last + 3) if -1 < first < last else ():
        if match[0] == "[**":
            opened.append(match.start())
        elif match[0] != "**]":
            opened.clear()
        elif opened:
            start = opened.pop()
            while spans and spans[-1][0] > start:
                spans.pop()
            spans.append((start, match.end()))
    if "___" not in text:
        return spans
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
