"""Stored predictions: read as written, without a text, and scored on their own documents alone."""

import json
import math
import re
from dataclasses import replace

import pytest
from score_cases import KINDS, TYPES, class_case, predictions_of, same, value

from clinical_pretrain.tasks.records import Answer, Document, Question
from clinical_pretrain.tasks.scores.answers import answer_measures
from clinical_pretrain.tasks.scores.labels import class_measures
from clinical_pretrain.tasks.scores.predictions import (
    PredictedAnswer,
    PredictedEntity,
    Prediction,
    read_predictions,
    texts_sha256,
    write_predictions,
)
from tokenizer_tools.errors import UserError

pytestmark = pytest.mark.slow


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
