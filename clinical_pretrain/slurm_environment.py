"""Environment variables of SLURM and of the scripts in slurm/, as far as a training reads them.

slurm/PROTOCOL.md says which file sets each variable, and for whom.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def slurm_job() -> str | None:
    """The SLURM job that this process is part of, in the form that SLURM's commands take; None outside SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def job_restarts() -> int:
    """How often the job was requeued before."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def rank_variables() -> dict[str, str]:
    """RANK, WORLD_SIZE and LOCAL_RANK of a task that srun started; empty for one that srun didn't start."""
    sources = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
    is_task = all(source in os.environ for source in sources.values())
    return {name: os.environ[source] for name, source in sources.items()} if is_task else {}


def cores_of_task() -> int | None:
    """CPU cores that each task of this srun has; None where srun wasn't told, or hasn't started this process."""
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    of_srun = rank_variables()
    is_task = bool(of_srun) and all(os.environ.get(name, value) == value for name, value in of_srun.items())
    return int(cores) if cores and is_task else None


def warning_seconds() -> int:
    """How long before the time limit the job is told to stop; 0 where that isn't known."""
    return int(os.environ.get("WARNING_SECONDS") or 0)


def reset_try_count() -> None:
    """Tell begin.sh and end.sh that the run has made progress, by removing the file in which they count."""
    if path := os.environ.get("TRIES_FILE"):
        with suppress(OSError):
            Path(path).unlink(missing_ok=True)


def slurm_step() -> str:
    """A name for the processes that one srun, or another launcher, has started: the same for all of them, and for no
    others in this folder."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return f"port-{os.environ.get('MASTER_PORT', '0')}"
    return f"{job}.{os.environ.get('SLURM_STEP_ID', '0')}.{job_restarts()}"


def meeting_port() -> int | None:
    """The TCP port at which this job's ranks meet: MASTER_PORT, or that of slurm/begin.sh; None outside SLURM."""
    port, job = os.environ.get("MASTER_PORT"), os.environ.get("SLURM_JOB_ID")
    return int(port) if port else 10_000 + int(job) % 20_000 if job else None
