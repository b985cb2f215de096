"""fp16 under each ZeRO stage: scaled losses, overflows, and a loss scale that outlives resume and re-sharding."""

from pathlib import Path

import pytest
import torch
from launching import alone, launch, losses, read_metrics, saved_steps, validations
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clinical_pretrain.checkpoint.plain_model import plain_model
from clinical_pretrain.checkpoint.state import PROBE_NAME, read_state
from clinical_pretrain.engine.reshard import MOMENTS, WEIGHT, StoredCheckpoint
from clinical_pretrain.release.export import compare, export
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError

WORKER = Path(__file__).with_name("fp16_worker.py")
STAGES = pytest.mark.parametrize("stage", range(4))
STAGE_0 = pytest.mark.parametrize("name", ["fp16-0", "fp16-0-file"])


@pytest.fixture(scope="module")
def root(shards, tmp_path_factory):
    root = tmp_path_factory.mktemp("fp16")
    done = launch(WORKER, "two", shards, root)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    (root / "said.txt").write_text(done.stdout)
    return root


@pytest.fixture(scope="module")
def elastic(root, shards):
    for done in (alone(WORKER, "elastic", shards, root), launch(WORKER, "elastic", shards, root, ranks=4)):
        assert done.returncode == 0, done.stderr[-3000:]
    return root


def of_steps(run, key):
    return [line[key] for line in read_metrics(run, "train")]


def stored(run, step):
    model, _ = plain_model(RunFolder(run))
    return StoredCheckpoint(RunFolder(run).checkpoint(step), read_state(RunFolder(run), step).zero_stage, model)


def relative_difference(found, expected):
    """Root mean square of the differences, as a share of the expected values' own."""
    found, expected = (
        torch.cat([tensors[name].flatten() for name in sorted(tensors)]) for tensors in (found, expected)
    )
    return ((found - expected).norm() / expected.norm()).item()


@STAGE_0
def test_stage_0_trains_as_stage_1_does(root, name):
    """To fp16's rounding: DeepSpeed divides its gradients by the loss scale, but doesn't multiply the loss by it."""
    for key in ("loss", "gradient_norm"):
        found, expected = of_steps(root / name, key), of_steps(root / "fp16-1", key)
        assert [value is None for value in found] == [value is None for value in expected]  # where updates were skipped
        finite = [(a, b) for a, b in zip(found, expected, strict=True) if b is not None]
        assert len(finite) >= 8 and [a for a, _ in finite] == pytest.approx([b for _, b in finite], rel=2e-3)
    assert validations(root / name) == pytest.approx(validations(root / "fp16-1"), rel=1e-3)
    found, expected = stored(root / name, 4), stored(root / "fp16-1", 4)
    for kind in MOMENTS:
        assert relative_difference(found.tensors(kind), expected.tensors(kind)) < 0.01


@STAGES
def test_an_overflow_costs_its_update_and_lowers_the_loss_scale(root, stage):
    """Stages 1 to 3 lower it at the second one: DeepSpeed's hysteresis."""
    run = root / f"fp16-{stage}"
    scales = [2**16, 2**15] if stage == 0 else [2**16, 2**16]
    assert of_steps(run, "loss_scale") == [*scales, *[scales[-1] / 2] * 8]
    assert of_steps(run, "skipped_updates") == [0, 1] + [2] * 8
    assert [step for step, norm in enumerate(of_steps(run, "gradient_norm"), 1) if norm is None] == [2, 3]
    course = losses(run)
    assert None not in course and course[-1] < course[0] - 0.15
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.value for event in board.Scalars("train/loss_scale")] == of_steps(run, "loss_scale")


@STAGES
def test_overflows_that_do_not_end_are_left_out(root, stage):
    run = root / f"overflows-{stage}"
    assert [(line["step"], line["first_sample"], line["samples"]) for line in read_metrics(run, "rollback")] == [
        (4, 40, 24)
    ]
    assert of_steps(run, "skipped_updates") == [0] * 10 and saved_steps(run) == [4, 8, 10]


@STAGES
def test_overflows_at_every_step_end_the_run_in_one_line(root, stage):
    """Once the loss scale has come down to 1, and by no exception of DeepSpeed's."""
    messages = {(root / f"hopeless-{stage}-{rank}.txt").read_text() for rank in range(2)}
    assert len(messages) == 1 and "\n" not in (message := messages.pop())
    assert message.startswith(
        "steps 2 to 26: the gradients overflow in fp16, at a loss scale of 1 still, and there is no"
    )
    assert not saved_steps(root / f"hopeless-{stage}") and not (root / f"hopeless-{stage}" / "summary.json").exists()


@STAGES
def test_resume_is_exact(root, stage):
    whole, again = root / f"fp16-{stage}", root / f"fp16-{stage}-again"
    for key in ("loss", "gradient_norm", "loss_scale", "skipped_updates"):
        assert of_steps(again, key) == of_steps(whole, key)
    before, after = stored(whole, 10), stored(again, 10)
    assert before.loss_scaler == after.loss_scaler and before.adam_step == after.adam_step == 8
    for kind in (WEIGHT, *MOMENTS):
        expected, found = before.tensors(kind), after.tensors(kind)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize(("stage", "other"), [(0, 0), (2, 2), (0, 2), (1, 0), (3, 0), (0, 3)])
def test_another_number_of_ranks_and_another_stage(elastic, stage, other, ranks):
    """Goes on with the loss scale and all else that the checkpoint holds."""
    source, run = elastic / f"fp16-{stage}", elastic / f"fp16-{stage}-then-{other}-by-{ranks}"
    before, after = stored(source, 4), stored(run, 4)
    assert before.loss_scaler["cur_scale"] < 2**16 and before.adam_step == after.adam_step == 2
    assert all(before.loss_scaler.get(name, value) == value for name, value in after.loss_scaler.items()
               if name != "cur_hysteresis" or (stage and other))  # fmt: skip
    for kind in (WEIGHT, *MOMENTS):
        expected, found = before.tensors(kind), after.tensors(kind)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert of_steps(run, "loss_scale") == of_steps(source, "loss_scale")
    assert losses(run) == pytest.approx(losses(source), rel=2e-3)
    assert validations(run) == pytest.approx(validations(source), rel=1e-3)


@STAGES
def test_export(root, stage, tmp_path):
    exported = export(root / f"fp16-{stage}", tmp_path / "model")
    assert exported["step"] == 10 and exported["max_logit_difference"] < 0.05
    probe = load_file(RunFolder(root / f"fp16-{stage}").checkpoint(10) / PROBE_NAME)
    probe["logits"][0, 0] = float("nan")
    save_file(probe, tmp_path / "probe.safetensors")
    with pytest.raises(
        UserError, match=r"probe.safetensors: the trained model's logits are NaN or infinite; nothing was"
    ):
        compare(tmp_path / "model", tmp_path / "probe.safetensors", "fp16")
