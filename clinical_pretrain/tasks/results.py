"""The results of an evaluation: the names of a results folder's files, and how each is written and read.

    results/TASK/MODEL/seed-N/predictions.jsonl    of the test split, without a text (scores/predictions.py)
    results/TASK/MODEL/seed-N/result.json          scores, and how they came about
    results/TASK/MODEL/seed-N/lock                 locked by the process that is at it
    results/slurm/                                 logs and scripts of SLURM jobs

result.json is written last: a trial without it isn't done.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from clinical_pretrain.tasks.scores.bootstrap import Score
from clinical_pretrain.tasks.scores.predictions import Predictions, read_predictions, write_predictions
from tokenizer_tools.command_line import typed
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import read_json, write_json

FORMAT_VERSION = 2
"""Of result.json."""
REMEDY = "delete its folder and evaluate the model again"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
"""A name of a task or model, which is a folder's name, too."""
SAME_FUNCTION = ("micro_batch_size", "activation_checkpointing")
"""Settings that change memory and speed, and scores by no more than rounding: seeds with others can be pooled."""


@dataclass(frozen=True)
class Subject:
    """What a result is of. Two trials with equal subjects give the same scores, but for the hardware's rounding."""

    task: str
    model: str
    """The name that the user gave it, as in the table."""
    model_path: str
    """Its absolute folder, or its id on the Hub."""
    model_identity: str
    """See model_identity.py."""
    seed: int
    kind: str
    metric: str
    protocol: str
    """`document` or `paper`; for multiple choice the way of asking."""
    settings: dict[str, Any]
    """Of the fine-tuning; empty for multiple choice."""
    data: str
    """The absolute folder that the data was read from."""
    data_sha256: str
    """Of all documents of all splits, gold included."""
    task_file: str | None
    """The absolute path of a user's own YAML file; None for a task of the catalogue."""

    def differences(self, earlier: Subject) -> list[str]:
        """What makes an earlier subject another one, in words. A folder that has moved makes none."""
        found = []
        for name in ("task", "model", "seed", "kind", "metric", "protocol"):
            if (before := getattr(earlier, name)) != (now := getattr(self, name)):
                found.append(f"{name} {before} (now {now})")
        for key in sorted({*earlier.settings, *self.settings} - {*SAME_FUNCTION}):
            if (before := earlier.settings.get(key)) != (now := self.settings.get(key)):
                found.append(f"{key} {before} (now {now})")
        if earlier.model_identity != self.model_identity:
            found.append("other weights or another tokenizer")
        if earlier.data_sha256 != self.data_sha256:
            found.append("other data")
        return found


@dataclass(frozen=True)
class Result:
    """How a model with one fine-tuning seed does on a task's test split."""

    subject: Subject
    scores: dict[str, Score]
    """All measures, the task's `metric` among them; fractions."""
    splits: dict[str, int]
    """Number of documents by split."""
    split_rule: str
    """Which splits are the data set's own, and how the others were made; one sentence."""
    reading: dict[str, Any]
    """What the reader mended and left out: ReadingReport as JSON."""
    details: dict[str, Any]
    """Outcome.details: candidates on the development split, the chosen one, lengths, deviations from the paper."""
    contamination: dict[str, Any] | None
    """How much of the test split is in the model's pretraining shards; None where no shards were named."""
    versions: dict[str, str]
    seconds: float

    @property
    def main(self) -> Score:
        """The score of the task's main measure."""
        return self.scores[self.subject.metric]

    def to_json(self) -> dict[str, Any]:
        """What result.json holds: the fields of the subject and the main score stand beside the others."""
        main = {"score": self.main.value, "low": self.main.low, "high": self.main.high}
        rest = asdict(self)
        return {"format_version": FORMAT_VERSION, **rest.pop("subject"), **main, **rest}


