"""Resampled scores: measures as functions of weights, and intervals and p values that hold what they promise."""

import math
from dataclasses import replace

import numpy as np
import pytest
from score_cases import CASES, KINDS, class_case, label_case, predictions_of, same, value

from clinical_pretrain.tasks.records import Document
from clinical_pretrain.tasks.scores.bootstrap import Resampling, compare, draw_weights, holm, sampling_units, score
from clinical_pretrain.tasks.scores.labels import label_measures
from clinical_pretrain.tasks.scores.measure import additive, mean, ratio
from tokenizer_tools.errors import UserError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_is_a_number_of_copies(kind):
    """A resample's value is the score of a data set that holds each document as often as it was drawn."""
    make, measures_of = KINDS[kind]
    defined = 0
    for seed in range(CASES):
        documents, predictions = make(seed)
        weights = np.random.default_rng(seed).integers(0, 4, size=(2, len(documents))).astype(float)
        weights[:, -1] += 1
        for row in weights:
            copies, found = [], []
            for document, prediction, times in zip(documents, predictions.documents, row, strict=True):
                for copy in range(int(times)):
                    copies.append(replace(document, id=f"{document.id} {copy}"))
                    found.append(replace(prediction, id=f"{document.id} {copy}"))
            copied = measures_of(copies, predictions_of(kind, predictions.labels, copies, found))
            for name, measure in measures_of(documents, predictions).items():
                if kind in ("class", "labels") and name in ("auc", "f1"):
                    continue  # averages over labels that may be undefined among the copies
                drawn = measure.values(row[None])[0]
                assert same(drawn, value(copied[name], copies))
                defined += not math.isnan(drawn)
    assert defined > CASES


def test_a_patient_is_drawn_as_splits_know_them():
    """In whatever spelling; "NA" is no patient."""
    patients = ["NA", "NA", "unknown", "7", "007", "7.0", "N/A", "8"]
    documents = [Document(f"{number}", "text", patient=patient) for number, patient in enumerate(patients)]
    assert sampling_units(documents).tolist() == [0, 1, 2, 3, 3, 3, 4, 5]


def test_the_resampled_macro_average_keeps_its_labels():
    documents, predictions = label_case(3)
    measures = label_measures(documents, predictions)
    labels = measures["auc"].labels
    assert len(labels) >= 2
    weights = np.concatenate(list(draw_weights(documents, Resampling(resamples=500))))
    for name in ("auc", "f1"):
        each = np.stack([measures[f"{name}/{label}"].values(weights) for label in labels])
        expected = np.where(np.isnan(each).any(axis=0), np.nan, each.sum(axis=0) / len(labels))
        assert np.allclose(measures[name].values(weights), expected, equal_nan=True)


def test_seeds_are_pooled_by_their_mean():
    documents, _ = class_case(1)
    first, second = (additive(np.full((len(documents), 1), n), lambda sums: sums[:, 0], 1) for n in (1, 3))
    assert value(mean([first, second]), documents) == 2 * len(documents)


# Intervals and p values -----------------------------------------------------------------------------------------------

RATIO = {"formula": lambda sums: ratio(sums[:, 0], sums[:, 1]), "documents": 1}


def clustered(random, patients, effect=0.0):
    """Documents of patients and their numbers of right and of all answers; a patient's documents are alike.

    The expectation of right / all is 0.5 + effect.
    """
    documents, counts = [], []
    for patient in range(patients):
        ability = random.beta(2, 2) + effect
        for number in range(4):
            answers = int(random.integers(5, 20))
            counts.append((random.binomial(answers, min(max(ability, 0), 1)), answers))
            documents.append(Document(f"{patient}.{number}", "", patient=f"p{patient}"))
    return documents, np.array(counts)


