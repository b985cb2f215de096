"""What each cleaning rule does to some notes: counts over all of them, and examples of the first, for a terminal.

Each rule's effect on what must survive is counted (see fidelity.py): the counts are a proof on the user's own notes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

from tokenizer_tools.corpus.clean_notes import LOSSY, CleaningRules, check_placeholder_choice, cleaning_steps
from tokenizer_tools.corpus.fidelity import Change, compare_texts
from tokenizer_tools.corpus.input_options import InputOptions
from tokenizer_tools.corpus.placeholders import (
    Replacement,
    describe_placeholders,
    replace_placeholders,
    sorted_counts,
    token_of,
)
from tokenizer_tools.corpus.read_notes import Note
from tokenizer_tools.progress import Progress
from tokenizer_tools.ranges import MANY, Range, check_ranges
from tokenizer_tools.wording import counted

_CONTEXT = 30
"""Characters shown on both sides of a change."""
_LONGEST = 60
"""Characters shown of a change."""


@dataclass(frozen=True)
class CleanSettings:
    """What `clean` does."""

    reading: InputOptions = field(default_factory=InputOptions)
    """How notes are read."""
    cleaning: CleaningRules = field(default_factory=CleaningRules)
    """Which cleaning rules run."""
    placeholder: str = "unk"
    """What [**...**] and ___ become, as in build-shards: unk (shown as <unk>), drop, keep, typed, surrogates, or a
    token."""
    surrogate_seed: Annotated[int, Range(0, MANY)] = 0
    """Another seed gives other surrogates."""
    show: Annotated[int, Range(0, 10_000)] = 0
    """Number of notes per rule to show: the first that it changed, before and after. Only on a terminal."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_placeholder_choice(self.placeholder, self.cleaning)

    @property
    def replacement(self) -> Replacement:
        """What replaces placeholders."""
        return Replacement.chosen(self.placeholder, token_of(self.placeholder, "<unk>"), self.surrogate_seed)


@dataclass(frozen=True)
class Example:
    """The first place of a note that a rule changed, with what stands around it. Text of a note."""

    place: str
    """File and row."""
    before: str
    after: str


@dataclass
class RuleCounts:
    """What one rule did to all notes."""

    name: str
    notes: int = 0
    """Notes that it changed."""
    characters: int = 0
    """Characters that the notes have more, or less, afterwards."""
    lost: Counter[str] = field(default_factory=Counter)
    """Protected items that are gone or changed, by kind."""
    gained: Counter[str] = field(default_factory=Counter)
    """Protected items that are new, by kind: also the changed form of lost ones."""
    notes_reordered: int = 0
    """Notes whose protected items are the same, in another order."""
    first_unfaithful: str = ""
    """The first note whose protected items it changed: file and row."""
    examples: list[Example] = field(default_factory=list, repr=False)

    @property
    def is_lossy(self) -> bool:
        """Whether it may change protected items."""
        return self.name in LOSSY

    @property
    def broke_its_promise(self) -> bool:
        """Whether it changed protected items although it must not."""
        return bool(self.first_unfaithful) and not self.is_lossy

    def add(self, note: Note, characters: int, change: Change) -> None:
        """Count one changed note."""
        self.notes += 1
        self.characters += characters
        self.lost.update(change.lost)
        self.gained.update(change.gained)
        self.notes_reordered += change.is_reordered
        if not change.is_faithful:
            self.first_unfaithful = self.first_unfaithful or note.place

    def to_json(self) -> dict[str, Any]:
        """The counts alone."""
        return {
            "lossy": self.is_lossy,
            "notes_changed": self.notes,
            "characters": self.characters,
            "protected_lost": dict(sorted(self.lost.items())),
            "protected_gained": dict(sorted(self.gained.items())),
            "notes_reordered": self.notes_reordered,
        }