@dataclass(frozen=True)
class ResultFolder:
    """The folder of one trial, `results/TASK/MODEL/seed-N`: the only place that knows its file names."""

    path: Path

    @classmethod
    def of(cls, results: Path, task: str, model: str, seed: int) -> ResultFolder:
        """The folder of a trial in a folder of results."""
        return cls(results / task / model / f"seed-{seed}")

    def __str__(self) -> str:
        return str(self.path)

    @property
    def predictions_file(self) -> Path:
        """Predictions of the test split."""
        return self.path / "predictions.jsonl"

    @property
    def result_file(self) -> Path:
        """Scores, and how they came about. Written last."""
        return self.path / "result.json"

    @property
    def lock_file(self) -> Path:
        """Locked by the process that evaluates."""
        return self.path / "lock"

    @property
    def is_done(self) -> bool:
        """Whether the trial was finished."""
        return self.result_file.exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other processes from the same trial.

        Raises:
            UserError: another process is at it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self.lock_file.open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self}: another process is at this trial; wait for its end") from None
            except OSError:  # a network disk without locks
                pass
            yield

    def write(self, result: Result, predictions: Predictions | None = None) -> None:
        """Write a trial's files, result.json last; without predictions that file alone.

        Raises:
            UserError: the predictions are faulty; nothing is written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if predictions is not None:
            write_predictions(self.predictions_file, predictions)
        write_json(self.result_file, result.to_json())

    def read(self) -> Result:
        """Read result.json.

        Raises:
            UserError: it is missing, damaged, of another format version, or was written in another folder.
        """
        raw = read_json(self.result_file, FORMAT_VERSION, REMEDY)
        try:
            result = _result(raw)
        except (KeyError, TypeError):
            raise UserError(f"{self.result_file}: damaged, not the form of a result; {REMEDY}") from None
        subject = result.subject
        if ResultFolder.of(Path(), subject.task, subject.model, subject.seed).path.parts != self.path.parts[-3:]:
            raise UserError(
                f"{self.result_file}: is of {subject.task}/{subject.model}/seed-{subject.seed}, but its folder has "
                "another name; move it back"
            )
        return result

    def read_predictions(self) -> Predictions:
        """Read the predictions.

        Raises:
            UserError: the file is missing, damaged, or of another format version.
        """
        return read_predictions(self.predictions_file)


def find_results(results: Path) -> list[ResultFolder]:
    """The folders of all finished trials in a folder of results, by task, model and seed.

    Raises:
        UserError: there is no such folder.
    """
    if not results.is_dir():
        raise UserError(f"{results}: no such folder; '{typed()} evaluate ... --out {results}' makes one")
    found = [ResultFolder(path) for path in results.glob("*/*/seed-*") if path.name[5:].isdecimal()]
    done = [folder for folder in found if folder.is_done]
    return sorted(done, key=lambda each: (*each.path.parts[-3:-1], int(each.path.name[5:])))


def check_name(name: str, what: str) -> None:
    """Check that a name can be a folder's.

    Raises:
        UserError: it can't.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"{what} {name[:60]!a}: not a name; use at most 100 letters, digits and . _ + -, a letter or digit first"
        )


def _result(raw: Mapping[str, Any]) -> Result:
    """A result by its JSON.

    Raises:
        KeyError, TypeError: it hasn't the form of one.
    """
    kinds: dict[str, type | tuple[type, ...]] = {"seed": int, "settings": dict, "task_file": (str, type(None))}
    subject = {entry.name: _typed(raw, entry.name, kinds.get(entry.name, str)) for entry in fields(Subject)}
    scores = {name: _score(value) for name, value in _typed(raw, "scores", dict).items()}
    result = Result(
        Subject(**subject),
        scores,
        _typed(raw, "splits", dict),
        _typed(raw, "split_rule", str),
        _typed(raw, "reading", dict),
        _typed(raw, "details", dict),
        _typed(raw, "contamination", (dict, type(None))),
        _typed(raw, "versions", dict),
        _typed(raw, "seconds", (int, float)),
    )
    main = result.main
    if (main.value, main.low, main.high) != (raw["score"], raw["low"], raw["high"]):
        raise KeyError("score")
    return result


def _typed(raw: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(raw[name], kind):
        raise TypeError(name)
    return raw[name]


def _score(raw: Mapping[str, Any]) -> Score:
    lists = {name: tuple(raw[name]) for name in ("labels", "undefined_labels")}
    score = Score(**{**raw, **lists})
    for number in (score.value, score.low, score.high):
        if not isinstance(number, (int, float, type(None))):
            raise TypeError("scores")
    return score
