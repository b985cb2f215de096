"""Scores of answers: equal to SQuAD's official rules."""

import math
import re
import string
from collections import Counter

import pytest
from score_cases import CASES, answer_case, same, value

from clinical_pretrain.tasks.scores.answers import answer_measures, normalize, score_questions

pytestmark = pytest.mark.slow


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
