"""What lines of metrics say of a run's time: where it went, how long the run still takes, and how sure that is."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

LINES = 100
"""Number of newest training lines that the estimate is made from."""
FEWEST_SPEEDS = 5
"""With fewer speeds there is no range."""


@dataclass(frozen=True)
class TimeLeft:
    """Seconds to a run's last step."""

    seconds: float
    shortest: float | None = None
    """If all other steps are as fast as the fastest tenth of the newest ones; None where that isn't known yet."""
    longest: float | None = None
    """If all are as slow as the slowest tenth."""


def time_left(train: Sequence[dict[str, Any]], max_steps: int | None) -> TimeLeft | None:
    """Estimate the time to the last step.

    The estimate is the wall-clock time per step over the newest `LINES` training lines of the newest start, so the
    validations and saves between them count. The range scales it by the 10th and 90th percentile of these lines' tokens
    per second over their harmonic mean: it is as wide as if the whole rest ran at that speed. That fits a speed that
    drifts for hours (a shared disk or network, a throttled GPU); where speeds only vary from line to line, the
    variation averages out and the range is too wide. Early stopping, restarts and waiting in a queue are not foreseen.

    Args:
        train: training lines of metrics.jsonl, in order.
        max_steps: the last step.

    Returns:
        None where it can't be told: fewer than two lines, or an unknown last step.
    """
    newest = train[-1].get("start") if train else None
    lines = list(takewhile(lambda line: line.get("start") == newest, reversed(train[-LINES:])))[::-1]
    if max_steps is None or len(lines) < 2:
        return None
    steps, seconds = (lines[-1][key] - lines[0][key] if key in lines[0] else 0 for key in ("step", "time"))
    if steps <= 0 or seconds <= 0:
        return None
    left = max(0, max_steps - lines[-1]["step"]) * seconds / steps
    speeds = [speed for line in lines[1:] if (speed := line.get("tokens_per_second"))]
    if len(speeds) < FEWEST_SPEEDS:
        return TimeLeft(left)
    mean, tenths = statistics.harmonic_mean(speeds), statistics.quantiles(speeds, n=10, method="inclusive")
    return TimeLeft(left, left * min(1.0, mean / tenths[-1]), left * max(1.0, mean / tenths[0]))


def mean_shares(train: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Where the time went, the largest share first: the mean of each part's share in training lines of metrics.jsonl,
    weighted by the seconds of the clock that they are of. Empty where no line has shares."""
    sums: dict[str, float] = {}
    total = 0.0
    for line in train:
        if shares := line.get("shares"):
            seconds = line.get("clock_seconds", line.get("seconds", 0.0))
            total += seconds
            for name, share in shares.items():
                sums[name] = sums.get(name, 0.0) + seconds * share
    return {name: sums[name] / total for name in sorted(sums, key=lambda name: -sums[name])} if total else {}
