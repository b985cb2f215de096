"""A user's own task as a YAML file: each reader, and every mistake is refused in one line with the remedy."""

import json
import re

import pytest
from conftest import REPOSITORY
from entity_files import put
from test_tasks_questions import squad

from clinical_pretrain.tasks.catalogue import find_task, read_task
from clinical_pretrain.tasks.task_file import KINDS, METRICS, read_task_file
from tokenizer_tools.errors import UserError

TABLE = """\
name: readmission
title: Is the patient readmitted within 30 days?
reader: table
data: notes.jsonl
kind: class
columns:
  text: note
  labels: readmitted
  patient: patient_id
labels: [yes, no]
split: {development: 0.3, test: 0.3}
"""


def write(tmp_path, content):
    return put(tmp_path / "my_task.yaml", content)


def test_a_table(tmp_path):
    """`yes` and `no` are texts, as in the file."""
    rows = [{"note": f"n{i}", "readmitted": ("yes", "no")[i % 2], "patient_id": i // 2} for i in range(60)]
    put(tmp_path / "data" / "notes.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    task = find_task(str(write(tmp_path, TABLE)))
    assert (task.name, task.title) == ("readmission", "Is the patient readmitted within 30 days?")
    assert (task.kind, task.metric, task.suites, task.paper) == ("class", "accuracy", (), None)
    assert task.files == ("notes.jsonl",) and task.folder(tmp_path) == tmp_path / "readmission"
    assert task.missing_files(tmp_path / "data") == [] and task.missing_files(tmp_path) == ["notes.jsonl"]
    divided = read_task(task, tmp_path / "data")
    assert divided.data.labels == ("yes", "no") and "of 30 patients" in divided.rule
    assert len(divided.data.splits["test"]) >= 8  # 0.2 would give fewer
    assert task == find_task(str(tmp_path / "my_task.yaml"))


def test_labels_with_a_separator(tmp_path):
    put(tmp_path / "notes.csv", "t,l,s\na,x;y,train\nb,,dev\nc,y,test\n")
    content = 'name: m\nreader: table\ndata: notes.csv\nkind: labels\nmetric: f1\nseparator: ";"\n'
    task = find_task(str(write(tmp_path, content + "columns: {text: t, labels: l, split: s}\n")))
    divided = read_task(task, tmp_path)
    assert (task.kind, task.metric, divided.data.labels) == ("labels", "f1", ("x", "y"))
    assert divided.rule == "train, development and test are the data set's own."


def test_the_other_readers_need_a_name_and_a_reader(tmp_path):
    put(tmp_path / "notes" / "1.txt", "A man")
    put(tmp_path / "notes" / "1.ann", "T1\tSex 2 5\tman\n")
    put(tmp_path / "train.tsv", "man\tB-Sex\n")
    squad(tmp_path / "questions.json", "a", ([(0, "a")], {}))
    for reader, more, kind in (("brat", "data: notes", "entities"), ("iob", "", "entities"),
                               ("squad", "data: questions.json\nmetric: exact_match", "answers")):  # fmt: skip
        task = find_task(str(write(tmp_path, f"name: mine\nreader: {reader}\n{more}\n")))
        assert task.kind == kind and task.title == "a task of your own (my_task.yaml)"
        data = task.read(tmp_path)
        assert data.kind == kind and len(data.splits["train"]) == 1
        assert task.missing_files(tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: readmission\n", "", "name is missing; it names the task in results"),
        ("name: readmission", "name:", "name is missing"),
        ("reader: table\n", "", "reader is missing; choose brat, iob, squad or table"),
        ("reader: table", "reader: csv", r"reader is csv, must be one of brat, iob, squad, table$"),
        ("data: notes.jsonl\n", "", "data is missing; name the .csv or .jsonl file"),
        ("  text: note\n", "", "columns.text is missing; name the column of the texts"),
        ("  labels: readmitted\n", "", "columns.labels is missing; name the column of the labels"),
        ("  patient:", "  patients:", r"unknown columns.patients \(did you mean columns.patient\?\)"),
        ("title:", "titel:", r"unknown titel \(did you mean title\?\)"),
        ("labels: [yes, no]", "labels: yes", r"labels must be a list of texts, such as \[yes, no\]"),
        ("labels: [yes, no]", "labels: [yes, no, yes]", "labels has yes twice"),
        ("labels: [yes, no]", "labels: [yes, ]\nlabels: [no]", "line 11: duplicate key, first in line 10"),
        ("kind: class", "kind: classes", "kind is classes, must be one of entities, answers, class, labels or null"),
        ("kind: class", "kind: answers", "kind is answers, but the reader table gives class or labels"),
        ("kind: class", "metric: recall", "metric is recall, must be accuracy or auc or f1 for the kind class"),
        ("kind: class", "kind: labels\nmetric: accuracy", "metric is accuracy, must be auc or f1 for the kind labels"),
        ("name: readmission", "name: a/b", "name is a/b, must be letters, digits, or _ . - after the first of them"),
        ("name: readmission", "name: mednli", "name is mednli, which is a task of the catalogue; choose another"),
        ("reader: table", "reader: brat\n#", "kind is class, but the reader brat gives entities"),
        ("test: 0.3", "test: 0.7", "split.test is 0.7, must be below 0.5"),
        ("test: 0.3", "test: much", "split.test is much, must be a number"),
        ("split: {development: 0.3, test: 0.3}", "split: none", "split is none, must be a section with keys such as"),
    ],
)
def test_mistakes_are_refused(old, new, message, tmp_path):
    assert TABLE.count(old) == 1 or old == "test: 0.3"
    path = write(tmp_path, TABLE.replace(old, new))
    with pytest.raises(UserError, match=message) as error:
        read_task_file(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_keys_of_tables_are_refused_for_other_readers(tmp_path):
    path = write(tmp_path, "name: m\nreader: iob\nlabels: [a]\ncolumns: {text: t}\n")
    with pytest.raises(UserError, match="columns, labels: only for the reader table; delete it"):
        read_task_file(path)


def test_a_file_of_something_else_is_not_quoted(tmp_path):
    path = write(tmp_path, "Janeroe has pain: since May\n")
    with pytest.raises(UserError, match=r"none of its keys is a setting, such as name$") as error:
        read_task_file(path)
    assert "Janeroe" not in str(error.value)
    with pytest.raises(UserError, match=r"other\.yaml: cannot be read"):
        find_task(str(tmp_path / "other.yaml"))


def test_every_kind_has_a_reader_and_a_measure():
    assert {kind for kinds in KINDS.values() for kind in kinds} == set(METRICS)


def test_the_examples_of_the_documentation(tmp_path):
    """One for each reader; that of the table reads a file with its columns."""
    page = (REPOSITORY / "docs" / "how-to" / "evaluate.md").read_text()
    examples = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    tasks = [read_task_file(write(tmp_path, example)) for example in examples]
    assert [task.read.keys.reader for task in tasks] == ["table", "brat", "iob", "squad"]
    rows = "".join(f"n{i},{('yes', 'no')[i % 2]},{i}\n" for i in range(60))
    put(tmp_path / "discharge.csv", "note,readmitted,patient_id\n" + rows)
    assert read_task(tasks[0], tmp_path).data.labels == ("no", "yes")


def test_the_data_may_be_elsewhere(tmp_path):
    """An absolute path is no pattern."""
    task = read_task_file(write(tmp_path, f"name: mine\nreader: brat\ndata: {tmp_path}/notes\n"))
    assert task.missing_files(tmp_path / "empty") == [f"{tmp_path}/notes"]
    put(tmp_path / "notes" / "1.txt", "A man")
    put(tmp_path / "notes" / "1.ann", "")
    assert task.missing_files(tmp_path / "empty") == [] and len(task.read(tmp_path / "empty").splits["train"]) == 1