def coverage(alike, level=0.95):
    """How many of 300 intervals hold the true value, with documents resampled by patient or each by itself."""
    hits = 0
    for seed in range(300):
        documents, counts = clustered(np.random.default_rng(seed), patients=40)
        if not alike:
            documents = [replace(document, patient="") for document in documents]
        resampling = Resampling(resamples=400, seed=seed, level=level)
        found = score({"part": additive(counts, **RATIO)}, documents, resampling)["part"]
        hits += found.low <= 0.5 <= found.high
        assert found.units == (40 if alike else 160) and found.low < found.value < found.high
    return hits / 300


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Three standard errors of 300 draws are 0.038 at 0.95 and 0.069 at 0.8."""
    assert 0.89 <= coverage(alike=True) <= 0.99
    assert 0.72 <= coverage(alike=True, level=0.8) <= 0.87
    assert coverage(alike=False) < 0.8, "the case doesn't tell patients from documents"


def test_an_interval_is_that_of_theory():
    """The mean of many numbers: value +- 1.96 standard errors."""
    numbers = np.random.default_rng(0).normal(size=1000)
    documents = [Document(str(i), "") for i in range(1000)]
    measure = additive(np.stack([numbers, np.ones(1000)], axis=1), **RATIO)
    found = score({"mean": measure}, documents)["mean"]
    error = numbers.std() / 1000**0.5
    assert found.value == pytest.approx(numbers.mean())
    assert (found.low, found.high) == pytest.approx(
        (found.value - 1.96 * error, found.value + 1.96 * error), abs=0.1 * error
    )
    assert score({"mean": measure}, documents)["mean"] == found
    assert score({"mean": measure}, documents, Resampling(seed=1))["mean"].low != found.low


def test_all_weights_of_a_patient_are_equal_and_sum_as_drawn(monkeypatch):
    monkeypatch.setattr("clinical_pretrain.tasks.scores.bootstrap.WEIGHTS_AT_ONCE", 70)
    documents = [Document(str(i), "", patient=patient) for i, patient in enumerate(["a", "", "b", "a", "", "b", "a"])]
    chunks = list(draw_weights(documents, Resampling(resamples=25)))
    assert [len(chunk) for chunk in chunks] == [10, 10, 5]
    weights = np.concatenate(chunks)
    assert (weights[:, 0] == weights[:, 3]).all() and (weights[:, 0] == weights[:, 6]).all()
    assert (weights[:, 2] == weights[:, 5]).all() and (weights[:, 1] != weights[:, 4]).any()
    assert (weights[:, [0, 1, 2, 4]].sum(axis=1) == 4).all()
    assert len(np.unique(weights, axis=0)) > 10, "chunks repeat"
    weights = np.concatenate(list(draw_weights(documents, Resampling(resamples=4000))))
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.06)
    assert weights.var(axis=0) == pytest.approx(np.full(7, 3 / 4), abs=0.08)  # of a binomial with 4 draws of 1 / 4


def test_few_patients_and_rare_labels_have_no_interval():
    documents = [Document(str(i), "", patient=f"p{i % 9}") for i in range(50)]
    counts = np.stack([np.arange(50), np.full(50, 50)], axis=1)
    measure = additive(counts, **RATIO)
    found = score({"part": measure}, documents)["part"]
    assert (found.value, found.low, found.high, found.units) == (0.49, None, None, 9)
    other = compare(measure, additive(counts // 2, **RATIO), documents)
    assert other.difference is not None and other.low is other.high is other.p_value is None
    documents = [replace(document, patient="") for document in documents]
    one = additive(np.stack([np.arange(50) == 7] * 2, axis=1), **RATIO)  # NaN where document 7 isn't drawn: 37 %
    found = score({"one": one}, documents, Resampling(resamples=2000))["one"]
    assert (found.value, found.low, found.high) == (1, None, None)
    assert 600 < found.undefined_resamples < 860
    assert compare(one, one, documents, Resampling(resamples=2000)).p_value is None
    none = score({"none": additive(np.zeros((50, 2)), **RATIO)}, documents)["none"]
    assert (none.value, none.low, none.undefined_resamples) == (None, None, 10_000)


def test_equal_models_differ_by_chance_and_unequal_ones_do_not():
    random = np.random.default_rng(0)
    documents, counts = clustered(random, patients=60)
    measure = additive(counts, **RATIO)
    assert compare(measure, measure, documents).p_value == 1
    better = counts.copy()
    better[:, 0] = np.minimum(better[:, 0] + random.integers(0, 2, len(counts)), better[:, 1])
    found = compare(additive(better, **RATIO), measure, documents)
    assert found.p_value == pytest.approx(1 / 10_001) and 0 < found.low < found.difference < found.high
    turned = compare(measure, additive(better, **RATIO), documents)
    assert turned.p_value == found.p_value and turned.difference == -found.difference
    assert turned.low == pytest.approx(-found.high)


def test_averages_over_other_labels_are_not_compared():
    documents, _ = class_case(1)
    first = replace(additive(np.ones((len(documents), 2)), **RATIO), labels=("edema", "fracture"))
    with pytest.raises(UserError, match=r"over edema, fracture and over edema can't be compared; evaluate both"):
        compare(first, replace(first, labels=("edema",)), documents)


def test_a_p_value_is_that_of_theory():
    """The models differ in one of ten documents, so 10 d* is binomial and |d* - d| >= |d| for all but 10 d* = 1."""
    documents = [Document(str(i), "") for i in range(10)]
    models = [additive(np.array([(i < right, 1) for i in range(10)]), **RATIO) for right in (8, 7)]
    assert compare(*models, documents).p_value == pytest.approx(1 - 0.9**9, abs=0.015)


def test_p_values_of_equally_good_models_are_uniform():
    """About 5 % of them are under 0.05, and half of them under 0.5. One-sided ones, or unpaired ones, would not be."""
    p_values = []
    for seed in range(300):
        random = np.random.default_rng(seed)
        documents, counts = clustered(random, patients=40)
        noise = random.integers(-2, 3, size=(2, len(counts)))
        both = [np.stack([counts[:, 0] + row, counts[:, 1]], axis=1) for row in noise]
        measures = [additive(numbers, **RATIO) for numbers in both]
        p_values.append(compare(*measures, documents, Resampling(resamples=400, seed=seed)).p_value)
    assert 0.015 <= np.mean(np.array(p_values) < 0.05) <= 0.09
    assert 0.41 <= np.mean(np.array(p_values) < 0.5) <= 0.59


def test_holm_by_hand():
    """Four tests: 4 x 0.01; 3 x 0.02; 2 x 0.03, not under the one before; 0.5."""
    found = holm({"c": 0.03, "a": 0.01, "d": 0.5, "b": 0.02})
    assert list(found) == ["c", "a", "d", "b"]
    assert found == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.5})
    assert holm({"a": 0.02, "b": 0.021, "c": 0.022}) == pytest.approx({"a": 0.06, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
