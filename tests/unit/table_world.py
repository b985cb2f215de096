"""Tasks of all kinds, with data and with results of models, for the tests of the table."""

import json
from dataclasses import asdict, replace

import numpy as np
import yaml

from clinical_pretrain.tasks.catalogue import find_task, read_task
from clinical_pretrain.tasks.contamination import Contamination
from clinical_pretrain.tasks.evaluation import data_sha256
from clinical_pretrain.tasks.results import Result, ResultFolder, Subject
from clinical_pretrain.tasks.scores.bootstrap import Resampling, score
from clinical_pretrain.tasks.scores.by_kind import measures_of
from clinical_pretrain.tasks.scores.predictions import (
    PredictedAnswer,
    PredictedEntity,
    Prediction,
    Predictions,
    texts_sha256,
)
from clinical_pretrain.tasks.table import make_table

SECRET = "Doe"
"""In all texts, in no output."""
WORDS = ("fever", "cough", "chest pain", "rash", "nausea")
LABELS = ("edema", "atelectasis", "never_seen")
QUICK = Resampling(resamples=500)
TESTED = 30
"""Number of test documents."""
CONTAMINATION = asdict(Contamination(30, 4, 15, 3, None, 99, "f"))
SKILL = {"base": 0.5, "ours": 0.9, "alike": 0.5, "other": 0.7}
"""How often a model is right."""


# Data and results that are written here ----------------------------------------------------------------------------


def write_entities(folder, tested):
    """brat's format."""
    for split, number in (("train", 3), ("dev", 3), ("test", tested)):
        (folder / split).mkdir(parents=True)
        for i in range(number):
            text, lines = f"{SECRET} has", []
            for j, word in enumerate(WORDS[: 2 + i % 3]):
                lines.append(f"T{j}\tFinding {len(text) + 1} {len(text) + 1 + len(word)}\t{word}")
                text += f" {word}"
            (folder / split / f"{split}{i}.txt").write_text(text)
            (folder / split / f"{split}{i}.ann").write_text("\n".join(lines) + "\n")


def write_answers(folder, tested):
    """SQuAD's format."""
    folder.mkdir(parents=True)
    for split, number in (("train", 3), ("dev", 3), ("test", tested)):
        paragraphs = []
        for i in range(number):
            context = f"{SECRET} takes two tablets for {WORDS[i % 5]}."
            answer = {"text": "two tablets", "answer_start": context.index("two")}
            question = {"id": f"{split}{i}", "question": "How much?", "answers": [answer]}
            paragraphs.append({"context": context, "document_id": f"{split}-{i}", "qas": [question]})
        (folder / f"{split}.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))


def write_classes(folder, tested):
    """JSONL, with a patient for every two documents, the first ones also in train and dev."""
    write_rows(folder, tested, lambda i: {"label": "yes" if i % 3 else "no", "patient": str(i // 2)})


def write_labels(folder, tested):
    """JSONL; one label is never given."""
    write_rows(folder, tested, lambda i: {"labels": [LABELS[j] for j in (0, 1) if (i + j) % (2 + j)]})


def write_rows(folder, tested, values):
    """A file of rows for the reader `table`."""
    folder.mkdir(parents=True)
    rows = [
        {"id": f"{split}{i}", "split": split, "text": f"{SECRET} {i}", **values(i)}
        for split, number in (("train", 6), ("dev", 6), ("test", tested))
        for i in range(number)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def guess(document, kind, labels, random, skill):
    """A prediction that is right with the probability `skill`, per entity, answer, document or label."""
    if kind == "entities":
        kept = [PredictedEntity(*entity) for entity in document.entities if random.random() < skill]
        return Prediction(document.id, entities=(*kept, PredictedEntity(0, 3, "Finding")))
    if kind == "answers":
        spans = [(q.id, q.answers[0].start, len(q.answers[0].text)) for q in document.questions]
        return Prediction(
            document.id,
            answers=tuple(
                PredictedAnswer(name, start, start + (length if random.random() < skill else 3))
                for name, start, length in spans
            ),
        )
    right = random.random(len(labels)) < (skill if kind == "labels" else 1)
    gold = np.array([label in document.labels for label in labels])
    held = gold == right
    if kind == "class" and random.random() >= skill:
        held = ~gold
    return Prediction(
        document.id,
        labels=tuple(label for label, holds in zip(labels, held, strict=True) if holds),
        probabilities=tuple(np.where(held, 0.9, 0.1).tolist()),
    )


ROWS = {"reader": "table", "data": "rows.jsonl", "columns": {"text": "text", "id": "id", "split": "split"}}
TASKS = {
    "findings": (write_entities, {"reader": "brat"}),
    "dose_of_drug": (write_answers, {"reader": "squad"}),
    "yes_no": (write_classes, ROWS | {"columns": ROWS["columns"] | {"labels": "label", "patient": "patient"}}),
    "x_ray": (
        write_labels,
        ROWS | {"kind": "labels", "labels": list(LABELS), "columns": ROWS["columns"] | {"labels": "labels"}},
    ),
}
"""How the data of a task is written, and a user's own YAML file for it."""


class World:
    """Data of tasks of all kinds, and results of models on them."""

    def __init__(self, root, tested=TESTED):
        self.root, self.results = root, root / "results"
        self.tasks, self.data = {}, {}
        for name, (write, keys) in TASKS.items():
            write(root / "data" / name, tested)
            self.file(name).write_text(yaml.safe_dump({"name": name, **keys}))
            self.tasks[name] = find_task(str(self.file(name)))
            self.data[name] = read_task(self.tasks[name], root / "data" / name).data

    def file(self, name):
        """The YAML file of a task."""
        return self.root / f"{name}.yaml"

    def documents(self, name):
        """The test documents of a task."""
        return self.data[name].splits["test"]

    def predictions(self, name, model, seed):
        """What a model predicts with a seed: random, but always the same."""
        data, random = self.data[name], np.random.default_rng([*name.encode(), *model.encode(), seed])
        found = [guess(one, data.kind, data.labels, random, SKILL[model]) for one in self.documents(name)]
        digest = texts_sha256(self.documents(name))
        return Predictions(name, "test", data.kind, data.labels, model, seed, digest, tuple(found))

    def add(self, name, model, seed, **changes):
        """Store a result. `changes` are of its subject, and `contamination`."""
        contamination = changes.pop("contamination", None)
        task, data, predictions = self.tasks[name], self.data[name], self.predictions(name, model, seed)
        subject = Subject(
            name, model, f"/models/{model}", f"sha256:{model}", seed, task.kind, task.metric, "document", {"epochs": 2},
            str(self.root / "data" / name), data_sha256(data), str(self.file(name)),
        )  # fmt: skip
        result = Result(
            replace(subject, **changes),
            score(measures_of(self.documents(name), predictions), self.documents(name), Resampling(resamples=50)),
            {split: len(documents) for split, documents in data.splits.items()},
            "all splits of the data set",
            {"mended": {}, "left_out": {}, "places": {}},
            {"tokens_per_sequence": 512 if model == "base" else 4096},
            contamination,
            {},
            1.0,
        )
        ResultFolder.of(self.results, name, model, seed).write(result, predictions)

    def add_all(self, models=("alike", "base", "ours"), seeds=(0, 1), tasks=tuple(TASKS)):
        """Store the results of models, seeds and tasks."""
        for name in tasks:
            for model in models:
                for seed in seeds:
                    self.add(name, model, seed)
        return self

    def table(self, **options):
        """The table."""
        return make_table(self.results, resampling=QUICK, **options)
