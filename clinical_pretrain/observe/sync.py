"""What a run's metrics and settings become in an experiment tracker, and what isn't sent.

Nothing is sent that could name a patient or holds a path: of the settings only numbers, switches and choices, of the
metrics only numbers. Names of note categories, sections and words come from the data, and are sent only if asked for.
"""

from __future__ import annotations

import math
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_origin

from clinical_pretrain.config.fields import Pattern, settings_of
from clinical_pretrain.config.reading import flatten
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.observe.status import no_run
from clinical_pretrain.observe.trackers import SENDERS, Point, Shipment
from clinical_pretrain.run_folder.metrics import MetricsReader
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError

OF_LINE = ("format_version", "step", "kind", "time", "start")
"""Keys of a line that are no figures."""
WITHOUT_NAMES = ("shares", "context", "general", "by_position")
"""Figures of figures whose names are ours; those of all others come from the data."""


@dataclass(frozen=True)
class Plan:
    """What is about to be sent of a run."""

    folder: RunFolder
    shipment: Shipment
    withheld: list[str]
    """Settings that aren't sent."""
    names: list[str] = field(default_factory=list)
    """Names from the data in the new lines."""
    with_names: bool = False
    """Whether those are sent."""

    def describe(self) -> str:
        """Lines for the user, before anything is sent."""
        sent, names = self.shipment, ""
        lines = f"{len(sent.points):,} new lines of metrics" if sent.points else "no new line of metrics"
        facts = dict.fromkeys(name.partition(".")[0] for name in sent.facts)
        if self.names:
            names = f"{len(self.names)} names from the data ({', '.join(self.names)})"
            names = f"\nto send, too: {names}" if self.with_names else f"; {names}: --names sends them"
        return (
            f"{self.folder} -> {sent.tracker}, project {sent.project}, run {sent.name}\n"
            f"to send: {lines}, {len(sent.settings)} settings, {', '.join(facts)}\n"
            f"not sent: {', '.join(self.withheld)}{names}"
        )


def prepare(run_dir: Path, tracker: str, project: str, with_names: bool = False, again: bool = False) -> Plan:
    """Read what is new in a run since it was last sent.

    A line on a step or a validation is new if its step is above that of the last one that was sent, so steps that are
    trained again after a restart aren't sent again; after a roll-back a tracker keeps the figures of the dropped steps.
    Any other line is new if it is later.

    Args:
        run_dir: the run folder.
        tracker: `wandb` or `mlflow`.
        project: of W&B; the experiment of MLflow.
        with_names: whether to send the names of note categories, sections and words.
        again: whether to send everything, to a new run of the tracker.

    Raises:
        UserError: this is no run folder, or its files are damaged.
    """
    folder = RunFolder(run_dir)
    if not folder.exists:
        raise no_run(run_dir)
    sender = SENDERS[tracker]
    place = f"{sender.place()}, {project}"
    before = {} if again else folder.read_trackers().get(place, {})
    last_steps: dict[str, int] = dict(before.get("last_steps", {}))
    sent_until = before.get("sent_until", math.inf if before else 0.0)
    points, names = [], dict[str, None]()
    for line in MetricsReader(folder).new_lines():
        kind = line["kind"]
        is_later = kind not in ("train", "validation") and line["time"] > sent_until
        if line["step"] > before.get("last_steps", {}).get(kind, -1) or is_later:
            points.append(Point(kind, line["step"], line["time"], dict(_figures(line, kind, with_names))))
            last_steps[kind] = max(last_steps.get(kind, -1), line["step"])
            names |= dict.fromkeys(_names(line))
    starts = folder.starts()
    settings, withheld = public_settings(folder.read_config())
    return Plan(
        folder=folder,
        shipment=Shipment(
            tracker=tracker,
            project=project,
            place=place,
            run_id=before.get("run_id"),
            new_id=uuid.uuid4().hex[:16],
            name=run_dir.resolve().name,
            settings=settings,
            facts=_facts(folder.read_run(), starts[-1] if starts else {}),
            points=points,
            last_steps=last_steps,
            sent_until=max([point.time for point in points], default=sent_until if before else 0.0),
            is_finished=folder.read_summary() is not None,
        ),
        withheld=withheld,
        names=list(names),
        with_names=with_names,
    )


def send(plan: Plan) -> dict[str, Any]:
    """Send it, and write down in the run folder what was sent. If that fails midway, the next call sends it again.

    Returns:
        tracker, project, run_id, lines, and where to look.

    Raises:
        UserError: the tracker's library is missing, or it refuses.
    """
    shipment, folder = plan.shipment, plan.folder
    if not os.access(folder.path, os.W_OK | os.X_OK, effective_ids=True):
        raise UserError(
            f"{folder}: can't be written, and sync notes there what it has sent; its owner can sync it, or you a copy"
        )
    told = {"tracker": shipment.tracker, "project": shipment.project, "lines": len(shipment.points)}
    known = folder.read_trackers()
    if not shipment.points and shipment.run_id and known[shipment.place]["is_finished"] == shipment.is_finished:
        return {**told, "run_id": shipment.run_id, "where": "nothing is new"}
    run_id, where = SENDERS[shipment.tracker].send(shipment, folder.path)
    sent = {
        "run_id": run_id,
        "last_steps": shipment.last_steps,
        "sent_until": shipment.sent_until,
        "is_finished": shipment.is_finished,
    }
    folder.write_versioned(folder.trackers_file, {**known, shipment.place: sent})
    return {**told, "run_id": run_id, "where": where}


def public_settings(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Settings of a run that anybody may see, by their dotted keys, and the keys of the others: texts that the user is
    free to choose, such as paths, and what this version doesn't know."""
    given = flatten(config)
    public = {
        setting.key: given[setting.key]
        for setting in settings_of(RunConfig)
        if setting.key in given
        and (
            setting.base in (int, float, bool)
            or get_origin(setting.base) is Literal
            or any(isinstance(rule, Pattern) for rule in setting.constraints)
        )
    }
    return public, sorted(given.keys() - public)


def _facts(run: Mapping[str, Any], start: Mapping[str, Any]) -> dict[str, Any]:
    """What the newest start says beyond settings. The base model is one of the Hub; of a local one there is nothing."""
    names = ("world_size", "zero_stage", "device", "attention_backend", "compiled")
    found = {name: start.get(name) for name in names} | {"base_model": run.get("base_model")}
    found |= {"sequence_length": start.get("data", {}).get("sequence_length")}
    found |= {f"versions.{name}": version for name, version in start.get("versions", {}).items()}
    return {name: value for name, value in found.items() if value is not None}


def _figures(values: Mapping[str, Any], prefix: str, with_names: bool) -> Iterator[tuple[str, float]]:
    """The numbers of a line, each named by the keys that lead to it."""
    for name, value in values.items():
        if isinstance(value, dict):
            if with_names or prefix.count("/") or name in WITHOUT_NAMES:
                yield from _figures(value, f"{prefix}/{name}", with_names)
        elif isinstance(value, int | float) and name not in OF_LINE:
            yield re.sub(r"[^\w\-. :/]", "_", f"{prefix}/{name}", flags=re.ASCII), float(value)


def _names(line: Mapping[str, Any]) -> Iterator[str]:
    """Names from the data in a line."""
    for name, value in line.items():
        if isinstance(value, dict) and name not in WITHOUT_NAMES:
            yield from value
