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
    """A job on a SLURM cluster. What is the same for all jobs of a cluster is in slurm/site.yaml."""

    nodes: Annotated[int, Range(1, 100_000)] = 1
    """Number of nodes of a training job."""
    gpus_per_node: Annotated[int, Range(0, 1000)] = 2
    """GPUs per node. All GPUs must share a step's micro-batches (6 in the recipes) evenly; 0: train on CPUs."""
    tasks_per_node: Annotated[int, Range(0, 1000)] = 0
    """Ranks per node; 0: one per GPU, or one on CPUs."""
    cpus_per_task: Annotated[int, Range(1, 1000)] = 4
    """CPU cores per rank."""
    tasks: Annotated[int, Range(1, 100_000)] = 32
    """submit-shards: number of jobs that share the reading and tokenising."""
    time: str = "24:00:00"
    """Time limit in SLURM's notation. A training saves before it and is requeued."""
    warning_seconds: Annotated[int, Range(0, 1_000_000)] = 300
    """Send the signal to save this long before the time limit; must be longer than a step and a save take."""
    memory: Annotated[str, _WORD] = ""
    """Memory per node, such as 200G; empty: the cluster's default."""
    partition: Annotated[str, _WORD] = ""
    """Partition; empty: the cluster's default."""
    account: Annotated[str, _WORD] = ""
    """Account to charge; empty: the user's default."""
    qos: Annotated[str, _WORD] = ""
    """Quality of service; empty: the cluster's default."""
    constraint: Annotated[str, _WORD] = ""
    """Required features of the nodes, such as a100."""
    python: Annotated[str, PathText(may_be_empty=True)] = ""
    """Python interpreter on the nodes; empty: the one that submits."""
    container: Annotated[str, PathText(may_be_empty=True)] = ""
    """Apptainer image with the interpreter; empty: no container."""
    container_options: str = ""
    """Options of `apptainer exec`, such as --bind /data."""
    setup_file: Annotated[str, PathText(may_be_empty=True)] = ""
    """Shell snippet that each job sources first, for modules and variables; empty: slurm/site_setup.sh."""
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
        """Number of ranks on each node of a training job."""
        return self.tasks_per_node or self.gpus_per_node or 1


def seconds_of(time: str) -> float | None:
    """Seconds of a time limit in SLURM's notation; None if it isn't one."""
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
