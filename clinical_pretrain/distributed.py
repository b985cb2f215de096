"""Ranks: who they are, how they meet, how they stop together."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from tokenizer_tools.errors import UserError

T = TypeVar("T")
# Rank variables as torch and DeepSpeed read them, and what srun calls the same.
_FROM_SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}


@dataclass(frozen=True)
class Ranks:
    """This process among the others."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    control: Any
    """A gloo group for small agreements that shouldn't wait for the GPU."""

    @property
    def is_first(self) -> bool:
        """True on rank 0, which writes files and prints."""
        return self.rank == 0

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def all_gather(self, value: Any) -> list[Any]:
        """Every rank's value, in order of ranks, on every rank."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Element-wise sum of a CPU tensor over the ranks."""
        dist.all_reduce(values, group=self.control)
        return values

    def any(self, flag: bool) -> bool:
        """True, on every rank, if it is on one."""
        return bool(self.sum(torch.tensor(float(flag))) > 0)

    def barrier(self) -> None:
        """Wait for all."""
        dist.barrier(group=self.control)

    def on_first(self, action: Callable[[], T], place: str) -> T | None:
        """Do something with files on rank 0 alone, and return there what it returns.

        Raises:
            UserError: on all ranks, where it raises one on rank 0, or an OSError; `place` is then named.
        """
        result = error = None
        if self.is_first:
            try:
                result = action()
            except UserError as caught:
                error = str(caught)
            except OSError as caught:
                error = (
                    f"{place}: cannot be read or written ({caught.strerror}); free disk space, or choose another folder"
                )
        error = self.broadcast(error)
        if error is not None:
            raise UserError(error)
        return result

    def from_first(self, action: Callable[[], T], place: str) -> T:
        """The same, with the result on all ranks."""
        result: T = self.broadcast(self.on_first(action, place))
        return result


def read_environment() -> tuple[int, int]:
    """Rank and world size from the launcher's variables (deepspeed, torchrun or srun); alone where there are none.

    The variables that torch and DeepSpeed need are set on the way.
    """
    if "RANK" not in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        for name, source in _FROM_SLURM.items():
            os.environ[name] = os.environ[source]
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


def own_device(local_rank: int) -> torch.device:
    """This rank's GPU, or the CPU. A rank may see all GPUs of its node, or only its own (srun --gpus-per-task 1)."""
    return torch.device("cuda", local_rank % torch.cuda.device_count()) if uses_gpu() else torch.device("cpu")


def check_gpu(device: torch.device) -> None:
    """Refuse a GPU that this torch has no kernels for, which would end in "no kernel image is available"."""
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
    """Whether a GPU of this compute capability, (major, minor), runs what torch was compiled to.

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
        step_timeout_seconds: what is left to the watch over ranks to end: no collective times out before. 0: a week.
    """
    rank, world_size = read_environment()
    local_rank = int(os.environ["LOCAL_RANK"])
    on_gpu = uses_gpu()
    if not on_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        if "OMP_NUM_THREADS" not in os.environ:
            here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // here))
    # DeepSpeed calls torch functions by their old names, at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    import deepspeed
    import deepspeed.ops

    # Its own messages are for those who look for them: DEEPSPEED_LOG_LEVEL=info. (Its launcher's: deepspeed -q.)
    logger, level = logging.getLogger("DeepSpeed"), os.environ.get("DEEPSPEED_LOG_LEVEL", "").upper()
    logger.setLevel(getattr(logging, level, logging.WARNING))
    for handler in logger.handlers:
        handler.setLevel(logger.level)
    # On a CPU, init_distributed would compile this all-reduce for minutes, and hang on the lock of a killed build.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    device = own_device(local_rank)
    if on_gpu:
        torch.cuda.set_device(device)
        os.environ["LOCAL_RANK"] = str(device.index)  # DeepSpeed takes the GPU of this number
    if not dist.is_initialized():
        timeout = timedelta(seconds=step_timeout_seconds + 300) if step_timeout_seconds else timedelta(days=7)
        # torch's default, for DeepSpeed's own groups: 10 minutes of NCCL's, 30 of gloo's.
        c10d = dist.distributed_c10d
        c10d.default_pg_timeout = c10d.default_pg_nccl_timeout = timeout
        try:
            deepspeed.init_distributed("nccl" if on_gpu else "gloo", verbose=False, timeout=timeout)
        except dist.DistNetworkError as error:
            if "EADDRINUSE" not in str(error):
                raise
            raise UserError(
                f"port {os.environ['MASTER_PORT']} of this machine is taken, perhaps by another training; wait for its "
                "end, or take another: deepspeed --master_port N"
            ) from None
        except dist.DistBackendError as error:
            if "Duplicate GPU" not in str(error):
                raise
            raise UserError(
                f"rank {rank} on {socket.gethostname()} shares its GPU with another rank; start one rank per GPU"
            ) from None
    return Ranks(rank, world_size, local_rank, device, dist.new_group(backend="gloo"))


def shut_down() -> None:
    """Leave the others in good order."""
    if dist.is_initialized():
        dist.destroy_process_group()


def free_port() -> int:
    """A TCP port that is free on this machine right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
