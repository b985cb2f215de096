"""The ranks of a run: how they meet, what they exchange, and which device each one uses."""

from __future__ import annotations

import logging
import os
import re
import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from clinical_pretrain.console import NO_ACCESS
from clinical_pretrain.slurm_environment import cores_of_task, rank_variables
from tokenizer_tools.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This rank, and collectives over all ranks: every rank must make the same calls in the same order."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    control: Any
    """A gloo group of all ranks, for small CPU values, so that they don't wait for the GPU."""

    @property
    def is_first(self) -> bool:
        """True on rank 0, which writes files and prints."""
        return self.rank == 0

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on all ranks."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in order of ranks, on all ranks."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Element-wise sum of a CPU tensor over the ranks."""
        dist.all_reduce(values, group=self.control)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank; the same on all ranks."""
        return bool(self.sum(torch.tensor(float(flag))) > 0)

    def barrier(self) -> None:
        """Wait for all ranks."""
        dist.barrier(group=self.control)

    def on_first(self, action: Callable[[], T], place: str) -> T | None:
        """Run an action on files on rank 0 alone. Returns its result there, and None on the others.

        Raises:
            UserError: on all ranks, where the action raises one, or an OSError, for which `place` names the file.
        """
        result = error = None
        if self.is_first:
            try:
                result = action()
            except UserError as caught:
                error = str(caught)
            except OSError as caught:
                remedy = "ask its owner for access" if caught.errno in NO_ACCESS else "free disk space"
                error = f"{place}: cannot be read or written ({caught.strerror}); {remedy}, or choose another folder"
        error = self.broadcast(error)
        if error is not None:
            raise UserError(error)
        return result

    def from_first(self, action: Callable[[], T], place: str) -> T:
        """Like on_first(), with the result on all ranks."""
        result: T = self.broadcast(self.on_first(action, place))
        return result


def read_environment() -> tuple[int, int]:
    """Rank and world size from the variables of the launcher (deepspeed, torchrun or srun); without one, a single rank.

    Sets the variables that torch and DeepSpeed need.
    """
    of_srun = rank_variables()
    if "RANK" not in os.environ and int(of_srun.get("WORLD_SIZE", "1")) > 1:
        os.environ.update(of_srun)
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    os.environ.setdefault("LOCAL_RANK", "0")
    if os.environ["WORLD_SIZE"] == "1":
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(free_port()))
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def uses_gpu() -> bool:
    """True where there is a GPU and DS_ACCELERATOR doesn't ask for the CPU."""
    return torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"


def peak_memory_bytes() -> int:
    """The peak so far of this process: of its tensors on the GPU, or of its resident memory."""
    if uses_gpu():
        return torch.cuda.max_memory_allocated()
    # Not getrusage(), which also counts what the process that started this one had.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def own_device(local_rank: int) -> torch.device:
    """This rank's GPU, or the CPU. A rank may see all GPUs of its node, or its own alone (srun --gpus-per-task 1)."""
    return torch.device("cuda", local_rank % torch.cuda.device_count()) if uses_gpu() else torch.device("cpu")


def check_gpu(device: torch.device) -> None:
    """Refuse a GPU that this torch has no kernels for: training would fail with "no kernel image is available".

    Raises:
        UserError: it has none, with what to install instead.
    """
    built_for, capability = torch.cuda.get_arch_list(), torch.cuda.get_device_capability(device)
    codes = [code for code in built_for if code.startswith(("sm_", "compute_"))]  # ROCm has other names
    if not codes or any(runs_on(code, capability) for code in codes):
        return
    is_older = all(capability < _parse_architecture(code)[1] for code in codes)
    remedy = "CUDA 12.6 as the compute platform" if is_older else "a newer version"
    raise UserError(
        f"{torch.cuda.get_device_name(device)} is an sm_{capability[0]}{capability[1]}, and torch {torch.__version__} "
        f"has kernels for {', '.join(codes)} alone; on PyTorch's install page choose {remedy}"
    )


