"""Compare runs: which settings differ, and whether their held-out losses differ by more than noise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clinical_pretrain.observe.report.bootstrap import difference, interval, resampled_losses, seed_spread
from clinical_pretrain.observe.report.losses import MeasuredLosses, check_comparable, common_sequences, read_losses
from clinical_pretrain.observe.report.run import RecordedRun, names, shown_value
from clinical_pretrain.observe.report.verdict import ComparedRun, Findings, Verdict
from clinical_pretrain.tasks.scores.bootstrap import MIN_UNITS, Resampling
from tokenizer_tools.errors import UserError

LEVEL = 0.95
"""Probability that all intervals of a comparison together hold the true differences."""
MAX_TELLING = 2
"""Largest number of settings that a group is named by."""
SURROUNDINGS = {"ranks": "world_size", "ZeRO stage": "zero_stage", "device": "device", "attention": "attention_backend"}
"""What is compared of a start beside its settings, by its name on the page."""


@dataclass(frozen=True)
class Comparison:
    """Runs on the same held-out sequences."""

    recorded: list[RecordedRun]
    findings: Findings
    settings: dict[str, list[str]]
    """Settings, data and surroundings that differ: a value for each run."""


def compare_runs(run_dirs: Sequence[Path], step: int | None = None) -> Comparison:
    """Compare the validations of runs.

    Args:
        run_dirs: run folders. The first one, with those of its settings, is what the others are compared with.
        step: of the validations; None: the last of each run.

    Raises:
        UserError: fewer than two runs; one has no stored losses by sequence; or they don't compare.
    """
    given = ", ".join(map(str, run_dirs))
    if len({path.resolve() for path in run_dirs}) < max(2, len(run_dirs)):
        raise UserError(f"{given}: give two or more runs, each once")
    recorded = [RecordedRun.load(path) for path in run_dirs]
    stored = [read_losses(run, step) for run in recorded]
    check_comparable(recorded, stored)
    sequences = len(common_sequences([each.losses for each in stored])[0].sequence)
    if sequences < MIN_UNITS:
        raise UserError(
            f"{given}: {sequences} held-out sequences that all have, where {MIN_UNITS} are needed; train with the "
            "same, larger --validation.max_sequences (0: all), or shards with a larger validation split"
        )
    settings = differing_settings(recorded, stored)
    return Comparison(recorded, _findings(recorded, stored, settings), settings)


def _findings(
    recorded: Sequence[RecordedRun], stored: Sequence[MeasuredLosses], settings: dict[str, list[str]]
) -> Findings:
    losses = common_sequences([each.losses for each in stored])
    groups = _groups(recorded, stored)
    first, *others = groups.values()
    pairs = [(group, first) for group in others] or [([number], first[:1]) for number in first[1:]]
    resampling = Resampling(level=1 - (1 - LEVEL) / len(pairs))
    resampled = resampled_losses(losses, resampling)
    seeds = [run.last["config"]["seed"] for run in recorded]
    spread = seed_spread(resampled[0], [_by_seed(group, seeds) for group in groups.values()])
    deviation, freedom = spread
    verdicts = [
        Verdict(
            runs,
            baseline,
            difference(
                resampled,
                _by_seed(runs, seeds),
                _by_seed(baseline, seeds),
                spread if others else (0.0, 0),
                resampling,
            ),
            same_settings=not others,
        )
        for runs, baseline in pairs
    ]
    letters = {number: letter for letter, members in groups.items() for number in members}
    runs = []
    for number, (name, seed, own) in enumerate(zip(names(recorded), seeds, losses, strict=True)):
        low, high = interval(resampled[1:, number], LEVEL)
        loss, predicted = float(resampled[0, number]), int(own.predicted.sum())
        runs.append(ComparedRun(name, letters[number], seed, stored[number].step, loss, low, high, predicted))
    return Findings(
        runs,
        groups,
        _titles(groups, settings),
        verdicts,
        sequences=len(losses[0].sequence),
        same_masks=len({each.measured["masks"]["seed"] for each in stored}) == 1,
        seed_deviation=deviation if freedom else None,
        resampling=resampling,
    )


def _groups(recorded: Sequence[RecordedRun], losses: Sequence[MeasuredLosses]) -> dict[str, list[int]]:
    """Numbers of the runs that differ by the seed alone, by a letter, in the order of their first run."""
    by_settings: dict[str, list[int]] = {}
    for number, (run, own) in enumerate(zip(recorded, losses, strict=True)):
        *before, (_, last) = run.training_settings(own.step)
        end = "its end" if run.ends_at(own.step) else own.step  # early stopping ends seeds at other steps
        settings = json.dumps([before, last, end], sort_keys=True)
        by_settings.setdefault(settings, []).append(number)
    return {chr(ord("A") + number): members for number, members in enumerate(by_settings.values())}


def _by_seed(group: Sequence[int], seeds: Sequence[int]) -> list[list[int]]:
    """Numbers of a group's runs of each seed: several are repeats, as by another number of ranks."""
    return [[number for number in group if seeds[number] == seed] for seed in dict.fromkeys(seeds[n] for n in group)]


def _titles(groups: dict[str, list[int]], settings: dict[str, list[str]]) -> dict[str, str]:
    """By group, the settings that are the same within each group and tell groups apart, if they are few."""
    telling = [
        key
        for key, values in settings.items()
        if all(len({values[number] for number in members}) == 1 for members in groups.values())
    ]
    if not 1 <= len(telling) <= MAX_TELLING:
        return dict.fromkeys(groups, "")
    return {
        letter: ", ".join(f"{key} {settings[key][members[0]]}" for key in telling) for letter, members in groups.items()
    }


def differing_settings(recorded: Sequence[RecordedRun], losses: Sequence[MeasuredLosses]) -> dict[str, list[str]]:
    """Settings, data and surroundings of the last starts that aren't the same for all runs: a value for each."""
    columns, bases = [], list(dict.fromkeys(map(_base, recorded)))  # folders may have the same name
    for run, own in zip(recorded, losses, strict=True):
        changes = [f"{step:,}" for step, _ in run.training_settings(run.step)[:-1]]
        columns.append(
            {key: shown_value(value) for key, value in run.settings().items()}
            | {"data (fingerprint)": run.data["fingerprint"][:12], "settings changed after step": ", ".join(changes)}
            | {"step of the validation": f"{own.step:,}"}
            | {"folder of the base model": f"number {bases.index(_base(run)) + 1}" if _base(run) else ""}
            | {name: shown_value(run.last.get(key)) for name, key in SURROUNDINGS.items()}
            | {f"version of {name}": version for name, version in run.last.get("versions", {}).items()}
        )
    keys = dict.fromkeys(key for column in columns for key in column)
    found = {key: [column.get(key) or "–" for column in columns] for key in keys}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def _base(run: RecordedRun) -> str:
    """The folder of a run's base model; empty for one of the Hub, and for random weights."""
    model = run.last["config"]["model"]
    return "" if run.run["base_model"] or model["init"] == "random" else str(model["name_or_path"])
