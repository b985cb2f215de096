"""The table of an evaluation: its numbers, its marks, what it says of what is missing, and what it refuses."""

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml

from clinical_pretrain.cli import main
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
from clinical_pretrain.tasks.table_formats import latex, markdown, terminal
from tokenizer_tools.errors import UserError

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


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """All models with two seeds on all tasks; not to be changed."""
    return World(tmp_path_factory.mktemp("full")).add_all()


def column(table, task):
    """The columns of a task, if it is one that one."""
    found = [one for one in table.columns if one.subject.task == task]
    return found[0] if len(found) == 1 else found


# Numbers -----------------------------------------------------------------------------------------------------------


def by_hand(world, name, model, seed):
    """A trial's score as a function of how often each document counts, in plain Python."""
    documents, predicted = world.documents(name), world.predictions(name, model, seed).documents

    def value(weights):
        if name == "findings":
            right = total = 0
            for weight, document, found in zip(weights, documents, predicted, strict=True):
                gold, spans = set(document.entities), {entity[:3] for entity in found.entities}
                right, total = right + weight * 2 * len(gold & spans), total + weight * (len(gold) + len(spans))
            return right / total
        if name == "dose_of_drug":  # the prediction is "two tablets" or "two": an F1 of 1 or 2/3
            scores = [1 if one.answers[0].end - one.answers[0].start > 3 else 2 / 3 for one in predicted]
            return np.average(scores, weights=weights)
        if name == "yes_no":
            right = [one.labels == document.labels for one, document in zip(predicted, documents, strict=True)]
            return np.average(right, weights=weights)
        areas = []
        for label in (0, 1):  # those that are defined
            index = world.data[name].labels.index(LABELS[label])
            cases = [
                (weight, one.probabilities[index], LABELS[label] in document.labels)
                for weight, one, document in zip(weights, predicted, documents, strict=True)
            ]
            pairs = [(a * b, p, q) for a, p, gold in cases if gold for b, q, other in cases if not other]
            areas.append(sum(w * ((p > q) + (p == q) / 2) for w, p, q in pairs) / sum(w for w, _, _ in pairs))
        return np.mean(areas)

    return value


@pytest.mark.parametrize("name", TASKS)
def test_means_and_intervals_are_those_of_the_pooled_seeds(name, full):
    cell = column(full.table(), name).cells["ours"]
    values = [by_hand(full, name, "ours", seed) for seed in (0, 1)]
    assert cell.score == pytest.approx(np.mean([value(np.ones(TESTED)) for value in values]), abs=1e-12)
    random = np.random.default_rng(7)
    patients = [document.patient or document.id for document in full.documents(name)]
    names = sorted(set(patients))
    drawn = []
    for _ in range(300):
        counts = Counter(random.choice(names, len(names)).tolist())
        drawn.append(np.mean([value([counts[patient] for patient in patients]) for value in values]))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    assert (cell.low, cell.high) == pytest.approx((low, high), abs=0.25 * (high - low))
    assert cell.low < cell.score < cell.high


def test_p_values_are_adjusted_by_holm_over_the_whole_table(full):
    rows = [row for row in full.table(baseline="base").rows() if row["compared_with"]]
    assert [(row["task"], row["model"]) for row in rows] == [
        (task, m) for task in sorted(TASKS) for m in ("alike", "ours")
    ]
    expected, largest = {}, 0.0
    for rank, row in enumerate(sorted(rows, key=lambda row: row["p_value"])):
        largest = max(largest, min(1.0, (len(rows) - rank) * row["p_value"]))
        expected[row["task"], row["model"]] = largest
    assert {(row["task"], row["model"]): row["adjusted_p_value"] for row in rows} == pytest.approx(expected)
    assert any(row["adjusted_p_value"] > row["p_value"] for row in rows)
    scores = {(row["task"], row["model"]): row["score"] for row in full.table().rows()}
    for row in rows:
        assert row["difference"] == pytest.approx(row["score"] - scores[row["task"], "base"], abs=1e-12)
        assert row["significant"] == (row["adjusted_p_value"] <= 0.05)
    assert {row["significant"] for row in rows if row["model"] == "ours"} == {True}
    assert False in {row["significant"] for row in rows}


