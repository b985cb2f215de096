"""Whether the losses of runs differ by more than noise: a paired bootstrap over held-out sequences, and the spread
between seeds where a setting was trained with more than one.

Three things move a run's held-out loss although its settings stay: which sequences are held out, which of their tokens
are masked, and the seed of training (order of the data, dropout, random weights). A resample draws sequences, each with
the losses and masks of all runs, so it covers the first two, also where runs of different seeds have different masks.
It can't cover the third: both models are the same in every resample. That takes several seeds of a setting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clinical_pretrain.run_folder.validation_losses import ValidationLosses
from clinical_pretrain.tasks.scores.bootstrap import Resampling, draw_unit_weights

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A group's mean held-out loss minus that of another group, in nats per masked token."""

    nats: float
    low: float
    """End of the confidence interval."""
    high: float
    covers_seeds: bool
    """Whether the interval covers the seed of training, too."""

    @property
    def is_noise(self) -> bool:
        """Whether the interval holds 0."""
        return self.low <= 0 <= self.high


def resampled_losses(losses: Sequence[ValidationLosses], resampling: Resampling) -> Floats:
    """(resamples + 1, runs): each run's loss, the ratio of sums of losses to masked tokens; first that of all
    sequences, then those of resamples. All runs must have the same sequences."""
    sums = np.stack([each.loss for each in losses], axis=1)
    predicted = np.stack([each.predicted for each in losses], axis=1).astype(np.float64)
    drawn = [sums.sum(0, keepdims=True) / predicted.sum(0, keepdims=True)]
    drawn += [(weights @ sums) / (weights @ predicted)
              for weights in draw_unit_weights(np.arange(len(sums)), resampling)]  # fmt: skip
    return np.concatenate(drawn)


def interval(resampled: Floats, level: float) -> tuple[float, float]:
    """The percentile interval of resampled values."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def seed_spread(losses: Floats, groups: Sequence[Sequence[Sequence[int]]]) -> tuple[float, int]:
    """The standard deviation of losses between seeds of the same settings, pooled over groups, and its degrees of
    freedom: 0 where no group has two seeds. Repeats of a seed count as one, by their mean.

    Args:
        losses: (runs,).
        groups: the runs of each seed of each group, by their number.
    """
    means = [np.array([losses[list(runs)].mean() for runs in group]) for group in groups]
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum(float(((of_seeds - of_seeds.mean()) ** 2).sum()) for of_seeds in means)
    return (math.sqrt(squares / freedom), freedom) if freedom else (0.0, 0)


def difference(
    losses: Floats,
    first: Sequence[Sequence[int]],
    second: Sequence[Sequence[int]],
    spread: tuple[float, int],
    resampling: Resampling,
) -> Difference:
    """Compare two groups of runs.

    Where the spread between seeds is known, a draw of Student's t times the standard error of the groups' difference is
    added to each resample. The spread holds the masks' noise, too, where masks differ by seed: it is then counted
    twice, and the interval is a little too wide.

    Args:
        losses: of `resampled_losses`.
        first: the runs of each seed of one group, by their number.
        second: of the other.
        spread: of `seed_spread`.
        resampling: as for `losses`.
    """
    of_first, of_second = (
        np.mean([losses[:, list(runs)].mean(1) for runs in group], axis=0) for group in (first, second)
    )
    differences = of_first - of_second
    resampled, (deviation, freedom) = differences[1:], spread
    if freedom:
        error = deviation * math.sqrt(1 / len(first) + 1 / len(second))
        generator = np.random.default_rng([resampling.seed, 1])
        resampled = resampled + error * generator.standard_t(freedom, len(resampled))
    return Difference(float(differences[0]), *interval(resampled, resampling.level), covers_seeds=freedom > 0)
