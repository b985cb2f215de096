"""Sums over predicted tokens, and the figures that are made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch


class Sums:
    """Of loss, correct predictions and predictions, for each group of several kinds.

    Args:
        sizes: number of groups of each kind.
    """

    def __init__(self, sizes: dict[str, int]) -> None:
        self.values = torch.zeros(sum(sizes.values()), 3, dtype=torch.float64)
        """(groups of all kinds, 3)."""
        self._ends = dict(zip(sizes, np.cumsum(list(sizes.values())).tolist(), strict=True))
        self._sizes = sizes

    def add(self, kind: str, groups: npt.NDArray[np.int64], predictions: torch.Tensor) -> None:
        """Add predicted tokens to their groups.

        Args:
            kind: of the groups.
            groups: (predicted,), -1 for none.
            predictions: (predicted, 3) float64: loss, whether it is correct, and 1.
        """
        is_in_one = groups >= 0
        self[kind].index_add_(0, torch.from_numpy(groups[is_in_one]), predictions[torch.from_numpy(is_in_one)])

    def __getitem__(self, kind: str) -> torch.Tensor:
        """(groups, 3), a view."""
        return self.values[self._ends[kind] - self._sizes[kind] : self._ends[kind]]


def figures(sums: torch.Tensor) -> dict[str, Any]:
    """Mean loss in nats per predicted token, accuracy, and number of predicted tokens.

    Args:
        sums: (groups, 3); groups with no predicted token at all: an empty dict.
    """
    loss, correct, predicted = sums.T
    if not predicted.any():
        return {}
    return {
        "loss": float(loss.sum() / predicted.sum()),
        "accuracy": float(correct.sum() / predicted.sum()),
        "predicted": int(predicted.sum()),
    }
