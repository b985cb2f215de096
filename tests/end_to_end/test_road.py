"""The whole road, by the commands of the README."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, SHARED
from transformers import AutoModelForMaskedLM, AutoTokenizer

from clinical_pretrain.checkpoint.pending_save import size_of_checkpoint
from clinical_pretrain.cli import COMMANDS, main
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.estimate.shapes import checkpoint_bytes, from_transformers, parameters
from clinical_pretrain.models.build import freeze_unused
from clinical_pretrain.run_folder.paths import RunFolder

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def demo(tmp_path_factory, installed):
    """In an empty folder, with an installed wheel instead of the clone."""
    out = tmp_path_factory.mktemp("somewhere") / "my demo"
    call = [str(installed / "clinical-pretrain"), "demo", "--out", str(out)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(call, cwd=out.parent, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout


def test_the_demo_learns_and_says_so(demo):
    out, printed = demo
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary) == {
        "validation_loss_before",
        "validation_loss_after",
        "steps",
        "seconds",
        "model_dir",
        "max_logit_difference",
    }
    assert summary["validation_loss_after"] < summary["validation_loss_before"] - 3
    assert summary["max_logit_difference"] < 1e-4
    for part in ("fill-mask", "loss.png", "tensorboard --logdir", "configs/clinical_longformer.yaml"):
        assert part in printed
    model = AutoModelForMaskedLM.from_pretrained(summary["model_dir"])
    assert model.config.model_type == "longformer"
    assert AutoTokenizer.from_pretrained(summary["model_dir"]).model_max_length == 4096


def test_the_size_of_a_checkpoint_is_known_beforehand(demo):
    """By the model's shape, as plan says it, and by the model, as it is asked before each save."""
    (run,) = map(RunFolder, (demo[0] / "runs").iterdir())
    saved = sum(file.stat().st_size for file in run.checkpoint(run.saved_steps()[-1]).iterdir())
    model_config = json.loads((run.model_config / "config.json").read_text())
    every = parameters(from_transformers(model_config))
    total, trained = (sum(each.numel for each in every if each.is_trained or not only) for only in (False, True))
    assert checkpoint_bytes(total, trained, element=4) == pytest.approx(saved, rel=0.02)
    model = AutoModelForMaskedLM.from_pretrained(demo[0] / "model")
    freeze_unused(model, RunConfig())
    assert size_of_checkpoint(model) == checkpoint_bytes(total, trained, element=4)


def test_the_demo_works_twice(demo):
    out, _ = demo
    before = json.loads((out / "summary.json").read_text())
    call = [str(BIN / "clinical-pretrain"), "demo", "--out", str(out), "--json", str(out / "again.json")]
    done = subprocess.run(call, cwd=out.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    again = json.loads((out / "again.json").read_text())
    assert again["validation_loss_after"] == before["validation_loss_after"] and "already built" in done.stdout


def test_no_note_is_in_what_is_left(demo):
    """Beside the notes themselves: not in a log, a metric, a shard or the model."""
    out, printed = demo
    for path in out.rglob("*"):
        if path.is_file() and path.name != "NOTEEVENTS.csv.gz":
            assert b"History of Present Illness" not in path.read_bytes(), path
    assert "History of Present Illness" not in printed


def test_a_missing_notes_file_ends_the_demo_at_once(tmp_path):
    call = [str(BIN / "clinical-pretrain"), "demo", "--out", str(tmp_path / "d"), "--notes", str(tmp_path / "n.csv")]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "no such file" in done.stderr
    assert not (tmp_path / "d").exists()


@pytest.mark.shared
def test_the_real_corpus_and_vocabulary_at_4096_tokens(tmp_path):
    """With BigBird, as the demo trains a Longformer at this length."""
    script = REPOSITORY / "benchmarks" / "mtsamples.py"
    call = [sys.executable, str(script), "--family", "bigbird", "--notes", str(SHARED / "notes/mtsamples_all.jsonl.gz"),
            "--tokenizer", str(SHARED / "tokenizers" / "bigbird"), "--out", str(tmp_path), "--json",
            str(tmp_path / "r.json"), "--", "--max_steps", "8", "--optim.warmup_steps", "3",
            "--validation.max_sequences", "4"]  # fmt: skip
    done = subprocess.run(call, capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["validation_loss_after"] < result["validation_loss_before"] - 1
    assert 6 < result["unigram_entropy_of_validation_split"] < 8 and result["max_logit_difference"] < 1e-4
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "model_bigbird")
    assert model.config.max_position_embeddings >= 4096
    assert model.config.attention_type == "block_sparse"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 0, "usage: clinical-pretrain COMMAND"),
        (["--help"], 0, "build-shards"),
        (["build-shard"], 2, "did you mean build-shards?"),
        (["export"], 2, "run"),
        (["export", "nowhere", "--out", "x"], 2, "nowhere: not a run folder"),
        (["export", "nowhere", "--outt", "x"], 2, "did you mean --out?"),
        (["plot", "nowhere"], 2, "nowhere: not a run folder"),
        (["make-notes", "--out", "n.csv", "--patients", "1", "--json", "b.json"], 0, "1 patients"),
        (["make-notes", "--out", "/proc/n.csv"], 2, "/proc/n.csv"),
        (["make-notes", "--out", "n.txt"], 2, "must end in .csv"),
    ],
)
def test_the_command_line(arguments, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert message in (printed.err if code else printed.out)
    assert not code or len(printed.err.splitlines()) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0 and "--json" in capsys.readouterr().out
