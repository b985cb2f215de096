"""What the evaluation of one model on one task gives, however the model was used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clinical_pretrain.tasks.scores.predictions import Predictions


@dataclass(frozen=True)
class Outcome:
    """Predictions of the test split, and how they came about."""

    predictions: Predictions
    details: dict[str, Any]
    """For the result file: settings, candidates and the one that the development split chose, lengths, deviations."""
