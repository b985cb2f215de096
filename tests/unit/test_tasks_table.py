"""The table of an evaluation: its numbers, its marks, what it says of what is missing, and what it refuses."""

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from table_world import CONTAMINATION, LABELS, SECRET, TASKS, TESTED, World

from clinical_pretrain.cli import main
from clinical_pretrain.tasks.catalogue import read_task
from clinical_pretrain.tasks.contamination import Contamination
from clinical_pretrain.tasks.evaluation import data_sha256
from clinical_pretrain.tasks.results import ResultFolder
from clinical_pretrain.tasks.table_formats import latex, markdown, terminal
from tokenizer_tools.errors import UserError


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


HOSTILE = ("a_b & 50%", "~/m\\x", "{x}", "[1]*", "$x^2#", "<a|b>\n\nc--d")
COMMANDS = {"begin", "end", "centering", "small", "toprule", "midrule", "bottomrule", "textbf", "scriptsize", "caption",
            "label", "par", "smallskip", "linewidth", "footnotesize", "dagger", "approx", "textbackslash",
            "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar"}  # fmt: skip
"""What LaTeX knows by itself, or with booktabs."""


def assert_latex(text):
    """Check what makes LaTeX stop, or print something else: there is no LaTeX in the tests.

    Returns the number of cells of each row.
    """
    comments = [line for line in text.split("\n") if line.startswith("%")]
    assert comments == [r"% Needs \usepackage{booktabs}."] and text.startswith(comments[0])
    body = text.partition("\n")[2]
    assert "\n\n" not in body and body.isascii()  # a paragraph's end in an argument is an error
    tokens = re.findall(r"\\[A-Za-z]+|\\.|.", body, re.DOTALL)
    assert {token[1:] for token in tokens if re.fullmatch(r"\\[A-Za-z]+", token)} <= COMMANDS
    assert {token for token in tokens if re.fullmatch(r"\\[^A-Za-z]", token)} <= {
        "\\\\",
        *(f"\\{c}" for c in "&%$#_{}"),
    }
    assert not {"%", "#", "~"} & {*tokens} and tokens.count("$") % 2 == 0
    depth, maths = 0, False
    for number, token in enumerate(tokens):
        depth += {"{": 1, "}": -1}.get(token, 0)
        maths ^= token == "$"
        assert depth >= 0 and (maths or token not in ("^", "_")), "".join(tokens[max(0, number - 40) : number + 1])
        if token == "\\\\":  # else taken for its argument
            assert "".join(tokens[number + 1 :]).lstrip()[0] not in "[*"
    assert depth == 0 and not maths
    environments = []
    for begins, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        assert begins == "begin" or environments.pop() == name
        environments += [name] * (begins == "begin")
    assert not environments
    (specification,) = re.findall(r"\\begin\{tabular\}\{(l+)\}", body)
    rows = body.partition(r"\toprule")[2].partition(r"\bottomrule")[0].replace("\\midrule\n", "")
    cells = [len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows.strip().removesuffix(r"\\").split("\\\\\n")]
    assert set(cells) == {len(specification)}
    return cells


def test_latex_holds_whatever_models_tasks_and_labels_are_called(full):
    table = full.table(baseline="base")
    assert assert_latex(latex(full.table())) == [5] * 7 and assert_latex(latex(table)) == [7] * 5
    names = dict(zip(table.models, HOSTILE, strict=False))
    columns = [
        replace(
            one,
            title=HOSTILE[number],
            cells={names[model]: cell for model, cell in one.cells.items()},
            notes=[f"a note on {HOSTILE[-1 - number]}"],
        )
        for number, one in enumerate(table.columns)
    ]
    hostile = replace(table, models=list(HOSTILE[:3]), columns=columns, baseline=HOSTILE[2], notes=list(HOSTILE))
    assert assert_latex(latex(hostile)) == [7] * 5  # a task in each row
    assert assert_latex(latex(replace(hostile, columns=columns[:2]))) == [3] * 7  # a model in each row
    text = latex(hostile)
    assert r"a\_b \& 50\%" in text and r"\textasciitilde{}/m\textbackslash{}x" in text and r"\{x\}" in text
    assert r"{[}1]{*}" in text and r"\textless{}a\textbar{}b\textgreater{} c-{}-d" in text
    assert len(markdown(hostile).split("\n\n")[0].split("\n")) == 6  # no line end inside a row


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
    world = World(tmp_path, tested=9).add_all(("base", "ours"), tasks=("findings",))
    table = world.table()
    cell = column(table, "findings").cells["ours"]
    assert (cell.low, cell.high, cell.p_value, table.comparisons) == (None, None, None, 0)
    said = "too few documents for an interval: 9, where 10 are needed"
    assert cell.notes == [f"{said}; likewise for a p value"] and column(table, "findings").too_few == said
    assert cell.score is not None and "[" not in markdown(table).partition("Mean over")[0]
    assert all(said in text(table) for text in (terminal, markdown, latex))
    row = next(row for row in table.rows() if row["model"] == "base")
    assert (row["p_value"], row["significant"], row["compared_with"]) == (None, None, "ours") and row["difference"] < 0
    assert ResultFolder.of(world.results, "findings", "ours", 0).read().main.no_interval == said


