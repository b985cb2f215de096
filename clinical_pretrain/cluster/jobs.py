"""Jobs of runs: what the run folder records of them, and their state in SLURM."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError

ENDED = ("boot_fail", "cancelled", "completed", "deadline", "failed", "node_fail", "out_of_memory", "preempted",
         "revoked", "timeout", None)  # fmt: skip
"""SLURM's states of jobs that neither wait nor run."""
UNKNOWN = "unknown"


def starts_of(run_dir: Path) -> list[dict[str, Any]]:
    """The starts in run.json; none where there is no run.json."""
    folder = RunFolder(run_dir)
    return folder.starts() if folder.exists else []


def submitted_since(run_dir: Path, starts: list[dict[str, Any]]) -> bool:
    """Whether a job was submitted after the last start."""
    file = RunFolder(run_dir).job_file
    return file.exists() and file.stat().st_mtime >= (starts[-1].get("timestamp", 0.0) if starts else 0.0)


def jobs_of(run_dir: Path) -> list[str]:
    """The job that was submitted last for a run, and the one that trained it last, the newer first."""
    starts, submission = starts_of(run_dir), read_json(RunFolder(run_dir).job_file) or {}
    found = [submission.get("job"), starts[-1].get("slurm_job") if starts else None]
    if not submitted_since(run_dir, starts):
        found.reverse()
    return [job for job in dict.fromkeys(found) if job]


def refuse_queued(jobs: Sequence[str], what: str) -> None:
    """Raise a UserError where one of these jobs still waits or runs."""
    states = {job: state for job in jobs if (state := queued(job))}
    if UNKNOWN in states.values():
        raise UserError("SLURM doesn't answer (see squeue); try again when it does")
    if busy := list(states):
        raise UserError(
            f"{what}: job {', '.join(busy)} is queued or running; wait until it ends, or cancel it: scancel "
            f"{' '.join(busy)}"
        )


def queued(job: str) -> str | None:
    """State of a job that waits or runs, UNKNOWN where SLURM doesn't answer; None where the job has ended."""
    state = job_state(job)
    return None if state in ENDED else state


def job_state(job: str) -> str | None:
    """State of a job in lower case, UNKNOWN where SLURM doesn't answer; None where SLURM has forgotten the job, or
    isn't installed."""
    if shutil.which("squeue") is None:
        return None
    squeue = ["squeue", "--noheader", "--states=all", "--format=%T", "--jobs", job]
    sacct = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=State", "--jobs", job]
    for call in (squeue, sacct):
        try:
            done = subprocess.run(call, capture_output=True, text=True, timeout=20)
        except subprocess.TimeoutExpired:
            return UNKNOWN
        except FileNotFoundError:
            return None
        if done.returncode and call is squeue and "Invalid job id" not in done.stderr:
            return UNKNOWN
        states = [line.split()[0].lower() for line in done.stdout.splitlines() if line.strip()]
        alive = [state for state in states if state not in ENDED]
        if alive and call is sacct:  # the record of a job that SLURM has lost
            return None
        if states and not done.returncode:
            return (alive or states)[0]
    return None


def read_json(path: Path) -> dict[str, Any] | None:
    """Content of a JSON file; None where it is missing or damaged."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None
