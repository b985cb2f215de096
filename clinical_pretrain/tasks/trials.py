"""The trials of an evaluation: each task with each model and each seed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinical_pretrain.tasks.model_identity import model_identity
from clinical_pretrain.tasks.results import Result, ResultFolder, Subject, check_name
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest

if TYPE_CHECKING:
    from clinical_pretrain.tasks.finetune_settings import FinetuneSettings
    from clinical_pretrain.tasks.task import Task

ADDED_LATER = {"development_documents": 0, "prediction_precision": "same"}
"""Settings of fine-tuning, and the default by which they stand in no result, as in those of versions without them."""


@dataclass(frozen=True)
class NamedModel:
    """A row of the table."""

    name: str
    """A folder's name in the results."""
    path: str
    """Its folder, or its id on the Hub."""
    shards: Path | None = None
    """The shards that it was pretrained on, for the contamination line."""


@dataclass(frozen=True)
class TaskFolder:
    """A task, and where its data is."""

    task: Task
    data: Path
    file: str | None = None
    """The absolute path of a user's own YAML file."""


@dataclass(frozen=True)
class Trial:
    """One task, one model, one seed."""

    place: TaskFolder
    model: NamedModel
    seed: int
    settings: FinetuneSettings
    results: Path
    """The folder of all results."""

    def __str__(self) -> str:
        return f"{self.place.task.name}, {self.model.name}, seed {self.seed}"

    @property
    def folder(self) -> ResultFolder:
        """Where its result goes."""
        return ResultFolder.of(self.results, self.place.task.name, self.model.name, self.seed)

    def subject(self, data_sha256: str) -> Subject:
        """What its result will be of.

        Raises:
            UserError: there is no such model, or the task has no such protocol.
        """
        task, path = self.place.task, self.model.path
        settings: dict[str, Any] = {}
        if task.choices is None:
            settings = json.loads(json.dumps(asdict(self.settings.for_task(task))))
            for name, default in ADDED_LATER.items():
                if settings[name] == default:
                    del settings[name]
        return Subject(
            task=task.name,
            model=self.model.name,
            model_path=str(Path(path).absolute()) if Path(path).is_dir() else path,
            model_identity=model_identity(path),
            seed=self.seed,
            kind=task.kind,
            metric=task.metric,
            protocol=task.choices.method if task.choices else self.settings.protocol,
            settings=settings,
            data=str(self.place.data.absolute()),
            data_sha256=data_sha256,
            task_file=self.place.file,
        )

    def earlier_result(self, data_sha256: str) -> Result | None:
        """The result, if the trial is done.

        Raises:
            UserError: its folder holds the result of another trial, or one that can't be read.
        """
        if not self.folder.is_done:
            return None
        result = self.folder.read()
        if differences := self.subject(data_sha256).differences(result.subject):
            raise UserError(
                f"{self.folder}: holds a result with {', '.join(differences)}; go back to that, or choose another --out"
            )
        return result


@dataclass(frozen=True)
class Evaluation:
    """What one command evaluates: each task with each model and each seed."""

    tasks: Sequence[TaskFolder]
    models: Sequence[NamedModel]
    seeds: Sequence[int]
    settings: FinetuneSettings
    results: Path
    patient_key: Path | None = None
    """The key that the shards' patients were hashed with; None: the user's own."""

    def trials(self, place: TaskFolder, model: NamedModel) -> list[Trial]:
        """The trials of a task with a model, by seed. Multiple choice is not trained, so it has one seed."""
        seeds = self.seeds[:1] if place.task.choices else self.seeds
        return [Trial(place, model, seed, self.settings, self.results) for seed in seeds]

    def check(self) -> None:
        """Refuse, before anything is read or trained, what can't end well.

        Raises:
            UserError: accelerate, a model or its shards are missing, or the folder holds results with other settings.
        """
        if any(place.task.choices is None for place in self.tasks) and importlib.util.find_spec("accelerate") is None:
            raise UserError("accelerate is missing, which fine-tuning needs: pip install 'clinical-pretrain[tasks]'")
        for model in self.models:
            model_identity(model.path)
            if model.shards is not None:
                Manifest.load(model.shards)
        for place in self.tasks:
            check_name(place.task.name, "task")
            for model in self.models:
                for trial in self.trials(place, model):
                    if trial.folder.is_done:  # whether the data is the same can only be told when it has been read
                        trial.earlier_result(trial.folder.read().subject.data_sha256)


def find_places(names: str, data_root: Path) -> list[TaskFolder]:
    """The tasks of a suite, or of several names or YAML files with commas, each with its folder under `data_root`.

    Raises:
        UserError: a name is unknown, or a YAML file faulty.
    """
    from clinical_pretrain.tasks.catalogue import find_suite, find_task

    files = [name for name in map(str.strip, names.split(",")) if name.endswith((".yaml", ".yml"))]
    file_of = {find_task(name).name: str(Path(name).absolute()) for name in files}
    return [TaskFolder(task, task.folder(data_root), file_of.get(task.name)) for task in find_suite(names)]
