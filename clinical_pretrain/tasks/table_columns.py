"""The columns of a table of results: which results stand in one, and what a reader has to be told about them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clinical_pretrain.tasks.records import TaskData
from clinical_pretrain.tasks.results import REMEDY, SAME_FUNCTION, Result, ResultFolder, Subject
from clinical_pretrain.tasks.scores.bootstrap import MAX_UNDEFINED, MIN_UNITS, Comparison, too_few
from clinical_pretrain.tasks.splits import patients_on_both_sides
from tokenizer_tools.errors import UserError

SIGNIFICANT = 0.05
"""Largest adjusted p value of a difference that is called significant."""
OF_THE_MODEL = (*SAME_FUNCTION, "max_length")
"""Settings of fine-tuning that may differ between the models of a column."""


@dataclass
class Cell:
    """A model on a task."""

    results: list[Result]
    """By seed; empty: there is none."""
    score: float | None = None
    """Mean over seeds, a fraction; None where undefined."""
    low: float | None = None
    high: float | None = None
    complete: bool = False
    """Whether it has all seeds that the column has; others are neither called best nor compared."""
    best: bool = False
    compared_with: str | None = None
    """The model whose score is subtracted; None: not compared."""
    comparison: Comparison | None = None
    p_value: float | None = None
    """Adjusted for all comparisons of the table."""
    notes: list[str] = field(default_factory=list)

    @property
    def seeds(self) -> list[int]:
        """Those of its results."""
        return [result.subject.seed for result in self.results]

    @property
    def significant(self) -> bool | None:
        """Whether it differs from the model that it is compared with; None where that can't be said."""
        return None if self.p_value is None else self.p_value <= SIGNIFICANT


@dataclass
class Column:
    """A task under one protocol, with the same settings, data and measure for all models."""

    title: str
    """The task's name, and what sets the column apart from others of that task."""
    subject: Subject
    """One of its results'."""
    seeds: list[int]
    """Those that any model has."""
    documents: int
    """Number of test documents that had something to score."""
    units: int
    """Number of patients, or of documents without one."""
    cells: dict[str, Cell]
    """By model."""
    notes: list[str] = field(default_factory=list)

    @property
    def trial_steps(self) -> int:
        """Number of steps after which each training of a trial ended (--max-steps); 0: a full run."""
        return int(self.subject.settings.get("max_steps", 0))

    @property
    def too_few(self) -> str:
        """Says that it has too few documents for intervals and p values; empty if it has enough."""
        return too_few(self.units, self.documents) if self.units < MIN_UNITS else ""


def refuse_mixtures(results: Sequence[Result]) -> None:
    """Refuse a model's name that stands for two models, or for two maximum lengths on one task.

    Raises:
        UserError: there is one.
    """
    models: dict[str, Subject] = {}
    lengths: dict[tuple[str, str], Subject] = {}
    for subject in (result.subject for result in results):
        first = models.setdefault(subject.model, subject)
        if first.model_identity != subject.model_identity:
            raise UserError(
                f"model {subject.model} has other weights or another tokenizer in {_name(subject)} than in "
                f"{_name(first)}; {REMEDY}, or under another name"
            )
        first = lengths.setdefault((subject.task, subject.model), subject)
        if first.settings.get("max_length") != subject.settings.get("max_length"):
            raise UserError(
                f"{_name(first)} and {_name(subject)} have another max_length and can't be averaged; {REMEDY}, or "
                "under another model's name"
            )


def _name(subject: Subject) -> str:
    return f"{subject.task}/{subject.model}/seed-{subject.seed}"


def find_unfinished(results: Path) -> list[str]:
    """Trials that were begun, such as `i2b2_2010/ours/seed-2`."""
    folders = [ResultFolder(path) for path in results.glob("*/*/seed-*") if re.fullmatch(r"seed-\d+", path.name)]
    return sorted("/".join(folder.path.parts[-3:]) for folder in folders if not folder.is_done)


