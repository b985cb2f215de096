"""Submit jobs to SLURM through submitit: a training, a sweep of trainings, a shard build.

Each task replaces itself by the command that a launcher would start. submitit's own handling of signals, and its
checkpoint(), aren't used: only rank 0 would run them, and a ZeRO checkpoint needs all ranks. The ranks agree to stop
and save together (training/watchdog.py), and slurm/end.sh decides by their exit code whether the job is requeued, as
for slurm/pretrain.sh. See slurm/PROTOCOL.md.
"""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import clinical_pretrain
from clinical_pretrain.cluster.checks import check_for_nodes
from clinical_pretrain.cluster.jobs import jobs_of, read_json, refuse_queued
from clinical_pretrain.config.command_line import load_config, split_options
from clinical_pretrain.config.fields import keys_of
from clinical_pretrain.config.other_names import refuse_unknown
from clinical_pretrain.config.reading import build, flatten
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.config.slurm import SlurmConfig
from clinical_pretrain.resources import resource_path
from clinical_pretrain.run_folder.paths import JOBS_FOLDER, RunFolder
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import write_json
from tokenizer_tools.yaml_files import read_yaml

SITE = "slurm/site.yaml"
SITE_SETUP = "slurm/site_setup.sh"


@dataclass(frozen=True)
class Command:
    """A Python command that replaces a task of a job."""

    arguments: tuple[str, ...]
    """Arguments of the Python interpreter."""
    is_rank: bool = False
    """Whether it is a rank of a training, which needs RANK, WORLD_SIZE and so on."""

    def __call__(self) -> None:
        """Replace the process by the command; doesn't return."""
        from submitit.helpers import TorchDistributedEnvironment

        if self.is_rank:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        os.execv(sys.executable, [sys.executable, *self.arguments])


@dataclass(frozen=True)
class PlannedRun:
    """One run of a submission."""

    config: RunConfig
    arguments: tuple[str, ...]
    """Arguments of `run.py`."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.run_dir)


def site_config(path: str, overrides: Sequence[str]) -> SlurmConfig:
    """Settings of a site's YAML file, overridden by `--slurm.key value`.

    Raises:
        UserError: a key is unknown, or a value is invalid.
    """
    file = Path(path) if Path(path).exists() or path != SITE else resource_path(SITE)
    if not file.exists():
        raise UserError(f"{file}: no such site file; there is {SITE}, and examples are in slurm/sites/")
    site = {key: value for key, value in read_yaml(file).items() if value}
    if "setup" in site:
        raise UserError(f"{file}: move the lines of setup to {SITE_SETUP}, or to a file that setup_file names")
    refuse_unknown(site, keys_of(SlurmConfig), file=str(file))
    if wrong := [key for key, value in site.items() if isinstance(value, str) == (key == "options")]:
        raise UserError(f"{file}: {wrong[0]} must be {'a mapping' if wrong[0] == 'options' else 'text'}")
    given = dict(split_options(overrides))
    keys = [f"slurm.{key}" for key in keys_of(SlurmConfig)]
    refuse_unknown([key for key in given if not key.startswith("slurm.options.")], keys, "--")
    return build(SlurmConfig, flatten(site) | {key.removeprefix("slurm."): value for key, value in given.items()})


def expand_sweep(arguments: Sequence[str], sweep: Sequence[str]) -> list[PlannedRun]:
    """One run for each combination of the sweep's values, each in its own run folder; without a sweep, the run itself.

    Args:
        arguments: of `run.py`.
        sweep: such as `optim.learning_rate=1e-5,3e-5`.

    Raises:
        UserError: a config can't work.
    """
    axes = []
    for axis in sweep:
        key, _, values = axis.partition("=")
        if not values:
            raise UserError(f"--sweep {axis}: give a key and its values, as in optim.learning_rate=1e-5,3e-5")
        axes.append([(key, value) for value in values.split(",")])
    runs = []
    for point in itertools.product(*axes):
        own = [*arguments, *(argument for key, value in point for argument in (f"--{key}", value))]
        config, _ = load_config(own, needs_file=True)
        if point:
            name = "-".join(f"{key.split('.')[-1]}={value}" for key, value in point).replace("/", "_")
            own += ["--run_dir", f"{config.run_dir}/{name}"]
            config, _ = load_config(own, needs_file=True)
        runs.append(PlannedRun(config, tuple(own)))
    if len({run.folder for run in runs}) < len(runs):
        raise UserError(f"--sweep {' '.join(sweep)}: a value is given twice")
    return runs


def export_folders(runs: list[PlannedRun], export_to: Path) -> list[Path]:
    """The folder to export each run's model to; of several runs, one below `export_to`."""
    return [export_to if len(runs) == 1 else export_to / run.folder.name for run in runs]


