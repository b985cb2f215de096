"""How a run ends: finished, or saved and to be resumed after a signal. Early stopping is decided in validation.py."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from clinical_pretrain.exit_codes import ENDED, STOPPED
from clinical_pretrain.run_folder.history import best_validation, validations
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.run_folder.starts import goodput, record_stop
from clinical_pretrain.training.checkpointer import save
from clinical_pretrain.training.loss_guard import BadStepsError
from clinical_pretrain.training.signals import ENDING
from tokenizer_tools.command_line import typed

if TYPE_CHECKING:
    from clinical_pretrain.training.run import Run


def save_and_exit(run: Run) -> NoReturn:
    """Save unless that has been done, and exit with the code of a run that was asked to stop."""
    requests = [
        (number, by) for number, by in run.ranks.all_gather((run.watchdog.signal, run.watchdog.asked_by)) if number
    ]
    number, by = next(((number, by) for number, by in requests if number in ENDING), requests[0])
    try:
        is_saved = run.checkpointer.newest_step == run.step or save(run)
    except BadStepsError:  # the next start will roll back
        is_saved = False
    step = run.step if is_saved else run.checkpointer.newest_step
    code = ENDED if number in ENDING else STOPPED
    exit_resumable(run, f"stopped at step {run.step:,} ({by}); the same command resumes from step {step:,}", code)


def exit_resumable(run: Run, reason: str, code: int = STOPPED) -> NoReturn:
    """Exit with the code of a run that resumes when it is started again."""
    run.say(reason)
    if run.ranks.is_first:
        record_stop(run.folder, reason, code, run.step)
    close(run)
    sys.exit(code)


def finish(run: Run, seconds: float) -> dict[str, Any]:
    """Sum up a run that is trained to its end, and print what to do next. Returns the summary, on all ranks."""
    summary = summarise(run, seconds)
    skipped = f", {run.guard.skipped_updates:,} of them without an update" if run.guard.skipped_updates else ""
    early = ", early: the validation loss stopped falling" if summary["stopped_early"] else ""
    run.say(f"done: {run.step:,} steps{early}{skipped}; {next_command(run.folder, summary)}")
    if run.ranks.is_first:
        record_stop(run.folder, reason_of_end(summary), 0, run.step)
    close(run)
    return summary


def summarise(run: Run, seconds: float) -> dict[str, Any]:
    """The run in figures, flat, on all ranks. Rank 0 writes `summary.json`."""

    def write() -> dict[str, Any]:
        starts, progress = run.folder.starts(), run.progress
        measured, best = validations(run.folder, starts, run.step), best_validation(run.folder, starts)
        before, after = {} if measured.differences else measured.before, measured.after
        summary = {
            "steps": run.step,
            "stages": progress.stages,
            "stopped_early": run.step < progress.last_step,
            "samples_consumed": progress.samples_consumed,
            "tokens_consumed": progress.samples_consumed * run.spec.manifest.sequence_length,
            "skipped_updates": run.guard.skipped_updates,
            "validation_loss_before": before.get("loss"),
            "validation_loss_after": after.get("loss"),
            "validation_accuracy_before": before.get("accuracy"),
            "validation_accuracy_after": after.get("accuracy"),
            "best_step": best.get("step"),
            "best_validation_loss": best.get("loss"),
            "seconds": round(seconds, 1),
            **goodput(run.folder),
        }
        return run.folder.write_versioned(run.folder.summary_file, summary)

    return run.from_first(write)


def reason_of_end(summary: dict[str, Any]) -> str:
    """For stop.json."""
    return "finished early: the validation loss stopped falling" if summary["stopped_early"] else "finished"


def next_command(folder: RunFolder, summary: dict[str, Any]) -> str:
    """What to type now."""
    best = summary["best_step"]
    other = ""
    if best not in (None, summary["steps"]):
        is_saved = best in folder.saved_steps()
        how = "--step best" if is_saved else "--checkpoint.keep_best true would have kept it"
        other = f" (step {best:,} has the lowest validation loss: {how})"
    return f"next: {typed()} export {shlex.quote(str(folder))} --out model/{other}"


def close(run: Run) -> None:
    """Close what is open, on all ranks."""
    if run.metrics is not None:
        run.metrics.close()
    run.ranks.barrier()
