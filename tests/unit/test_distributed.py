"""How a rank meets the others, and which GPU it takes; several ranks are in tests/distributed."""

import os
import re
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from conftest import REPOSITORY

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.distributed import _share_cores, initialise, own_device, runs_on
from clinical_pretrain.training.setup import check_hardware
from tokenizer_tools.errors import UserError


def test_a_port_in_use_is_reported_in_one_line():
    """As by another training."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        names = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        code = "from clinical_pretrain.distributed import initialise; initialise()"
        done = subprocess.run([sys.executable, "-c", code], env=os.environ | names, capture_output=True, text=True)
    assert re.search(r"UserError: port \d+ of this machine is taken, .* deepspeed --master_port N\n$", done.stderr)


@pytest.mark.parametrize(
    ("code", "runs", "refuses"),
    [
        ("sm_75", [(7, 5)], [(7, 0), (7, 2), (8, 0), (9, 0)]),
        ("sm_80", [(8, 0), (8, 6), (8, 9)], [(7, 5), (9, 0)]),
        ("sm_90", [(9, 0)], [(8, 9), (10, 0)]),
        ("sm_90a", [(9, 0)], [(8, 9), (10, 0)]),
        ("sm_100f", [(10, 0), (10, 3)], [(9, 0), (12, 0)]),
        ("sm_120", [(12, 0), (12, 1)], [(10, 0)]),
        ("compute_80", [(8, 0), (8, 9), (9, 0), (12, 1)], [(7, 5)]),
        ("compute_90a", [(9, 0)], [(10, 0)]),
    ],
)
def test_which_gpus_run_code_compiled_for_an_architecture(code, runs, refuses):
    assert all(runs_on(code, capability) for capability in runs)
    assert not any(runs_on(code, capability) for capability in refuses)


def gpus(monkeypatch, count=1, capability=(7, 0), name="Tesla V100-SXM2-32GB", built_for=()):
    """Let torch.cuda answer as if there were these GPUs."""
    for function, answer in (("is_available", True), ("device_count", count), ("get_device_capability", capability),
                             ("get_device_name", name), ("get_arch_list", list(built_for))):  # fmt: skip
        monkeypatch.setattr(torch.cuda, function, lambda *device, answer=answer: answer)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)


PYPI_2_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


def test_a_gpu_without_kernels_is_refused(monkeypatch):
    """PyPI's torch 2.13 on a V100, and on a future GPU."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    gpus(monkeypatch, built_for=PYPI_2_13)
    with pytest.raises(UserError, match=r"V100.* sm_70, .* sm_75, .* install page choose CUDA 12\.6 as the compute"):
        check_hardware(RunConfig(precision="fp16"))
    gpus(monkeypatch, capability=(13, 0), built_for=PYPI_2_13)
    with pytest.raises(UserError, match="choose a newer version"):
        check_hardware(RunConfig(precision="fp16"))
    for built_for in (["sm_50", "sm_60", "sm_70", "sm_75"], ["sm_60", "compute_60"], ["gfx90a"], []):
        gpus(monkeypatch, built_for=built_for)
        check_hardware(RunConfig(precision="fp16"))


def test_the_device_of_a_rank(monkeypatch):
    """As under srun --gpus-per-task 1, where each rank's GPU is number 0."""
    gpus(monkeypatch, count=1)
    assert [own_device(rank).index for rank in range(3)] == [0, 0, 0]
    gpus(monkeypatch, count=4)
    assert [own_device(rank).index for rank in range(4)] == [0, 1, 2, 3]
    gpus(monkeypatch, count=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device(1) == torch.device("cpu")


def test_two_ranks_on_one_gpu_are_reported_in_one_line(monkeypatch):
    """More tasks than GPUs, which NCCL notices."""
    import deepspeed

    def init_distributed(*arguments, **named):
        raise dist.DistBackendError("Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1b000")

    gpus(monkeypatch, count=1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(deepspeed, "init_distributed", init_distributed)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"^rank 1 on .* shares its GPU with another rank; start one rank per GPU$"):
        initialise()
    assert os.environ["LOCAL_RANK"] == "0"


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({}, 4),
        ({"LOCAL_WORLD_SIZE": "2"}, 8),
        ({"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4", "SLURM_CPUS_PER_TASK": "5"}, 5),
        ({"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4", "SLURM_CPUS_PER_TASK": "32"}, 16),
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1", "SLURM_CPUS_PER_TASK": "16"}, 4),
        ({"OMP_NUM_THREADS": "3"}, None),
    ],
)
def test_ranks_share_cores_unless_srun_has_divided_them(variables, threads, monkeypatch):
    """The last but one: DeepSpeed's launcher in a task of srun."""
    chosen = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", **variables}.items():
        monkeypatch.setenv(name, value)
    _share_cores(4)
    assert chosen == ([threads] if threads else [])


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_per_node_reports_an_error(rank):
    """Under srun, where LOCAL_RANK isn't set yet when the config is read."""
    names = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK")}
    names |= {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NTASKS": "2"}
    call = [sys.executable, str(REPOSITORY / "clinical_pretrain" / "run.py"), "--config", "nowhere.yaml"]
    done = subprocess.run(call, env=names, capture_output=True, text=True)
    assert done.returncode == 2
    assert (done.stderr == "") is (rank == 1)


def test_collectives_time_out_after_the_watchdog():
    """Neither in the group of all ranks, nor in those that DeepSpeed makes."""
    code = """
import torch, torch.distributed as dist
from clinical_pretrain.distributed import initialise
from deepspeed.utils import groups
ranks = initialise(step_timeout_seconds=7200)
for group in (dist.group.WORLD, ranks.control, groups._clone_world_group()):
    print(group._get_backend(torch.device("cpu")).options._timeout.total_seconds())
print(dist.distributed_c10d._get_default_timeout("nccl").total_seconds())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["7500.0"] * 4, done.stderr
