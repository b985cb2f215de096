"""Models against tasks: the mean score over fine-tuning seeds, its interval, and which differences are significant.

Everything is computed from the stored predictions and the data set's gold, so that no model runs. How the table is
written stands in `table_formats.py` and `table_plot.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clinical_pretrain.console import console
from clinical_pretrain.tasks.catalogue import find_task, read_task
from clinical_pretrain.tasks.evaluation import data_sha256
from clinical_pretrain.tasks.records import Document, TaskData
from clinical_pretrain.tasks.results import REMEDY, ResultFolder, find_results
from clinical_pretrain.tasks.scores.bootstrap import Comparison, Resampling, compare, holm, score
from clinical_pretrain.tasks.scores.by_kind import measures_of
from clinical_pretrain.tasks.scores.measure import Floats, Measure, mean
from clinical_pretrain.tasks.table_columns import (
    Cell,
    Column,
    add_notes,
    divide,
    find_unfinished,
    name_lengths,
    refuse_mixtures,
)
from tokenizer_tools.command_line import typed
from tokenizer_tools.errors import UserError

TRIALS = (
    "Trials (--max-steps) show that a task runs. They stand in columns of their own, and are neither averaged nor "
    "compared with full runs; their p values are adjusted by themselves."
)
NAMED = 10
"""Number of unfinished trials that are named."""


@dataclass(frozen=True)
class Table:
    """All results of a folder."""

    models: list[str]
    columns: list[Column]
    baseline: str | None
    """The model that all others are compared with; None: the best of each column."""
    comparisons: int
    """Number of p values that were adjusted together, of full runs."""
    trial_comparisons: int
    """Likewise of trials, by themselves."""
    resampling: Resampling
    notes: list[str]
    """About the whole table."""

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per task and model, with unrounded fractions."""
        return [_row(column, model, cell) for column in self.columns for model, cell in column.cells.items()]


def make_table(
    results: Path, data_root: Path | None = None, baseline: str | None = None, resampling: Resampling | None = None
) -> Table:
    """Read a folder of results, pool the seeds of each model and task, and compare the models.

    Args:
        results: the folder that `evaluate` wrote.
        data_root: has the data of each task in a folder of its name; by default the folders that were evaluated.
        baseline: the model that all others are compared with; by default the best of each column.
        resampling: for intervals and comparisons; by default as in `scores.bootstrap`.

    Raises:
        UserError: there is no result, one is damaged, two models have one name, or `baseline` isn't among them.
    """
    resampling = resampling or Resampling()
    found = [folder.read() for folder in find_results(results)]
    if not found:
        raise UserError(f"{results}: no finished result in it; '{typed()} evaluate ... --out {results}' makes them")
    refuse_mixtures(found)
    models = sorted({result.subject.model for result in found}, key=lambda model: (model != baseline, model))
    if baseline is not None and baseline not in models:
        raise UserError(f"--baseline {baseline}: no result of this model in {results}; it has {', '.join(models)}")
    unfinished, notes = find_unfinished(results), []
    if unfinished:
        more = f" and {len(unfinished) - NAMED} more" if len(unfinished) > NAMED else ""
        notes.append(f"Not finished: {', '.join(unfinished[:NAMED])}{more}.")
    columns = divide(found, models, unfinished)
    for number, column in enumerate(columns, start=1):
        console.progress([f"{number} of {len(columns)}", f"comparing models on {column.title}"], log=False)
        data = _read_data(column, data_root)
        if isinstance(data, str):
            _score_by_results(column)
            notes.append(f"{column.title}: no significance, and no interval of several seeds: {data}.")
            add_notes(column, None)
        else:
            _score(column, results, baseline, data.splits["test"], resampling)
            add_notes(column, data)
    trials = [column for column in columns if column.trial_steps]
    comparisons = _adjust([column for column in columns if not column.trial_steps]), _adjust(trials)
    notes += [TRIALS] if trials else []
    return Table(models, columns, baseline, *comparisons, resampling, notes + name_lengths(found))


def _read_data(column: Column, data_root: Path | None) -> TaskData | str:
    """The data that a column was scored on, or why it can't be had."""
    subject = column.subject
    try:
        task = find_task(subject.task_file or subject.task)
        data = read_task(task, task.folder(data_root) if data_root else Path(subject.data)).data
    except UserError as error:
        return str(error)
    return data if data_sha256(data) == subject.data_sha256 else "its data isn't that of the evaluation any more"


