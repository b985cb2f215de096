"""Whatever happens to a save or to its files, a whole checkpoint is there, and the run ends where it should."""

import json
import os
from pathlib import Path

import pytest
import torch
from launching import WORKER, alone, launch, losses, read_metrics, saved_steps
from safetensors.torch import load_file

from clinical_pretrain.checkpoint.verify import check_file_ownership, verify
from clinical_pretrain.release.export import export
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError


@pytest.fixture(scope="module")
def every_operation(shards, tmp_path_factory):
    root = tmp_path_factory.mktemp("faulty_disk")
    done = alone(WORKER.with_name("faulty_disk.py"), shards, root)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((root / "faults.json").read_text())


@pytest.mark.parametrize("kind", ["fail_at", "dead_from"])
def test_a_fault_at_every_file_operation_of_a_save(every_operation, kind):
    """A whole checkpoint is there after each: the new one where the save says so, else the one before."""
    faults = [fault for fault in every_operation if fault["kind"] == kind]
    operations = {fault["operation"] for fault in faults}
    assert {"open", "write", "fsync", "os.mkdir", "os.rename", "os.remove", "os.rmdir"} <= operations
    assert len(faults) > 60
    for fault in faults:
        assert not fault["faults"], fault
        assert fault["newest"] == (fault["step"] if fault["saved"] else fault["steps"][-1]), fault
        assert fault["newest"] >= fault["before"][-1], fault
    if kind == "fail_at":
        assert {fault["saved"] for fault in faults} == {True, False}
    else:
        assert {fault["saved"] for fault in faults} == {None}


@pytest.fixture(scope="module")
def runs(shards, tmp_path_factory):
    root = tmp_path_factory.mktemp("faults")
    done = launch(WORKER, "faults", shards, root)
    assert done.returncode == 0, done.stderr[-3000:]
    return root, done.stdout


@pytest.mark.parametrize(
    ("name", "said"),
    [("truncated", "bytes instead of"), ("bit-flipped", "not the bytes that were written"), ("missing", "missing")],
)
def test_a_spoilt_checkpoint_is_passed_over(runs, name, said, tmp_path):
    """Said with its place; the run goes on from the one before and ends with the same weights, bit for bit."""
    root, output = runs
    lines = [line for line in output.splitlines() if "damaged checkpoint skipped" in line and f"/{name}/" in line]
    assert len(lines) == 1 and said in lines[0] and "step-20/" in lines[0]
    assert losses(root / name) == losses(root / "whole")
    assert [line["from_step"] for line in json.loads((root / name / "run.json").read_text())["starts"]] == [0, 15]
    assert saved_steps(root / name) == [5, 10, 15, 20] and not list((root / name).rglob("*.damaged"))
    weights = []
    for run in (root / "whole", root / name):
        export(run, tmp_path / run.name)
        weights.append(load_file(tmp_path / run.name / "model.safetensors"))
    assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())


def test_training_goes_on_while_a_checkpoint_is_written(runs):
    """And the checkpoint is of the step at which it was begun."""
    root, _ = runs
    assert losses(root / "slow-disk") == losses(root / "whole") == losses(root / "after-slow-disk")
    came = [
        (line["kind"], line["step"]) for line in read_metrics(root / "slow-disk") if line["kind"] in ("train", "save")
    ]
    assert came.index(("save", 5)) > came.index(("train", 7)), came
    assert saved_steps(root / "slow-disk") == [5, 10, 15, 20]
    line = read_metrics(root / "slow-disk", "save")[0]
    assert 0 < line["seconds"] < line["seconds_until_whole"]


def test_a_disk_that_is_full_for_a_while_costs_checkpoints_alone(runs):
    root, output = runs
    assert losses(root / "full-disk") == losses(root / "whole")
    saves = [(line["step"], line.get("failures", 0)) for line in read_metrics(root / "full-disk", "save")]
    assert saves == [(2, 0), (4, 1), (6, 2), (8, 3), (10, 0), (12, 0), (14, 0), (16, 0), (18, 0), (20, 0)]
    assert "step 6 · not saved (File too large), 2 failures in a row; earlier checkpoints are unchanged" in output
    assert saved_steps(root / "full-disk") == [18, 20]
    assert (root / "full-disk" / "checkpoints" / "latest").read_text() == "step-20"


def test_a_disk_that_stays_full_ends_the_run(runs):
    messages = {(runs[0] / f"always-full-{rank}.txt").read_text() for rank in range(2)}
    assert len(messages) == 1 and "4 saves in a row failed; free disk space" in messages.pop()
    assert saved_steps(runs[0] / "always-full") == [2] and not verify(RunFolder(runs[0] / "always-full").checkpoint(2))


def test_what_others_may_have_written_is_not_read(runs, tmp_path):
    run = runs[0] / "whole"
    path = RunFolder(run).checkpoint(20) / "mp_rank_00_model_states.pt"
    check_file_ownership(RunFolder(run))
    path.chmod(0o620)
    with pytest.raises(UserError, match=r"others may write to it, and checkpoints can run code.* chmod -R go-w"):
        export(run, tmp_path / "model")
    path.chmod(0o600)
    if os.getuid() == 0:
        os.chown(path, 12345, -1)
        with pytest.raises(UserError, match="belongs to user 12345"):
            check_file_ownership(RunFolder(run))
        os.chown(path, 0, -1)
    check_file_ownership(RunFolder(run))
    assert not Path(tmp_path / "model").exists()


def test_what_was_lost_and_spent_stands_in_the_metrics(runs):
    """A run that had to do five steps again."""
    run = runs[0] / "truncated"
    last = read_metrics(run, "goodput")[-1]
    assert last["restarts"] == 1 and last["lost_steps"] == 5
    assert 0 < last["seconds_in_training"] < last["seconds_running"] and last["seconds_in_save"] > 0
    assert 0 < last["effective_training_time"] < 1
    assert read_metrics(runs[0] / "whole", "goodput")[-1]["lost_steps"] == 0
    summary = json.loads((runs[0] / "whole" / "summary.json").read_text())
    assert summary["restarts"] == 0 and summary["effective_training_time"] > 0
