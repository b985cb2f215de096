"""Scores of tasks: equal to other implementations, with intervals and p values that hold what they promise."""

import json
import math
import re
import string
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from nervaluate.evaluator import Evaluator
from sklearn.metrics import f1_score, roc_auc_score

from clinical_pretrain.tasks.records import Answer, Document, Question, Span
from clinical_pretrain.tasks.scores.answers import answer_measures, normalize, score_questions
from clinical_pretrain.tasks.scores.bootstrap import Resampling, compare, draw_weights, holm, score
from clinical_pretrain.tasks.scores.entities import count_entities, entity_measures
from clinical_pretrain.tasks.scores.labels import class_measures, label_measures
from clinical_pretrain.tasks.scores.measure import additive, mean, ratio
from clinical_pretrain.tasks.scores.predictions import (
    PredictedAnswer,
    PredictedEntity,
    Prediction,
    Predictions,
    read_predictions,
    texts_sha256,
    write_predictions,
)
from tokenizer_tools.errors import UserError

pytestmark = pytest.mark.slow

CASES = 200
TYPES = ("DATE", "NAME", "PLACE")


def predictions_of(kind, labels, documents, found):
    """Predictions of these documents."""
    return Predictions("task", "test", kind, tuple(labels), "model", 1, texts_sha256(documents), tuple(found))


def value(measure, documents):
    """A measure's value on all documents, NaN where it is undefined."""
    return measure.values(np.ones((1, len(documents))))[0]


def same(first, second):
    """Whether both are equal but for rounding, or both NaN."""
    return math.isclose(first, second, abs_tol=1e-12) or (math.isnan(first) and math.isnan(second))


# Random cases of each kind -----------------------------------------------------------------------------------------


def random_tags(random, tokens):
    """Tags of tokens, each an entity's type and whether it begins one, or None outside."""
    tags, token = [None] * tokens, 0
    while token < tokens:
        length = min(int(random.integers(1, 4)), tokens - token)
        if random.random() < 0.5:
            kind = TYPES[random.integers(2 + (token % 2))]  # PLACE is rare
            tags[token : token + length] = [(kind, True)] + [(kind, False)] * (length - 1)
        token += length
    return tags


def spans_of(tags, offsets):
    """The entities of tags on characters."""
    spans = []
    for (start, end), tag in zip(offsets, tags, strict=True):
        if tag and tag[1]:
            spans.append((start, end, tag[0]))
        elif tag:
            spans[-1] = (spans[-1][0], end, tag[0])
    return spans


def entity_case(seed):
    """Documents, predictions, and both as tags of tokens."""
    random = np.random.default_rng(seed)
    documents, found, tagged = [], [], []
    for number in range(random.integers(1, 6)):
        tokens = int(random.integers(1, 15))
        ends = np.cumsum(random.integers(2, 6, tokens))
        offsets = [(int(end - 1), int(end)) if i == 0 else (int(ends[i - 1]), int(end)) for i, end in enumerate(ends)]
        gold = random_tags(random, tokens)
        keep = random.random() < 0.5
        predicted = list(gold) if keep else random_tags(random, tokens)
        if keep and random.random() < 0.5:  # another type for all
            predicted = [tag and (TYPES[0], tag[1]) for tag in predicted]
        tagged.append((gold, predicted))
        text = "x" * int(ends[-1])
        patient = f"p{number // 2}"
        entities = tuple(Span(*span) for span in spans_of(gold, offsets))
        documents.append(Document(f"d{number}", text, patient=patient, entities=entities))
        entities = tuple(PredictedEntity(*span) for span in spans_of(predicted, offsets))
        found.append(Prediction(f"d{number}", entities=entities + entities[:1]))  # one twice, as windows can give it
    return documents, predictions_of("entities", TYPES, documents, found), tagged


def answer_case(seed):
    """Documents with questions, and predicted answers."""
    random = np.random.default_rng(seed)
    words = ["the", "A", "an", "aspirin,", "Aspirin", "81", "mg.", "--", "an-the", "theory", "Ärzte", "U.S.", "daily"]
    documents, found = [], []
    for number in range(random.integers(1, 5)):
        chosen = [words[i] for i in random.integers(len(words), size=random.integers(4, 12))]
        text = str(random.choice([" ", "  ", "\n"])).join(chosen)
        questions, answers = [], []
        for question in range(random.integers(0, 4)):
            cuts = [sorted(random.integers(len(text) + 1, size=2).tolist()) for _ in range(random.integers(0, 4))]
            golds = tuple(Answer(start, text[start:end]) for start, end in cuts)
            start, end = cuts[0] if cuts and random.random() < 0.4 else sorted(random.integers(len(text), size=2))
            end = start if random.random() < 0.2 else end
            questions.append(Question(f"q{number}.{question}", "Which?", golds))
            answers.append(PredictedAnswer(f"q{number}.{question}", int(start), int(end)))
        documents.append(Document(f"d{number}", text, questions=tuple(questions)))
        found.append(Prediction(f"d{number}", answers=tuple(answers)))
    return documents, predictions_of("answers", (), documents, found)


