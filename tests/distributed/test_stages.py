"""Runs that go on after their end, or end before it; the best checkpoint; histories that aren't overwritten."""

import json
import os
import subprocess
import sys
import time

import pytest
from launching import ENVIRONMENT, REPOSITORY, WORKER, launch, losses, read_metrics, saved_steps, validations
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from clinical_pretrain.checkpoint.state import read_state
from clinical_pretrain.cli import main
from clinical_pretrain.observe.status import status, table
from clinical_pretrain.run_folder.paths import RunFolder


@pytest.fixture(scope="module")
def root(shards, tmp_path_factory):
    root = tmp_path_factory.mktemp("stages_of_a_run")
    done = launch(WORKER, "stages_of_a_run", shards, root)
    assert done.returncode == 0, done.stderr[-3000:]
    (root / "said.txt").write_text(done.stdout)
    return root


def summary(run):
    return json.loads((run / "summary.json").read_text())


def starts(run):
    return json.loads((run / "run.json").read_text())["starts"]


def test_an_extension_is_the_same_in_one_go_and_in_pieces(root):
    """The rate warms up and decays anew; samples and tokens count on."""
    whole, staged = ([[line[key] for key in ("step", "stage", "loss", "learning_rate", "samples_consumed")]
                      for line in read_metrics(root / name, "train")] for name in ("whole", "staged"))  # fmt: skip
    assert whole == staged and [line[1] for line in whole] == [1] * 8 + [2] * 4
    assert [line[3] for line in whole[8:]] == pytest.approx([2e-3, 1.5e-3, 1e-3, 5e-4])
    assert [line[4] for line in whole] == list(range(8, 97, 8))
    assert validations(root / "whole") == validations(root / "staged")
    assert saved_steps(root / "whole") == [8, 12] and saved_steps(root / "staged") == [
        8,
        10,
        12,
    ]
    assert read_state(RunFolder(root / "staged"), 12).samples_consumed == 96
    for name in ("whole", "staged"):
        facts = summary(root / name)
        assert (facts["steps"], facts["stages"], facts["samples_consumed"]) == (12, [8, 12], 96)
    assert [start["from_step"] for start in starts(root / "staged")] == [0, 8, 10]  # none for the last: it was done
    said = (root / "said.txt").read_text()
    stage = (
        "stage 2 of 2: steps 9 to 12: the learning rate warms up again over 1 step to 2.00e-03, then decays (linear)"
    )
    assert said.count(stage) == 3  # within the one go, and at the start of each piece
    assert "staged: already finished at step 12 (to train further: --extend with more than 4); next: " in said
    assert "12/12 (stage 2)" in table([status(root / "staged")])[1]


def test_a_second_stage_draws_new_rows_and_masks(root):
    """Those that one long run would draw. A micro-batch is known by the sum of its labels; two a step on each rank."""
    for rank in range(2):
        two, one = (json.loads((root / name / f"seen-{rank}.json").read_text()) for name in ("whole", "one-stage"))
        assert two == one and len(two) == 24
        assert not set(two[:16]) & set(two[16:])


def test_an_extension_goes_on_with_another_number_of_ranks(root, shards):
    done = launch(WORKER, "one_rank_goes_on", shards, root, ranks=1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(root / "by-1") == pytest.approx(losses(root / "whole"), rel=1e-5)


def test_a_run_without_progress_ends_early_and_stays_so(root):
    """Stopped between, and started once more after its end."""
    run = root / "early"
    assert [line["step"] for line in read_metrics(run, "validation")] == [0, 2, 4]
    assert len(losses(run)) == 4 and [start["from_step"] for start in starts(run)] == [0, 3]
    facts, stop = summary(run), json.loads((run / "stop.json").read_text())
    assert facts["stopped_early"] and facts["steps"] == 4 and facts["best_step"] == 2
    assert stop["exit_code"] == 0 and stop["reason"] == "finished early: the validation loss stopped falling"
    assert status(run)["state"] == "finished"
    assert (
        "early: already finished at step 4 (to train further: --validation.early_stopping_patience 0)"
        in (root / "said.txt").read_text()
    )
    assert len(losses(root / "on")) == 20 and not summary(root / "on")["stopped_early"]


def test_the_best_checkpoint_is_kept_and_exported(root, tmp_path):
    """Here it is the first stage's last; the second one's learning rate spoils the model."""
    run, best = root / "rises", 6
    assert min(validations(run)) == validations(run)[3] and summary(run)["best_step"] == best
    assert saved_steps(run) == [6, 12]
    assert [line["step"] for line in read_metrics(run, "save")] == [
        2,
        4,
        6,
        8,
        12,
    ]  # 2: only the best so far
    assert "(step 6 has the lowest validation loss: --step best)" in (root / "said.txt").read_text()
    command = ["export", str(run), "--out", str(tmp_path / "model"), "--step"]
    assert main([*command, "best"]) == 0
    assert json.loads((tmp_path / "model" / "pretraining.json").read_text())["steps"] == best
    assert main([*command, "worst"]) == 2


def test_a_run_killed_before_its_first_checkpoint_writes_its_curves_once(config_file, shards, tmp_path):
    call = [sys.executable, str(REPOSITORY / "clinical_pretrain" / "run.py"), "--config", str(config_file),
            "--data.shards", str(shards), "--run_dir", str(tmp_path / "run"),
            "--checkpoint.every_steps", "0"]  # fmt: skip
    environment, path = os.environ | ENVIRONMENT, tmp_path / "run" / "metrics.jsonl"
    process = subprocess.Popen(call, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (path.exists() and '"step": 7, "kind": "train"' in path.read_text()):
        time.sleep(0.001)
    time.sleep(0.1)
    process.kill()
    process.wait()
    reached = len(losses(tmp_path / "run"))
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    if reached < 20:
        assert (
            f"an earlier start reached step {reached} but saved no checkpoint: training restarts at step 0"
            in done.stdout
        )
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={SCALARS: 0}).Reload()
    assert [event.step for event in board.Scalars("loss/train")] == list(range(1, 21))
    assert [event.step for event in board.Scalars("loss/validation")] == [0, 20]
