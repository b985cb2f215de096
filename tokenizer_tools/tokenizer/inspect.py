"""What a tokenizer makes of notes: tokens per word, words it breaks up, what is unknown to it, what an extension saves.

Counts only: no word of a note is in the result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tokenizer_tools.manifest import UnknownTokens
from tokenizer_tools.tokenizer.choose_words import (
    CASE_TELLS_NOTHING,
    RULES,
    Choice,
    LeftOut,
    case_tells_names,
    choose_words,
    read_names,
    saved_by,
)
from tokenizer_tools.tokenizer.load import encode, load_tokenizer
from tokenizer_tools.tokenizer.settings import InspectSettings, LearningSettings
from tokenizer_tools.tokenizer.training_notes import TrainingNote, find_notes, no_training_notes
from tokenizer_tools.tokenizer.unknown_characters import (
    UnknownCount,
    count_unknown,
    describe_unknown,
    unknown_tokens,
    unknown_whitespace,
)
from tokenizer_tools.tokenizer.words import MANY_PIECES, Kind, WordCounts, kind_of

_CATEGORIES = 20
"""Categories that are printed."""


@dataclass
class Counts:
    """Of all notes, or of those of a category."""

    notes: int = 0
    tokens: int = 0
    words: int = 0
    """Runs of letters without unknown characters."""
    word_tokens: int = 0
    broken_words: int = 0
    """Words in four or more pieces."""

    @property
    def tokens_per_word(self) -> float:
        return self.word_tokens / max(1, self.words)

    @property
    def broken_share(self) -> float:
        return self.broken_words / max(1, self.words)


@dataclass(frozen=True)
class Inspection:
    """What was found. Holds no text."""

    kind: Kind
    vocab_size: int
    total: Counts
    categories: dict[str, Counts]
    """By the notes' category, the largest first."""
    unknown: UnknownTokens
    lost_word_starts: int
    """Words right after white space that the tokenizer doesn't know: build-shards writes it as a space."""
    saved: dict[int, int]
    """Tokens that an extension by so many words saves."""
    words_to_add: int
    """Words that no rule leaves out, and that an extension can add."""
    left_out: dict[str, LeftOut]
    case_tells_names: bool
    rows_skipped: int
    """Rows that can't be used."""

    def to_json(self) -> dict[str, Any]:
        """As `--json` writes it."""
        return asdict(self) | {
            "tokens_per_word": self.total.tokens_per_word,
            "broken_share": self.total.broken_share,
            "saved_share": {size: tokens / self.total.tokens for size, tokens in self.saved.items()},
        }


def inspect_tokenizer(notes: Sequence[Path], tokenizer: str, settings: InspectSettings | None = None) -> Inspection:
    """Inspect a tokenizer on the cleaned notes of the training split, exact duplicates left out.

    Args:
        notes: as for `build_shards`.
        tokenizer: a folder or Hub id.
        settings: which notes, and what is asked of words.

    Raises:
        UserError: bad input, another kind of tokenizer, or no text in the training split.
    """
    settings = settings or InspectSettings()
    names = read_names(settings.names)
    inputs = find_notes(notes, settings.reading, settings.split)
    loaded = load_tokenizer(tokenizer)
    backend: Tokenizer = loaded.backend_tokenizer
    kind = kind_of(backend, tokenizer)
    tally = _Tally(
        WordCounts(loaded, kind, settings.min_patients),
        unknown_whitespace(backend, loaded.unk_token_id),
    )
    source = settings.source(inputs, loaded.unk_token, tally.whitespace)
    for batch in source.batches():
        tally.add(batch)
    if not tally.categories:
        raise no_training_notes()
    choice = choose_words(tally.counts, names)
    columns = zip(*(asdict(each).values() for each in tally.categories.values()), strict=True)
    total = Counts(*map(sum, columns))
    return Inspection(
        kind=kind,
        vocab_size=max(backend.get_vocab().values()) + 1,
        total=total,
        categories=dict(sorted(tally.categories.items(), key=lambda item: (-item[1].tokens, item[0]))),
        unknown=tally.unknown(total.tokens),
        lost_word_starts=tally.lost_word_starts,
        saved={size: saved_by(choice.words, size) for size in settings.size_list},
        words_to_add=len(choice.words),
        left_out=choice.left_out,
        case_tells_names=case_tells_names(tally.counts),
        rows_skipped=source.rows_skipped,
    )


