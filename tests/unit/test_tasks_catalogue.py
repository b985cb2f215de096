"""The catalogue: each task reads its data, is found by its name, and says what it needs; `clinical-pretrain tasks`."""

import json
from dataclasses import replace

import pytest
from conftest import SHARED
from entity_files import event, folder_2006, folder_2010, folder_2012, folder_2014, note_xml, phi, put, records_2006
from test_tasks_classification import jsonl, mednli, mimic, openi_folder, pubmedqa
from test_tasks_kidney_injury import tables
from test_tasks_questions import emrqa, entity, medconcepts, squad

from clinical_pretrain.cli import main
from clinical_pretrain.tasks.catalogue import SUITES, TASKS, find_suite, find_task, read_task
from clinical_pretrain.tasks.task_file import METRICS
from tokenizer_tools.errors import UserError

SHARED_FOLDERS = {
    "bc5cdr": "tasks/BC5CDR-IOB",
    "maccrobat": "tasks/maccrobat2020",
    "covid_qa": "tasks/covid_qa",
    "mtsamples": "notes",
}
TAGS = "low\tB-Disease\nbone\tI-Disease\n\n"
RISK = {"answer_start": [0, 0], "text": "Janeroe", "evidence": "Janeroe is a patient .\n", "evidence_start": 0}


def write_i2b2(root):
    folder_2006(root / "i2b2_2006", records_2006('<PHI TYPE="DATE">May</PHI>'))
    folder_2010(root / "i2b2_2010", "Pain .", 'c="pain" 1:0 1:0||t="problem"\n')
    folder_2012(root / "i2b2_2012", note_xml("Fall", event(0, 4, "Fall", "PROBLEM")))
    folder_2014(root / "i2b2_2014", note_xml("May", phi(0, 3, "May")))


def write_emrqa(folder):
    folder.mkdir()
    parts = []
    for part, answer in (("medication", entity(4, 1, "pain")), ("relations", entity(4, 1, "pain")), ("risk", RISK)):
        parts += json.loads(emrqa(folder / "data.json", part, answer).read_text())["data"]
    (folder / "data.json").write_text(json.dumps({"data": [part for part in parts if part["paragraphs"]]}))


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """The smallest data of all tasks, in the data sets' own formats."""
    root = tmp_path_factory.mktemp("data")
    write_i2b2(root)
    write_emrqa(root / "emrqa")
    for name in ("mednli", "openi", "mimic_aki", "medconceptsqa", "covid_qa", "pubmedqa", "mtsamples"):
        (root / name).mkdir()
    mednli(root / "mednli", ("train", "a", "entailment"), ("dev", "b", "neutral"), ("test", "c", "neutral"))
    (root / "openi" / "mimic_cxr").mkdir()
    mimic(root / "openi" / "mimic_cxr", ("10000032", "1", "0," * 13 + "0"))
    openi_folder(root / "openi" / "openi")
    tables(root / "mimic_aki", ending=".csv.gz")
    question = (1, "A", "a", "abcd")
    medconcepts(root / "medconceptsqa", "all", dev=[question], test=[question])
    for name in ("bc5cdr", "ncbi_disease"):
        for split in ("train", "devel", "test"):
            put(root / name / f"{split}.tsv", TAGS)
    put(root / "maccrobat" / "1.txt", "A man")
    put(root / "maccrobat" / "1.ann", "T1\tSex 2 5\tman\n")
    squad(root / "covid_qa" / "200423_covidQA.json", "a", ([(0, "a")], {}))
    pubmedqa(root / "pubmedqa" / "ori_pqal.json", a="yes", b="no")
    (root / "pubmedqa" / "test_ground_truth.json").write_text('{"a": "yes"}')
    put(root / "mtsamples" / "mtsamples.csv", "medical_specialty,transcription\n Surgery,a\n")
    return root


@pytest.mark.parametrize("name", TASKS)
def test_each_task_reads_its_data(name, data_root, tmp_path):
    task = TASKS[name]
    folder = task.folder(data_root)
    assert task.name == name and task.missing_files(folder) == []
    data = task.read(folder)
    assert data.kind == task.kind and sum(map(len, data.splits.values())) >= 1
    assert task.metric in METRICS[task.kind] and set(task.suites) <= set(SUITES) and task.suites
    assert "https://" in task.source and task.title
    assert not data.report.left_out or name == "openi"
    assert task.missing_files(tmp_path) == task.shown_files() != []


