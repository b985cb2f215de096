"""Scores of entities: equal to those of nervaluate, and of conlleval on tags of tokens."""

import math
from collections import Counter

import numpy as np
import pytest
from nervaluate.evaluator import Evaluator
from score_cases import CASES, TYPES, entity_case, predictions_of, same, value

from clinical_pretrain.tasks.records import Document, Span
from clinical_pretrain.tasks.scores.entities import count_entities, entity_measures
from clinical_pretrain.tasks.scores.predictions import PredictedEntity, Prediction

pytestmark = pytest.mark.slow


def nervaluate_strict(documents, predictions):
    """nervaluate's strict results: over all types (None) and by type. Its offsets include the end."""
    both = [
        [[{"label": span[2], "start": span[0], "end": span[1] - 1} for span in sorted(spans)] for spans in side]
        for side in (
            [set(document.entities) for document in documents],
            [{entity[:3] for entity in prediction.entities} for prediction in predictions.documents],
        )
    ]
    results = Evaluator(*both, tags=list(TYPES), loader="dict").evaluate()
    return {None: results["overall"]["strict"]} | {name: found["strict"] for name, found in results["entities"].items()}


def conlleval(tagged, kind=None):
    """Numbers of correct, predicted and gold entities as conlleval.pl counts them: token by token, without spans."""
    correct = predicted = gold = 0
    for pair in tagged:
        tags = [[tag if tag and kind in (None, tag[0]) else None for tag in side] + [None] for side in pair]
        inside = False  # of an entity that is the same on both sides so far
        open_types = [None, None]
        for gold_tag, predicted_tag in zip(*tags, strict=True):
            both = (gold_tag, predicted_tag)
            ends = [
                bool(old) and (tag is None or tag[1] or tag[0] != old)
                for old, tag in zip(open_types, both, strict=True)
            ]
            begins = [tag is not None and tag[1] for tag in both]
            if inside and ends[0] and ends[1]:
                correct += 1
                inside = False
            elif ends[0] != ends[1]:
                inside = False
            if begins[0] and begins[1] and gold_tag[0] == predicted_tag[0]:
                inside = True
            elif begins[0] != begins[1]:
                inside = False
            gold += begins[0]
            predicted += begins[1]
            open_types = [tag and tag[0] for tag in both]
    return correct, predicted, gold


def test_entity_scores_equal_those_of_nervaluate_and_of_tokens():
    seen = Counter()
    for seed in range(CASES):
        documents, predictions, tagged = entity_case(seed)
        measures = entity_measures(documents, predictions)
        strict = nervaluate_strict(documents, predictions)
        for label in (None, *TYPES):
            suffix = f"/{label}" if label else ""
            found = [value(measures[f"{name}{suffix}"], documents) for name in ("precision", "recall", "f1")]
            correct, predicted, gold = conlleval(tagged, label)
            assert same(found[0], correct / predicted if predicted else math.nan)
            assert same(found[1], correct / gold if gold else math.nan)
            assert same(found[2], 2 * correct / (predicted + gold) if predicted + gold else math.nan)
            if label in strict:
                other = strict[label]
                assert np.nan_to_num(found) == pytest.approx([other.precision, other.recall, other.f1], abs=1e-12)
            else:
                assert np.isnan(found).all()
            seen[label, 0 < correct < gold] += 1
            assert measures[f"f1{suffix}"].documents == len(documents)
    assert all(seen[label, True] > 10 for label in (None, *TYPES)), "the cases are trivial"


def test_nested_entities_count_and_every_boundary_matters():
    gold = (Span(0, 10, "NAME"), Span(0, 4, "DATE"), Span(5, 10, "NAME"))
    document = Document("d", "x" * 20, entities=gold)
    found = [(0, 10, "NAME"), (0, 4, "NAME"), (5, 9, "NAME"), (4, 10, "NAME"), (5, 10, "NAME")]
    prediction = Prediction("d", entities=tuple(PredictedEntity(*span) for span in found))
    counts = count_entities([document], predictions_of("entities", TYPES, [document], [prediction]))
    assert counts.tolist() == [[[0, 0, 1], [2, 5, 2], [0, 0, 0]]]
