"""A curve as a line of text, and a curve in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

LEVELS = "▁▂▃▄▅▆▇█"
HIGHEST = 0.75
"""Share of the values that the scale covers: the first losses of a run would flatten all others."""


def sparkline(values: Sequence[float | None], width: int) -> str:
    """A curve of at most `width` characters, each the mean of as many values.

    The scale reaches from the lowest mean to the quantile `HIGHEST`; higher ones are drawn as that. None, a loss that
    isn't finite, is a gap.
    """
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    means = [_mean(values[start:end]) for start, end in pairwise(edges)]
    known = sorted(mean for mean in means if mean is not None)
    if not known:
        return " " * count
    low, high = known[0], known[math.ceil(HIGHEST * (len(known) - 1))]
    return "".join(" " if mean is None else LEVELS[_level(mean, low, high)] for mean in means)


class Curve:
    """A series of any length, as at most `2 * points` means of equally many neighbours.

    Args:
        points: how many are enough.
    """

    def __init__(self, points: int = 512) -> None:
        self._points, self._each = points, 1
        self._means: list[float | None] = []
        self._open: list[float | None] = []
        """The newest values, too few for a mean."""

    def add(self, value: float | None) -> None:
        """Add the next value; None where it isn't finite."""
        self._open.append(value)
        if len(self._open) == self._each:
            self._means.append(_mean(self._open))
            self._open = []
        if len(self._means) == 2 * self._points:
            self._means = [_mean(pair) for pair in zip(self._means[::2], self._means[1::2], strict=True)]
            self._each *= 2

    @property
    def values(self) -> tuple[float | None, ...]:
        """From the first to the newest."""
        return (*self._means, *([_mean(self._open)] if self._open else []))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _level(value: float, low: float, high: float) -> int:
    return min(len(LEVELS) - 1, int((value - low) / (high - low) * len(LEVELS))) if high > low else 0