def label_case(seed, unknown=0.2):
    """Documents with labels, some of them open, and predictions with ties."""
    random = np.random.default_rng(seed)
    names = ("edema", "fracture", "rare", "never")
    documents, found = [], []
    for number in range(random.integers(2, 40)):
        has = random.random(4) < (0.5, 0.3, 0.05, 0)
        is_open = random.random(4) < unknown  # also labels that hold; `unknown_labels` decides
        probabilities = np.round(random.random(4) * 0.7 + has * 0.2, 1)
        labels = tuple(np.array(names)[has].tolist())
        open_labels = tuple(np.array(names)[is_open].tolist())
        documents.append(Document(f"d{number}", "text", labels=labels, unknown_labels=open_labels))
        predicted = tuple(np.array(names)[probabilities > 0.5].tolist())
        found.append(Prediction(f"d{number}", labels=predicted, probabilities=tuple(probabilities.tolist())))
    return documents, predictions_of("labels", names, documents, found)


def class_case(seed):
    """Documents with one class each."""
    random = np.random.default_rng(seed)
    gold, predicted = random.integers(3, size=(2, int(random.integers(1, 30))))
    documents = [Document(f"d{i}", "text", labels=(TYPES[label],)) for i, label in enumerate(gold)]
    found = [
        Prediction(f"d{i}", labels=(TYPES[label],), probabilities=(0.5, 0.25, 0.25))
        for i, label in enumerate(predicted)
    ]
    return documents, predictions_of("class", TYPES, documents, found)


KINDS = {
    "entities": (lambda seed: entity_case(seed)[:2], entity_measures),
    "answers": (answer_case, answer_measures),
    "class": (class_case, class_measures),
    "labels": (label_case, label_measures),
}


# Entities ------------------------------------------------------------------------------------------------------------


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


# Answers -------------------------------------------------------------------------------------------------------------


def squad_normalize(text):
    """The official rules, one step at a time."""
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\s+", " ", re.sub(r"\b(a|an|the)\b", " ", kept)).strip()


def squad_f1(predicted, gold):
    """The official F1 by removing common words one by one."""
    first, second = (squad_normalize(text).split() for text in (predicted, gold))
    if first == [] or second == []:
        return 1.0 if first == second else 0.0
    left, common = list(second), 0
    for word in first:
        if word in left:
            left.remove(word)
            common += 1
    if common == 0:
        return 0.0
    precision, recall = common / len(first), common / len(second)
    return 2 * precision * recall / (precision + recall)


def test_answers_equal_the_official_rules():
    seen = Counter()
    for seed in range(CASES):
        documents, predictions = answer_case(seed)
        expected = []
        for document, prediction in zip(documents, predictions.documents, strict=True):
            for question, answer in zip(document.questions, prediction.answers, strict=True):
                text = document.text[answer.start : answer.end]
                golds = [gold.text for gold in question.answers if squad_normalize(gold.text) != ""]
                golds = golds if golds else [""]
                exact = max(1.0 if squad_normalize(text) == squad_normalize(gold) else 0.0 for gold in golds)
                f1 = max(squad_f1(text, gold) for gold in golds)
                expected.append((document.id, question.id, exact, pytest.approx(f1), len(question.answers) > 0))
                seen[bool(question.answers), exact, 0 < f1 < 1] += 1
        assert [tuple(found) for found in score_questions(documents, predictions)] == expected
        measures = answer_measures(documents, predictions)
        for suffix, kinds in (("", (True, False)), ("/answer", (True,)), ("/no_answer", (False,))):
            chosen = [row for row in expected if row[4] in kinds]
            for name, column in (("exact_match", 2), ("f1", 3)):
                numbers = [getattr(row[column], "expected", row[column]) for row in chosen]
                wanted = sum(numbers) / len(numbers) if numbers else math.nan
                measure = measures[name + suffix]
                assert same(value(measure, documents), wanted)
                assert measure.documents == len({row[0] for row in chosen})
    for case in ((True, 1.0, False), (True, 0.0, True), (True, 0.0, False), (False, 1.0, False), (False, 0.0, False)):
        assert seen[case] > 10, f"{case} is rare"


