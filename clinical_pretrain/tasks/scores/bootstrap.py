"""Confidence intervals and comparisons of models by resampling documents, or patients where the data names them.

A resample draws as many patients as there are, with replacement; all documents of a patient are drawn together, because
they aren't independent. This estimates how a score varies over documents of the same kind, not how it varies over
fine-tuning seeds; pool several seeds with `measure.mean`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clinical_pretrain.tasks.records import Document
from clinical_pretrain.tasks.scores.measure import Floats, Measure
from clinical_pretrain.tasks.splits import patient_of
from tokenizer_tools.errors import UserError

MIN_UNITS = 10
"""Fewest patients for an interval or a p value: resamples of fewer vary less than new ones would."""
MAX_UNDEFINED = 0.1
"""Largest share of resamples without a value for an interval or a p value: the others don't stand for all."""
UNDEFINED_RESAMPLES = f"no interval: undefined in over {MAX_UNDEFINED:.0%} of the resamples"
WEIGHTS_AT_ONCE = 1 << 22
"""Number of weights that are held in memory at once, 8 bytes each."""


@dataclass(frozen=True)
class Resampling:
    """How documents are drawn."""

    resamples: int = 10_000
    seed: int = 0
    level: float = 0.95
    """Confidence level of intervals."""


@dataclass(frozen=True)
class Score:
    """A score with its confidence interval; None where undefined."""

    value: float | None
    low: float | None
    high: float | None
    documents: int
    """Number of documents that had something to score."""
    units: int
    """Number of patients, or of documents without one, that were drawn from."""
    undefined_resamples: int
    """Number of resamples without a value, which the interval leaves out."""
    labels: tuple[str, ...] = ()
    """For a macro average: the labels that it is taken over."""
    undefined_labels: tuple[str, ...] = ()
    """For a macro average: the labels that it leaves out."""

    @property
    def no_interval(self) -> str:
        """Why a defined score has no interval; empty if it has one."""
        if self.low is not None:
            return ""
        return too_few(self.units, self.documents) if self.units < MIN_UNITS else UNDEFINED_RESAMPLES


@dataclass(frozen=True)
class Comparison:
    """The first model's score minus the second's, with its confidence interval; None where undefined."""

    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    """Two-sided."""
    units: int
    undefined_resamples: int


def score(
    measures: Mapping[str, Measure], documents: Sequence[Document], resampling: Resampling | None = None
) -> dict[str, Score]:
    """The value of each measure with its percentile interval.

    The interval lies between the (1 - level) / 2 and (1 + level) / 2 quantiles of the resamples' values (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3). There is none for fewer than MIN_UNITS units, or
    where more than MAX_UNDEFINED of the resamples have no value.

    Args:
        measures: by name; of the documents, in their order.
        documents: all documents of the split.
        resampling: how documents are drawn; by default 10,000 resamples and 95 % intervals.
    """
    resampling = resampling or Resampling()
    units = int(sampling_units(documents).max()) + 1
    resampled: dict[str, list[Floats]] = {name: [] for name in measures}
    for weights in draw_weights(documents, resampling):
        for name, measure in measures.items():
            resampled[name].append(measure.values(weights))
    scores = {}
    for name, measure in measures.items():
        value = _value(measure, len(documents))
        values, undefined = _defined(np.concatenate(resampled[name]))
        low, high = _interval(values, undefined, units, resampling) if value is not None else (None, None)
        scores[name] = Score(
            value, low, high, measure.documents, units, undefined, measure.labels, measure.undefined_labels
        )
    return scores


