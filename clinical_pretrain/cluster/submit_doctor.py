"""Submit `clinical-pretrain doctor` to SLURM: a process for each rank that the training would have."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from typing import Any

from clinical_pretrain.cluster.submit import Command, PlannedRun, script, submit_job, training_parameters
from clinical_pretrain.config.slurm import SlurmConfig, seconds_of
from clinical_pretrain.run_folder.paths import RunFolder

MINUTES = 15
"""Time limit of the job, where the training's isn't shorter: a short job starts sooner."""
MAX_STARTS = 3
"""As of an evaluation: see begin.sh."""


def submit_doctor(run: PlannedRun, slurm: SlurmConfig, dry_run: bool = False) -> dict[str, Any]:
    """Submit a check of the nodes that a training would get.

    Args:
        run: the training.
        slurm: settings of its job.
        dry_run: submit nothing.

    Returns:
        job, log, and report, the JSON file that it writes; with dry_run the script, and the command of each rank.

    Raises:
        UserError: there is no SLURM here, or it refused the job.
    """
    folder = RunFolder(run.folder)
    minutes = max(MINUTES, math.ceil(slurm.warning_seconds / 60) + 5)
    if (seconds_of(slurm.time) or 0) > 60 * minutes:
        slurm = replace(slurm, time=str(minutes))
    # Other tasks end before the first one has put their findings together.
    options = ["--kill-on-bad-exit=0", "--wait=0"]
    parameters = training_parameters(slurm, folder.jobs, f"doctor-{run.folder.name}", options)
    parameters["setup"].insert(0, f"export MAX_STARTS=${{MAX_STARTS:-{MAX_STARTS}}}")
    words = ("-u", "-m", "clinical_pretrain", "doctor", *run.arguments, "--json", str(folder.doctor_file))
    command = Command(words, is_rank=True)
    if dry_run:
        return {"script": script(folder.jobs, parameters, slurm, 1), "command": shlex.join(["python", *words])}
    (job,) = submit_job(folder.jobs, parameters, slurm, [command])
    return {"job": job, "log": str(folder.jobs / f"{job}_0_log.out"), "report": str(folder.doctor_file)}