@pytest.mark.parametrize(
    ("text", "normal"),
    [("The U.S.  aspirin,", "us aspirin"), ("an-the", "anthe"), ("a\n theory", "theory"), ("«A»", "« »"), ("--", "")],
)
def test_texts_are_normalized_as_by_the_official_script(text, normal):
    assert normalize(text) == normal


# Classes and labels --------------------------------------------------------------------------------------------------


def test_accuracy_is_the_part_of_right_classes():
    for seed in range(CASES):
        documents, predictions = class_case(seed)
        right = [d.labels[0] == p.labels[0] for d, p in zip(documents, predictions.documents, strict=True)]
        assert same(value(class_measures(documents, predictions)["accuracy"], documents), sum(right) / len(right))


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


# The common form -----------------------------------------------------------------------------------------------------


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
                if kind == "labels" and name in ("auc", "f1"):
                    continue  # averages over labels that may be undefined among the copies
                drawn = measure.values(row[None])[0]
                assert same(drawn, value(copied[name], copies))
                defined += not math.isnan(drawn)
    assert defined > CASES


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


# Intervals and p values ----------------------------------------------------------------------------------------------

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


# Stored predictions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_read_as_written_and_give_the_same_scores(kind, tmp_path):
    make, measures_of = KINDS[kind]
    for seed in range(20):
        documents, predictions = make(seed)
        write_predictions(tmp_path / "p.jsonl", predictions)
        again = read_predictions(tmp_path / "p.jsonl")
        assert again == predictions
        shuffled = replace(again, documents=again.documents[::-1])
        for name, measure in measures_of(documents, shuffled).items():
            assert same(value(measure, documents), value(measures_of(documents, predictions)[name], documents))


def test_stored_predictions_hold_no_text(tmp_path):
    question = Question("q1", "Which secretquestion?", (Answer(8, "secretanswer"),))
    document = Document("d", "A quite secretanswer", second_text="secretpair", questions=(question,))
    answer = PredictedAnswer("q1", 8, 20, 0.5)
    path = tmp_path / "p.jsonl"
    write_predictions(path, predictions_of("answers", (), [document], [Prediction("d", answers=(answer,))]))
    assert "secret" not in path.read_text()
    header, line = map(json.loads, path.read_text().splitlines())
    assert line == {"id": "d", "answers": [["q1", 8, 20, 0.5]]}
    assert header.pop("texts_sha256") == texts_sha256([document])
    assert header == {"format_version": 1, "task": "task", "split": "test", "kind": "answers", "labels": [],
                      "model": "model", "seed": 1, "documents": 1}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "prediction", "fault"),
    [
        ("entities", Prediction("d", entities=(PredictedEntity(3, 2, "NAME"),)), "offsets that are no range"),
        ("entities", Prediction("d", entities=(PredictedEntity(-1, 2, "NAME"),)), "offsets that are no range"),
        ("entities", Prediction("d", entities=(PredictedEntity(2, 2, "NAME"),)), "an empty entity"),
        ("entities", Prediction("d", entities=(PredictedEntity(1, 2, "X"),)), "a label that the model doesn't know"),
        ("entities", Prediction("d", entities=(PredictedEntity(1, 2, "NAME", math.nan),)), "a probability that isn't"),
        ("entities", Prediction("d", labels=("NAME",)), "other fields than its kind"),
        ("answers", Prediction("d", answers=(PredictedAnswer("q", 1, 2), PredictedAnswer("q", 1, 2))), "two answers"),
        ("class", Prediction("d", labels=("NAME",), probabilities=(1, 0)), "not one probability for each label"),
        ("class", Prediction("d", labels=("NAME", "DATE"), probabilities=(1, 0, 0)), "not exactly one class"),
        ("labels", Prediction("d", labels=("NAME",), probabilities=(1, 0, math.nan)), "a probability that isn't"),
        ("labels", Prediction("d", labels=("NAME",), probabilities=(1.5, 0, 0)), "a probability that isn't"),
        ("labels", Prediction("d", labels=("NAME", "NAME"), probabilities=(1, 0, 0)), "a label twice"),
    ],
)
def test_impossible_predictions_are_not_written(kind, prediction, fault, tmp_path):
    document = Document("d", "text")
    with pytest.raises(UserError, match=re.escape(f"document 'd' has {fault}")):
        write_predictions(tmp_path / "p.jsonl", predictions_of(kind, TYPES, [document], [prediction]))
    assert not list(tmp_path.iterdir())
    possible = Prediction("d", labels=("NAME",), probabilities=(1, 0, 0))
    with pytest.raises(UserError, match="an id that occurs twice"):
        write_predictions(tmp_path / "p.jsonl", predictions_of("class", TYPES, [document], [possible, possible]))


