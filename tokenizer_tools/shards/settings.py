"""What a user can set of a shard build: each setting once, with its default, its range and its help text.

The command line turns these fields into options, and a field's docstring into the option's help. A build that finds
earlier shards in its folder compares its settings with theirs.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from tokenizer_tools.corpus.clean_notes import CleaningRules, check_placeholder_choice
from tokenizer_tools.corpus.input_options import InputOptions
from tokenizer_tools.corpus.near_duplicates import DuplicateRules
from tokenizer_tools.corpus.placeholders import WAYS
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.ranges import MANY, Range, SequenceLength, check_ranges


@dataclass(frozen=True)
class ShardSettings:
    """What shards depend on, besides the notes and the tokenizer."""

    reading: InputOptions = field(default_factory=InputOptions)
    """How notes are read."""
    split: SplitRule = field(default_factory=SplitRule)
    """What is held out, and what stays together."""
    cleaning: CleaningRules = field(default_factory=CleaningRules)
    """Which cleaning rules run."""
    duplicates: DuplicateRules = field(default_factory=DuplicateRules)
    """What becomes of near-duplicates and copied paragraphs."""
    sequence_length: SequenceLength = 4096
    """Tokens per sequence."""
    pack: Literal["notes", "timeline"] = "notes"
    """What a sequence holds. notes: notes in input order, back to back, of whichever patients. timeline: one patient's
    notes alone, in time order; the patient's last sequence is shorter, and padded in training."""
    placeholder: str = "unk"
    """What [**...**] and ___ become: unk (the tokenizer's unknown token); drop; keep; typed (a token for each kind:
    [NAME], [DATE], [PLACE], [ID], [CONTACT], [AGE], else [DEID]); surrogates (made-up names and places, shifted dates;
    unk where the kind isn't known); or a special token of the vocabulary."""
    surrogate_seed: Annotated[int, Range(0, MANY)] = 0
    """Another seed gives other surrogates."""
    notes_per_part: Annotated[int, Range(1, MANY)] = 10_000
    """Notes per part. A part is the unit of work, and becomes one shard file in each split. With pack timeline a shard
    file holds whole patients, with about this many notes."""
    patient_key: str | None = None
    """File with the secret key of the patient hashes, made if missing. Default:
    ~/.config/clinical-pretrain/patient_key."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_placeholder_choice(self.placeholder, self.cleaning)

    def refuse_without_effect(self) -> None:
        """Refuse values other than the defaults that change nothing, as what they are for is off.

        Raises:
            UserError: there are some; the message names all of them.
        """
        rules, needed = self.duplicates, dict[str, str]()
        if rules.near == "off":
            needed |= dict.fromkeys(("threshold", "ngram", "permutations"), "near drop or keep")
        if rules.copied == "keep":
            needed["copied_words"] = "copied drop"
        faults = [
            f"--duplicates.{name}: has no effect without --duplicates.{other}; add that, or leave it out"
            for name, other in needed.items()
            if getattr(rules, name) != getattr(DuplicateRules, name)
        ]
        if faults:
            raise UserError("; ".join(faults))

    def compared(self) -> dict[str, Any]:
        """The settings that another build in the same folder must share. The patient key and a placeholder's one token
        are compared by what they stand for: a key's id, a token."""
        reading = asdict(self.reading)
        del reading["sources"]  # the inputs say how each source is read
        if self.reading.patient_from is None:
            del reading["patient_from"]  # as in shards of builds without this setting
        split = asdict(self.split)
        del split["lists"]  # as in shards of builds without this setting; else the plan says what is in the files
        values = asdict(self) | {"cleaning": self.cleaning.names(), "reading": reading, "split": split}
        left_out = {"patient_key"}
        if self.pack == "notes":
            left_out.add("pack")  # as in shards of builds without this setting
        if self.placeholder not in WAYS:
            left_out.add("placeholder")
        if self.placeholder != "surrogates":
            left_out.add("surrogate_seed")
        values["duplicates"] = self.duplicates.compared()
        if not values["duplicates"]:
            left_out.add("duplicates")  # as in shards of builds without this setting
        return {name: value for name, value in values.items() if name not in left_out}


@dataclass(frozen=True)
class BuildOptions:
    """How a build runs. Nothing here changes the shards."""

    workers: Annotated[int, Range(1, 10_000)] | None = None
    """Processes. Default: one per core."""
    stage: Literal["all", "prepare", "scan"] = "all"
    """For machines that share the work: first prepare on one of them, then scan on each with its own share, then all
    on one, which does what is missing and finishes."""
    share: str = "0/1"
    """K/N: stage scan reads and tokenises only the K-th of N shares, counted from 0."""

    def __post_init__(self) -> None:
        check_ranges(self)
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", self.share)
        if not found or int(found[1]) >= int(found[2]):
            raise UserError(f"--share {self.share}: must be K/N with K from 0 to N - 1")

    def is_of_share(self, number: int) -> bool:
        """Whether this machine scans a part."""
        share, shares = map(int, self.share.split("/"))
        return self.stage != "scan" or number % shares == share
