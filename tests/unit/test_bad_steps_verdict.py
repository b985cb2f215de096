"""When a run must go back, and what a plain AdamW does with a gradient that is no number."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clinical_pretrain.config.recovery import BadStepsConfig
from clinical_pretrain.engine.build import weights_are_finite
from clinical_pretrain.engine.optimizer import skip_bad_updates
from clinical_pretrain.engine.step_reports import StepReport
from clinical_pretrain.run_folder.starts import SkippedSamples, data_position, data_runs
from clinical_pretrain.training.loss_guard import BadStepsError, LossGuard


def test_an_infinite_gradient_is_as_bad_as_a_loss_that_is_no_number():
    guard = LossGuard(BadStepsConfig(max_consecutive_skips=3), fp16=False)
    guard.observe(StepReport(1, 2.0, math.inf))
    guard.observe(StepReport(2, math.nan, 1.0))
    guard.observe(StepReport(3, 2.0, math.nan))  # DeepSpeed doesn't say: that is no fault
    assert (guard.consecutive_bad_steps, guard.skipped_updates) == (0, 2)
    guard.observe(StepReport(4, math.inf, 1.0))
    guard.observe(StepReport(5, 2.0, math.inf))
    with pytest.raises(BadStepsError, match="steps 4 to 6: the loss is nan") as caught:
        guard.observe(StepReport(6, math.nan, math.nan))
    assert (caught.value.first, caught.value.last) == (4, 6)


def test_fp16_may_overflow_until_the_loss_scale_is_found():
    guard = LossGuard(BadStepsConfig(max_consecutive_skips=2), fp16=True)
    for step in range(1, 20):
        guard.observe(StepReport(step, 2.0, math.inf))
    assert (guard.skipped_updates, guard.consecutive_bad_steps, guard.consecutive_overflows) == (19, 0, 19)
    guard.observe(StepReport(20, math.nan, math.inf))
    with pytest.raises(BadStepsError, match="steps 1 to 21: the loss is nan"):
        guard.observe(StepReport(21, math.nan, math.inf))


def test_fp16_may_not_overflow_for_ever():
    """Over the way from DeepSpeed's first loss scale to its smallest, with steps to spare."""
    guard = LossGuard(BadStepsConfig(), fp16=True)
    guard.observe(StepReport(1, 2.0, 1.0))
    for step in range(2, 26):
        guard.observe(StepReport(step, 2.0, math.inf))
    with pytest.raises(
        BadStepsError, match="steps 2 to 26: the gradients overflow in fp16, at a loss scale of 1 still"
    ):
        guard.observe(StepReport(26, 2.0, math.inf, loss_scale=1.0))
    guard.observe(StepReport(27, 2.0, 1.0))
    assert (guard.consecutive_skips, guard.skipped_updates) == (0, 25)


def test_a_spike_is_measured_by_the_median_of_enough_losses():
    off, on = (LossGuard(BadStepsConfig(spike_factor=factor), fp16=False) for factor in (0.0, 2.0))
    for guard in (off, on):
        for step in range(1, 20):
            guard.observe(StepReport(step, 3.0, 1.0))
        guard.observe(StepReport(20, 7.0, 1.0))  # too early to tell
    off.observe(StepReport(21, 70.0, 1.0))
    on.observe(StepReport(21, 5.9, 1.0))
    with pytest.raises(BadStepsError, match=r"step 22: the loss jumped to 6.10 from about 3.00"):
        on.observe(StepReport(22, 6.1, 1.0))
    assert LossGuard(BadStepsConfig(spike_factor=2.0), False, on.recent_losses).recent_losses == on.recent_losses


def test_samples_that_are_stepped_over():
    jumps = [SkippedSamples(at=56, count=24), SkippedSamples(at=80, count=8)]
    assert [data_position(consumed, jumps) for consumed in (0, 48, 56, 72, 80, 88)] == [0, 48, 80, 96, 112, 120]


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=5))
def test_what_was_left_out_once_stays_out(rollbacks):
    """In whatever order: a later roll-back may begin before an earlier one, and have another step in it."""
    left, skipped = list(range(400)), []
    for first, count in rollbacks:
        skipped.append(SkippedSamples(first, count))
        begin, end = left[first], left[first + count - 1]
        left = [position for position in left if not begin <= position <= end]
    assert [data_position(consumed, skipped) for consumed in range(100)] == left[:100]
    pieces = [range(position, position + count) for _, position, count in data_runs(7, 100, skipped)]
    assert [position for piece in pieces for position in piece] == left[7:100]
    assert all(before.stop < after.start for before, after in pairwise(pieces))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_adamw_passes_over_a_bad_gradient(value):
    """Weights, moments and its count of steps."""
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    skip_bad_updates(optimizer)
    weight.grad = torch.ones(4)
    optimizer.step()
    before = weight.detach().clone(), {k: v.clone() for k, v in optimizer.state[weight].items()}
    weight.grad = torch.tensor([1.0, value, 1.0, 1.0])
    optimizer.step()
    assert torch.equal(weight, before[0]) and optimizer.found_inf == 1
    assert all(torch.equal(optimizer.state[weight][name], tensor) for name, tensor in before[1].items())
    weight.grad = torch.ones(4)
    optimizer.step()
    assert not torch.equal(weight, before[0]) and optimizer.state[weight]["step"] == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_found(dtype, value):
    """Also where a norm of the weights would overflow, and whatever the padding of ZeRO 3 holds."""
    weights = [
        torch.nn.Parameter(torch.full((3, 5), 6e4, dtype=dtype)),
        torch.nn.Parameter(torch.empty(0, dtype=dtype)),
    ]
    engine = SimpleNamespace(module=SimpleNamespace(parameters=lambda: weights))
    assert weights_are_finite(engine, 0)
    partition = torch.nn.Parameter(torch.empty(0, dtype=dtype))
    partition.ds_numel, partition.ds_tensor = 7, torch.tensor([1.0, 1.0, 1.0, value], dtype=dtype)
    weights.append(partition)
    assert weights_are_finite(engine, 1) and not weights_are_finite(engine, 0)
    partition.ds_tensor[3], weights[0].data[1, 2] = 0.0, value
    assert not weights_are_finite(engine, 0)
