"""What SLURM says of its partitions and of a job, and whether it would take a job."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from clinical_pretrain.cluster.submit import script, training_parameters
from clinical_pretrain.config.slurm import SlurmConfig
from tokenizer_tools.errors import UserError


class SlurmSilentError(Exception):
    """SLURM's controller doesn't answer, or this machine knows none."""


def has_slurm() -> bool:
    """Whether SLURM's commands are installed here."""
    return shutil.which("sbatch") is not None and shutil.which("scontrol") is not None


def slurm_answers() -> bool:
    """Whether jobs can be submitted from here now."""
    try:
        return has_slurm() and bool(_scontrol("ping"))
    except SlurmSilentError:
        return False


def partition_facts(name: str) -> dict[str, str]:
    """SLURM's words on a partition, such as MaxTime, PreemptMode and GraceTime.

    Args:
        name: of the partition; empty: the default one.

    Raises:
        UserError: there is no such partition.
        SlurmSilentError: SLURM doesn't answer.
    """
    partitions = [_words(line) for line in _scontrol("show", "partition").splitlines() if line.strip()]
    found = [
        each for each in partitions if (each.get("PartitionName") == name if name else each.get("Default") == "YES")
    ]
    if not found:
        names = ", ".join(each["PartitionName"] for each in partitions)
        wanted = f"no partition {name}" if name else "no default partition"
        raise UserError(f"{wanted}; choose one by --slurm.partition or in slurm/site.yaml: {names}")
    return found[0]


def job_facts(job: str) -> dict[str, str]:
    """SLURM's words on a job, such as TimeLimit and Requeue.

    Raises:
        SlurmSilentError: SLURM doesn't answer, or has no such job.
    """
    return _words(_scontrol("show", "job", job).splitlines()[0])


def refusal(slurm: SlurmConfig) -> str | None:
    """Why SLURM would refuse a training's job, in its own words; None: it would take it. Submits nothing."""
    with tempfile.TemporaryDirectory() as folder:
        parameters = training_parameters(slurm, Path(folder), "doctor")
        file = Path(folder) / "job.sh"
        file.write_text(script(Path(folder), parameters, slurm, 1))
        call = ["sbatch", "--test-only", str(file)]
        try:
            done = subprocess.run(call, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            return "sbatch --test-only: no answer"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return (lines or ["sbatch says nothing"])[-1].split("error: ")[-1] if done.returncode else None


def _scontrol(*words: str) -> str:
    try:
        done = subprocess.run(["scontrol", "--oneliner", *words], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        done = None
    if done is None or done.returncode or not done.stdout.strip():
        reason = done.stderr.strip().splitlines()[-1] if done and done.stderr.strip() else "no answer"
        raise SlurmSilentError(f"scontrol {' '.join(words)}: {reason}")
    return done.stdout


def _words(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split() if "=" in word)