def test_the_paper_has_ten_tasks_and_medconceptsqa():
    paper = find_suite("paper")
    fine_tuned = [task for task in paper if task.choices is None]
    assert len(fine_tuned) == 10 and len(paper) == 14 and len(find_suite("open")) == 6
    assert all(task.paper for task in fine_tuned) and not any(task.paper for task in find_suite("open"))
    for task in fine_tuned:
        assert all(sentence.endswith(".") for sentence in task.paper.deviations) and task.paper.deviations
    assert {(task.choices.method, task.choices.shots) for task in paper if task.choices} == {
        ("prompt", 0), ("prompt", 4), ("pseudo_log_likelihood", 0), ("pseudo_log_likelihood", 4),
    }  # fmt: skip


def test_answers_of_emrqa_are_lines_of_under_twenty_words(data_root):
    """As in CliniRC; the three tasks share one file."""
    for name in ("emrqa_medication", "emrqa_relation", "emrqa_risk"):
        (document,) = TASKS[name].read(TASKS[name].folder(data_root)).splits["train"]
        answers = {answer.text for question in document.questions for answer in question.answers}
        assert answers == {"Janeroe is a patient ." if name == "emrqa_risk" else "for pain"}


def test_names_of_files_may_be_in_lower_case(tmp_path):
    for name in ("icustays.csv", "patients.csv.gz", "LABEVENTS.csv"):
        put(tmp_path / name, "")
    assert TASKS["mimic_aki"].missing_files(tmp_path) == ["NOTEEVENTS.csv.gz or NOTEEVENTS.csv"]


def test_a_name_is_found_or_the_nearest_one_is_named():
    assert find_task("i2b2_2010") is TASKS["i2b2_2010"]
    with pytest.raises(UserError, match=r"unknown task i2b2_2010x \(did you mean i2b2_2010\?\); `.*tasks` lists all"):
        find_task("i2b2_2010x")
    with pytest.raises(UserError, match=r"unknown task papers \(did you mean paper\?\)"):
        find_suite("papers")
    with pytest.raises(UserError, match="unknown task xyz; "):
        find_suite("bc5cdr,xyz")
    with pytest.raises(UserError, match=r"no task is named; name a suite \(paper, open\) or tasks with commas"):
        find_suite(" ,")


def test_a_suite_has_each_task_once(tmp_path):
    assert [task.name for task in find_suite("mtsamples, bc5cdr,open")] == [
        "mtsamples", "bc5cdr", "ncbi_disease", "maccrobat", "covid_qa", "pubmedqa",
    ]  # fmt: skip
    for number in (1, 2):
        put(tmp_path / f"{number}.yaml", f"name: mine\nreader: brat\ndata: folder{number}\n")
    assert len(find_suite(f"{tmp_path}/1.yaml,{tmp_path}/1.yaml")) == 1
    with pytest.raises(UserError, match=r"2\.yaml: another task is named mine, too; rename one"):
        find_suite(f"{tmp_path}/1.yaml,{tmp_path}/2.yaml")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"nowhere: no such folder; bc5cdr needs one with train\.tsv, devel\.tsv, test\.tsv \(from"
    ):
        read_task(TASKS["bc5cdr"], tmp_path / "nowhere")


def test_multiple_choice_has_no_train(data_root):
    task = TASKS["medconceptsqa_prompt_4"]
    divided = read_task(task, task.folder(data_root))
    assert list(divided.data.splits) == ["development", "test"] and divided.data.labels == tuple("ABCD")
    assert divided.rule.endswith("test are the data set's own.")


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", SHARED_FOLDERS)
def test_the_open_tasks_of_the_shared_data(name):
    task = replace(TASKS[name], data_name=SHARED_FOLDERS[name])
    assert task.missing_files(task.folder(SHARED)) == []
    divided = read_task(task, task.folder(SHARED))
    counts = {split: len(documents) for split, documents in divided.data.splits.items()}
    assert list(counts) == ["train", "development", "test"]
    if name == "bc5cdr":
        assert divided.rule == "train, development and test are the data set's own."
        return
    whole = sum(counts.values())
    assert whole == {"maccrobat": 200, "covid_qa": 98, "mtsamples": 2357}[name]
    assert 0.08 < counts["development"] / whole < 0.22 and 0.13 < counts["test"] / whole < 0.28
    if name == "mtsamples":
        for label in divided.data.labels:
            assert sum(label in document.labels for document in divided.data.splits["test"]) >= 10, label


