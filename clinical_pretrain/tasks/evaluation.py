"""Evaluate models on tasks: run the trials that aren't done, and pool the seeds of each task and model.

Each trial's result stands in a folder of its own (results.py). So an evaluation that was killed and is started again
does what is missing, and several processes can share the trials.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinical_pretrain.allocator import keep_freed_memory
from clinical_pretrain.console import console
from clinical_pretrain.run_folder.metrics import duration
from clinical_pretrain.run_folder.starts import versions
from clinical_pretrain.tasks.records import Document, TaskData
from clinical_pretrain.tasks.results import Result, ResultFolder
from clinical_pretrain.tasks.scores import bootstrap
from clinical_pretrain.tasks.scores.by_kind import measures_of
from clinical_pretrain.tasks.scores.measure import mean
from clinical_pretrain.tasks.trials import Evaluation, TaskFolder, Trial
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    from clinical_pretrain.tasks.outcome import Outcome

TEST = "test"


@dataclass
class LoadedTask:
    """A task with its data in memory."""

    place: TaskFolder
    data: TaskData
    split_rule: str
    data_sha256: str
    patient_key: Path | None
    _contamination: dict[Path, dict[str, Any]] = field(default_factory=dict)

    @property
    def test(self) -> list[Document]:
        """The documents that are scored."""
        return self.data.splits[TEST]

    def contamination(self, shards: Path | None) -> dict[str, Any] | None:
        """How much of the test split is in a model's pretraining shards; None without shards.

        Raises:
            UserError: the shards or the patient key can't be read, or don't belong together.
        """
        if shards is None:
            return None
        if shards not in self._contamination:
            from clinical_pretrain.tasks.contamination import count_contamination

            self._contamination[shards] = asdict(count_contamination(self.test, shards, self.patient_key))
        return self._contamination[shards]


def load_task(place: TaskFolder, evaluation: Evaluation) -> LoadedTask:
    """Read a task's data, and say how it is divided and what can't be used of it.

    Raises:
        UserError: it is missing or faulty, or the task has no such protocol.
    """
    from clinical_pretrain.tasks.catalogue import read_task

    if place.task.choices is None:
        evaluation.settings.for_task(place.task)
    divided = read_task(place.task, place.data)
    counts = ", ".join(f"{len(documents):,} {split}" for split, documents in divided.data.splits.items())
    console.say(f"{place.task.name}: {counts}; {divided.rule}")
    reading = divided.data.report
    for rule, number in reading.left_out.items():
        console.say(f"  left out in reading: {rule}, {number:,} (first: {reading.places[rule][0]})")
    return LoadedTask(place, divided.data, divided.rule, data_sha256(divided.data), evaluation.patient_key)


@dataclass
class Report:
    """What an evaluation has done."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of each task and model what `pooled` gives. A seed that couldn't be done doesn't count."""
    made: int = 0
    """Number of trials that were run now."""
    found: int = 0
    """Number of trials that were done before."""
    missing: list[str] = field(default_factory=list)
    """Why a task or a trial couldn't be done, one line each."""


def evaluate(evaluation: Evaluation) -> Report:
    """Run all trials that aren't done, task by task. What can't be done is left out, and the others run.

    Raises:
        UserError: nothing can be done as asked; see `Evaluation.check`.
    """
    evaluation.check()
    report = Report()
    for loaded in readable_tasks(evaluation, report.missing):
        for model in evaluation.models:
            results = []
            for trial in evaluation.trials(loaded.place, model):
                try:
                    results.append(finish_trial(trial, loaded, report))
                except UserError as error:
                    leave_out(str(trial), error, report.missing)
            try:
                report.rows += [pooled(results, evaluation.results, loaded.test)] if results else []
            except UserError as error:
                leave_out(f"{loaded.place.task.name}, {model.name}", error, report.missing)
    return report


def evaluate_one(evaluation: Evaluation) -> dict[str, Any]:
    """Run all trials of one task with one model that aren't done.

    Returns:
        What `pooled` gives.

    Raises:
        UserError: a trial can't be done.
    """
    evaluation.check()
    (place,), (model,) = evaluation.tasks, evaluation.models
    loaded, report = load_task(place, evaluation), Report()
    results = [finish_trial(trial, loaded, report) for trial in evaluation.trials(place, model)]
    return pooled(results, evaluation.results, loaded.test)


def readable_tasks(evaluation: Evaluation, missing: list[str]) -> Iterator[LoadedTask]:
    """Yield each task with its data. One that can't be read is left out, and added to `missing`."""
    for place in evaluation.tasks:
        try:
            loaded = load_task(place, evaluation)
        except UserError as error:
            leave_out(place.task.name, error, missing)
            continue
        yield loaded


def leave_out(what: str, error: UserError, missing: list[str]) -> None:
    """Say why a task or a trial isn't done, and add it to those that are missing."""
    message = str(error)
    missing.append(message if message.startswith(f"{what}: ") else f"{what}: {message}")
    console.say(f"left out: {missing[-1]}", error=True)


