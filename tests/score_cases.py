"""Random documents and predictions of each kind of task, and how the tests of scores compare values."""

import math

import numpy as np

from clinical_pretrain.tasks.records import Answer, Document, Question, Span
from clinical_pretrain.tasks.scores.answers import answer_measures
from clinical_pretrain.tasks.scores.entities import entity_measures
from clinical_pretrain.tasks.scores.labels import class_measures, label_measures
from clinical_pretrain.tasks.scores.predictions import (
    PredictedAnswer,
    PredictedEntity,
    Prediction,
    Predictions,
    texts_sha256,
)

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
    shares = random.dirichlet([1, 1, 1], len(gold)).tolist()
    found = [
        Prediction(f"d{i}", labels=(TYPES[label],), probabilities=tuple(shares[i])) for i, label in enumerate(predicted)
    ]
    return documents, predictions_of("class", TYPES, documents, found)


KINDS = {
    "entities": (lambda seed: entity_case(seed)[:2], entity_measures),
    "answers": (answer_case, answer_measures),
    "class": (class_case, class_measures),
    "labels": (label_case, label_measures),
}
