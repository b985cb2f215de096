"""Results of evaluations: written as they are read, and known by what they are of."""

import json
import shutil
from dataclasses import fields, replace

import numpy as np
import pytest

from clinical_pretrain.tasks.evaluation import data_sha256
from clinical_pretrain.tasks.finetune_settings import FinetuneSettings
from clinical_pretrain.tasks.model_identity import model_identity
from clinical_pretrain.tasks.records import Answer, Document, Question, Span, TaskData
from clinical_pretrain.tasks.results import SAME_FUNCTION, Result, ResultFolder, Subject, check_name, find_results
from clinical_pretrain.tasks.scores.bootstrap import Score
from clinical_pretrain.tasks.scores.by_kind import measures_of
from clinical_pretrain.tasks.scores.predictions import PredictedAnswer, Prediction, Predictions, texts_sha256
from tokenizer_tools.errors import UserError

SUBJECT = Subject(
    task="words",
    model="ours",
    model_path="/models/ours",
    model_identity="sha256:1",
    seed=0,
    kind="entities",
    metric="f1",
    protocol="document",
    settings={"epochs": 2, "learning_rates": [2e-5], "micro_batch_size": 4},
    data="/data/words",
    data_sha256="2",
    task_file=None,
)
RESULT = Result(
    subject=SUBJECT,
    scores={
        "f1": Score(0.5, 0.25, 0.75, 12, 12, 0),
        "auc": Score(None, None, None, 12, 12, 9, ("A",), ("B",)),
    },
    splits={"train": 30, "development": 10, "test": 12},
    split_rule="all of the data set",
    reading={
        "mended": {"offset moved by one": 1},
        "left_out": {},
        "places": {"offset moved by one": ["a.txt, line 3"]},
    },
    details={"chosen": {"epoch": 2}},
    contamination=None,
    versions={"python": "3"},
    seconds=1.5,
)


def result_at(root, seed=0, task="words", model="ours"):
    """A stored result."""
    folder = ResultFolder.of(root, task, model, seed)
    folder.write(replace(RESULT, subject=replace(SUBJECT, task=task, model=model, seed=seed)))
    return folder


# Measures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "document", "prediction", "names"), [
    ("entities", {"entities": (Span(0, 1, "A"),)}, {}, ["precision", "recall", "f1"]),
    ("answers", {"questions": (Question("q", "?", (Answer(0, "x"),)),)}, {"answers": (PredictedAnswer("q", 0, 1),)},
     ["exact_match", "f1"]),
    ("class", {"labels": ("A",)}, {"labels": ("A",), "probabilities": (1.0,)}, ["auc", "f1", "accuracy"]),
    ("labels", {"labels": ("A",)}, {"labels": ("A",), "probabilities": (1.0,)}, ["auc", "f1"]),
])  # fmt: skip
def test_each_kind_has_its_measures(kind, document, prediction, names):
    documents = [Document("1", "x y", **document)]
    predictions = Predictions(
        "t", "test", kind, ("A",), "m", 0, texts_sha256(documents), (Prediction("1", **prediction),)
    )
    measures = measures_of(documents, predictions)
    assert set(names) <= set(measures)
    value = measures[names[-1]].values(np.ones((1, 1)))[0]
    assert np.array_equal(value, {"entities": 0, "answers": 1, "class": 1, "labels": np.nan}[kind], equal_nan=True)


# Result files ------------------------------------------------------------------------------------------------------


def test_a_result_is_read_as_it_was_written(tmp_path):
    folder = result_at(tmp_path)
    assert folder.read() == RESULT
    raw = json.loads(folder.result_file.read_text())
    assert (raw["task"], raw["score"], raw["low"], raw["high"]) == ("words", 0.5, 0.25, 0.75)
    assert raw["format_version"] == 2 and raw["scores"]["auc"]["undefined_labels"] == ["B"]


@pytest.mark.parametrize(("change", "said"), [
    (lambda raw: raw | {"format_version": 1}, "format_version 1, but this version of clinical-pretrain reads 2"),
    (lambda raw: {name: value for name, value in raw.items() if name != "data_sha256"}, "damaged, not the form"),
    (lambda raw: raw | {"seed": "0"}, "damaged, not the form"),
    (lambda raw: raw | {"scores": {}}, "damaged, not the form"),
    (lambda raw: raw | {"score": 0.6}, "damaged, not the form"),
    (lambda raw: raw | {"scores": {"f1": {"value": 0.5}}}, "damaged, not the form"),
    (lambda raw: raw | {"scores": {"f1": raw["scores"]["f1"] | {"value": "x"}}, "score": "x"}, "damaged, not the form"),
    (lambda raw: raw | {"scores": [1]}, "damaged, not the form"),
    (lambda raw: [raw], "damaged, not a JSON object"),
    (lambda raw: raw | {"model": "other"}, "is of words/other/seed-0, but its folder has another name"),
])  # fmt: skip
def test_a_damaged_result_is_refused_in_one_line(change, said, tmp_path):
    folder = result_at(tmp_path)
    folder.result_file.write_text(json.dumps(change(json.loads(folder.result_file.read_text()))))
    with pytest.raises(UserError) as error:
        folder.read()
    assert str(error.value).startswith(f"{folder.result_file}: {said}") and "\n" not in str(error.value)