def test_few_patients_have_no_interval(tmp_path):
    """However many documents they have."""
    found = column(World(tmp_path, tested=18).add_all(("base", "ours"), tasks=("yes_no",)).table(), "yes_no")
    assert (found.documents, found.too_few) == (18, "too few patients for an interval: 9, where 10 are needed")


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


@pytest.mark.parametrize(("file", "old", "new"), [("test0.ann", "Finding", "Sign"), ("test0.txt", "has", "had")])
def test_models_on_two_data_sets_are_not_paired_though_all_ids_are_the_same(file, old, new, world):
    """Other gold on the same texts, or other texts."""
    world.add_all(("base", "other"), tasks=("findings",))
    path = world.root / "data" / "findings" / "test" / file
    path.write_text(path.read_text().replace(old, new))
    ids = [document.id for document in world.documents("findings")]
    world.data["findings"] = read_task(world.tasks["findings"], world.root / "data" / "findings").data
    assert [document.id for document in world.documents("findings")] == ids
    world.add_all(("ours", "alike"), tasks=("findings",))
    table = world.table()
    found = column(table, "findings")
    assert all(re.fullmatch(r"findings \(data [0-9a-f]{8}\)", one.title) for one in found) and len(found) == 2
    for one in found:
        assert "this task was evaluated on several data sets, which are never compared" in one.notes
    pairs = {(row["model"], row["compared_with"]) for row in table.rows() if row["compared_with"]}
    assert pairs == {("alike", "ours")}  # the others' data isn't there any more
    assert sum("its data isn't that of the evaluation any more" in note for note in table.notes) == 1


def test_data_sets_are_told_apart_by_their_whole_hash(world):
    world.add("findings", "base", 0)
    world.add("findings", "ours", 0, data_sha256=data_sha256(world.data["findings"])[:8] + "0" * 56)
    assert len(world.table().columns) == 2 and world.table().comparisons == 0


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


def test_trials_are_marked_and_stay_among_themselves(world):
    """`ours` has a trial where the others have full runs: nobody may take it for one."""
    world.add_all(("base", "ours"), tasks=("findings", "yes_no"))
    full = {(row["task"], row["model"]): row for row in world.table(baseline="base").rows()}
    for model in ("alike", "other"):
        world.add("yes_no", model, 0, settings={"epochs": 2, "max_steps": 20})
    world.add("yes_no", "other", 1, settings={"epochs": 2, "max_steps": 30})
    table = world.table(baseline="base")
    titles = ["findings", "yes_no", "yes_no (trial, 20 steps)", "yes_no (trial, 30 steps)"]
    assert [one.title for one in table.columns] == titles and [one.trial_steps for one in table.columns] == [
        0,
        0,
        20,
        30,
    ]
    assert (table.comparisons, table.trial_comparisons) == (2, 0)
    for row in table.rows():
        if row["score"] is not None:
            assert row["trial_steps"] == (20 if row["model"] == "alike" else row["trial_steps"])
            assert bool(row["trial_steps"]) == (row["model"] in ("alike", "other"))
        if before := full.get((row["column"], row["model"])):
            assert row["adjusted_p_value"] == before["adjusted_p_value"] and row["best"] == before["best"]
    said = "They stand in columns of their own, and are neither averaged nor compared with full runs"
    assert all(said in re.sub(r"\s+", " ", text(table)) for text in (terminal, markdown, latex))
    assert "a trial: fine-tuned for at most 20 steps; no result of a model" in terminal(table)

    among_themselves = world.table()  # each with the best of its column
    assert (among_themselves.comparisons, among_themselves.trial_comparisons) == (2, 1)
    assert "correction for 2 comparisons and for 1 comparison of trials)" in re.sub(
        r"\s+", " ", terminal(among_themselves)
    )
    rows = [row for row in among_themselves.rows() if row["compared_with"] and row["trial_steps"]]
    assert [row["adjusted_p_value"] for row in rows] == [rows[0]["p_value"]]


def test_a_trial_alone_says_so_in_its_heading(world):
    world.add("findings", "ours", 0, settings={"epochs": 2, "max_steps": 1000})
    assert "findings (trial, 1,000 steps)" in terminal(world.table())


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