def test_without_a_baseline_the_best_of_each_task_is_compared_with(full):
    table = full.table()
    assert table.models == ["alike", "base", "ours"] and table.comparisons == 8
    for one in table.columns:
        assert [model for model, cell in one.cells.items() if cell.best] == ["ours"]
        assert [cell.compared_with for cell in one.cells.values()] == ["ours", "ours", None]
        assert one.cells["base"].comparison.difference < 0
    assert full.table(baseline="ours").models == ["ours", "alike", "base"]


def test_the_same_command_gives_the_same_table(full):
    assert full.table().rows() == full.table().rows()


# Formats -----------------------------------------------------------------------------------------------------------

NUMBER = re.compile(r"(?<![\d.,])\d{1,3}\.\d(?!\d)")


def test_all_formats_have_the_same_numbers(full):
    table = full.table()
    expected = Counter()
    for row in table.rows():
        expected.update(f"{100 * row[name]:.1f}" for name in ("score", "low", "high"))
    for text, end in ((terminal(table), "Mean over"), (markdown(table), "Mean over"), (latex(table), r"\bottomrule")):
        assert Counter(NUMBER.findall(text.partition(end)[0])) == expected


def test_the_best_is_bold_and_significance_marked(full):
    table = full.table(baseline="base")
    best = {f"{100 * row['score']:.1f}" for row in table.rows() if row["best"]}
    assert len(best) > 1
    assert set(re.findall(r"\*\*([\d.]+)\*\*", markdown(table))) == best
    assert set(re.findall(r"\\textbf\{([\d.]+)\}", latex(table))) == best
    assert set(re.findall(r"([\d.]+)\* ", terminal(table))) == best
    above = latex(table).partition(r"\bottomrule")[0]
    significant = [row["significant"] for row in table.rows()]
    assert above.count(r"$^{\dagger") == significant.count(True) >= 4
    assert above.count(r"$^{\approx") == significant.count(False) >= 1
    assert (
        "† differs significantly from base (paired bootstrap, p at most 0.05 after Holm's correction for 8"
        in terminal(table)
    )


def test_latex_is_escaped(full):
    text = latex(full.table())
    assert r"dose\_of\_drug" in text and r"95 \%" in text
    assert not re.search(r"(?<!\\)[_#]", text.partition(r"\label")[0])
    assert all(line.startswith("% ") or not re.search(r"(?<!\\)%", line) for line in text.split("\n"))
    rows = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0].strip().split("\n")
    assert {row.count("&") for row in rows if row != r"\midrule"} == {4}
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert text.isascii()


def test_the_terminal_has_100_columns(full):
    table = full.table()
    many = replace(table, columns=[replace(one, title=f"{one.title}_{i}") for i in range(3) for one in table.columns])
    for made, first in ((table, ["dose_of_drug", "findings", "x_ray"]), (many, ["measure", "alike", "base"])):
        assert all(len(line) <= 100 for line in terminal(made).split("\n"))
        assert terminal(made).split()[:3] == first
    assert markdown(many).startswith("|  | measure | alike |") and markdown(table).startswith("|  | dose_of_drug |")