def _score_by_results(column: Column) -> None:
    """Score a column without its data: the mean over seeds, and a single seed's interval."""
    for cell in column.cells.values():
        values = [result.main.value for result in cell.results if result.main.value is not None]
        if values and len(values) == len(cell.results):
            cell.score = float(np.mean(values))
        if len(cell.results) == 1:
            cell.low, cell.high = cell.results[0].main.low, cell.results[0].main.high
    _find_best(column)


def _score(
    column: Column, results: Path, baseline: str | None, documents: Sequence[Document], resampling: Resampling
) -> None:
    """Score a column from its predictions, and compare its models."""
    measured = {model: _measures(cell, results, documents) for model, cell in column.cells.items() if cell.results}
    pooled = {model: _remembering(mean(measures)) for model, measures in measured.items()}
    for model, found in score(pooled, documents, resampling).items():
        cell = column.cells[model]
        cell.score, cell.low, cell.high = found.value, found.low, found.high
    _find_best(column)
    candidates = {model: cell for model, cell in column.cells.items() if cell.complete and cell.score is not None}
    reference = baseline or next((model for model, cell in candidates.items() if cell.best), None)
    if reference is None or reference not in candidates:
        if baseline:
            column.notes.append(f"nothing is compared: {baseline} lacks seeds, or its score is undefined")
        return
    for model, cell in candidates.items():
        if model == reference:
            continue
        try:
            cell.comparison = compare(pooled[model], pooled[reference], documents, resampling)
            cell.compared_with = reference
        except UserError as error:  # averages over other labels
            cell.notes.append(f"not compared with {reference}: {error}")


def _measures(cell: Cell, results: Path, documents: Sequence[Document]) -> list[Measure]:
    """The main measure of each of a cell's results.

    Raises:
        UserError: predictions are damaged, or aren't those of their result.
    """
    measures = []
    for result in cell.results:
        subject = result.subject
        folder = ResultFolder.of(results, subject.task, subject.model, subject.seed)
        predictions = folder.read_predictions()
        try:
            measure = measures_of(documents, predictions)[subject.metric]
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None
        expected = np.nan if result.main.value is None else result.main.value
        if not np.allclose(measure.values(np.ones((1, len(documents)))), expected, rtol=0, atol=1e-9, equal_nan=True):
            raise UserError(f"{folder}: result.json has another score than its predictions; {REMEDY}")
        measures.append(measure)
    return measures


def _remembering(measure: Measure) -> Measure:
    """The same measure, which keeps what it has computed: a model's interval and each of its comparisons take the same
    resamples, and AUC of seven labels and five seeds on 4,000 documents takes a minute for them."""
    known: dict[bytes, Floats] = {}

    def values(weights: Floats) -> Floats:
        key = hashlib.blake2b(weights.tobytes()).digest()
        if key not in known:
            known[key] = measure.values(weights)
        return known[key]

    return replace(measure, values=values)


def _find_best(column: Column) -> None:
    """Mark the highest score, if there are others that it can be compared with."""
    scores = [cell.score for cell in column.cells.values() if cell.complete and cell.score is not None]
    for cell in column.cells.values():
        cell.best = cell.complete and len(scores) > 1 and cell.score == max(scores)


def _adjust(columns: Sequence[Column]) -> int:
    """Adjust the p values of these columns' comparisons for their number, which is returned."""
    cells = [cell for column in columns for cell in column.cells.values()]
    p_values = {
        str(number): cell.comparison.p_value
        for number, cell in enumerate(cells)
        if cell.comparison and cell.comparison.p_value is not None
    }
    for number, p_value in holm(p_values).items():
        cells[int(number)].p_value = p_value
    return len(p_values)


def _row(column: Column, model: str, cell: Cell) -> dict[str, Any]:
    comparison = cell.comparison or Comparison(None, None, None, None, column.units, 0)
    return {
        "task": column.subject.task,
        "column": column.title,
        "model": model,
        "metric": column.subject.metric,
        "score": cell.score,
        "low": cell.low,
        "high": cell.high,
        "seeds": cell.seeds,
        "seed_scores": [result.main.value for result in cell.results],
        "protocol": column.subject.protocol,
        "trial_steps": column.trial_steps,
        "documents": column.documents,
        "units": column.units,
        "complete": cell.complete,
        "best": cell.best,
        "compared_with": cell.compared_with,
        "difference": comparison.difference,
        "difference_low": comparison.low,
        "difference_high": comparison.high,
        "p_value": comparison.p_value,
        "adjusted_p_value": cell.p_value,
        "significant": cell.significant,
        "notes": [*column.notes, *cell.notes],
    }
