"""Settings of a SLURM job."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Annotated

from clinical_pretrain.config.fields import PathText, Pattern, range_faults, type_faults
from tokenizer_tools.errors import UserError
from tokenizer_tools.ranges import Range

_WORD = Pattern(r"\S*", "one word")


@dataclass(frozen=True)
class SlurmConfig:
    """A job on a SLURM cluster. What is the same for all jobs of a cluster stands in slurm/site.yaml."""

    nodes: Annotated[int, Range(1, 100_000)] = 1
    """Nodes of a training."""
    gpus_per_node: Annotated[int, Range(0, 1000)] = 2
    """GPUs on each, such that all share a step's micro-batches evenly (6 in the recipes); 0: trains on CPUs."""
    tasks_per_node: Annotated[int, Range(0, 1000)] = 0
    """Ranks on each; 0: one per GPU, or one."""
    cpus_per_task: Annotated[int, Range(1, 1000)] = 4
    """CPU cores of each rank."""
    tasks: Annotated[int, Range(1, 100_000)] = 32
    """submit-shards: jobs that share the packing."""
    time: str = "24:00:00"
    """Time limit, as SLURM writes it; ahead of it a training saves, and is queued again."""
    warning_seconds: Annotated[int, Range(0, 1_000_000)] = 300
    """So long before the time limit a training is told. More than a step and a save take."""
    memory: Annotated[str, _WORD] = ""
    """Memory of each node, such as 200G; empty: the cluster's default."""
    partition: Annotated[str, _WORD] = ""
    """Empty: the cluster's default."""
    account: Annotated[str, _WORD] = ""
    """Who pays."""
    qos: Annotated[str, _WORD] = ""
    """Quality of service."""
    constraint: Annotated[str, _WORD] = ""
    """Features of the nodes, such as a100."""
    python: Annotated[str, PathText(may_be_empty=True)] = ""
    """Interpreter on the nodes; empty: the one that submits."""
    container: Annotated[str, PathText(may_be_empty=True)] = ""
    """Apptainer image that holds the interpreter."""
    container_options: str = ""
    """For `apptainer exec`, such as --bind /data."""
    setup: str = ""
    """Shell lines that each job runs first."""
    options: dict[str, str] = field(default_factory=dict)
    """More options of sbatch, such as {"exclude": "node7"}."""

    def __post_init__(self) -> None:
        if faults := type_faults(self):
            raise UserError("slurm: " + "; ".join(faults))
        faults = range_faults(self)
        limit = seconds_of(self.time)
        if limit is None:
            faults.append(f"time {self.time}: write minutes (90), hours (1:30:00) or days (1-12:00:00)")
        elif limit <= self.warning_seconds:
            faults.append(f"time {self.time} must be longer than warning_seconds ({self.warning_seconds})")
        if faults:
            raise UserError("slurm: " + "; ".join(faults))

    @property
    def ranks_per_node(self) -> int:
        """Ranks on each node of a training."""
        return self.tasks_per_node or self.gpus_per_node or 1


def seconds_of(time: str) -> float | None:
    """A time limit in one of SLURM's ways to write it, in seconds; None where it is none of them."""
    if time.upper() in ("UNLIMITED", "INFINITE", "0"):
        return math.inf
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if found is None:
        return None
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is None and len(numbers) < 3:  # minutes, or minutes and seconds
        numbers.insert(0, 0)
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds
