"""Losses that are no numbers: all ranks pass over the update together, or go back and past the samples."""

import json
import math

import pytest
from launching import WORKER, launch, losses, read_metrics, saved_steps

from clinical_pretrain.checkpoint.plain_model import plain_model
from clinical_pretrain.checkpoint.state import read_state
from clinical_pretrain.engine.reshard import WEIGHT, StoredCheckpoint
from clinical_pretrain.run_folder.paths import RunFolder


@pytest.fixture(scope="module")
def root(shards, tmp_path_factory):
    root = tmp_path_factory.mktemp("bad")
    done = launch(WORKER, "bad", shards, root)
    assert done.returncode == 0, done.stderr[-3000:]
    (root / "said.txt").write_text(done.stdout)
    return root


def seen(run, rank):
    """The micro-batches that a rank trained on, in order: two a step."""
    return json.loads((run / f"seen-{rank}.json").read_text())


def rollbacks(run):
    return [(line["step"], line["first_sample"], line["samples"]) for line in read_metrics(run, "rollback")]


@pytest.mark.parametrize("stage", range(4))
def test_one_bad_step_costs_its_update_alone(root, stage):
    run = root / f"once-{stage}"
    course, well = losses(run), losses(root / "well")
    assert course[:7] == pytest.approx(well[:7], rel=1e-4) and course[7] is None
    assert all(math.isfinite(loss) for loss in course[:7] + course[8:]) and len(course) == 20
    assert [line["skipped_updates"] for line in read_metrics(run, "train")] == [0] * 7 + [1] * 13
    assert course[8:] != well[8:] and course[-1] < course[0] - 0.3
    assert not read_metrics(run, "rollback") and saved_steps(run) == [5, 10, 15, 20]


@pytest.mark.parametrize("kind", ["0", "2", "offload"])
def test_one_bad_step_in_bf16(root, kind):
    course = losses(root / f"once-bf16-{kind}")
    assert [line["skipped_updates"] for line in read_metrics(root / f"once-bf16-{kind}", "train")] == [0] * 7 + [1] * 13
    assert course[7] is None and all(math.isfinite(loss) for loss in course[:7] + course[8:])
    assert course[-1] < course[0] - 0.3


@pytest.mark.parametrize("stage", range(4))
def test_bad_steps_in_a_row_are_left_out(root, stage):
    """Back to step 5; steps 6 and 7 once more, bit for bit; then past the samples of steps 8 to 10."""
    run = root / f"thrice-{stage}"
    assert rollbacks(run) == [(5, 56, 24)]
    course = losses(run)
    assert len(course) == 20 and course[:7] == pytest.approx(losses(root / "well")[:7], rel=1e-4)
    for rank in range(2):
        well, mine = seen(root / "well", rank), seen(run, rank)
        tried = 10  # steps until the verdict: here before the checkpoint of step 10, else one step late
        assert mine[: 2 * tried] == well[: 2 * tried]
        assert mine[2 * tried :][: 2 * 2] == well[10:14] and mine[2 * tried + 4 :][:20] == well[20:]
    state = read_state(RunFolder(run), 20)
    assert (state.samples_consumed, state.samples_skipped, state.skipped_updates) == (160, 24, 0)
    assert saved_steps(run) == [5, 10, 15, 20]


def test_back_to_a_checkpoint_of_another_stage(root):
    """By another start: what lies in the memory can't be cut anew."""
    assert losses(root / "moved") == pytest.approx(losses(root / "thrice-1"), rel=1e-4)
    assert read_state(RunFolder(root / "moved"), 20).samples_skipped == 24


def test_it_is_said_by_number_and_not_by_text(root):
    said = (root / "said.txt").read_text()
    assert (
        "steps 8 to 10: the loss is nan, or its gradient infinite; rolled back to step 5, skipping 24 samples from"
        in said
    )


def test_a_jump_of_the_loss_where_that_is_asked_for(root):
    assert [
        (line["step"], line["first_sample"], line["samples"]) for line in read_metrics(root / "spike", "rollback")
    ] == [(20, 232, 8)]
    assert losses(root / "spike")[:29] == losses(root / "longer")[:29] and len(losses(root / "spike")) == 40
    assert not read_metrics(root / "longer", "rollback")


def test_a_run_that_has_gone_back_goes_on_bit_for_bit(root):
    assert losses(root / "spike-again") == losses(root / "spike")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("early", "no earlier checkpoint to roll back to"),
        ("often", "and the run has rolled back 2 times; lower"),
    ],
)
def test_what_does_not_end_ends_the_run(root, name, message):
    messages = {(root / f"{name}-{rank}.txt").read_text() for rank in range(2)}
    assert len(messages) == 1 and message in messages.pop()


def finite(run, step):
    """Whether a checkpoint's weights are all numbers."""
    state = read_state(RunFolder(run), step)
    weights = StoredCheckpoint(
        RunFolder(run).checkpoint(step), state.zero_stage, plain_model(RunFolder(run))[0]
    ).tensors(WEIGHT)
    return all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize(
    ("name", "rollback"),
    [
        ("spoilt", (5, 64, 16)),  # steps 9 and 10
        ("spoilt-end", (10, 80, 24)),  # steps 11 to 13: the update of step 11, and the two that could not be made
    ],
)
def test_weights_that_are_no_numbers_are_never_saved(root, name, rollback, stage):
    """Found by one rank, also at ZeRO 3, at a save or at the end; the run goes back, and past those samples."""
    run = root / f"{name}-{stage}"
    assert rollbacks(run) == [rollback]
    assert saved_steps(run) == [13] and finite(run, 13) and not list(run.glob("checkpoints/*.damaged"))
    assert None not in losses(run) and json.loads((run / "summary.json").read_text())["skipped_updates"] == 0


@pytest.mark.parametrize("stage", range(4))
def test_a_run_does_not_end_well_on_weights_that_are_no_numbers(root, stage):
    """Five steps without a loss, where ten in a row are allowed."""
    messages = {(root / f"diverged-{stage}-{rank}.txt").read_text() for rank in range(2)}
    assert len(messages) == 1 and "no earlier checkpoint to roll back to; lower optim" in messages.pop()
    assert not saved_steps(root / f"diverged-{stage}") and not (root / f"diverged-{stage}" / "summary.json").exists()


def test_a_stop_does_not_save_weights_that_are_no_numbers(root):
    run = root / "spoilt-stop"
    assert "stopped at step 8 (SIGUSR1); the same command resumes from step 5\n" in (root / "said.txt").read_text()
    assert saved_steps(run) == [13] and finite(run, 13) and not rollbacks(run)


def test_a_validation_loss_that_is_no_number(root):
    """Back to the checkpoint before; where that doesn't help, or there is none, the run ends."""
    run = root / "validation-once"
    assert rollbacks(run) == [(5, 40, 40)] and saved_steps(run) == [13] and (run / "summary.json").exists()
    for name, message, kept in (
        ("always", "steps 6 to 10: the validation loss is inf, and the run has rolled back 3 times; lower", [5]),
        ("first", "the validation loss is inf before the first step: the model overflows in fp32; take another", []),
    ):
        messages = {(root / f"validation-{name}-{rank}.txt").read_text() for rank in range(2)}
        assert len(messages) == 1 and messages.pop().startswith(message)
        assert saved_steps(root / f"validation-{name}") == kept
        assert not (root / f"validation-{name}" / "summary.json").exists()
    summary = json.loads((root / "validation-empty" / "summary.json").read_text())  # nothing is masked
    assert summary["validation_loss_after"] is None and saved_steps(root / "validation-empty") == [6]
