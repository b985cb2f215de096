"""Exact match and F1 of answers, by the rules of SQuAD's official script (evaluate-v2.0.py; Rajpurkar et al., 2018).

Both compare texts, not offsets: an answer that stands elsewhere in the document is right, too. For questions with an
answer the values are those of version 1.1's script.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clinical_pretrain.tasks.records import Document
from clinical_pretrain.tasks.scores.measure import Floats, Measure, additive, ratio
from clinical_pretrain.tasks.scores.predictions import Predictions, aligned

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


class QuestionScore(NamedTuple):
    """The scores of one question."""

    document: str
    question: str
    exact_match: float
    f1: float
    has_answer: bool


def normalize(text: str) -> str:
    """Lower-case a text, remove ASCII punctuation, then English articles, and join its words with single blanks."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(predicted: str, gold: str) -> float:
    """1 if both texts are equal after normalizing, else 0."""
    return float(normalize(predicted) == normalize(gold))


def answer_f1(predicted: str, gold: str) -> float:
    """F1 of the words of two normalized texts, as multisets. If one has no words: 1 if neither has, else 0."""
    predicted_words, gold_words = normalize(predicted).split(), normalize(gold).split()
    if not predicted_words or not gold_words:
        return float(predicted_words == gold_words)
    common = (Counter(predicted_words) & Counter(gold_words)).total()
    return 2 * common / (len(predicted_words) + len(gold_words))


def score_questions(documents: Sequence[Document], predictions: Predictions) -> list[QuestionScore]:
    """Exact match and F1 of each question, each the maximum over the gold answers.

    As in the official script, gold answers without a word are left out, and where none is left the right answer is the
    empty one.

    Raises:
        UserError: the predictions aren't of these documents.
    """
    scores = []
    for document, prediction in zip(documents, aligned(documents, predictions), strict=True):
        spans = {answer.question: document.text[answer.start : answer.end] for answer in prediction.answers}
        for question in document.questions:
            text = spans[question.id]
            golds = [answer.text for answer in question.answers if normalize(answer.text)] or [""]
            scores.append(
                QuestionScore(
                    document.id,
                    question.id,
                    max(exact_match(text, gold) for gold in golds),
                    max(answer_f1(text, gold) for gold in golds),
                    bool(question.answers),
                )
            )
    return scores


def answer_measures(documents: Sequence[Document], predictions: Predictions) -> dict[str, Measure]:
    """`exact_match` and `f1`, means over questions; and each over those with, and without, an answer (`f1/answer`,
    `f1/no_answer`), as the official script gives them.

    Raises:
        UserError: the predictions aren't of these documents.
    """
    scores = score_questions(documents, predictions)
    index = {document.id: number for number, document in enumerate(documents)}
    measures = {}
    for suffix, counted in (("", (True, False)), ("/answer", (True,)), ("/no_answer", (False,))):
        sums = np.zeros((len(documents), 3))
        for score in scores:
            if score.has_answer in counted:
                sums[index[score.document]] += (score.exact_match, score.f1, 1)
        scored = int(np.count_nonzero(sums[:, 2]))
        measures[f"exact_match{suffix}"] = additive(sums[:, [0, 2]], _mean_of_questions, scored)
        measures[f"f1{suffix}"] = additive(sums[:, [1, 2]], _mean_of_questions, scored)
    return measures


def _mean_of_questions(sums: Floats) -> Floats:
    return ratio(sums[:, 0], sums[:, 1])
