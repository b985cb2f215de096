"""What ranks tell each other, on one rank; several are in tests/distributed."""

import math
import os
import re
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from clinical_pretrain.distributed import Ranks, Report, Reports


@pytest.fixture
def alone(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield Ranks(0, 1, 0, torch.device("cpu"), dist.new_group(backend="gloo"))
    dist.destroy_process_group()


def test_a_steps_figures_are_read_one_step_later_and_a_stop_at_once(alone):
    norms = iter([torch.tensor(0.5), 0.25, None])
    reports = Reports(alone, SimpleNamespace(get_global_grad_norm=lambda: next(norms), optimizer=None))
    assert reports.flush() is None
    assert reports.exchange(1, torch.tensor(3.0), False, True) == (None, [False, True])
    assert reports.exchange(2, torch.tensor(2.0), True) == (Report(1, 3.0, 0.5), [True])
    assert reports.flush() == Report(2, 2.0, 0.25) and reports.flush() is None
    assert reports.exchange(3, torch.tensor(math.nan)) == (None, [])
    last = reports.flush()
    assert last.step == 3 and math.isnan(last.loss) and math.isnan(last.gradient_norm)


def test_figures_are_those_of_their_own_step(alone):
    """Whatever happens to the tensors afterwards."""
    norm = torch.tensor(0.5)
    reports = Reports(alone, SimpleNamespace(get_global_grad_norm=lambda: norm, optimizer=None))
    loss = torch.tensor(3.0)
    reports.exchange(1, loss, False)
    loss.fill_(0), norm.fill_(0)
    assert reports.flush() == Report(1, 3.0, 0.5)


def test_a_port_that_is_taken_is_said_in_one_line():
    """By another training, say."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        names = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        code = "from clinical_pretrain.distributed import initialise; initialise()"
        done = subprocess.run([sys.executable, "-c", code], env=os.environ | names, capture_output=True, text=True)
    assert re.search(r"UserError: port \d+ of this machine is taken, .* deepspeed --master_port N\n$", done.stderr)
