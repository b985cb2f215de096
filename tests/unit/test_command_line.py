"""What a command says before it does anything, and how it is typed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY
from run_folders import train_line, write_run

from clinical_pretrain.cli import main
from clinical_pretrain.commands.options import make_parser, parse
from clinical_pretrain.commands.run import divide
from tokenizer_tools.command_line import typed

RUN = str(REPOSITORY / "clinical_pretrain" / "run.py")
DEMO = str(REPOSITORY / "configs" / "demo_cpu.yaml")
CONFIG = str(REPOSITORY / "configs" / "clinical_longformer.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("make-notes", "missing: --out (see clinical-pretrain make-notes --help)"),
        ("make-notes --out n.csv --patients many", "--patients is many, must be a whole number (see"),
        ("make-notes --out n.csv --patients 0", "--patients is 0, must be at least 1"),
        ("make-notes --out n.csv --seed -1", "--seed is -1, must be at least 0"),
        ("chaos --faults 0 --ranks 0", "--faults is 0, must be at least 1; --ranks is 0, must be at least 1"),
        ("build-shards --notes x --out y --tokenizer z --split.validation a", "--split.validation is a, must be a num"),
        (
            "build-shards --notes x --out y --tokenizer z --cleaning.whitespace so",
            "--cleaning.whitespace is so, must be",
        ),
        (
            "build-shards --notes x --out y --tokenizer z --stage x",
            "--stage is x, must be one of all, prepare, scan (see",
        ),
        ("build-shards --notes x --out y --tokenizer z --files x", "--files is x, must be one of csv, jsonl, parquet"),
        (
            "build-shards --notes x --out y --tokenizer z --sequence-length 7 --notes-per-part 0",
            "--sequence-length is 7, must be at least 8; --notes-per-part is 0, must be at least 1",
        ),
        ("build-shards --notes x --out y --tokenizer z --workers 0", "--workers is 0, must be at least 1"),
        (
            "submit-shards --notes x --out y --tokenizer z --sequence-length 7",
            "--sequence-length is 7, must be at least 8",
        ),
        (
            "build-shards --notes x --out y --tokenizer z --split.lists ids.txt",
            "--split.lists sets nothing by itself; write one of --split.lists.train, --split.lists.validation, --split",
        ),
        ("clean --notes x --columns=x", "--columns sets nothing by itself; write one of --columns.text, --columns.p"),
        ("train-tokenizer --notes x --out y --vocab-size 9", "--vocab-size is 9, must be at least 300"),
        ("inspect-tokenizer --notes x --tokenizer y --sizes a", "--sizes a: must be numbers of words separated by"),
        ("inspect-tokenizer --notes x", "missing: --tokenizer (see clinical-pretrain inspect-tokenizer --help)"),
        (
            "clean --notes x --cleaning.profile papers",
            "--cleaning.profile is papers, must be one of minimal, default, p",
        ),
        (
            "build-shards --notes x --out y --tokenizer z --split.list.test f",
            "unknown --split.list.test (did you mean --split.lists.test?",
        ),
        (
            "build-shards --notes x --out y --tokenizer z --duplicates.threshold 0.2",
            "--duplicates.threshold is 0.2, must be at least 0.5",
        ),
        (
            "build-shards --notes x --out y --tokenizer z --duplicates.copied_words 50 --duplicates.ngram 4",
            "--duplicates.ngram: has no effect without --duplicates.near drop or keep; add that, or leave it out; "
            "--duplicates.copied_words: has no effect without --duplicates.copied drop; add that, or leave it out",
        ),
        ("verify nowhere", "nowhere: no such folder; shards are made with"),
        ("describe-shards nowhere", "nowhere: no such folder; shards are made with"),
        ("clean --notes x --show -1", "--show is -1, must be at least 0"),
        ("clean --notes x --show 2", "--show prints text of notes, and the output is no terminal, so it could land in"),
        (
            "extend-vocabulary --tokenizer x --out y",
            "missing: --notes or --sources, from which words are learned (--size 0 adds",
        ),
        ("extend-vocabulary --tokenizer x --out y --tokens NAME", "--tokens: 'NAME' must be letters and digits in br"),
        ("push x", "missing: --repo-id"),
        ("push x --repo-id a/b --private maybe", "--private is maybe, must be true or false"),
        ("export x --out=", "--out: empty; is a variable of the shell unset?"),
        ("finetune --data x", "missing: --task, --model (see clinical-pretrain finetune --help)"),
        ("finetune --task x --data y --model z --name a/b", "--name 'a/b': not a name"),
        ("evaluate --suite x --data-root y --models z", "--models z: write a model's name and a folder, as in ours=mo"),
        ("evaluate --suite x --data-root y --models a=z --seeds 0", "--seeds is 0, must be at least 1"),
        ("evaluate --suite bc5cdr --data-root y --models a=z --epochs 0", "--epochs must be at least 1"),
        ("submit-evaluate --suite x --data-root y --models a=z --epoch 1", "unknown --epoch (did you mean --epochs?)"),
        ("watch", "missing: runs (see clinical-pretrain watch --help)"),
        ("sync x --to tensorboard", "--to is tensorboard, must be one of wandb, mlflow"),
        ("foo", "unknown foo (choose from build-shards, verify, describe-shards, withdraw,"),
        ("show configs/demo.yaml", "configs/demo.yaml: no such file comes with the package; there are c"),
        ("run", "--config is missing; give a YAML file with the run's settings, such as configs/clinical_bigbird.yaml"),
        ("run --config demo_cpu.yaml --num_gpus", "--num_gpus: its value is missing"),
        ("run --config demo_cpu.yaml --num_gps 2", "unknown --num_gps"),
        ("run --config demo_cpu.yaml --num_gpus -1", "--num_gpus is -1, must be a whole number of ranks, at least 1"),
        (
            "doctor --num_gpus two",
            "--num_gpus is two, must be a whole number of ranks, at least 1; without it there is one per GPU",
        ),
        ("doctor --num_gpus 0", "--num_gpus is 0, must be a whole number of ranks, at least 1"),
        ("doctor --num_gpus=", "--num_gpus is empty, must be a whole number of ranks, at least 1"),
        ("plan --gpus -3", "--gpus is -3, must be at least 1"),
        ("plan --json .", ".: a folder; name a file by --json"),
        ("watch x --json no/x.json", "no/x.json: there is no folder no; make it first"),
        ("make-notes --out n.csv --json no/x.json", "no/x.json: there is no folder no; make it first"),
    ],
)
def test_mistakes_are_told_in_plain_words(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_both_commands_say_their_version(capsys):
    assert main(["--version"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("clinical-pretrain ") and said.split()[1][0].isdigit()
    done = subprocess.run([sys.executable, RUN, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, said)


def test_output_in_an_encoding_that_lacks_a_character(tmp_path):
    run = tmp_path / "Lauf Ärzte"
    write_run(run, [train_line(10)])
    call = [sys.executable, "-m", "clinical_pretrain", "status", str(run)]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "Lauf ?rzte" in done.stdout and not done.stderr, done.stderr


MISTAKES = [
    [],
    ["--config", "nowhere.yaml"],
    ["--config", CONFIG, "--lr", "1"],
    ["--config", CONFIG, "--max_steps", "0"],
    ["--config", CONFIG, "--data.shards", "nowhere"],
    ["--config", CONFIG, "--data.shards", "SHARDS", "--deepspeed", "nowhere.json"],
    ["--config", CONFIG, "--run_dir", CONFIG],
    ["--config", DEMO, "--data.shards", "SHARDS"],
    ["--config", CONFIG, "--data.shards", "SHARDS", "--model.name_or_path", "/nowhere"],
    ["foo"],
    ["run", "--config", CONFIG, "--data.shards", "nowhere"],
    ["run", "--config", CONFIG, "--run_dir", CONFIG],
    ["run", "--num_gpus", "1", "--config", CONFIG, "--data.shards", "SHARDS", "--model.name_or_path", "/nowhere"],
    ["verify", "nowhere"],
    ["clean", "--notes", "nowhere"],
    ["export", "nowhere", "--out", "x"],
    ["push", "nowhere", "--repo-id", "a/b"],
    ["report", "nowhere"],
    ["compare", "nowhere", "elsewhere"],
    ["plot", "nowhere"],
    ["status", "nowhere"],
    ["watch", "nowhere"],
    ["sync", "nowhere", "--to", "wandb"],
    ["chaos", "--config", "nowhere.yaml"],
    ["submit", "--config", "nowhere.yaml"],
    ["submit", "--doctor", "--config", DEMO, "--sweep", "seed=1,2"],
    ["doctor", "--config", "nowhere.yaml"],
    ["doctor", "--data.shards", "nowhere"],
    ["doctor", "--slurm.warning_second", "9"],
    ["submit", "--config", CONFIG, "--max_steps", "0"],
    ["submit", "--config", CONFIG, "--data.shards", "nowhere"],
    ["submit", "--config", CONFIG, "--slurm.nodes", "0"],
    ["submit", "--config", CONFIG, "--slurm.partition", "a100\n#SBATCH --exclusive"],
    ["submit", "--config", DEMO, "--data.shards", "SHARDS", "--slurm.gpus_per_node", "3"],
    ["submit-shards", "--notes", "nowhere", "--tokenizer", "x", "--out", "y"],
    ["inspect-tokenizer", "--notes", "nowhere", "--tokenizer", "x"],
    ["extend-vocabulary", "--notes", "nowhere", "--tokenizer", "x", "--out", "y"],
    ["extend-vocabulary", "--notes", "x", "--tokenizer", "x", "--out", "y", "--model", "/nowhere"],
    ["finetune", "--task", "nothing", "--data", "x", "--model", "y"],
    ["finetune", "--task", "bc5cdr", "--data", "nowhere", "--model", "/nowhere"],
    ["evaluate", "--suite", "nothing", "--data-root", "x", "--models", "a=y"],
    ["evaluate", "--suite", "bc5cdr", "--data-root", "nowhere", "--models", "a=/nowhere"],
    ["submit-evaluate", "--suite", "bc5cdr", "--data-root", "nowhere", "--models", "a=/nowhere"],
]


def test_run_divides_its_options_from_the_launchers():
    words = ["--num_gpus", "2", "--config", "c.yaml", "--master_port=7", "--optim.learning_rate", "1"]
    launcher, training = divide(words)
    assert launcher == ["--num_gpus", "2", "--master_port", "7"]
    assert training == ["--config", "c.yaml", "--optim.learning_rate", "1"]


def test_what_the_launcher_refuses_is_one_line(config_file, shards, tmp_path):
    call = [sys.executable, "-m", "clinical_pretrain", "run", "--include", "localhost:7", "--config", str(config_file),
            "--data.shards", str(shards)]  # fmt: skip
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: DeepSpeed's launcher: No slot '7'")
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())


def test_mistakes_are_told_before_the_seconds_that_pytorch_takes(shards, tmp_path):
    code = """