def submit(
    runs: list[PlannedRun], slurm: SlurmConfig, export_to: Path | None = None, dry_run: bool = False
) -> list[dict[str, Any]]:
    """Submit runs, several as an array, and the export of each as a job that waits for it.

    Returns:
        For each run: job, run_dir, log, and where asked for export_job and export_to. With dry_run, the sbatch script,
        and for each run its command, and export_command.

    Raises:
        UserError: something can't work on the nodes, or SLURM refused the job.
    """
    for run in runs:
        check_for_nodes(run.config, slurm)
    first = runs[0].folder
    common = first if len(runs) == 1 else first.parent
    logs = common / JOBS_FOLDER
    entry = str(Path(clinical_pretrain.__file__).with_name("run.py"))
    commands = [Command(("-u", entry, *run.arguments), is_rank=True) for run in runs]
    parameters = training_parameters(slurm, logs, f"train-{common.name}", ["--kill-on-bad-exit=0", "--wait=60"])
    outs: list[Path | None] = [*export_folders(runs, export_to)] if export_to else [None] * len(runs)
    exports = [("-m", "clinical_pretrain", "export", str(run.folder), "--out", str(out))
               for run, out in zip(runs, outs, strict=True)]  # fmt: skip
    if dry_run:
        found = []
        for command, export, out in zip(commands, exports, outs, strict=True):
            after = {"export_command": shlex.join(["python", *export])} if out else {}
            found.append({"command": shlex.join(["python", *command.arguments]), **after})
        return [{"script": script(logs, parameters, slurm, len(runs)), **found[0]}, *found[1:]]
    for run in runs:
        refuse_queued(jobs_of(run.folder), str(run.folder))
    with all_or_none() as submitted:
        jobs = submit_job(logs, parameters, slurm, commands)
        submitted += jobs
        found = [{"job": job, "run_dir": str(run.folder), "log": str(logs / f"{job}_0_log.out")}
                 for run, job in zip(runs, jobs, strict=True)]  # fmt: skip
        for run, facts in zip(runs, found, strict=True):
            RunFolder(run.folder).jobs.mkdir(parents=True, exist_ok=True)
            write_json(RunFolder(run.folder).job_file, facts)
        for run, facts, export, out in zip(runs, found, exports, outs, strict=True):
            if out is not None:
                own = RunFolder(run.folder).jobs
                after = job_parameters(slurm, own, f"export-{run.folder.name}", after=facts["job"])
                facts |= {
                    "export_job": submit_job(own, after, slurm, [Command(export)])[0],
                    "export_to": str(out.absolute()),
                }
                submitted.append(facts["export_job"])
                write_json(RunFolder(run.folder).job_file, facts)
    return found


@contextmanager
def all_or_none() -> Iterator[list[str]]:
    """Cancel the jobs in the list if a further one, which belongs to them, is refused."""
    submitted: list[str] = []
    try:
        yield submitted
    except BaseException:
        if submitted:
            subprocess.run(["scancel", *submitted], capture_output=True, timeout=60)
        raise


def submit_shards(arguments: Sequence[str], out: Path, slurm: SlurmConfig, dry_run: bool = False) -> dict[str, Any]:
    """Build shards by three jobs: one prepares the folder, an array reads and tokenises the notes, a share for each
    task, and one packs them and finishes.

    Args:
        arguments: of `build-shards`.
        out: the shard folder that they name.
        slurm: settings of the jobs; `tasks` is the size of the array.
        dry_run: submit nothing.

    Returns:
        The jobs' numbers and the folder of their logs; with dry_run, for each job its script and its first command.
    """
    logs = out.with_name(f"{out.name}-slurm")
    build = ("-m", "clinical_pretrain", "build-shards", *arguments)

    def parameters(stage: str, **more: Any) -> dict[str, Any]:
        return job_parameters(slurm, logs, f"shards-{stage}", **more)

    prepares = [Command((*build, "--stage", "prepare"))]
    shares = [Command((*build, "--stage", "scan", "--share", f"{n}/{slurm.tasks}")) for n in range(slurm.tasks)]
    finishes = [Command(build)]
    if dry_run:
        stages = {"prepare": (None, prepares), "scan": ("PREPARE", shares), "finish": ("SCAN", finishes)}
        return {
            stage: {
                "script": script(logs, parameters(stage, after=after), slurm, len(commands)),
                "command": shlex.join(["python", *commands[0].arguments]),
            }
            for stage, (after, commands) in stages.items()
        }
    earlier = read_json(logs / "jobs.json") or {}
    refuse_queued([earlier[name] for name in ("prepare", "scan", "finish") if name in earlier], str(out))
    with all_or_none() as submitted:
        prepare = submit_job(logs, parameters("prepare"), slurm, prepares)[0]
        submitted.append(prepare)
        scan = submit_job(logs, parameters("scan", after=prepare), slurm, shares)[0].split("_")[0]
        submitted.append(scan)
        finish = submit_job(logs, parameters("finish", after=scan), slurm, finishes)[0]
    jobs = {"prepare": prepare, "scan": scan, "finish": finish, "logs": str(logs)}
    write_json(logs / "jobs.json", jobs)
    return jobs