def test_a_cut_result_is_refused(tmp_path):
    folder = result_at(tmp_path)
    folder.result_file.write_text(folder.result_file.read_text()[:-20])
    with pytest.raises(UserError, match=r"result\.json: damaged, not a JSON object; delete its folder"):
        folder.read()


def test_results_are_found_in_order(tmp_path):
    for seed in (10, 2):
        result_at(tmp_path, seed)
    result_at(tmp_path, 0, model="base")
    ResultFolder.of(tmp_path, "words", "ours", 3).path.mkdir(parents=True)  # not done
    (tmp_path / "words" / "ours" / "seed-x").mkdir()
    (tmp_path / "slurm").mkdir()
    found = [str(folder.path.relative_to(tmp_path)) for folder in find_results(tmp_path)]
    assert found == ["words/base/seed-0", "words/ours/seed-2", "words/ours/seed-10"]
    with pytest.raises(UserError, match="no such folder"):
        find_results(tmp_path / "nowhere")


def test_a_trial_has_one_process(tmp_path):
    folder = ResultFolder.of(tmp_path, "words", "ours", 0)
    with folder.locked(), pytest.raises(UserError, match="another process is at this trial"), folder.locked():
        pass
    with folder.locked():
        pass


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../a", "-a", "my model", "a,b", "a=b", "naïve", "x" * 101, "a\n"]
)
def test_a_name_must_be_a_folders(name):
    check_name("Bio_ClinicalBERT-v1.1+ours", "--models")
    with pytest.raises(UserError, match=r"--models .*: not a name"):
        check_name(name, "--models")


@pytest.mark.parametrize(("changes", "said"), [
    ({"model_path": "/elsewhere", "data": "/moved", "task_file": "/x.yaml"}, []),
    ({"settings": {**SUBJECT.settings, "micro_batch_size": 8}}, []),
    ({"settings": {**SUBJECT.settings, "epochs": 3}}, ["epochs 3 (now 2)"]),
    ({"settings": {}}, ["epochs None (now 2)", "learning_rates None (now [2e-05])"]),
    ({"metric": "accuracy", "protocol": "paper"}, ["metric accuracy (now f1)", "protocol paper (now document)"]),
    ({"model_identity": "sha256:9", "data_sha256": "9"}, ["other weights or another tokenizer", "other data"]),
])  # fmt: skip
def test_what_makes_a_result_another_one(changes, said):
    assert SUBJECT.differences(replace(SUBJECT, **changes)) == said
    assert set(SAME_FUNCTION) < {entry.name for entry in fields(FinetuneSettings)}


# What a result depends on -------------------------------------------------------------------------------------------


def test_a_model_is_known_by_its_files(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "README.md"):
        (model / name).write_text(name)

    def copy(name, **changes):
        folder = shutil.copytree(model, tmp_path / name)
        for file, text in changes.items():
            (folder / file.replace("_", ".")).write_text(text)
        return model_identity(str(folder))

    assert copy("copy") == copy("described", README_md="better") == model_identity(str(model))
    others = [copy("trained", model_safetensors="x"), copy("tokenizer", tokenizer_json="x"), copy("c", config_json="x")]
    assert len({model_identity(str(model)), *others}) == 4
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no config\.json"):
        model_identity(str(tmp_path / "empty"))
    for name in (str(tmp_path / "nowhere"), "nowhere/", "some/folder/nowhere"):
        with pytest.raises(UserError, match=r"nowhere/?: no such folder; name the folder of an export"):
            model_identity(name)
    with pytest.raises(UserError, match="nobody/nothing: neither a folder nor a model"):
        model_identity("nobody/nothing")


def test_a_hub_model_is_known_by_its_commit(tmp_path, monkeypatch):
    commit = "0123456789" * 4
    repository = tmp_path / "models--some--model"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert model_identity("some/model") == f"some/model@{commit}"


def test_data_is_known_by_its_texts_and_gold():
    document = Document("1", "a b", "p", questions=(Question("q", "?", (Answer(0, "a"),)),), labels=("A",))

    def sha256(document=document, split="test", labels=("A",)):
        return data_sha256(TaskData("class", {split: [document]}, labels))

    changes = [
        {"id": "2"}, {"text": "a c"}, {"patient": "q"}, {"second_text": ""}, {"labels": ()}, {"unknown_labels": ("A",)},
        {"entities": (Span(0, 1, "A"),)}, {"questions": ()}, {"questions": (Question("q", "?", (Answer(2, "b"),)),)},
    ]  # fmt: skip
    found = [sha256(), *(sha256(replace(document, **change)) for change in changes)]
    assert len({*found, sha256(split="train"), sha256(labels=("A", "B"))}) == len(changes) + 3
    assert sha256() == sha256(replace(document))
