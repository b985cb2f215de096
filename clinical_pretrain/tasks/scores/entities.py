"""Precision, recall and F1 of entities: an entity is right if document, start, end and type are all right.

Entities are compared as sets of characters' offsets, not as labels of tokens, so that models with other tokenizers or
shorter inputs have the same gold entities, and nested ones count. Without nesting this is the F1 of seqeval and the
strict one of nervaluate. An entity that is predicted twice counts once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clinical_pretrain.tasks.records import Document
from clinical_pretrain.tasks.scores.measure import Measure, additive, f1, precision, recall
from clinical_pretrain.tasks.scores.predictions import Predictions, aligned


def count_entities(documents: Sequence[Document], predictions: Predictions) -> NDArray[np.int64]:
    """Number of correct, predicted and gold entities by document and type: [documents, types, 3].

    Types are in the order of `predictions.labels`.

    Raises:
        UserError: the predictions aren't of these documents.
    """
    index = {label: number for number, label in enumerate(predictions.labels)}
    counts = np.zeros((len(documents), len(index), 3), dtype=np.int64)
    for number, (document, prediction) in enumerate(zip(documents, aligned(documents, predictions), strict=True)):
        gold = {(entity.start, entity.end, entity.type) for entity in document.entities}
        predicted = {(entity.start, entity.end, entity.type) for entity in prediction.entities}
        for column, entities in enumerate((gold & predicted, predicted, gold)):
            for _, _, label in entities:
                counts[number, index[label], column] += 1
    return counts


def entity_measures(documents: Sequence[Document], predictions: Predictions) -> dict[str, Measure]:
    """`precision`, `recall` and `f1` over all types (micro), then `precision/TYPE`, ... of each type.

    Raises:
        UserError: the predictions aren't of these documents.
    """
    counts = count_entities(documents, predictions)
    formulas = {"precision": precision, "recall": recall, "f1": f1}
    measures = {name: additive(counts.sum(axis=1), formula, len(documents)) for name, formula in formulas.items()}
    for number, label in enumerate(predictions.labels):
        for name, formula in formulas.items():
            measures[f"{name}/{label}"] = additive(counts[:, number], formula, len(documents))
    return measures
