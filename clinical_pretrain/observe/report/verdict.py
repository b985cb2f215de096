"""What a comparison of runs has found, in figures and in words."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clinical_pretrain.observe.report.bootstrap import Difference
from clinical_pretrain.observe.report.run import perplexity
from clinical_pretrain.tasks.scores.bootstrap import Resampling
from tokenizer_tools.pages.wording import four_digits
from tokenizer_tools.wording import counted

NOISE = "within the noise"
FEW = 2
"""Degrees of freedom of the seeds' spread up to which Student's t makes intervals more than twice as wide."""


@dataclass(frozen=True)
class ComparedRun:
    """A run of a comparison."""

    name: str
    group: str
    """A letter. Runs of a group differ by the seed alone, or by what doesn't change the weights."""
    seed: int
    step: int
    """Of the validation."""
    loss: float
    """On the sequences that all runs have, in nats per masked token."""
    low: float
    """End of the loss's 95 % interval over sequences and masks."""
    high: float
    predicted: int
    """Masked tokens."""

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return perplexity(self.loss)


@dataclass(frozen=True)
class Verdict:
    """What a comparison of some runs with the baseline has found."""

    runs: list[int]
    """Numbers of runs that differ from each other by the seed alone."""
    baseline: list[int]
    """The first run and those of its settings; the first alone where all runs have its settings."""
    difference: Difference
    """Of the runs' mean loss minus the baseline's."""
    same_settings: bool
    """Whether the runs and the baseline differ by the seed alone, so that any difference is noise."""

    @property
    def is_noise(self) -> bool:
        """Whether the difference may be noise."""
        return self.same_settings or self.difference.is_noise


@dataclass(frozen=True)
class Findings:
    """The figures of a comparison."""

    runs: list[ComparedRun]
    groups: dict[str, list[int]]
    """Numbers of the runs of each group."""
    titles: dict[str, str]
    """The settings that tell a group from the others, where they are few; else empty."""
    verdicts: list[Verdict]
    """Of each further group against the first; where there is but one, of its further runs against its first."""
    sequences: int
    """That all runs have."""
    same_masks: bool
    """Whether all runs predict the same tokens."""
    seed_deviation: float | None
    """Standard deviation of the loss between seeds of the same settings; None where no settings have two."""
    resampling: Resampling

    def label(self, numbers: Sequence[int]) -> str:
        """What some runs are called: a run's own name, or their group with its settings."""
        first = self.runs[numbers[0]]
        if len(numbers) == 1:
            return first.name
        title, seeds = self.titles[first.group], self._seeds(numbers)
        members = (
            counted(seeds, "seed") if seeds == len(numbers) else f"{len(numbers)} runs of {counted(seeds, 'seed')}"
        )
        return f"{first.group} ({title + ', ' if title else ''}{members})"

    def _seeds(self, numbers: Sequence[int]) -> int:
        return len({self.runs[number].seed for number in numbers})

    def perplexity(self, numbers: Sequence[int]) -> float:
        """exp of the mean loss of some runs' seeds, each the mean of its repeats."""
        by_seed: dict[int, list[float]] = {}
        for number in numbers:
            by_seed.setdefault(self.runs[number].seed, []).append(self.runs[number].loss)
        return perplexity(statistics.fmean(map(statistics.fmean, by_seed.values())))

    def sentence(self, verdict: Verdict) -> str:
        """A verdict in words: whether the difference is noise, else which is better, and by how much."""
        found = verdict.difference
        sides = [verdict.baseline, verdict.runs]
        better, worse = sides if found.nats > 0 else reversed(sides)
        ends = (found.low, found.high) if found.nats >= 0 else (-found.high, -found.low)
        level = f"{100 * self.resampling.level:g} %"
        by = f"{abs(found.nats):.4f} nats per masked token ({level} interval {ends[0]:.4f} to {ends[1]:.4f})"
        names = self.label(better), self.label(worse)
        if verdict.same_settings:
            same = "settings but for the seed" if self._seeds((*better, *worse)) > 1 else "settings and seed"
            return f"{NOISE}: {names[0]} and {names[1]} have the same {same}, and differ by {by}"
        change = f"perplexity {four_digits(self.perplexity(better))} instead of {four_digits(self.perplexity(worse))}"
        if verdict.is_noise:
            return f"{NOISE}: {names[0]} has a lower loss than {names[1]} by {by}, {change}, which may be chance"
        return f"{names[0]} is better than {names[1]}: its loss is lower by {by}, {change}"

    def scope(self) -> list[str]:
        """What the verdicts cover and what they don't, in sentences."""
        of_masks = "All runs predict the same tokens" if self.same_masks else "Runs of other seeds predict other tokens"
        found = [
            f"Intervals cover which sequences are held out and which of their tokens are masked: a paired bootstrap "
            f"over the {self.sequences:,} held-out sequences that all runs have, {self.resampling.resamples:,} "
            f"resamples. {of_masks}. Sequences are drawn one by one, although those of a patient resemble each other."
        ]
        if len({run.step for run in self.runs}) > 1:
            steps = ", ".join(f"{run.step:,} of {run.name}" for run in self.runs)
            found.append(
                f"The validations are of different steps: {steps}. If a run still trains, give a step that all have: "
                "--step."
            )
        if len(self.verdicts) > 1:
            found.append(f"The {len(self.verdicts)} intervals hold together with a probability of 95 %.")
        if len(self.groups) == 1:
            found.append("Runs of the same settings are draws of one recipe: what they differ by is noise.")
        if self.seed_deviation is not None:
            covered = "another setting must change it by more" if len(self.groups) == 1 else "the intervals cover that"
            found.append(
                f"Between seeds of the same settings the loss varies by {self.seed_deviation:.4f} nats (standard "
                f"deviation): {covered}."
            )
            several = [seeds for seeds in map(self._seeds, self.groups.values()) if seeds > 1]
            if len(self.groups) > 1 and sum(several) - len(several) <= FEW:
                found.append(
                    f"That spread is known from {sum(several)} seeds, which say little of it, so the intervals are "
                    "wide: more seeds of each setting narrow them."
                )
        else:
            found.append(
                "The seed of training is not covered, as no settings have two seeds: the verdict is on these models. "
                "To judge their settings, train each with several seeds, and give all runs to compare."
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """For --json."""
        verdicts = [
            asdict(each) | {"within_noise": each.is_noise, "text": self.sentence(each)} for each in self.verdicts
        ]
        return {
            "runs": [asdict(run) | {"perplexity": run.perplexity} for run in self.runs],
            "groups": self.groups,
            "verdicts": verdicts,
            "sequences": self.sequences,
            "same_masks": self.same_masks,
            "seed_deviation": self.seed_deviation,
            "level": self.resampling.level,
            "resamples": self.resampling.resamples,
            "scope": self.scope(),
        }
