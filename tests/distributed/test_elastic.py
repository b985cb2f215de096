"""A run goes on with another number of ranks and under another ZeRO stage, and ends as if nothing had changed."""

import json

import pytest
import torch
from golden import assert_golden
from launching import WORKER, alone, launch, losses, read_metrics, validations
from safetensors.torch import load_file

from clinical_pretrain.checkpoint.plain_model import plain_model
from clinical_pretrain.checkpoint.state import read_state
from clinical_pretrain.engine.reshard import MOMENTS, WEIGHT, StoredCheckpoint
from clinical_pretrain.release.export import export
from clinical_pretrain.run_folder.paths import RunFolder

ELASTIC = [("longformer", 1), ("longformer", 2), ("longformer", 3), ("bigbird", 2)]


@pytest.fixture(scope="module")
def root(trained, shards):
    done = alone(WORKER, "fewer", shards, trained)
    assert done.returncode == 0, done.stderr[-3000:]
    done = launch(WORKER, "more", shards, trained)
    assert done.returncode == 0, done.stderr[-3000:]
    return trained


def assert_same_course(run, reference, steps=20, rel=1e-5):
    """Loss, gradient norm, learning rate and position of every step, and the held-out loss at the end."""
    keys = ("step", "loss", "learning_rate", "samples_consumed")
    if None not in [line["gradient_norm"] for folder in (run, reference) for line in read_metrics(folder, "train")]:
        keys += ("gradient_norm",)  # without ZeRO, DeepSpeed doesn't say
    for key in keys:
        course, expected = ([line[key] for line in read_metrics(folder, "train")] for folder in (run, reference))
        assert len(course) == steps and course == pytest.approx(expected, rel=rel)
    assert validations(run) == pytest.approx(validations(reference), rel=rel)


@pytest.mark.parametrize(("family", "stage"), ELASTIC)
@pytest.mark.parametrize("change", ["-by-1", "-by-2"])
def test_another_number_of_ranks(root, family, stage, change):
    """2 to 1 and 1 to 2, dropout on."""
    assert_same_course(root / f"{family}-{stage}{change}", root / f"{family}-{stage}")
    starts = json.loads((root / f"{family}-{stage}{change}" / "run.json").read_text())["starts"]
    first, second = (2, 1) if change == "-by-1" else (1, 2)
    assert [(start["from_step"], start["world_size"]) for start in starts] == [(0, first), (10, second)]


CHANGED = [f"{family}-{stage}-by-{ranks}" for family, stage in ELASTIC for ranks in (1, 2)]


@pytest.mark.parametrize("name", [*CHANGED, "longformer-1-then-3", "longformer-3-then-2", "bigbird-2-then-1"])
def test_golden_losses_and_weights_of_an_elastic_run(root, name, tmp_path):
    assert_golden(name, root / name, tmp_path / "model")


@pytest.mark.parametrize(
    ("family", "stage", "other"), [("longformer", 1, 3), ("longformer", 2, 1), ("longformer", 3, 2), ("bigbird", 2, 1)]
)
def test_another_stage(root, family, stage, other, tmp_path):
    run = root / f"{family}-{stage}-then-{other}"
    assert_same_course(run, root / f"{family}-{stage}")
    assert export(run, tmp_path / "model")["max_logit_difference"] < 1e-5
    export(root / f"{family}-{stage}", tmp_path / "expected")
    weights, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "expected"))
    assert all((weights[name] - tensor).abs().max() < 1e-5 for name, tensor in expected.items())


@pytest.mark.parametrize(("stage", "other"), [(0, 2), (3, 0), (1, 0), (0, 3)])
def test_with_and_without_zero(root, stage, other):
    assert_same_course(root / f"longformer-{stage}-then-{other}", root / f"longformer-{stage}")


CHANGES = [
    *((f"{family}-{stage}-by-1", f"{family}-{stage}", 10) for family, stage in ELASTIC),
    *((f"{family}-{stage}-by-2", f"{family}-{stage}-of-1", 10) for family, stage in ELASTIC),
    *((f"longformer-{a}-then-{b}", f"longformer-{a}", 10) for a, b in ((0, 2), (3, 0), (1, 0), (0, 3), (1, 3), (3, 2))),
    *((f"bf16-{change}", f"longformer-bf16-{change[0]}", 4) for change in ("2-by-1", "0-then-2", "2-then-0")),
]


@pytest.mark.parametrize(("name", "source", "step"), CHANGES)
def test_not_a_bit_is_lost_on_the_way(root, name, source, step):
    """fp32 weights, those behind bf16 too, and both of Adam's moments, before and after."""
    first, second = (read_state(RunFolder(root / run), step) for run in (source, name))
    assert (first.world_size, first.zero_stage) != (second.world_size, second.zero_stage)
    model, _ = plain_model(RunFolder(root / name))
    before, after = (
        StoredCheckpoint(RunFolder(root / run).checkpoint(step), state.zero_stage, model)
        for run, state in ((source, first), (name, second))
    )
    assert before.adam_step == after.adam_step == step
    for kind in (WEIGHT, *MOMENTS):
        expected, found = before.tensors(kind), after.tensors(kind)
        assert expected.keys() == found.keys() and len(found) > 30
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items()), kind


@pytest.mark.parametrize("name", ["bf16-2-by-1", "bf16-0-then-2", "bf16-2-then-0"])
def test_bf16_goes_on(root, name):
    assert losses(root / name) == pytest.approx(losses(root / f"longformer-{name[:6]}"), rel=2e-3)


def test_another_batch_size_and_optimizer_where_that_is_accepted(root):
    """Goes on with the samples that come next, and says what was changed."""
    lines = read_metrics(root / "smaller-batch", "train")
    assert [line["samples_consumed"] for line in lines] == [*range(8, 81, 8), *range(84, 121, 4)]
    assert losses(root / "smaller-batch")[:10] == losses(root / "longformer-2")[:10]
    starts = json.loads((root / "smaller-batch" / "run.json").read_text())["starts"]
    assert starts[1]["changes"] == ["batch.train_batch_size was 8, now 4", "optim.beta2 was 0.999, now 0.99"]