def test_csv_has_a_line_per_task_and_model(full, tmp_path):
    assert (
        main(["table", str(full.results), "--out", str(tmp_path / "a" / "b"), "--json", str(tmp_path / "t.json")]) == 0
    )
    report = json.loads((tmp_path / "t.json").read_text())
    with (tmp_path / "a" / "b" / "table.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(report["rows"]) == 12
    for row, reported in zip(rows, report["rows"], strict=True):
        assert (row["task"], row["model"], float(row["score"])) == tuple(
            reported[k] for k in ("task", "model", "score")
        )
        assert row["seeds"] == "0; 1" and row["documents"] == "30"
    assert {row["units"] for row in rows if row["task"] == "yes_no"} == {"15"}


def test_the_command_prints_and_writes_without_a_text_of_the_data(full, tmp_path, capsys):
    assert main(["table", str(full.results), "--baseline", "base", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    files = {path.name: path for path in tmp_path.iterdir()}
    assert sorted(files) == ["table.csv", "table.md", "table.pdf", "table.png", "table.tex"]
    assert "dose_of_drug" in said and "Tokens per sequence: alike 4,096, base 512, ours 4,096." in said
    assert files["table.png"].read_bytes()[:4] == b"\x89PNG" and files["table.pdf"].read_bytes()[:4] == b"%PDF"
    for text in (said, *(files[name].read_text() for name in ("table.csv", "table.md", "table.tex"))):
        assert SECRET not in text and "fever" not in text


def test_the_table_needs_no_torch():
    code = "import sys, clinical_pretrain.tasks.table_plot; assert not {'torch', 'transformers'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# What is missing, undefined, or can't be compared ------------------------------------------------------------------


def test_a_missing_model_is_a_dash_with_a_footnote(world):
    world.add_all(("base", "ours"), tasks=("findings",))
    world.add_all(("ours",), tasks=("yes_no",))
    table = world.table()
    cell = column(table, "yes_no").cells["base"]
    assert cell.score is None and cell.notes == ["no result"]
    assert re.search(r"^base .* — c$", terminal(table), re.MULTILINE) and "\nc no result" in terminal(table)
    assert not column(table, "yes_no").cells["ours"].best


def test_fewer_seeds_are_said_and_not_compared(world):
    world.add_all(seeds=(0, 1), tasks=("yes_no",))
    world.add("yes_no", "ours", 2)
    table = world.table()
    found = column(table, "yes_no")
    assert found.seeds == [0, 1, 2]
    assert found.cells["base"].notes == [
        "seeds 0, 1 alone, of 0, 1, 2: neither called best nor compared until all are there"
    ]
    assert table.comparisons == 0 and not any(cell.best for cell in found.cells.values())
    assert found.cells["base"].score is not None


def test_a_trial_that_was_begun_is_said(world):
    world.add_all(("base", "ours"), tasks=("yes_no", "findings"))
    ResultFolder.of(world.results, "yes_no", "ours", 1).result_file.unlink()
    ResultFolder.of(world.results, "x_ray", "ours", 5).path.mkdir(parents=True)
    table = world.table()
    assert table.notes[0] == "Not finished: x_ray/ours/seed-5, yes_no/ours/seed-1."
    assert [cell.complete for cell in column(table, "yes_no").cells.values()] == [True, False]
    assert table.comparisons == 1
    ResultFolder.of(world.results, "yes_no", "base", 1).result_file.unlink()
    assert [cell.complete for cell in column(world.table(), "yes_no").cells.values()] == [False, False]


def test_one_model_alone_has_no_best_and_no_comparison(world):
    table = world.add_all(("ours",)).table()
    assert table.comparisons == 0 and not any(row["best"] or row["compared_with"] for row in table.rows())
    assert "†" not in terminal(table) and "textbf" not in latex(table)
    assert table.rows()[0]["low"] is not None


def test_an_incomplete_baseline_is_said(world):
    world.add_all(("base", "ours"), tasks=("findings", "yes_no"))
    world.add("yes_no", "ours", 2)
    table = world.table(baseline="base")
    assert column(table, "yes_no").notes[0] == "nothing is compared: base lacks seeds, or its score is undefined"
    assert column(table, "findings").cells["ours"].compared_with == "base" and table.comparisons == 1


def test_undefined_labels_the_most_frequent_class_and_patients_on_both_sides_are_said(full):
    table = full.table()
    assert "undefined for never_seen, which all test documents have, or none" in column(table, "x_ray").notes[0]
    assert column(table, "yes_no").notes == [
        "always the most frequent class: 66.7; chance: 50.0",
        "3 of the 15 patients in test are in train or development, too",
    ]


def test_few_documents_have_no_interval(tmp_path):
    table = World(tmp_path, tested=9).add_all(("base", "ours"), tasks=("findings",)).table()
    cell = column(table, "findings").cells["ours"]
    assert (cell.low, cell.high, cell.p_value, table.comparisons) == (None, None, None, 0)
    assert cell.notes == ["no interval or p value: fewer than 10 patients or documents"]
    assert cell.score is not None and "[" not in markdown(table).partition("Mean over")[0]


def test_without_the_data_there_is_no_significance(world):
    world.add_all(("base", "ours"), tasks=("yes_no", "findings"))
    for path in (world.root / "data" / "yes_no").iterdir():
        path.unlink()
    with_data = world.table()
    found = column(with_data, "yes_no")
    values = [by_hand(world, "yes_no", "ours", seed)(np.ones(TESTED)) for seed in (0, 1)]
    assert found.cells["ours"].score == pytest.approx(np.mean(values)) and found.cells["ours"].best
    assert found.cells["ours"].low is None and found.cells["base"].compared_with is None
    assert with_data.notes[0].startswith("yes_no: no significance, and no interval of several seeds: ")
    assert with_data.comparisons == 1
    for model in ("base", "ours"):
        ResultFolder.of(world.results, "yes_no", model, 1).result_file.unlink()
        ResultFolder.of(world.results, "yes_no", model, 1).predictions_file.unlink()
        ResultFolder.of(world.results, "yes_no", model, 1).path.rmdir()
    cell = column(world.table(), "yes_no").cells["ours"]
    assert cell.low == ResultFolder.of(world.results, "yes_no", "ours", 0).read().main.low


def test_other_gold_is_noticed_and_a_data_root_is_taken(world):
    world.add_all(("base", "ours"), tasks=("findings",))
    moved = world.root / "moved"
    (world.root / "data").rename(moved)
    assert world.table(data_root=moved).comparisons == 1
    annotations = moved / "findings" / "test" / "test0.ann"
    annotations.write_text(annotations.read_text().replace("Finding", "Other"))
    table = world.table(data_root=moved)
    assert table.comparisons == 0 and table.notes[0].endswith("its data isn't that of the evaluation any more.")


def test_protocols_and_settings_stand_in_columns_of_their_own(world):
    world.add_all(("base", "ours"), tasks=("findings",))
    world.add("findings", "alike", 0, protocol="paper", settings={"epochs": 4})
    table = world.table()
    assert [one.title for one in table.columns] == ["findings (epochs 2, document)", "findings (epochs 4, paper)"]
    assert [[cell.seeds for cell in one.cells.values()] for one in table.columns] == [
        [[], [0, 1], [0, 1]],
        [[0], [], []],
    ]
    world.add("findings", "other", 0, settings={"epochs": 2, "micro_batch_size": 1, "max_length": 512})
    assert len(world.table().columns) == 2
    assert column(table, "findings")[1].notes == ["the paper's protocol, with the deviations that result.json lists"]


def test_contamination_is_a_footnote(world):
    world.add_all(("base", "ours"), tasks=("yes_no",), seeds=(0,))
    world.add("yes_no", "ours", 0, contamination=CONTAMINATION)
    table = world.table()
    assert column(table, "yes_no").cells["ours"].notes == [Contamination(**CONTAMINATION).line()]
    assert Contamination(**CONTAMINATION).line() in markdown(table)
    world.add("yes_no", "ours", 0, contamination={"texts": 1})
    with pytest.raises(UserError, match=r"yes_no/ours/seed-0: contamination in result\.json is damaged"):
        world.table()


# What is refused ---------------------------------------------------------------------------------------------------


def test_two_models_under_one_name_are_refused(world):
    world.add_all(("ours",), tasks=("findings",))
    world.add("yes_no", "ours", 0, model_identity="sha256:other")
    with pytest.raises(
        UserError, match=r"model ours has other weights .* in yes_no/ours/seed-0 than in findings/ours/seed-0"
    ):
        world.table()


def test_seeds_with_two_maximum_lengths_are_refused(world):
    world.add("findings", "ours", 0, settings={"max_length": 512})
    world.add("findings", "base", 0, settings={"max_length": 4096})
    world.table()
    world.add("findings", "ours", 1, settings={"max_length": 4096})
    with pytest.raises(UserError, match="findings/ours/seed-0 and findings/ours/seed-1 have another max_length"):
        world.table()


@pytest.mark.parametrize("name", ["result.json", "predictions.jsonl"])
def test_a_damaged_file_is_refused_with_its_path(name, world, capsys):
    world.add_all(("base", "ours"), tasks=("findings",))
    path = ResultFolder.of(world.results, "findings", "ours", 1).path / name
    path.write_text(path.read_text()[:-40])
    assert main(["table", str(world.results)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}") and said.count("\n") == 1
    assert not list(world.results.glob("table.*"))


def test_predictions_of_another_trial_are_refused(world):
    world.add_all(("base", "ours"), tasks=("findings",))
    ours, base = (ResultFolder.of(world.results, "findings", model, 0) for model in ("ours", "base"))
    ours.predictions_file.write_bytes(base.predictions_file.read_bytes())
    with pytest.raises(UserError, match=r"findings/ours/seed-0: result\.json has another score than its predictions"):
        world.table()


def test_an_unknown_baseline_and_an_empty_folder_are_refused(world, capsys):
    world.add_all(("base", "ours"), tasks=("findings",))
    assert main(["table", str(world.results), "--baseline", "bass"]) == 2
    assert "--baseline bass: no result of this model" in (said := capsys.readouterr().err) and "base, ours" in said
    (world.root / "empty").mkdir()
    assert main(["table", str(world.root / "empty")]) == 2
    assert "no finished result in it" in capsys.readouterr().err
    assert main(["table", str(world.root / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