def training_parameters(slurm: SlurmConfig, folder: Path, name: str, srun: Sequence[str] = ()) -> dict[str, Any]:
    """As job_parameters, with the nodes, GPUs and tasks of a training."""
    parameters = job_parameters(slurm, folder, name, srun=srun)
    if slurm.gpus_per_node:
        parameters["gpus_per_node"] = slurm.gpus_per_node
    return parameters | {"nodes": slurm.nodes, "ntasks_per_node": slurm.ranks_per_node}


def job_parameters(
    slurm: SlurmConfig,
    folder: Path,
    name: str,
    after: str | None = None,
    srun: Sequence[str] = (),
) -> dict[str, Any]:
    """submitit's parameters for a job; what all jobs share, and what the arguments add.

    Args:
        slurm: settings of the job.
        folder: for its logs and scripts.
        name: the job's name.
        after: a job that must have succeeded before this one starts.
        srun: more options of srun.
    """
    begin, end = (shlex.quote(str(resource_path(f"slurm/{name}"))) for name in ("begin.sh", "end.sh"))
    setup = [
        "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",  # srun doesn't inherit it from sbatch
        f"export TRIES_FILE={shlex.quote(str(folder.absolute()))}/$SLURM_JOB_ID.tries",
        f"export WARNING_SECONDS={slurm.warning_seconds}",
        f"SITE_SETUP={shlex.quote(str(setup_file(slurm)))}",
        f". {begin}",
    ]
    options = {key: True if value == "true" else value for key, value in slurm.options.items()}
    more = {"time": slurm.time, "requeue": True, **options}
    more |= {key: value for key in ("partition", "account", "qos", "constraint") if (value := getattr(slurm, key))}
    if slurm.memory:
        more["mem"] = slurm.memory
    if after is not None:
        more |= {"dependency": f"afterok:{after}", "kill-on-invalid-dep": "yes"}
    return {
        "job_name": name,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": slurm.cpus_per_task,
        "signal_delay_s": slurm.warning_seconds,
        "wckey": None,  # submitit's own would be refused where there are some
        "stderr_to_stdout": True,
        "setup": setup,
        "teardown": [f"{end} $?"],
        "srun_args": ["--open-mode=append", *srun],
        "additional_parameters": more,
    }


def script(folder: Path, parameters: dict[str, Any], slurm: SlurmConfig, count: int) -> str:
    """The sbatch script that submit_job() would submit. Needs no SLURM."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{python(slurm)} -u -m submitit.core._submit {shlex.quote(str(folder.absolute()))}"
    many = {"map_count": count} if count > 1 else {}
    return str(_make_sbatch_string(command, folder.absolute(), **parameters, **many))


def submit_job(folder: Path, parameters: dict[str, Any], slurm: SlurmConfig, commands: list[Command]) -> list[str]:
    """Submit a job, several commands as an array. Returns the jobs' numbers, such as 123, or 123_0, 123_1.

    Raises:
        UserError: there is no SLURM here, the folder can't be written, or SLURM refused the job.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError("sbatch: not found; run this on a login node of the cluster, or add --dry-run")
    existed = {path for path in (*folder.glob("*"), folder, *folder.parents) if path.exists()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        executor = SlurmExecutor(folder.absolute(), python=python(slurm))
        executor.update_parameters(**parameters)
        with redirect_stderr(StringIO()), executor.batch():  # the error repeats sbatch's message
            jobs = [executor.submit(command) for command in commands]
        return [job.job_id for job in jobs]
    except FailedJobError as error:
        with suppress(OSError):
            for path in set(folder.iterdir()) - existed:  # other jobs may write here
                if path.suffix in (".sh", ".pkl") and not path.stem.endswith(("_submitted", "_result")):
                    path.unlink()
            for path in (folder, *folder.parents):
                if path not in existed:
                    path.rmdir()
        errors = [line for line in str(error).splitlines() if "error: " in line]
        reason = errors[-1].split("error: ")[-1] if errors else " ".join(str(error).split())[-300:]
        raise UserError(f"SLURM refused the job: {reason}") from None
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be written ({error.strerror})") from None


def setup_file(slurm: SlurmConfig) -> Path:
    """The shell snippet that each job sources.

    Raises:
        UserError: there is no such file.
    """
    file = Path(slurm.setup_file).absolute() if slurm.setup_file else resource_path(SITE_SETUP)
    if not file.is_file():
        raise UserError(f"{file}: no such file; setup_file names a shell snippet like {SITE_SETUP}")
    return file


def python(slurm: SlurmConfig) -> str:
    """Shell command of the Python interpreter on the nodes."""
    if slurm.container:
        return (
            f"apptainer exec --nv {slurm.container_options} {shlex.quote(slurm.container)} {slurm.python or 'python3'}"
        )
    return shlex.quote(slurm.python or sys.executable)
