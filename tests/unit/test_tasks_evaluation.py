"""Evaluations: what is done isn't done again, what differs isn't mixed, what can't be done doesn't stop the rest."""

import json
import re
import shutil
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clinical_pretrain.cli import main
from clinical_pretrain.commands.evaluate import _parse, evaluation_parser, named_models
from clinical_pretrain.release.facts_file import write_facts
from clinical_pretrain.tasks.finetune_settings import FinetuneSettings
from clinical_pretrain.tasks.results import ResultFolder, find_results
from clinical_pretrain.tasks.trials import ADDED_LATER, NamedModel, TaskFolder, Trial
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest

# Options -----------------------------------------------------------------------------------------------------------


def test_models_are_named():
    assert named_models("base=org/x,ours=model/=1", "ours=shards/") == [
        NamedModel("base", "org/x"),
        NamedModel("ours", "model/=1", Path("shards/")),
    ]
    for models, shards, said in (
        ("", "", "--models names none"),
        ("model/", "", "--models model/: write a model's name and a folder"),
        ("a=", "", "--models a=: write a model's name"),
        ("a=x,a=y", "", "--models: a is given twice"),
        ("a b=x", "", "--models 'a b': not a name"),
        ("a=x", "b=y", "--shards: b is no name of --models, which has a"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            named_models(models, shards)


@pytest.mark.parametrize(
    ("trained_on", "is_refused"), [(["own"], False), (["own", "others"], False), (["others"], True), ([], False)]
)
def test_shards_must_be_those_of_the_models_pretraining(trained_on, is_refused, shards, tmp_path):
    """Where the model says which they were: an export does."""
    fingerprints = {"own": Manifest.load(shards).fingerprint, "others": "e0" * 32}
    if trained_on:
        write_facts(tmp_path, {"data": [{"fingerprint": fingerprints[name]} for name in trained_on]})
    said = f"{fingerprints['own'][:12]}, but {tmp_path} was pretrained on e0e0e0e0e0e0; name those shards, or none"
    with pytest.raises(UserError, match=re.escape(said)) if is_refused else nullcontext():
        named_models(f"ours={tmp_path}", f"ours={shards}")


# Real trials: a tiny model and a tiny task ---------------------------------------------------------------------------

SETTINGS = ("--epochs", "1", "--max-steps", "1", "--max-length", "64", "--learning-rates", "[0.001]")


@pytest.fixture(scope="module")
def tiny(corpus, tmp_path_factory):
    """A Longformer with random weights in `model`, and entities in IOB in `data/words`."""
    from transformers import LongformerConfig, LongformerForMaskedLM

    root = tmp_path_factory.mktemp("tiny")
    shutil.copytree(corpus / "tokenizer", root / "model")
    config = LongformerConfig(vocab_size=1000, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                              intermediate_size=32, attention_window=[32], max_position_embeddings=514, pad_token_id=1,
                              bos_token_id=0, eos_token_id=2, sep_token_id=2)  # fmt: skip
    LongformerForMaskedLM(config).save_pretrained(root / "model")
    write_words(root / "data" / "words")
    return root


@pytest.fixture(scope="module")
def unread(tmp_path_factory):
    """The same folders with a model that isn't read."""
    root = tmp_path_factory.mktemp("unread")
    (root / "model").mkdir()
    (root / "model" / "config.json").write_text("{}")
    write_words(root / "data" / "words")
    return root


def write_words(folder):
    """Sentences in which a drug is an entity."""
    folder.mkdir(parents=True)
    for split, count in (("train", 20), ("devel", 12), ("test", 12)):
        sentences = [f"takes\tO\naspirin\tB-Drug\n{number}\tO\nmg\tO\n" for number in range(count)]
        (folder / f"{split}.tsv").write_text("\n".join(sentences))


@pytest.fixture
def words(monkeypatch):
    """A task that is in the catalogue for a test."""
    from clinical_pretrain.tasks import catalogue
    from clinical_pretrain.tasks.readers.iob import read_iob

    task = catalogue.Task("words", "Drugs in sentences", "entities", "f1", read_iob, "here", ("test.tsv",))
    for name in ("words", "absent"):
        monkeypatch.setitem(catalogue.TASKS, name, replace(task, name=name))


def evaluate(root, out, *more):
    """The command's exit code."""
    return main(["evaluate", "--suite", "absent,words", "--data-root", str(root / "data"), "--models",
                 f"ours={root / 'model'}", "--out", str(out), *SETTINGS, *more])  # fmt: skip


def bytes_of(results):
    return {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_what_is_done_is_not_done_again(words, tiny, shards, tmp_path, capsys, monkeypatch):
    out, report = tmp_path / "results", tmp_path / "report.json"
    assert evaluate(tiny, out, "--seeds", "1") == 2
    said, error = capsys.readouterr()
    left_out, ending = error.splitlines()
    assert left_out.startswith(f"left out: absent: {tiny}/data/absent: no such folder")
    assert ending == "error: 1 left out, as said above; mend that, and the same command does what is missing"
    lines = said.splitlines()
    assert lines[0].startswith("words: ") and lines[1] == "words, ours, seed 0: started"
    assert any(re.fullmatch(r"words, ours, seed 0: f1 [\d.]+ % \[[\d.]+, [\d.]+\], 0:00:\d\d", line) for line in lines)
    assert "  a trial: fine-tuned for at most 1 steps; no result of a model" in lines
    assert lines[-2] == f"{out}: 1 trials run, 0 done before, 1 left out"
    assert lines[-1].endswith(f"clinical-pretrain table {out}")

    first = bytes_of(out)
    assert evaluate(tiny, out, "--seeds", "2", "--json", str(report)) == 2
    assert bytes_of(out).items() > first.items()
    facts = json.loads(report.read_text())
    assert (facts["run"], facts["done_before"], len(facts["missing"])) == (1, 1, 1)
    (row,) = facts["results"]
    folders = find_results(out)
    values = [folder.read().main.value for folder in folders]
    assert row["score"] == pytest.approx(np.mean(values)) and row["low"] <= row["score"] <= row["high"]
    assert {name: row[name] for name in ("task", "model", "metric", "seeds", "protocol")} == {
        "task": "words", "model": "ours", "metric": "f1", "seeds": 2, "protocol": "document"}  # fmt: skip
    assert "words, ours, mean of 2 seeds: f1" in capsys.readouterr().out
    assert [folder.read_predictions().model for folder in folders] == ["ours", "ours"]
    texts = [path.read_text() for path in out.rglob("*") if path.is_file()]
    assert not any("aspirin" in text for text in texts)

    everything = bytes_of(out)
    with monkeypatch.context() as patched:
        patched.setattr("clinical_pretrain.tasks.evaluation.run_trial", None)
        assert evaluate(tiny, out, "--seeds", "2") == 2
        assert capsys.readouterr().out.count("done before: f1") == 2 and bytes_of(out) == everything

        assert evaluate(tiny, out, "--seeds", "2", "--shards", f"ours={shards}") == 2
        assert (
            capsys.readouterr().out.count("\n  contamination: 0 of 12 test texts were in the pretraining shards") == 2
        )
    now = bytes_of(out)
    assert {path.name for path in now if now[path] != everything[path]} == {"result.json"}
    first, second = (folder.read() for folder in folders)
    assert first.contamination == second.contamination and first.contamination["texts"] == 12


@pytest.mark.slow
def test_results_of_other_trials_are_not_mixed(words, tiny, tmp_path, capsys):
    """Other settings and weights are told before anything runs, other data when it has been read."""
    out = tmp_path / "results"
    call = ["finetune", "--task", "words", "--data", str(tiny / "data" / "words"), "--out", str(out), *SETTINGS]
    report = tmp_path / "report.json"
    assert main([*call, "--model", str(tiny / "model"), "--seed", "7", "--json", str(report)]) == 0
    row = json.loads(report.read_text())
    assert set(row) == {"task", "model", "metric", "score", "low", "high", "seeds", "protocol"} and row["seeds"] == 1
    assert [folder.path.name for folder in find_results(out)] == ["seed-7"]

    everything = bytes_of(out)
    same = [*call, "--seed", "7", "--model"]
    other = shutil.copytree(tiny / "model", tmp_path / "model")
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    data = tmp_path / "data"
    write_words(data)
    (data / "test.tsv").write_text((data / "test.tsv").read_text().replace("aspirin", "codeine", 1))
    for words_, said in (
        ([*same, str(tiny / "model"), "--max-steps", "2"], "max_steps 1 (now 2)"),
        ([*same, str(other)], "other weights or another tokenizer"),
        ([*same, str(tiny / "model"), "--data", str(data)], "other data"),
    ):
        capsys.readouterr()
        assert main(words_) == 2
        said_all = capsys.readouterr()
        assert said_all.err == (
            f"error: {out}/words/model/seed-7: holds a result with {said}; go back to that, or choose another --out\n"
        )
        assert "started" not in said_all.out and bytes_of(out) == everything


@pytest.mark.slow
def test_multiple_choice_is_answered_once_without_fine_tuning(tiny, tmp_path, capsys, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setitem(sys.modules, "accelerate", None)
    folder = tmp_path / "medconceptsqa" / "all"
    folder.mkdir(parents=True)
    rows = [
        {"question_id": number, "answer": "fever", "answer_id": "A", "option1": "fever", "option2": "pain",
         "option3": "cough", "option4": "rash", "question": f"What is {number}?\nA. fever\nB. pain\nC. cough\nD. rash",
         "vocab": "ATC", "level": "easy"}
        for number in range(12)
    ]  # fmt: skip
    for split in ("dev", "test"):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    tasks = ("--suite", "medconceptsqa_prompt_0,medconceptsqa_pll_0", "--data-root", str(tmp_path))
    assert evaluate(tiny, tmp_path / "results", *tasks, "--seeds", "3") == 0
    assert f"{tmp_path}/results: 2 trials run, 0 done before, 0 left out" in capsys.readouterr().out
    results = [folder.read() for folder in find_results(tmp_path / "results")]
    assert [result.subject.protocol for result in results] == ["pseudo_log_likelihood", "prompt"]
    assert all(result.subject.settings == {} and result.splits["test"] == 12 for result in results)
    assert evaluate(tiny, tmp_path / "results", *tasks, "--epochs", "3") == 0  # of no meaning here
    assert "0 trials run, 2 done before" in capsys.readouterr().out


def test_a_setting_of_its_default_leaves_earlier_results_what_they_are(words, unread, tmp_path):
    """Results of versions without a setting are those of its default."""
    from clinical_pretrain.tasks.catalogue import TASKS

    place, model = TaskFolder(TASKS["words"], unread / "data" / "words"), NamedModel("ours", str(unread / "model"))
    settings = [
        Trial(place, model, 0, FinetuneSettings(development_documents=number), tmp_path).subject("1").settings
        for number in (0, 7)
    ]
    assert not ADDED_LATER.keys() & settings[0].keys() and settings[1]["development_documents"] == 7


def test_a_trial_that_another_process_is_at_is_left_out(words, unread, tmp_path, capsys):
    with ResultFolder.of(tmp_path, "words", "ours", 0).locked():
        assert evaluate(unread, tmp_path, "--seeds", "1", "--suite", "words") == 2
    said, error = capsys.readouterr()
    assert "started" not in said
    assert error.startswith(f"left out: words, ours, seed 0: {tmp_path}/words/ours/seed-0: another process is at this")


def test_what_cannot_be_read_is_refused_before_anything_runs(words, unread, tmp_path, capsys):
    for option, said in (
        (("--shards", "ours=nowhere"), "nowhere: no such folder; shards are made"),
        (("--models", "ours=nowhere"), "nowhere: neither a folder nor a model"),
        (("--suite", "word"), "unknown task word (did you mean words?)"),
        (("--learning-rates", "[0]"), "--learning-rates must be above 0"),
        (("--data-root", "nowhere"), "--data-root nowhere: no such folder; name the one"),
    ):
        assert evaluate(unread, tmp_path / "results", *option) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {said}") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_data_root_that_is_not_there_is_refused_by_all_commands(tmp_path, capsys):
    for command in (["tasks"], ["table", str(tmp_path)]):
        assert main([*command, "--data-root", "nowhere"]) == 2
        assert capsys.readouterr() == (
            "",
            "error: --data-root nowhere: no such folder; name the one that has a folder of data for each task\n",
        )


def test_a_missing_accelerate_is_told_first(words, unread, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert evaluate(unread, tmp_path / "results") == 2
    assert capsys.readouterr().err == (
        "error: accelerate is missing, which fine-tuning needs: pip install 'clinical-pretrain[tasks]'\n"
    )
    assert not list(tmp_path.iterdir())


# SLURM, without one --------------------------------------------------------------------------------------------------


def submission(root, out, *more):
    return main(["submit-evaluate", "--suite", "words", "--data-root", str(root / "data"), "--models",
                 f"base={root / 'model'},ours={root / 'model'}", "--seeds", "2", "--out", str(out), *SETTINGS,
                 "--slurm.gpus_per_node", "4", *more])  # fmt: skip


def test_a_dry_run_shows_the_script_and_each_tasks_command(words, unread, shards, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    out, report = tmp_path / "my results", tmp_path / "report.json"
    options = ("--shards", f"ours={shards}", "--patient-key", "a key", "--dry-run", "--json", str(report))
    assert submission(unread, out, *options) == 0
    said = capsys.readouterr().out
    assert "#SBATCH --array=0-3%" in said and "#SBATCH --gpus-per-node=1\n" in said
    assert "export MAX_STARTS=${MAX_STARTS:-3}\n" in said
    commands = json.loads(report.read_text())["commands"]
    assert commands[3] == (
        f"python -m clinical_pretrain finetune --task words --data {unread}/data/words --model {unread}/model "
        f"--name ours --seed 1 --out '{out}' --shards {shards} --patient-key 'a key' --learning-rates '[0.001]' "
        "--epochs 1 --max-length 64 --max-steps 1"
    )
    assert "shards" not in commands[0] and "patient" not in commands[0]
    assert said.count("runs: python -m") == 4 and not out.exists()
    assert f"{out}: 4 trials to run, 0 done before, 0 queued or running already, 0 left out" in said


def test_a_task_of_ones_own_is_submitted_by_its_file(words, unread, tmp_path, capsys, monkeypatch):
    """And what can't be run is told on the login node."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("name: words\nreader: iob\n")
    assert submission(unread, Path("results"), "--dry-run", "--suite", "mine.yaml") == 2
    assert "name is words, which is a task of the catalogue" in capsys.readouterr().err
    Path("mine.yaml").write_text("name: mine\nreader: iob\ndata: ../words\n")
    (unread / "data" / "mine").mkdir()
    call = ("--dry-run", "--suite", "absent,mine.yaml", "--json", "report.json")
    assert submission(unread, Path("results"), *call) == 2
    said, error = capsys.readouterr()
    assert "results: 4 trials to run, 0 done before, 0 queued or running already, 1 left out\n" in said
    assert error.startswith("left out: absent: ") and error.count("\n") == 2
    command = json.loads(Path("report.json").read_text())["commands"][0]
    assert f"--task {tmp_path}/mine.yaml --data {unread}/data/mine " in command
    assert submission(unread, Path("results"), "--dry-run", "--protocol", "paper") == 2
    said, error = capsys.readouterr()
    assert error.startswith("left out: words: not a task of the paper; use --protocol document\n")
    assert "#SBATCH" not in said and {path.name for path in tmp_path.iterdir()} == {"mine.yaml", "report.json"}


def test_only_what_is_neither_done_nor_queued_is_submitted(words, unread, tmp_path, capsys, monkeypatch):
    """By stand-ins: sbatch takes every job as number 7, and squeue knows one task of it."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in (
        ("sbatch", "echo Submitted batch job 7"),
        ("srun", "true"),
        ("sacct", "echo FAILED"),
        ("squeue", 'case "$*" in *7_1) echo FAILED;; *) echo RUNNING;; esac'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    out, report = tmp_path / "results", tmp_path / "report.json"
    assert submission(unread, out, "--json", str(report)) == 0
    assert json.loads(report.read_text())["jobs"] == ["7_0", "7_1", "7_2", "7_3"]
    assert submission(unread, out, "--json", str(report)) == 0
    facts = json.loads(report.read_text())
    assert (facts["queued"], facts["jobs"]) == (3, ["7"]) and "--name base --seed 1 " in facts["commands"][0]
    capsys.readouterr()
    (tools / "squeue").write_text("#!/bin/sh\nexit 1\n")
    assert submission(unread, out) == 2
    assert capsys.readouterr().err == "error: SLURM doesn't answer (see squeue); try again when it does\n"


@pytest.mark.parametrize("words", [["--learning-rates", "2e-5,5e-5"], ["--learning-rates=2e-5,5e-5"],
                                   ["--learning-rates", "[2e-5, 5e-5]"]])  # fmt: skip
def test_learning_rates_are_written_with_commas(words):
    parser = evaluation_parser("evaluate", None)
    args = _parse(parser, ["--suite", "open", "--data-root", "x", "--models", "a=b", *words])
    assert args.learning_rates == [2e-5, 5e-5]