@dataclass
class CleanReport:
    """What all rules did."""

    rules: list[RuleCounts]
    notes: int = 0
    unusable: int = 0
    """Rows that can't be used, are marked as errors, or filtered out."""
    changed: int = 0
    """Notes that any rule changed."""
    characters_before: int = 0
    characters_after: int = 0
    placeholders: Counter[str] = field(default_factory=Counter)
    """By kind; see `replace_placeholders`."""

    def to_json(self) -> dict[str, Any]:
        """The counts, without examples."""
        return {
            "notes": self.notes,
            "notes_unusable": self.unusable,
            "notes_changed": self.changed,
            "characters_before": self.characters_before,
            "characters_after": self.characters_after,
            "placeholders": sorted_counts(self.placeholders),
            "rules": {rule.name: rule.to_json() for rule in self.rules},
        }


def report_cleaning(notes: Iterable[Note], settings: CleanSettings) -> CleanReport:
    """Clean all notes, and count what each rule does.

    Args:
        notes: from `read_notes`.
        settings: which rules, and how many examples to keep of each.
    """
    report = CleanReport([RuleCounts(name) for name in settings.cleaning.names()])
    with Progress("cleaning notes") as progress:
        for note in notes:
            progress.advance(1)
            report.notes += 1
            if note.fault:
                report.unusable += 1
            else:
                _clean_note(note, report, settings)
    return report


def _clean_note(note: Note, report: CleanReport, settings: CleanSettings) -> None:
    text, replacement = note.text, settings.replacement
    steps = cleaning_steps(settings.cleaning, replacement, "", note.person, report.placeholders)
    for counts, (name, function) in zip(report.rules, steps, strict=True):
        after = function(text)
        if after == text:
            continue
        # A token that touches a number is no change of it.
        is_token = name == "placeholders"
        compared = replace_placeholders(text, replacement.without_tokens, note.person) if is_token else after
        counts.add(note, len(after) - len(text), compare_texts(text, compared))
        if len(counts.examples) < settings.show:
            counts.examples.append(_example(note.place, text, after))
        text = after
    report.changed += text != note.text
    report.characters_before += len(note.text)
    report.characters_after += len(text)


def _length_in_common(one: str, other: str) -> int:
    """Number of characters at the start that are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _example(place: str, before: str, after: str) -> Example:
    same = _length_in_common(before, after)
    tail = _length_in_common(before[:same:-1], after[:same:-1]) if same < min(len(before), len(after)) else 0

    def excerpt(text: str) -> str:
        start, end = max(0, same - _CONTEXT), len(text) - tail
        stop = min(end, same + _LONGEST) + _CONTEXT
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[start:stop])
        return f"{'…' if start else ''}{shown}{'…' if stop < len(text) else ''}"

    return Example(place, excerpt(before), excerpt(after))


def describe_examples(report: CleanReport) -> list[str]:
    """Lines with text of notes: for a terminal alone."""
    lines = []
    for rule in report.rules:
        if rule.examples:
            lines += [f"{rule.name}: the first place in each of the first {len(rule.examples):,} notes that it changed"]
            for example in rule.examples:
                lines += [f"  {example.place}", f"    before: {example.before}", f"    after:  {example.after}"]
            lines.append("")
    return lines


def describe_counts(report: CleanReport) -> list[str]:
    """A table of what each rule did. No text of a note."""
    unusable = (
        f"; {report.unusable:,} rows can't be used, are marked as errors or filtered out" if report.unusable else ""
    )
    lines = [
        f"{counted(report.notes, 'note')}, {report.changed:,} of them changed{unusable}; "
        f"{report.characters_before:,} characters before, {report.characters_after:,} after",
        f"{'rule':<20} {'notes':>11} {'characters':>14}  numbers, units, signs and negations: lost and new",
    ]
    for rule in report.rules:
        name = f"{rule.name} (lossy)" if rule.is_lossy else rule.name
        lines.append(f"{name:<22} {rule.notes:>9,} {rule.characters:>+14,}  {_describe_change(rule)}")
    return lines + describe_placeholders(sorted_counts(report.placeholders))


def _describe_change(rule: RuleCounts) -> str:
    kinds = sorted(rule.lost.keys() | rule.gained.keys(), key=lambda kind: (-rule.lost[kind], kind))
    parts = [f"{kind} -{rule.lost[kind]:,} +{rule.gained[kind]:,}" for kind in kinds]
    parts += [f"{rule.notes_reordered:,} notes reordered"] if rule.notes_reordered else []
    return ", ".join(parts) or "unchanged"
