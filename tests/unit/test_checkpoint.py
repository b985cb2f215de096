"""What is looked at before a checkpoint is written."""

from types import SimpleNamespace

import pytest
import torch

from clinical_pretrain.checkpoint import _check_room, saved_steps


def test_a_disk_without_room_is_seen_before_anything_is_written(tmp_path):
    engine = SimpleNamespace(module=torch.nn.Linear(10, 10))
    _check_room(tmp_path, engine)
    engine.module = torch.nn.Linear(10**8, 10**8, device="meta")
    with pytest.raises(OSError, match=r"160,000,001\.\d GB are needed, .* GB are free"):
        _check_room(tmp_path, engine)


def test_only_checkpoints_of_steps_count(tmp_path):
    for name in ("step-20", "step-3", "step-5.damaged", ".step-7.tmp", ".step-8.old", "step-x"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert saved_steps(tmp_path) == [3, 20]