# The command ---------------------------------------------------------------------------------------------------------


def run_tasks(capsys, *arguments, code=0):
    assert main(["tasks", *map(str, arguments)]) == code
    return capsys.readouterr()


def test_the_list_of_tasks(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    out = run_tasks(capsys, "--json", tmp_path / "tasks.json").out
    assert [line for line in out.splitlines() if line and not line.startswith(" ")] == list(TASKS)
    assert all(len(line) < 80 or "https://" in line for line in out.splitlines())
    assert "    from https://physionet.org/content/mednli (PhysioNet credentialed access)\n" in out
    assert "    needs in emrqa/: data.json\n" in out and "found" not in out and "**" not in out
    facts = json.loads((tmp_path / "tasks.json").read_text())["tasks"]
    assert [fact["task"] for fact in facts] == list(TASKS)
    assert facts[0] == {"task": "i2b2_2006", "title": TASKS["i2b2_2006"].title, "kind": "entities", "metric": "f1",
                        "suites": ["paper"], "source": TASKS["i2b2_2006"].source, "folder_name": "i2b2_2006",
                        "files": [name.removeprefix("**/") for name in TASKS["i2b2_2006"].files]}  # fmt: skip


def test_what_is_found(capsys, data_root, tmp_path):
    out = run_tasks(capsys, "--suite", "paper", "--data-root", data_root).out
    assert out.endswith(f"{data_root}: 14 of 14 tasks found\n") and out.count("    found in ") == 14
    put(tmp_path / "mednli" / "mli_train_v1.jsonl", "")
    out = run_tasks(capsys, "--suite", "mednli,openi", "--data-root", tmp_path).out
    flat = " ".join(out.split())
    assert f"not found: {tmp_path}/mednli lacks mli_dev_v1.jsonl, mli_test_v1.jsonl" in flat
    assert f"not found: no folder {tmp_path}/openi" in flat and out.endswith("0 of 2 tasks found\n")


def test_what_is_read(capsys, tmp_path):
    """Counts by split, how the splits were made, and what was mended; or the reader's refusal."""
    put(tmp_path / "mednli" / "mli_train_v1.jsonl", "Janeroe\n")
    for name in ("mli_dev_v1.jsonl", "mli_test_v1.jsonl"):
        put(tmp_path / "mednli" / name, "")
    rows = [{"text": f"note {i % 100}", "specialties": ["Surgery"]} for i in range(101)]
    (tmp_path / "mtsamples").mkdir()
    path = jsonl(tmp_path / "mtsamples" / "mtsamples_unique.jsonl", *rows, {"text": " ", "specialties": []})
    options = ["--suite", "mednli,mtsamples,openi", "--data-root", tmp_path, "--read"]
    out = run_tasks(capsys, *options, "--json", tmp_path / "tasks.json", code=2).out
    flat = " ".join(out.split())
    assert f"found, but it can't be used: {tmp_path}/mednli/mli_train_v1.jsonl:1: not JSON" in flat
    assert "Janeroe" not in out and out.endswith(f"{tmp_path}: 1 of 3 tasks found\n")
    unreadable, read, missing = json.loads((tmp_path / "tasks.json").read_text())["tasks"]
    assert [fact["state"] for fact in (unreadable, read, missing)] == ["unreadable", "read", "no folder"]
    counts = read["documents"]
    assert list(counts) == ["train", "development", "test"] and sum(counts.values()) == 100
    assert f"{counts['train']} train, {counts['development']} development, {counts['test']} test (the data set" in flat
    assert f"mended: row with the text of an earlier one, 1 (first: {path}:101)" in flat
    assert f"left out: row without a text, 1 (first: {path}:102)" in flat
    assert read["left_out"] == {"row without a text": 1} and "split_rule" in read


def test_options_that_make_no_sense_are_refused(capsys, tmp_path):
    assert "--read needs --data-root" in run_tasks(capsys, "--read", code=2).err
    assert "did you mean bc5cdr?" in run_tasks(capsys, "--suite", "bc5cdrr", code=2).err