def runs_on(code: str, capability: tuple[int, int]) -> bool:
    """Whether a GPU of this compute capability, (major, minor), runs code that was compiled for `code`.

    Source: NVIDIA's CUDA programming guide, compatibility of binaries and of PTX, and of architectures' features.

    Args:
        code: an entry of torch.cuda.get_arch_list(): machine code (sm_90) runs on GPUs of its major version, its minor
            version or a higher one; PTX (compute_90) on all later ones; with an f on the same family, that is of the
            same major version; with an a on no other.
    """
    kind, compiled_for, features = _parse_architecture(code)
    if features == "a":
        return compiled_for == capability
    if kind == "compute" and not features:
        return compiled_for <= capability
    return compiled_for[0] == capability[0] and compiled_for[1] <= capability[1]


def _parse_architecture(code: str) -> tuple[str, tuple[int, int], str]:
    """sm_90a: "sm", (9, 0), "a"."""
    kind, number = code.split("_")
    digits = number.rstrip("af")
    return kind, (int(digits[:-1]), int(digits[-1])), number[len(digits) :]


def initialise(step_timeout_seconds: int = 0) -> Ranks:
    """Join the other ranks: NCCL on GPUs, gloo on CPUs.

    Args:
        step_timeout_seconds: after so long in one step the watchdog ends a run: collectives time out later than that.
            0: no watchdog; collectives time out after a week.

    Raises:
        UserError: the port is taken, or two ranks share a GPU.
    """
    rank, world_size = read_environment()
    local_rank = int(os.environ["LOCAL_RANK"])
    if not uses_gpu():
        _share_cores(world_size)
    deepspeed = import_deepspeed()
    device = own_device(local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        os.environ["LOCAL_RANK"] = str(device.index)  # DeepSpeed takes the GPU of this number
    if not dist.is_initialized():
        timeout = timedelta(seconds=step_timeout_seconds + 300) if step_timeout_seconds else timedelta(days=7)
        _init_process_group(deepspeed, timeout)
    return Ranks(rank, world_size, local_rank, device, dist.new_group(backend="gloo"))


def _share_cores(world_size: int) -> None:
    """Divide this machine's cores among its ranks, unless srun has, or OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        cores, of_task = len(os.sched_getaffinity(0)), cores_of_task()
        local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        torch.set_num_threads(max(1, min(cores, of_task) if of_task else cores // local_world_size))


def _init_process_group(deepspeed: Any, timeout: timedelta) -> None:
    _set_default_timeout(timeout)
    try:
        deepspeed.init_distributed("nccl" if uses_gpu() else "gloo", verbose=False, timeout=timeout)
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise UserError(
            f"port {os.environ['MASTER_PORT']} of this machine is taken, perhaps by another training; wait for its "
            "end, or choose another port: deepspeed --master_port N"
        ) from None
    except dist.DistBackendError as error:
        if "Duplicate GPU" not in str(error):
            raise
        raise UserError(
            f"rank {os.environ['RANK']} on {socket.gethostname()} shares its GPU with another rank; start one rank per "
            "GPU"
        ) from None


def import_deepspeed() -> Any:
    """DeepSpeed, quiet, and without a build that it would start on a CPU."""
    # It calls torch functions by their old names, at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    if not uses_gpu():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it warns that it found nothing better
    import deepspeed
    import deepspeed.ops

    # DEEPSPEED_LOG_LEVEL=info shows its own messages; `deepspeed -q` silences its launcher's.
    logger, level = logging.getLogger("DeepSpeed"), os.environ.get("DEEPSPEED_LOG_LEVEL", "").upper()
    logger.setLevel(getattr(logging, level, logging.WARNING))
    for handler in logger.handlers:
        handler.setLevel(logger.level)
    # Private: on a CPU, init_distributed would compile this all-reduce for minutes, and hang on the lock of a killed
    # build.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _set_default_timeout(timeout: timedelta) -> None:
    """Private: the timeout of groups that are made without one, as DeepSpeed's are. torch's own is 10 minutes for NCCL,
    30 for gloo."""
    dist.distributed_c10d.default_pg_timeout = dist.distributed_c10d.default_pg_nccl_timeout = timeout


def shut_down() -> None:
    """Leave the process groups, so that no rank waits for this one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def free_port() -> int:
    """A TCP port that is free on this machine right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
