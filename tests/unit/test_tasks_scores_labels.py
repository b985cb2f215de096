"""Scores of classes and labels: equal to those of scikit-learn."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from score_cases import CASES, class_case, label_case, predictions_of, same, value
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from clinical_pretrain.tasks.records import Document
from clinical_pretrain.tasks.scores.bootstrap import score
from clinical_pretrain.tasks.scores.labels import class_measures, label_measures
from clinical_pretrain.tasks.scores.predictions import Prediction

pytestmark = pytest.mark.slow


def test_classes_equal_scikit_learn():
    """Each class against the others; one that no document has, or all have, is left out of the averages."""
    averaged = Counter()
    for seed in range(CASES):
        documents, predictions = class_case(seed)
        measures = class_measures(documents, predictions)
        gold, predicted = ([each.labels[0] for each in them] for them in (documents, predictions.documents))
        assert same(value(measures["accuracy"], documents), accuracy_score(gold, predicted))
        present = [name for name in predictions.labels if 0 < gold.count(name) < len(gold)]
        averaged[len(present)] += 1
        if present:
            f1 = f1_score(gold, predicted, labels=present, average="macro", zero_division=0)
            assert same(value(measures["f1"], documents), f1)
        if len(present) == len(predictions.labels):
            shares = [each.probabilities for each in predictions.documents]
            auc = roc_auc_score(gold, shares, multi_class="ovr", labels=predictions.labels)
            assert same(value(measures["auc"], documents), auc)
    assert averaged[3] > 100 and len(averaged) > 2


def test_labels_equal_scikit_learn():
    seen = Counter()
    for seed in range(CASES):
        documents, predictions = label_case(seed)
        measures = label_measures(documents, predictions)
        weights = np.random.default_rng(seed).integers(0, 4, size=(2, len(documents))).astype(float)
        weights[0] = 1
        expected = {"auc": {}, "f1": {}}
        for column, label in enumerate(predictions.labels):
            known = [i for i, document in enumerate(documents) if label not in document.unknown_labels]
            gold = [label in documents[i].labels for i in known]
            predicted = [label in predictions.documents[i].labels for i in known]
            probabilities = [predictions.documents[i].probabilities[column] for i in known]
            for row, row_weights in enumerate(weights[:, known]):
                drawn = {g for g, weight in zip(gold, row_weights, strict=True) if weight}
                found = [measures[f"{name}/{label}"].values(weights)[row] for name in ("auc", "f1")]
                if drawn == {True, False}:
                    auc = roc_auc_score(gold, probabilities, sample_weight=row_weights)
                    f1 = f1_score(gold, predicted, sample_weight=row_weights, zero_division=0)
                    assert found == pytest.approx([auc, f1], abs=1e-12)
                    if row == 0:
                        expected["auc"][label], expected["f1"][label] = auc, f1
                else:
                    assert np.isnan(found).all()
                seen[label, drawn == {True, False}] += 1
            assert measures[f"auc/{label}"].documents == measures[f"f1/{label}"].documents == len(known)
        for name, by_label in expected.items():
            wanted = sum(by_label.values()) / len(by_label) if by_label else math.nan
            assert same(value(measures[name], documents), wanted)
            assert measures[name].labels == tuple(by_label)
            assert measures[name].undefined_labels == tuple(name for name in predictions.labels if name not in by_label)
    assert seen["rare", True] > 100 and seen["rare", False] > 100 and seen["never", True] == 0


def test_a_label_that_all_or_none_have_is_undefined_and_named():
    documents = [
        Document("a", "", labels=("all", "some")),
        Document("b", "", labels=("all",)),
        Document("c", "", labels=("all",), unknown_labels=("some", "open")),
    ]
    labels = ("all", "none", "open", "some")
    found = [
        Prediction(name, labels=("none", "some"), probabilities=(0.1, 0.2, 0.3, probability))
        for name, probability in (("a", 0.9), ("b", 0.8), ("c", 0.85))
    ]
    found[1] = replace(found[1], labels=())
    scores = score(label_measures(documents, predictions_of("labels", labels, documents, found)), documents)
    assert scores["auc"].value == scores["auc/some"].value == scores["f1"].value == 1
    assert scores["auc"].labels == scores["f1"].labels == ("some",)
    assert scores["auc"].undefined_labels == scores["f1"].undefined_labels == ("all", "none", "open")
    assert [scores[f"{name}/{label}"].value for name in ("auc", "f1") for label in labels[:3]] == [None] * 6
    assert scores["auc/some"].documents == 2 and scores["auc/all"].documents == 3
