"""What a user can set of inspect-tokenizer and extend-vocabulary: each setting once, as in shards/settings.py."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from tokenizer_tools.corpus.clean_notes import CleaningRules
from tokenizer_tools.corpus.input_files import Input
from tokenizer_tools.corpus.input_options import InputOptions
from tokenizer_tools.corpus.placeholders import TYPED_TOKENS, Replacement, check_token
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.ranges import Range, check_ranges
from tokenizer_tools.tokenizer.training_notes import TrainingNotes


@dataclass(frozen=True)
class LearningSettings:
    """From which notes and by which rules words are learned."""

    reading: InputOptions = field(default_factory=InputOptions)
    """How notes are read."""
    split: SplitRule = field(default_factory=SplitRule)
    """As for the shards: held-out patients stay out of the vocabulary, too."""
    cleaning: CleaningRules = field(default_factory=CleaningRules)
    """Which cleaning rules run."""
    min_patients: Annotated[int, Range(2, 10_000)] = 20
    """A word is learned only if the notes of so many patients have it in lower case (of so many admissions, or
    different texts, where notes name no patient)."""
    names: str | None = None
    """File with names of people and places, in any layout of text: no word in it is ever added."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def source(self, inputs: Sequence[Input], unknown_token: str, unknown_whitespace: str) -> TrainingNotes:
        """The notes to learn from, with the unknown token in place of placeholders; see TrainingNotes."""
        replacement = Replacement(unknown_token)
        return TrainingNotes(inputs, self.reading, self.split, self.cleaning, replacement, unknown_whitespace)


@dataclass(frozen=True)
class InspectSettings(LearningSettings):
    """What is inspected."""

    sizes: str = "500,1000,2000,5000"
    """Numbers of added words to report the saving of."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*", self.sizes):
            raise UserError(f"--sizes {self.sizes}: must be numbers of words separated by commas, as 500,1000")

    @property
    def size_list(self) -> list[int]:
        """The numbers, in ascending order."""
        return sorted(set(map(int, self.sizes.split(","))))


@dataclass(frozen=True)
class ExtensionSettings(LearningSettings):
    """What is added, and from which notes it is learned."""

    size: Annotated[int, Range(0, 1_000_000)] = 1000
    """Number of words to add; 0: none, and no notes are needed. Shards keep 16 bits per token up to a vocabulary of
    65,536."""
    tokens: str | None = None
    """Placeholder tokens to add, such as '[NAME]', which --placeholder of build-shards can name then; typed: those that
    --placeholder typed needs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for token in self.token_list:
            check_token("--tokens", token)
        if len(set(self.token_list)) < len(self.token_list):
            raise UserError(f"--tokens {self.tokens}: one is named twice")
        if not self.size and not self.tokens:
            raise UserError("--size 0 without --tokens: nothing to add")

    @property
    def token_list(self) -> list[str]:
        """The placeholder tokens."""
        if self.tokens == "typed":
            return list(TYPED_TOKENS.values())
        return [token.strip() for token in self.tokens.split(",")] if self.tokens else []
