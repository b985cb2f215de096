"""Choose the words that a vocabulary gains most by, and leave out what may be a name.

A filter, no proof: what it leaves out are words of a list of names, words that look like names, and words that few
patients share. Each rule's count is reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizer_tools.errors import UserError
from tokenizer_tools.tokenizer.words import WordCounts, letters_of

_TITLE_SHARE = 0.05
"""A word that stands next to a title or degree this often may be a name."""
_CASE_SHARE = 0.001
"""If fewer words within sentences are capitalised, case tells nothing about names."""


CASE_TELLS_NOTHING = (
    "the notes are all in lower or all in upper case, so that names look as other words do without --names"
)
RULES = {
    "names_file": "are in the file of names",
    "placeholder": "occur in de-identification placeholders",
    "title": "stand next to a title or degree (Dr., Mrs., RN)",
    "capitalised": "are mostly capitalised within sentences",
    "never_lower_case": "are never in lower case",
    "few_patients": "are in the notes of too few patients",
}
"""Each rule by which words are left out, in this order, with what it says of them."""


@dataclass
class LeftOut:
    """What a rule has left out: different words, regardless of case, and the tokens that they would save."""

    words: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Candidate:
    """A word that may be added. A space in front is part of it."""

    text: str
    saves: int
    """Tokens, over all notes that were counted."""


@dataclass(frozen=True)
class Choice:
    """Words worth adding, those that save most first."""

    words: list[Candidate]
    left_out: dict[str, LeftOut]
    """By the names of RULES."""


def read_names(path: str | None) -> frozenset[str]:
    """The words of a file of names, in lower case; without a file, none.

    Raises:
        UserError: it can't be read, or has no names.
    """
    if path is None:
        return frozenset()
    try:
        names = frozenset(letters_of(Path(path).read_text(encoding="utf-8-sig")))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"{path}: cannot be read ({reason}); --names takes a text file") from None
    if not names:
        raise UserError(f"{path}: holds no names; --names takes a text file")
    return names


def choose_words(counts: WordCounts, names: frozenset[str]) -> Choice:
    """Choose words that the tokenizer breaks up, in the order of what they save.

    A word is judged by all its spellings: if it may be a name in lower case or capitals, it isn't added in either.

    Args:
        counts: of the training notes.
        names: from `read_names`.
    """
    occurrences, capitalised, lower = _by_lower_case(counts)
    saved: dict[str, int] = {}
    words: list[Candidate] = []
    rule_of: dict[str, str | None] = {}
    for text, count in counts.occurrences.items():
        pieces = counts.pieces[text]
        if pieces < 2 or (counts.kind == "Unigram" and text[0] != " "):
            continue
        word, saves = text.strip().lower(), count * (pieces - 1)
        if word not in rule_of:
            is_capitalised = capitalised.get(word, 0) > lower.get(word, 0)
            rule_of[word] = _rule(word, counts, names, occurrences[word], is_capitalised)
        if rule_of[word] is None:
            words.append(Candidate(text, saves))
        else:
            saved[word] = saved.get(word, 0) + saves
    left_out = {rule: LeftOut() for rule in RULES}
    for word, tokens in saved.items():
        entry = left_out[str(rule_of[word])]
        entry.words, entry.tokens = entry.words + 1, entry.tokens + tokens
    return Choice(sorted(words, key=lambda each: (-each.saves, each.text)), left_out)


def case_tells_names(counts: WordCounts) -> bool:
    """Whether some words within sentences are capitalised and others aren't. They may all be in lower case, as in a
    corpus that was cleaned so, or all in upper case."""
    total = sum(counts.within_sentence.values())
    lower = sum(count for text, count in counts.within_sentence.items() if text.islower())
    return 0 < lower <= (1 - _CASE_SHARE) * total


def _by_lower_case(counts: WordCounts) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Of each word in lower case: how often it occurs, and how often capitalised and in lower case within sentences.

    Words in capitals alone are neither: in a heading all words are.
    """
    occurrences: dict[str, int] = {}
    capitalised: dict[str, int] = {}
    lower: dict[str, int] = {}
    for text, count in counts.occurrences.items():
        _add(occurrences, text.strip().lower(), count)
    for text, count in counts.within_sentence.items():
        if text.islower():
            _add(lower, text, count)
        elif not text.isupper():
            _add(capitalised, text.lower(), count)
    return occurrences, capitalised, lower


def _rule(word: str, counts: WordCounts, names: frozenset[str], occurrences: int, is_capitalised: bool) -> str | None:
    """The first rule by which a word in lower case is left out; None: it may be added."""
    patients = counts.patients(word)
    applies = {
        "names_file": word in names,
        "placeholder": word in counts.in_placeholder,
        "title": counts.by_title[word] > _TITLE_SHARE * occurrences,
        "capitalised": is_capitalised,
        "never_lower_case": patients == 0,
        "few_patients": patients < counts.min_patients,
    }
    return next((rule for rule in RULES if applies[rule]), None)


def _add(table: dict[str, int], word: str, count: int) -> None:
    table[word] = table.get(word, 0) + count


def saved_by(words: Iterable[Candidate], size: int) -> int:
    """Tokens that the first `size` words save."""
    return sum(word.saves for word in list(words)[:size])