def compare(
    first: Measure, second: Measure, documents: Sequence[Document], resampling: Resampling | None = None
) -> Comparison:
    """Compare two models on the same documents by a paired bootstrap; several seeds of each pooled with `measure.mean`.

    With d the difference on all documents and d* the one of a resample, which is centred on d and not on 0, the p value
    is (1 + number of resamples with |d* - d| >= |d|) / (1 + number of resamples). This is the two-sided form of
    Berg-Kirkpatrick et al., An Empirical Investigation of Statistical Significance in NLP, 2012; the added ones keep it
    from being 0 (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 4.2). Where there is no
    interval, there is no p value.

    Args:
        first, second: the same measure of two models, of the documents in their order.
        documents: all documents of the split.
        resampling: how documents are drawn; by default 10,000 resamples and 95 % intervals.

    Raises:
        UserError: they are macro averages over different labels.
    """
    if first.labels != second.labels:
        raise UserError(
            f"macro averages over {', '.join(first.labels)} and over {', '.join(second.labels)} can't be compared; "
            "evaluate both models with the same labels"
        )
    resampling = resampling or Resampling()
    units = int(sampling_units(documents).max()) + 1
    drawn = [first.values(weights) - second.values(weights) for weights in draw_weights(documents, resampling)]
    differences, undefined = _defined(np.concatenate(drawn))
    values = _value(first, len(documents)), _value(second, len(documents))
    if values[0] is None or values[1] is None:
        return Comparison(None, None, None, None, units, undefined)
    difference = values[0] - values[1]
    low, high = _interval(differences, undefined, units, resampling)
    p_value = None
    if low is not None:
        # Without the margin, rounding would decide where both sides are equal.
        extreme = np.count_nonzero(np.abs(differences - difference) >= abs(difference) - 1e-12)
        p_value = float((1 + extreme) / (1 + len(differences)))
    return Comparison(difference, low, high, p_value, units, undefined)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p values adjusted for the number of tests, by test (Holm, Scandinavian Journal of Statistics 6, 1979).

    With p values in ascending order p_1 ... p_m, the adjusted p_i is the largest (m - j + 1) p_j of all j <= i, at most
    1. Calling those of at most 0.05 significant makes a false call among all tests with a probability of at most 0.05.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def too_few(units: int, documents: int) -> str:
    """Say that there are fewer than MIN_UNITS patients or, where no patient is named, documents."""
    what = "patients" if units < documents else "documents"
    return f"too few {what} for an interval: {units}, where {MIN_UNITS} are needed"


def sampling_units(documents: Sequence[Document]) -> NDArray[np.int64]:
    """The number of each document's patient, from 0, [documents]; a document without a patient is one by itself."""
    numbers: dict[tuple[str, str], int] = {}
    patients = [patient_of(document) for document in documents]
    names = [
        ("patient", patient) if patient else ("document", document.id)
        for patient, document in zip(patients, documents, strict=True)
    ]
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def draw_weights(documents: Sequence[Document], resampling: Resampling) -> Iterator[Floats]:
    """Yield the weights of the resamples, [some resamples, documents], as many as fit in memory."""
    return draw_unit_weights(sampling_units(documents), resampling)


def draw_unit_weights(unit_of_document: NDArray[np.int64], resampling: Resampling) -> Iterator[Floats]:
    """As `draw_weights`, of anything that is drawn by units.

    Args:
        unit_of_document: the number of each one's unit, from 0, [documents].
        resampling: how units are drawn.
    """
    units = int(unit_of_document.max()) + 1
    generator = np.random.default_rng(resampling.seed)
    at_once = max(1, WEIGHTS_AT_ONCE // len(unit_of_document))
    for begin in range(0, resampling.resamples, at_once):
        rows = min(at_once, resampling.resamples - begin)
        drawn = generator.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
        yield counts[:, unit_of_document].astype(np.float64)


def _value(measure: Measure, documents: int) -> float | None:
    value = float(measure.values(np.ones((1, documents)))[0])
    return None if np.isnan(value) else value


def _defined(values: Floats) -> tuple[Floats, int]:
    """The values that aren't NaN, and the number of those that are."""
    defined = values[~np.isnan(values)]
    return defined, len(values) - len(defined)


def _interval(
    defined: Floats, undefined: int, units: int, resampling: Resampling
) -> tuple[float, float] | tuple[None, None]:
    if units < MIN_UNITS or undefined > MAX_UNDEFINED * resampling.resamples:
        return None, None
    low, high = np.quantile(defined, [(1 - resampling.level) / 2, (1 + resampling.level) / 2])
    return float(low), float(high)