def divide(results: Sequence[Result], models: Sequence[str], unfinished: Sequence[str]) -> list[Column]:
    """Divide results by task, and those of a task by everything that makes scores incomparable. Trials come last.

    Args:
        results: in the order of their seeds.
        models: in the order of the cells.
        unfinished: see `find_unfinished`; their seeds are counted as missing.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(repr([result.subject.task, sorted(_facets(result.subject).items())]), []).append(result)
    columns = []
    for group in groups.values():
        subject, main = group[0].subject, group[0].main
        same_task = [other[0].subject for other in groups.values() if other[0].subject.task == subject.task]
        seeds = {result.subject.seed for result in group}
        if len(same_task) == 1:
            trials = [trial for trial in unfinished if trial.startswith(f"{subject.task}/")]
            seeds |= {int(trial.rpartition("-")[2]) for trial in trials}
        cells = {model: Cell([result for result in group if result.subject.model == model]) for model in models}
        for cell in cells.values():
            cell.complete = set(cell.seeds) == seeds
        title = subject.task + _distinction(subject, same_task)
        columns.append(Column(title, subject, sorted(seeds), main.documents, main.units, cells))
        if len({other.data_sha256 for other in same_task}) > 1:
            columns[-1].notes.append("this task was evaluated on several data sets, which are never compared")
    return sorted(columns, key=lambda column: (column.trial_steps > 0, column.subject.task, column.title))


def _facets(subject: Subject) -> dict[str, Any]:
    """What has to be equal in a column, by name."""
    settings = {name: value for name, value in subject.settings.items() if name not in OF_THE_MODEL}
    return settings | {"protocol": subject.protocol, "measure": subject.metric, "data": subject.data_sha256}


def _distinction(subject: Subject, same_task: Sequence[Subject]) -> str:
    """In what the columns of a task differ, such as ` (paper, epochs 4)`; empty if there is but one, of full runs."""
    own, others = _facets(subject), [_facets(other) for other in same_task]
    names = dict.fromkeys(name for other in others for name in other)
    parts = []
    for name in names:
        value = own.get(name)
        if name == "max_steps":  # a trial says so even where it stands alone
            parts += [f"trial, {value:,} steps"] if value else []
        elif value is not None and any(other.get(name) != value for other in others):
            parts.append(str(value) if name == "protocol" else f"{name} {str(value)[:8] if name == 'data' else value}")
    return f" ({', '.join(parts)})" if parts else ""


def add_notes(column: Column, data: TaskData | None) -> None:
    """Say what is missing or undefined in a column, and what its scores have to be seen against.

    Args:
        column: with its scores.
        data: the task's; None: it can't be read any more.

    Raises:
        UserError: a result's contamination is damaged.
    """
    subject = column.subject
    main = next(cell.results[0].main for cell in column.cells.values() if cell.results)
    if column.trial_steps:
        column.notes.append(f"a trial: fine-tuned for at most {column.trial_steps:,} steps; no result of a model")
    if subject.protocol == "paper":
        column.notes.append("the paper's protocol, with the deviations that result.json lists")
    if main.undefined_labels:
        column.notes.append(
            f"mean of {len(main.labels)} labels; undefined for {', '.join(main.undefined_labels)}, which all test "
            "documents have, or none"
        )
    if data is not None and data.kind == "class":
        counts = Counter(label for document in data.splits["test"] for label in document.labels)
        largest, total = max(counts.values()), counts.total()
        column.notes.append(
            f"always the most frequent class: {percent(largest / total)}; chance: {percent(1 / len(data.labels))}"
        )
    if data is not None and (both := patients_on_both_sides(data.splits)):
        column.notes.append(both)
    for cell in column.cells.values():
        cell.notes += _notes(cell, column, data is not None)


def _notes(cell: Cell, column: Column, resampled: bool) -> Iterable[str]:
    if not cell.results:
        yield "no result"
        return
    if not cell.complete:
        own, all_seeds = (", ".join(map(str, seeds)) for seeds in (cell.seeds, column.seeds))
        yield f"seeds {own} alone, of {all_seeds}: neither called best nor compared until all are there"
    if cell.score is None:
        yield "undefined"
    elif column.too_few:
        yield f"{column.too_few}; likewise for a p value"
    elif resampled and (cell.low is None or (cell.comparison and cell.comparison.p_value is None)):
        yield f"no interval or p value: undefined in over {MAX_UNDEFINED:.0%} of the resamples"
    yield from dict.fromkeys(_contamination(result) for result in cell.results if result.contamination)


def _contamination(result: Result) -> str:
    from clinical_pretrain.tasks.contamination import describe

    try:
        return describe(result.contamination or {})
    except (TypeError, ValueError):
        raise UserError(f"{_name(result.subject)}: contamination in result.json is damaged; {REMEDY}") from None


def percent(share: float) -> str:
    """A fraction in per cent, without the sign."""
    return f"{100 * share:.1f}"


def name_lengths(results: Sequence[Result]) -> list[str]:
    """A line that says the models' longest sequences, where they are known."""
    found: dict[str, set[int]] = {}
    for result in results:
        if length := result.details.get("tokens_per_sequence"):
            found.setdefault(result.subject.model, set()).add(length)
    parts = [f"{model} {' or '.join(f'{length:,}' for length in sorted(found[model]))}" for model in sorted(found)]
    return [f"Tokens per sequence: {', '.join(parts)}."] if parts else []