import os, runpy, sys
from clinical_pretrain.cli import main
for words in MISTAKES:
    if words and not words[0].startswith("-"):
        assert main(words) == 2, words
    else:
        sys.argv, os.environ["WORLD_SIZE"] = ["run.py", *words], "3"
        try:
            runpy.run_path(RUN, run_name="__main__")
        except SystemExit as end:
            assert end.code == 2, words
    assert not {"torch", "transformers", "deepspeed"} & sys.modules.keys(), words
"""
    mistakes = [[str(shards) if word == "SHARDS" else word for word in words] for words in MISTAKES]
    code = f"MISTAKES, RUN = {mistakes!r}, {RUN!r}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    errors = done.stderr.splitlines()
    assert len(errors) == len(MISTAKES) and all(line.startswith("error: ") for line in errors), done.stderr
    assert not list(tmp_path.iterdir())


def test_an_interrupt_amid_an_import_is_no_error(tmp_path):
    """Libraries would go on without the rest of a module, or raise an ImportError."""
    (tmp_path / "run.json").write_text("{}")
    call = [sys.executable, "-m", "clinical_pretrain", "export", str(tmp_path), "--out", str(tmp_path / "model")]
    for wait in (0, 0.1, 0.2):
        process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.005)
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        error = process.communicate()[1]
        assert (process.returncode, error) == (130, "stopped; the same command resumes from here\n")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    """Also after an equals sign, where no shell expands it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").mkdir()
    assert main(["make-notes", "--out=~/n.csv", "--patients", "1", "--json", "~/a/b.json"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"n.csv", "a"} and (tmp_path / "a" / "b.json").exists()


def test_only_the_rank_that_writes_json_needs_its_folder(tmp_path, monkeypatch):
    """As doctor under srun, on a node that doesn't share the run folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "1")
    assert parse(make_parser("doctor", None), ["--json", "no/x.json"]).json == "no/x.json"


def test_no_home_is_needed(tmp_path, monkeypatch, capsys):
    """HOME isn't set, and the user has none in the password file, as in a container."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    assert main(["make-notes", "--out", "n.csv", "--patients", "20"]) == 0
    assert main(["train-tokenizer", "--notes", "n.csv", "--out", "tokenizer", "--vocab-size", "400"]) == 0
    words = ["build-shards", "--notes", "n.csv", "--tokenizer", "tokenizer", "--out", "shards", "--workers", "1"]
    assert main(words) == 2
    assert capsys.readouterr().err.endswith("no home folder is known for the patient key; name its file with "
                                            "--patient-key\n")  # fmt: skip
    assert main([*words, "--patient-key", "key"]) == 0


def test_the_next_command_can_be_typed_as_it_is_printed(tmp_path, monkeypatch):
    scripts = tmp_path / "my env" / "bin"
    scripts.mkdir(parents=True)
    for name in ("python", "clinical-pretrain"):
        (scripts / name).write_text("#!/bin/sh\n")
        (scripts / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(scripts / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert typed() == f"'{scripts}/clinical-pretrain'"
    monkeypatch.chdir(tmp_path)
    assert typed() == "'my env/bin/clinical-pretrain'"
    monkeypatch.setenv("PATH", f"{scripts}:/usr/bin:/bin")
    assert typed() == "clinical-pretrain"
    (scripts / "clinical-pretrain").unlink()
    assert typed() == f"'{scripts}/python' -m clinical_pretrain"


@pytest.mark.parametrize(("words", "hint"), [
    (["--patient", "MRN"], "did you mean --columns.patient?"),
    (["--patient-column", "MRN"], "did you mean --columns.patient?"),
    (["--text_col=note"], "did you mean --columns.text?"),
    (["notes.csv"], "notes are named by --notes"),
])  # fmt: skip
def test_other_ways_to_name_columns_and_notes_are_understood(words, hint, capsys):
    assert main(["build-shards", "--notes", "a.csv", "--tokenizer", "t", "--out", "o", *words]) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("command", ["build-shards", "clean", "run", "submit"])
def test_help_shows_meanings_rather_than_python(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert not re.search(r"default: null|Optional|type: | CONFIG|default: \)|Default.*\(default", text)
    choices = {
        "build-shards": "(null: as the profile says)",
        "clean": "the kind to read. (one of csv, jsonl, parquet, txt, xml)",
        "run": "transformers needs 4 or more. (default: 128)",
        "submit": "(default: 24:00:00)",
    }
    assert choices[command] in text
