"""What the ranks exchange after a step, on one rank; several are in tests/distributed."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from clinical_pretrain.distributed import Ranks
from clinical_pretrain.engine.step_reports import StepReport, StepReports


@pytest.fixture
def alone(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield Ranks(0, 1, 0, torch.device("cpu"), dist.new_group(backend="gloo"))
    dist.destroy_process_group()


def test_figures_are_returned_one_step_later_and_flags_at_once(alone):
    norms = iter([torch.tensor(0.5), 0.25, None])
    reports = StepReports(alone, SimpleNamespace(get_global_grad_norm=lambda: next(norms), optimizer=None))
    assert reports.flush() is None
    assert reports.exchange(1, torch.tensor(3.0), False, True) == (None, [False, True])
    assert reports.exchange(2, torch.tensor(2.0), True) == (StepReport(1, 3.0, 0.5), [True])
    assert reports.flush() == StepReport(2, 2.0, 0.25) and reports.flush() is None
    assert reports.exchange(3, torch.tensor(math.nan)) == (None, [])
    last = reports.flush()
    assert last.step == 3 and math.isnan(last.loss) and math.isnan(last.gradient_norm)


def test_figures_are_copied_when_handed_in(alone):
    """Later changes of the tensors don't matter."""
    norm = torch.tensor(0.5)
    reports = StepReports(alone, SimpleNamespace(get_global_grad_norm=lambda: norm, optimizer=None))
    loss = torch.tensor(3.0)
    reports.exchange(1, loss, False)
    loss.fill_(0), norm.fill_(0)
    assert reports.flush() == StepReport(1, 3.0, 0.5)


def test_a_gradient_norm_is_divided_by_the_loss_scale_before_the_step(alone):
    """Stage 0 in fp16: DeepSpeed returns the norm of the scaled gradients, and may double the scale after the step."""
    optimizer = SimpleNamespace(loss_scale=4.0, loss_scale_config=None, overflow=False)
    reports = StepReports(alone, SimpleNamespace(get_global_grad_norm=lambda: 2.0, optimizer=optimizer))
    optimizer.loss_scale = 8.0
    reports.exchange(1, torch.tensor(3.0))
    assert reports.flush() == StepReport(1, 3.0, 0.5, 8.0)
    reports.exchange(2, torch.tensor(3.0))
    assert reports.flush() == StepReport(2, 3.0, 0.25, 8.0)
