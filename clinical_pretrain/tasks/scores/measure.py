"""The common form of all scores: a function of how often each document is counted.

A bootstrap resample counts a document zero, one or several times. A measure maps these weights to a value. So a score
(all weights 1), its confidence interval and the comparison of two models are computed in one way for entities, answers,
classes and labels. Values are fractions, not percentages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """What a score is computed with."""

    values: Callable[[Floats], Floats]
    """Maps weights [resamples, documents] to values [resamples]; NaN where the score is undefined."""
    documents: int
    """Number of documents that have something to score."""
    labels: tuple[str, ...] = ()
    """For a macro average: the labels that it is taken over."""
    undefined_labels: tuple[str, ...] = ()
    """For a macro average: the labels that it leaves out, because all documents have them, or none."""


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide elementwise; NaN where the denominator is 0."""
    undefined = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator != 0)


def additive(counts: NDArray[np.generic], formula: Callable[[Floats], Floats], documents: int) -> Measure:
    """A measure that is a function of sums over documents.

    Args:
        counts: what each document adds to each sum, [documents, sums].
        formula: maps sums [resamples, sums] to values [resamples].
        documents: number of documents that have something to score.
    """
    numbers = counts.astype(np.float64)
    return Measure(lambda weights: formula(weights @ numbers), documents)


def mean(measures: Sequence[Measure]) -> Measure:
    """The mean of several measures, such as one of several fine-tuning seeds; undefined where any of them is.

    Pool the seeds of each model in this way before comparing two models: all seeds are then scored on the same
    resampled documents, and the seeds themselves aren't resampled.
    """

    def values(weights: Floats) -> Floats:
        if not measures:
            return np.full(len(weights), np.nan)
        return np.mean([measure.values(weights) for measure in measures], axis=0)

    documents = max((measure.documents for measure in measures), default=0)
    return Measure(values, documents, *((measures[0].labels, measures[0].undefined_labels) if measures else ()))


# Of the sums (correct, predicted, gold) in the last axis; van Rijsbergen, Information Retrieval, 1979, chapter 7.


def precision(sums: Floats) -> Floats:
    """correct / predicted; NaN if nothing is predicted."""
    return ratio(sums[..., 0], sums[..., 1])


def recall(sums: Floats) -> Floats:
    """correct / gold; NaN if there is no gold."""
    return ratio(sums[..., 0], sums[..., 2])


def f1(sums: Floats) -> Floats:
    """2 x correct / (predicted + gold), the harmonic mean of precision and recall; NaN if there is neither."""
    return ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])