HEADER = {"format_version": 1, "task": "t", "split": "test", "kind": "entities", "labels": ["NAME"], "model": "m",
          "seed": 1, "texts_sha256": "0", "documents": 1}  # fmt: skip
LINE = {"id": "d", "entities": [[0, 4, "NAME", None]]}


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        ({"format_version": 2}, {}, "format_version 2, but this version of clinical-pretrain reads 1; evaluate the"),
        ({"kind": "spans"}, {}, "line 1: damaged, not a header of predictions"),
        ({"labels": "NAME"}, {}, "line 1: damaged, not a header of predictions"),
        ({"labels": [["NAME"]]}, {}, "line 1: damaged, not a header of predictions"),
        ({"seed": None}, {}, "line 1: damaged, not a header of predictions"),
        ({"documents": 2}, {}, "cut off or changed, 1 documents where the header says 2"),
        ({}, {"text": "secret"}, "line 2: damaged, has not the form of its kind"),
        ({}, {"id": 3}, "line 2: damaged, has not the form of its kind"),
        ({}, {"entities": [[0, 4, ["secret"], None]]}, "line 2: damaged, has not the form of its kind"),
        ({}, {"entities": [[0, 4, "NAME"]]}, "line 2: damaged, has not the form of its kind"),
        ({}, {"entities": 3}, "line 2: damaged, has not the form of its kind"),
        ({}, {"entities": [["secret", 4, "NAME", None]]}, "line 2: damaged, has offsets that are no range"),
        ({}, {"entities": [[0, 4, "secret", None]]}, "line 2: damaged, has a label that the model doesn't know"),
        ({}, {"entities": [[0, 4, "NAME", math.nan]]}, "line 2: damaged, has a probability that isn't"),
    ],
)
def test_damaged_predictions_are_refused(header, line, message, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(f"{json.dumps(HEADER)}\n{json.dumps(LINE)}\n")
    assert read_predictions(path).documents[0].entities == (PredictedEntity(0, 4, "NAME"),)
    path.write_text(f"{json.dumps(HEADER | header)}\n{json.dumps(LINE | line)}\n")
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_predictions(path)
    assert "secret" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "not a JSON object"),
        (b"secret", "not a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
        (f'{json.dumps(HEADER)}\n{{"id": "d", '.encode(), "line 2: damaged"),
        (f'{json.dumps(HEADER)}\n{{"id": "d", "id": "e", "entities": []}}\n'.encode(), "line 2: damaged"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    path = tmp_path / "p.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{message}.*; evaluate the model again") as error:
        read_predictions(path)
    assert "secret" not in str(error.value)


def test_a_folder_is_no_file_of_predictions(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_predictions(tmp_path)


def test_predictions_of_other_documents_are_not_scored():
    documents, predictions = class_case(1)
    assert len(documents) > 2
    with pytest.raises(UserError, match=r"model for task/test: none of document 'd0' \(and 1 more\)"):
        class_measures(documents, replace(predictions, documents=predictions.documents[2:]))
    with pytest.raises(UserError, match=r"one of an unknown document 'd1' \(and 0 more\)"):
        class_measures([documents[0], *documents[2:]], predictions)
    changed = [replace(documents[0], text="secret"), *documents[1:]]
    with pytest.raises(UserError, match="texts or questions are others now; evaluate the model again") as error:
        class_measures(changed, predictions)
    assert "secret" not in str(error.value)
    with pytest.raises(UserError, match="no document in this split"):
        class_measures([], predictions)
    new = [replace(documents[0], labels=("NEW",)), *documents[1:]]
    with pytest.raises(UserError, match="document 'd0' has a label that the model doesn't know"):
        class_measures(new, predictions)


def test_predictions_of_other_questions_or_offsets_are_not_scored():
    document = Document("d", "text", questions=(Question("q1", "?", ()), Question("q2", "?", ())))
    one = Prediction("d", answers=(PredictedAnswer("q1", 0, 0),))
    with pytest.raises(UserError, match="document 'd' has questions without a prediction"):
        answer_measures([document], predictions_of("answers", (), [document], [one]))
    far = replace(one, answers=(*one.answers, PredictedAnswer("q2", 0, 5)))
    with pytest.raises(UserError, match="document 'd' has a prediction beyond the end of its text"):
        answer_measures([document], predictions_of("answers", (), [document], [far]))
