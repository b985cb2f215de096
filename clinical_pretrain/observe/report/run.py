"""A run as the report and the comparison see it: its starts, settings, data and metrics. Neither weights nor texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clinical_pretrain.config.fields import PathText, Resume, Setting, settings_of
from clinical_pretrain.config.reading import flatten
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.observe.status import no_run
from clinical_pretrain.run_folder.history import Period, lineage
from clinical_pretrain.run_folder.metrics import read_metrics
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest

PLACES = ("run_dir", "data.shards")
"""Settings that say where something lies, and that a page leaves out."""
SETTINGS: dict[str, Setting] = {setting.key: setting for setting in settings_of(RunConfig) if setting.key not in PLACES}
"""All other settings, by their dotted key."""


@dataclass(frozen=True)
class RecordedRun:
    """What a run folder says of a run."""

    folder: RunFolder
    run: dict[str, Any]
    """Content of run.json."""
    data: dict[str, Any]
    """Content of data.json: counts of the last start's shards."""
    lines: list[dict[str, Any]]
    """Of metrics.jsonl."""

    @classmethod
    def load(cls, run_dir: Path) -> RecordedRun:
        """Read a run folder.

        Raises:
            UserError: it is none, has not trained yet, or is damaged.
        """
        folder = RunFolder(run_dir)
        if not folder.exists:
            raise no_run(run_dir)
        run, data, lines = folder.read_run(), folder.read_data(), read_metrics(folder)
        if not run["starts"] or not any(line["kind"] in ("train", "validation") for line in lines):
            ended = (folder.read_stop() or {}).get("reason")
            remedy = f"the run has ended: {ended}" if ended else "wait for the first line of metrics.jsonl"
            raise UserError(f"{run_dir}: no losses yet; {remedy}")
        return cls(folder, run, data, lines)

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.path.resolve().name

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Each start, in order."""
        return list(self.run["starts"])

    @property
    def last(self) -> dict[str, Any]:
        """The last start."""
        return self.starts[-1]

    @cached_property
    def train(self) -> list[dict[str, Any]]:
        """Lines on training steps whose loss is a number, in order."""
        return self._finite("train")

    @cached_property
    def validations(self) -> list[dict[str, Any]]:
        """Lines on validations whose loss is a number, in order."""
        return self._finite("validation")

    @cached_property
    def rollbacks(self) -> list[int]:
        """The steps that the run rolled back to."""
        return [line["step"] for line in self.lines if line["kind"] == "rollback"]

    @property
    def step(self) -> int:
        """The last step that there are metrics of."""
        return max(line["step"] for line in self.lines)

    def periods(self, step: int) -> list[Period]:
        """The starts behind a step, in order, with the steps that each has made."""
        return lineage(self.starts, step) or [Period(1, step, self.last)]

    @cached_property
    def manifest(self) -> Manifest | None:
        """Of the last start's shards, if they still lie where the run read them."""
        with suppress(UserError, OSError):
            manifest = Manifest.load(self.last["config"]["data"]["shards"])
            if manifest.fingerprint == self.data["fingerprint"]:
                return manifest
        return None

    def settings(self, start: dict[str, Any] | None = None) -> dict[str, Any]:
        """The values of `SETTINGS` at a start, by default the last. Of a path only the last part is left."""
        values = flatten(RunConfig().to_dict()) | flatten((start or self.last)["config"])
        return {key: self._shown(setting, values[key]) for key, setting in SETTINGS.items()}

    def training_settings(self, step: int) -> list[tuple[int, dict[str, Any]]]:
        """What decides the weights of a step, apart from the seed: settings, data, base model, number of steps.

        Returns:
            The last step that each set of values holds for, and the values.
        """
        found: list[tuple[int, dict[str, Any]]] = []
        for period in self.periods(step):
            values = flatten(RunConfig().to_dict()) | flatten(period.start["config"])
            values = {key: values[key] for key, setting in SETTINGS.items() if decides_weights(setting)}
            values |= {"data": period.start["data"]["fingerprint"], "base model": self.run["base_model"]}
            if found and found[-1][1] == values:
                found.pop()
            found.append((period.last_step, values))
        return found

    def ends_at(self, step: int) -> bool:
        """Whether no step comes after this one: the last that was asked for, or that of early stopping."""
        config, summary = self.last["config"], self.folder.read_summary() or {}
        stopped_early = bool(summary.get("stopped_early")) and summary["steps"] == step
        return stopped_early or step == config["max_steps"] + config.get("extend", 0)

    def _finite(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["kind"] == kind and line["loss"] is not None]

    def _shown(self, setting: Setting, value: Any) -> Any:
        if setting.key == "model.name_or_path":
            is_random = self.last["config"]["model"]["init"] == "random"
            return self.run["base_model"] or ("unused" if is_random else Path(value).name)
        return Path(value).name if value and is_path(setting) else value


def is_path(setting: Setting) -> bool:
    """Whether a setting names a file or folder. Pages show the last part of its name alone."""
    return any(isinstance(rule, PathText) for rule in setting.constraints)


def decides_weights(setting: Setting) -> bool:
    """Whether a setting other than the seed makes another model, as far as its rule at a resume tells."""
    return setting.resume != Resume.FREE and setting.key != "seed" and not setting.key.startswith("validation.")


def names(runs: Sequence[RecordedRun]) -> list[str]:
    """A name for each run: its folder's, with those above it where several are called the same."""
    paths = [run.folder.path.resolve() for run in runs]
    for count in range(1, 1 + max(len(path.parts) for path in paths)):
        found = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(found)) == len(set(paths)):
            break
    return found


def perplexity(loss: float) -> float:
    """exp(loss), infinite beyond what a number can hold."""
    return math.exp(loss) if loss < 700 else math.inf


def shown_value(value: object) -> str:
    """A setting's value as YAML writes it."""
    if isinstance(value, float):
        return f"{value:g}"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