def pooled(results: Sequence[Result], folder: Path, documents: Sequence[Document]) -> dict[str, Any]:
    """A task's score with one model: the mean over seeds, and its bootstrap interval over documents. Says it, if there
    are several seeds.

    Args:
        results: one for each seed.
        folder: of all results.
        documents: of the test split.

    Returns:
        task, model, metric, score, low, high (fractions; None where undefined), seeds (their number) and protocol.

    Raises:
        UserError: predictions can't be read.
    """
    first = results[0].subject
    measures = []
    for result in results:
        subject = result.subject
        predictions = ResultFolder.of(folder, subject.task, subject.model, subject.seed).read_predictions()
        measures.append(measures_of(documents, predictions)[subject.metric])
    score = bootstrap.score({first.metric: mean(measures)}, documents)[first.metric]
    row = {
        "task": first.task,
        "model": first.model,
        "metric": first.metric,
        "score": score.value,
        "low": score.low,
        "high": score.high,
        "seeds": len(results),
        "protocol": first.protocol,
    }
    if len(results) > 1:
        console.say(_line(f"{first.task}, {first.model}, mean of {len(results)} seeds", first.metric, score))
    return row


def finish_trial(trial: Trial, loaded: LoadedTask, report: Report) -> Result:
    """A trial's result, which is made if it isn't there.

    Raises:
        UserError: another process is at it, the folder holds the result of another trial, or it can't be run.
    """
    with trial.folder.locked():
        result = trial.earlier_result(loaded.data_sha256)
        if result is not None:
            report.found += 1
            contamination = loaded.contamination(trial.model.shards) or result.contamination
            if contamination != result.contamination:  # shards were named that weren't before
                result = replace(result, contamination=contamination)
                trial.folder.write(result)
            console.say(_line(f"{trial}: done before", result.subject.metric, result.main))
        else:
            console.say(f"{trial}: started")
            result = run_trial(trial, loaded)
            report.made += 1
            console.say(_line(str(trial), result.subject.metric, result.main) + f", {duration(result.seconds)}")
    if steps := result.subject.settings.get("max_steps"):
        console.say(f"  a trial: fine-tuned for at most {steps:,} steps; no result of a model")
    if result.contamination is not None:
        from clinical_pretrain.tasks.contamination import describe

        console.say(f"  {describe(result.contamination)}")
    return result


def run_trial(trial: Trial, loaded: LoadedTask) -> Result:
    """Run one trial and store its result, predictions first.

    Raises:
        UserError: the task can't be run with this model or protocol, or the model gives something that can't be scored.
    """
    subject = trial.subject(loaded.data_sha256)
    contamination = loaded.contamination(trial.model.shards)
    started = time.monotonic()
    outcome = _compute(trial, loaded)
    predictions = replace(outcome.predictions, task=subject.task, model=subject.model, seed=subject.seed)
    scores = bootstrap.score(measures_of(loaded.test, predictions), loaded.test)
    report = loaded.data.report
    result = Result(
        subject=subject,
        scores=scores,
        splits={split: len(documents) for split, documents in loaded.data.splits.items()},
        split_rule=loaded.split_rule,
        reading={"mended": dict(report.mended), "left_out": dict(report.left_out), "places": report.places},
        details=outcome.details,
        contamination=contamination,
        versions=versions(),
        seconds=round(time.monotonic() - started, 1),
    )
    trial.folder.write(result, predictions)
    return result


def data_sha256(data: TaskData) -> str:
    """sha256 of all that a task's scores depend on: its documents by split, in their order, with their gold."""
    digest = hashlib.sha256(json.dumps([data.kind, data.labels]).encode())
    for split, documents in sorted(data.splits.items()):
        for document in documents:
            questions = [(question.id, question.text, question.answers) for question in document.questions]
            values = [getattr(document, name) for name in ("id", "text", "patient", "second_text", "entities", "labels",
                                                           "unknown_labels")]  # fmt: skip
            digest.update(json.dumps([split, *values, questions]).encode())
    return digest.hexdigest()


def _compute(trial: Trial, loaded: LoadedTask) -> Outcome:
    task = trial.place.task
    keep_freed_memory()
    if task.choices is not None:
        from clinical_pretrain.tasks.choices import score_choices
        from clinical_pretrain.tasks.readers.medconceptsqa import read_medconceptsqa

        return score_choices(task, read_medconceptsqa(trial.place.data), trial.model.path, trial.seed)
    from clinical_pretrain.tasks.finetune import finetune

    return finetune(task, loaded.data, trial.model.path, trial.seed, trial.settings)


def _line(what: str, metric: str, score: bootstrap.Score) -> str:
    """A line of a score in per cent."""
    if score.value is None:
        return f"{what}: {metric} undefined"
    interval = f", {score.no_interval}"
    if score.low is not None and score.high is not None:
        interval = f" [{100 * score.low:.1f}, {100 * score.high:.1f}]"
    return f"{what}: {metric} {100 * score.value:.1f} %{interval}"