class _Tally:
    """Counts of the notes so far."""

    def __init__(self, counts: WordCounts, whitespace: str) -> None:
        self.counts, self.whitespace = counts, whitespace
        self.categories: dict[str, Counts] = {}
        self.lost_word_starts = 0
        self._unknown = UnknownCount()
        self._word_start = re.compile(rf"[{re.escape(whitespace)}](?=[^\W_])") if whitespace else None

    def add(self, notes: list[TrainingNote]) -> None:
        """Count notes."""
        texts, counts = [note.text for note in notes], self.counts
        ids = encode(counts.backend, texts)
        self._unknown += count_unknown(counts.backend, texts, ids, counts.unknown_token, counts.unknown_id)
        for note, tokens, words in zip(notes, ids, counts.add(notes), strict=True):
            category = self.categories.setdefault(note.category, Counts())
            category.notes, category.tokens = category.notes + 1, category.tokens + len(tokens)
            for word, count in words.items():
                if pieces := counts.pieces[word]:
                    category.words += count
                    category.word_tokens += count * pieces
                    category.broken_words += count * (pieces >= MANY_PIECES)
            self.lost_word_starts += len(self._word_start.findall(note.raw)) if self._word_start else 0

    def unknown(self, tokens: int) -> UnknownTokens:
        """What the tokenizer can't represent, of so many tokens."""
        return unknown_tokens(self._unknown, tokens, self.whitespace)


def describe_left_out(choice: Choice | Inspection, tokens: int, settings: LearningSettings) -> list[str]:
    """Say in lines what each rule has left out.

    Args:
        choice: what was chosen.
        tokens: of all notes, of which shares are given.
        settings: by which words were learned.
    """
    lines = [
        f"  {left.words:>9,} words {RULES[rule]}: {left.tokens / tokens:.1%} of the tokens"
        for rule, left in choice.left_out.items()
        if left.words
    ]
    lines = ["words left out, and the tokens that they would save:", *lines] if lines else []
    if settings.names is None:
        lines.append("no file of names was given (--names): names are told from words by their spelling alone")
    return lines


def describe(inspection: Inspection, settings: InspectSettings) -> list[str]:
    """Say in lines what was found."""
    total, rows = inspection.total, list(inspection.categories.items())
    lines = [
        f"{inspection.kind}, {inspection.vocab_size:,} entries; {total.notes:,} notes of the training split, "
        f"{total.tokens:,} tokens",
        f"{total.tokens_per_word:.3f} tokens per word; {total.broken_share:.2%} of {total.words:,} words are in "
        f"{MANY_PIECES} or more pieces",
        describe_unknown(inspection.unknown),
    ]
    if inspection.rows_skipped:
        lines.append(f"{inspection.rows_skipped:,} rows can't be used")
    if inspection.lost_word_starts:
        lines.append(
            f"{inspection.lost_word_starts:,} words come right after white space that it doesn't know, and would lose "
            "their start without these spaces"
        )
    if len(rows) > 1:
        lines += ["", f"{'category':<24} {'notes':>9} {'tokens':>13}  tokens/word  in {MANY_PIECES} or more pieces"]
        lines += [
            f"{name[:24]:<24} {each.notes:>9,} {each.tokens:>13,} {each.tokens_per_word:>12.3f}"
            f"{each.broken_share:>22.2%}"
            for name, each in rows[:_CATEGORIES]
        ]
        lines += [f"and {len(rows) - _CATEGORIES} more (--json)"] if len(rows) > _CATEGORIES else []
    lines += ["", f"words added (of {inspection.words_to_add:,} possible)   tokens saved   share of all tokens"]
    saved = {min(size, inspection.words_to_add): tokens for size, tokens in inspection.saved.items()}
    lines += [f"{size:>12,} {tokens:>29,} {tokens / total.tokens:>21.1%}" for size, tokens in saved.items()]
    lines += ["", *describe_left_out(inspection, total.tokens, settings)]
    return lines if inspection.case_tells_names else [*lines, f"{CASE_TELLS_NOTHING}: extend-vocabulary will need it"]
