"""The status of runs: state, step, loss, time left, restarts, and why they last stopped."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from clinical_pretrain.cluster.jobs import (
    ENDED,
    UNKNOWN,
    job_state,
    jobs_of,
    read_json,
    starts_of,
    submitted_since,
)
from clinical_pretrain.exit_codes import INTERRUPTED, LOST, USER_ERROR
from clinical_pretrain.observe.pace import time_left
from clinical_pretrain.release.facts_file import FACTS_NAME
from clinical_pretrain.run_folder.metrics import duration, read_metrics
from clinical_pretrain.run_folder.paths import JOBS_FOLDER, RunFolder
from tokenizer_tools.errors import UserError

FRESH_SECONDS = 120
"""A run on another machine is running if it wrote a line of metrics less than this long ago."""


def runs_in(paths: list[Path]) -> list[Path]:
    """Run folders among these folders and below them, in order.

    Raises:
        UserError: there is none.
        OSError: one of these folders can't be read.
    """
    for path in paths:
        RunFolder(path).run_file.exists()  # one that is named must be readable; others below are passed over
    found = [path for path in folders_in(paths) if is_run(path) or _is_there(RunFolder(path).job_file)]
    if not found:
        raise UserError(f"{', '.join(map(str, paths))}: no run here; give the --run_dir of a training run")
    return found


def folders_in(paths: Sequence[Path]) -> list[Path]:
    """These paths and what lies up to two levels below them, in order."""
    return sorted({folder for path in paths for folder in (path, *path.glob("*"), *path.glob("*/*"))})


def is_run(path: Path) -> bool:
    """Whether this is a run folder. One of another user that can't be entered is none."""
    return _is_there(RunFolder(path).run_file)


def _is_there(path: Path) -> bool:
    with suppress(OSError):
        return path.exists()
    return False


def no_run(path: Path) -> UserError:
    """The error for a folder that should be a run's: names the runs in it, if there are any."""
    with suppress(UserError):
        if runs := [str(run) for run in runs_in([path]) if is_run(run)]:
            more = f" and {len(runs) - 10} more" if len(runs) > 10 else ""
            return UserError(f"{path}: a folder of runs; give one of them: {', '.join(runs[:10])}{more}")
    return UserError(f"{path}: not a run folder; give the --run_dir of a training run, such as runs/NAME")


