"""The measures of each kind of task."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clinical_pretrain.tasks.records import Document, Kind
from clinical_pretrain.tasks.scores.answers import answer_measures
from clinical_pretrain.tasks.scores.entities import entity_measures
from clinical_pretrain.tasks.scores.labels import class_measures, label_measures
from clinical_pretrain.tasks.scores.measure import Measure
from clinical_pretrain.tasks.scores.predictions import Predictions

MEASURES: dict[Kind, Callable[[Sequence[Document], Predictions], dict[str, Measure]]] = {
    "entities": entity_measures,
    "answers": answer_measures,
    "class": class_measures,
    "labels": label_measures,
}


def measures_of(documents: Sequence[Document], predictions: Predictions) -> dict[str, Measure]:
    """All measures of predictions, by name.

    Raises:
        UserError: the predictions aren't of these documents.
    """
    return MEASURES[predictions.kind](documents, predictions)
