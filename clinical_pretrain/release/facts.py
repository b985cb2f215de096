"""Collect the facts of a run that go into the exported model's `pretraining.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

from clinical_pretrain.checkpoint.state import RunState
from clinical_pretrain.config.optim import OptimConfig
from clinical_pretrain.engine.schedule import stage_of
from clinical_pretrain.models.families import family_of_type
from clinical_pretrain.run_folder.history import Period, lineage, validations
from clinical_pretrain.run_folder.paths import RunFolder


def collect_facts(folder: RunFolder, state: RunState) -> dict[str, Any]:
    """What may be known of the run by everybody who gets the model: figures, no text of a note, no path.

    Args:
        folder: the run folder.
        state: of the exported checkpoint.
    """
    run = folder.read_run()
    starts = run["starts"]
    periods = lineage(starts, state.step)
    measured = validations(folder, starts, state.step)
    config, length = periods[-1].start["config"], periods[-1].start["data"]["sequence_length"]
    family = family_of_type(json.loads((folder.model_config / "config.json").read_text())["model_type"])
    languages = {start["data"]["fingerprint"]: start["config"]["data"]["language"] for start in starts}
    return {
        "run_id": run["run_id"],
        "base_model": run["base_model"],
        "initialisation": config["model"]["init"],
        "model_family": {"name": family.name, "title": family.title},
        "languages": sorted({languages[period.start["data"]["fingerprint"]] for period in periods}),
        "sequence_length": length,
        "steps": state.step,
        "samples_consumed": state.samples_consumed,
        "tokens_consumed": state.samples_consumed * length,
        "data": _by_steps(periods, lambda period: period.start["data"]),
        "recipe": _by_steps(list(_by_stages(periods)), _recipe),
        "results": {
            "validation_loss_before": None if measured.differences else measured.before.get("loss"),
            "validation_loss_after": measured.after.get("loss"),
            "validation_accuracy_after": measured.after.get("accuracy"),
            "validation_step_after": measured.after.get("step"),
            "not_comparable": measured.differences,
        },
        "versions": periods[-1].start["versions"],
    }


def _by_stages(periods: Sequence[Period]) -> Iterator[Period]:
    """Split periods where one stage of the schedule ends and another begins."""
    for period in periods:
        first = period.first_step
        while first <= period.last_step:
            last = min(period.last_step, stage_of(first, period.start["stages"]).last_step)
            yield replace(period, first_step=first, last_step=last)
            first = last + 1


def _recipe(period: Period) -> dict[str, Any]:
    """The settings that determine the weights, with the schedule of the stage that the steps belong to."""
    config, stage = period.start["config"], stage_of(period.first_step, period.start["stages"])
    return {
        "optimizer": "AdamW",
        **asdict(stage.schedule(OptimConfig(**config["optim"]))),
        "schedule_steps": stage.steps,
        "train_batch_size": config["batch"]["train_batch_size"],
        "precision": config["precision"],
        **{f"masking_{key}": value for key, value in config["masking"].items()},
        "document_attention": config["data"]["document_attention"],
        "global_tokens": config["attention"]["global_tokens"],
        "attention_dropout": config["attention"]["dropout"],
        "seed": config["seed"],
        "zero_stage": period.start["zero_stage"],
    }


def _by_steps(periods: Sequence[Period], choose: Callable[[Period], dict[str, Any]]) -> list[dict[str, Any]]:
    """The values of each range of steps. Consecutive periods with the same values are merged."""
    found = []
    for value, group in groupby(periods, choose):
        same = list(group)
        found.append({"first_step": same[0].first_step, "last_step": same[-1].last_step, **value})
    return found