def status(run_dir: Path, lines: Sequence[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A run's state.

    Args:
        run_dir: the run folder.
        lines: of its metrics.jsonl, for a caller who has read them: the newest ones of training, as many as
            `pace.LINES`, and the newest one of validation are enough.

    Returns:
        run_dir, job, state, step, max_steps (those of --extend, too), stage, loss, validation_loss, seconds_left,
        restarts and last_stop; None for what is unknown.
    """
    try:
        folder = RunFolder(run_dir)
        return _status(folder, read_metrics(folder) if lines is None else lines)
    except (UserError, OSError) as error:  # the other runs can be shown
        return unreadable(run_dir, error)


def unreadable(run_dir: Path, error: UserError | OSError) -> dict[str, Any]:
    """What `status` says of a run whose files can't be read."""
    reason = str(error) if isinstance(error, UserError) else f"{error.filename}: {error.strerror}"
    nothing = dict.fromkeys(("job", "max_steps", "loss", "validation_loss", "seconds_left"))
    return {"run_dir": str(run_dir), "state": "unreadable", "step": 0, "stage": 1, "restarts": 0,
            "last_stop": reason, **nothing}  # fmt: skip


def _status(folder: RunFolder, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    run_dir = folder.path
    starts, submission = starts_of(run_dir), read_json(folder.job_file) or {}
    last, jobs = starts[-1] if starts else {}, jobs_of(run_dir)
    states = {job: job_state(job) for job in jobs}
    waiting = {job: state for job, state in states.items() if state and state not in (*ENDED, UNKNOWN)}
    job = next(iter(waiting or jobs), None)
    train, validation = ([line for line in lines if line["kind"] == kind] for kind in ("train", "validation"))
    max_steps = None
    if folder.config_file.exists():
        config = folder.read_config()
        max_steps = config["max_steps"] + config.get("extend", 0)
    stop = folder.read_stop() or {}
    of_last_start = bool(stop) and folder.stop_file.stat().st_mtime >= last.get("timestamp", 0.0)
    is_of_last_start = bool(train) and train[-1].get("start") == len(starts) - 1
    is_fresh = is_of_last_start and _is_fresh(train[-1])
    state, reason = _state(last, stop if of_last_start else {}, is_fresh), stop.get("reason")
    if waiting:
        state = next(iter(waiting.values()))
        reason = reason and reason.split("; the same command")[0]  # SLURM requeues it
    elif job and job != last.get("slurm_job") and submitted_since(run_dir, starts):
        state, reason = states[job] or "gone", f"job {job} ended before training began; see {submission['log']}"
    elif UNKNOWN in states.values() and state not in ("finished", "running"):
        state = UNKNOWN
    if state == "finished" and (exporting := submission.get("export_job")):
        found, out = job_state(exporting), submission["export_to"]
        if found in (None, UNKNOWN):
            found = "completed" if (Path(out) / FACTS_NAME).exists() else "not there"
        if found != "completed":
            state = f"finished, export {found}"
            reason = f"see {run_dir}/{JOBS_FOLDER}/{exporting}_0_log.out"
    left = time_left(train, max_steps) if state == "running" and is_of_last_start else None
    return {
        "run_dir": str(run_dir),
        "job": job,
        "state": state,
        "step": train[-1]["step"] if train else 0,
        "max_steps": max_steps,
        "stage": train[-1].get("stage", 1) if train else 1,
        "loss": train[-1]["loss"] if train else None,
        "validation_loss": validation[-1]["loss"] if validation else None,
        "seconds_left": left.seconds if left else None,
        "restarts": max(0, len(starts) - 1),
        "last_stop": reason,
    }


def table(found: list[dict[str, Any]]) -> list[str]:
    """Lines of a table, one per run."""
    rows = [("run", "state", "step", "loss", "validation", "left", "restarts", "last stop")]
    for run in found:
        losses = [f"{run[name]:.4f}" if run[name] is not None else "" for name in ("loss", "validation_loss")]
        left = "" if run["seconds_left"] is None else duration(run["seconds_left"])
        steps = f"{run['step']:,}" + (f"/{run['max_steps']:,}" if run["max_steps"] else "")
        steps += f" (stage {run['stage']})" if run["stage"] > 1 else ""
        state = run["state"] + (f" (job {run['job']})" if run["job"] and "finished" not in run["state"] else "")
        stop = run["last_stop"] if run["last_stop"] not in (None, "finished") else ""
        rows.append((run["run_dir"], state, steps, *losses, left, str(run["restarts"]), stop))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _state(last: dict[str, Any], stop: dict[str, Any], is_fresh: bool) -> str:
    """State of a run without a job.

    Args:
        last: its last start.
        stop: how that ended; empty where it hasn't said so.
        is_fresh: whether that start has just written a line of metrics.
    """
    if str(stop.get("reason")).startswith("finished"):
        return "finished"
    process = last.get("process")
    if process and last.get("host") == socket.gethostname():
        if Path(f"/proc/{process}").exists():
            return "running"
    elif process and is_fresh and not stop:
        return "running"
    if not last:
        return "not started"
    states = {None: "lost", 1: "lost", LOST: "lost", INTERRUPTED: "lost", USER_ERROR: "failed"}
    return states.get(stop.get("exit_code"), "stopped")


def _is_fresh(newest: dict[str, Any]) -> bool:
    """Whether a training line was written a moment ago."""
    age = time.time() - newest.get("time", 0.0)
    return age < max(FRESH_SECONDS, 3 * newest.get("seconds", 0.0))
