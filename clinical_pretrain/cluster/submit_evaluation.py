"""Submit an evaluation to SLURM: an array with a task for each trial that isn't done.

A task is the command `finetune` with one seed. It saves nothing before its end, so a task that is lost or reaches its
time limit starts anew, at most MAX_STARTS times in one job; submitting again submits what is missing.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path

from clinical_pretrain.cluster.checks import check_is_local
from clinical_pretrain.cluster.jobs import UNKNOWN, queued, read_json
from clinical_pretrain.cluster.submit import Command, job_parameters, script, submit_job
from clinical_pretrain.config.slurm import SlurmConfig
from clinical_pretrain.run_folder.paths import JOBS_FOLDER
from clinical_pretrain.tasks.evaluation import leave_out, readable_tasks
from clinical_pretrain.tasks.trials import Evaluation, Trial
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import write_json

MAX_STARTS = 3
"""Starts of a task, the first included; see begin.sh. Users can set another number as a variable of the same name."""


@dataclass
class Submission:
    """What was submitted, or would be."""

    logs: Path
    """Folder of the jobs' logs and scripts, and of jobs.json: the job that was last submitted for each trial."""
    script: str = ""
    """The sbatch script; empty if there is nothing to run."""
    commands: list[str] = field(default_factory=list)
    """Of each task of the array."""
    jobs: list[str] = field(default_factory=list)
    """Of each task, such as 7_0; empty for a dry run."""
    done: int = 0
    """Number of trials that are done."""
    queued: int = 0
    """Number of trials whose job waits or runs."""
    missing: list[str] = field(default_factory=list)
    """Why a task or a trial can't be done, one line each."""


def submit_evaluation(evaluation: Evaluation, slurm: SlurmConfig, dry_run: bool = False) -> Submission:
    """Submit all trials that are neither done nor queued, one GPU each, or none with `gpus_per_node` 0.

    Raises:
        UserError: nothing can be run as asked, SLURM doesn't answer, or it refused the job.
    """
    for model in evaluation.models:
        check_is_local(model.path)
    evaluation.check()
    found = Submission(evaluation.results / JOBS_FOLDER)
    trials = _missing_trials(evaluation, found)
    jobs_file = found.logs / "jobs.json"
    earlier: dict[str, str] = read_json(jobs_file) or {}
    if not dry_run:
        busy = _queued(earlier, trials)
        found.queued = len(busy)
        trials = [trial for trial in trials if trial not in busy]
    if not trials:
        return found
    commands = [Command(("-m", "clinical_pretrain", "finetune", *arguments(trial, evaluation))) for trial in trials]
    found.commands = [shlex.join(["python", *command.arguments]) for command in commands]
    parameters = job_parameters(slurm, found.logs, f"evaluate-{evaluation.results.absolute().name}")
    parameters["setup"].insert(0, f"export MAX_STARTS=${{MAX_STARTS:-{MAX_STARTS}}}")
    if slurm.gpus_per_node:
        parameters["gpus_per_node"] = 1
    found.script = script(found.logs, parameters, slurm, len(commands))
    if not dry_run:
        found.jobs = submit_job(found.logs, parameters, slurm, commands)
        write_json(jobs_file, earlier | dict(zip(map(str, trials), found.jobs, strict=True)))
    return found


def arguments(trial: Trial, evaluation: Evaluation) -> list[str]:
    """The arguments of `finetune` that do one trial."""
    place, model = trial.place, trial.model
    given = {
        "task": place.file or place.task.name,
        "data": str(place.data),
        "model": model.path,
        "name": model.name,
        "seed": str(trial.seed),
        "out": str(trial.results),
        "shards": str(model.shards) if model.shards else None,
        "patient-key": str(evaluation.patient_key) if model.shards and evaluation.patient_key else None,
    }
    settings, defaults = trial.settings, type(trial.settings)()
    for entry in fields(settings):
        if (value := getattr(settings, entry.name)) != getattr(defaults, entry.name):
            given[entry.name.replace("_", "-")] = value if isinstance(value, str) else json.dumps(value)
    return [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]


def _missing_trials(evaluation: Evaluation, found: Submission) -> list[Trial]:
    """The trials that aren't done. Each task's data is read: what fails here would fail on the nodes."""
    trials = []
    for loaded in readable_tasks(evaluation, found.missing):
        for trial in (trial for model in evaluation.models for trial in evaluation.trials(loaded.place, model)):
            try:
                if trial.earlier_result(loaded.data_sha256) is None:
                    trials.append(trial)
                else:
                    found.done += 1
            except UserError as error:
                leave_out(str(trial), error, found.missing)
    return trials


def _queued(jobs: dict[str, str], trials: list[Trial]) -> list[Trial]:
    """The trials whose job waits or runs. Of an array that has ended no task is asked for.

    Raises:
        UserError: SLURM doesn't answer.
    """
    known = {str(trial): jobs[str(trial)] for trial in trials if str(trial) in jobs}
    states = {array: queued(array) for array in {job.split("_")[0] for job in known.values()}}
    tasks = {name: queued(job) for name, job in known.items() if states[job.split("_")[0]]}
    if UNKNOWN in (*states.values(), *tasks.values()):
        raise UserError("SLURM doesn't answer (see squeue); try again when it does")
    return [trial for trial in trials if tasks.get(str(trial))]
