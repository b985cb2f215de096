"""Which checkpoints are kept, and which are deleted after a save."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from clinical_pretrain.checkpoint.verify import quarantined
from clinical_pretrain.config.recovery import CheckpointConfig
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError


def prune(
    folder: RunFolder, config: CheckpointConfig, choose_best: Callable[[list[int]], int | None], failed: bool
) -> None:
    """Delete what need not be kept. Raises nothing: what can't be deleted now is deleted after the next save.

    Args:
        folder: the run folder.
        config: how many checkpoints to keep, and which beside the newest.
        choose_best: returns which of the given steps has the best validation loss.
        failed: whether the save failed. Then every checkpoint is kept, and only incomplete ones are deleted.
    """
    with suppress(OSError, UserError):
        to_delete = [] if failed else _replaced(folder) + _superseded(folder, config, choose_best)
        for path in to_delete:
            # Renamed first, so that a folder that is only half deleted can't be taken for a checkpoint.
            path.rename(path.with_name(f".{path.name}.old"))
        delete_incomplete(folder)


def _replaced(folder: RunFolder) -> list[Path]:
    """Damaged checkpoints whose steps have been saved again."""
    return [path for step in folder.saved_steps() if (path := quarantined(folder.checkpoint(step))).exists()]


def _superseded(
    folder: RunFolder, config: CheckpointConfig, choose_best: Callable[[list[int]], int | None]
) -> list[Path]:
    """Checkpoints older than the newest `keep_latest`, but for the best one and for multiples of `keep_every_steps`."""
    if not config.keep_latest:
        return []
    steps = folder.saved_steps()
    best_step = choose_best(steps) if config.keep_best else None
    milestones = [step for step in steps if config.keep_every_steps and step % config.keep_every_steps == 0]
    return [folder.checkpoint(step) for step in steps[: -config.keep_latest] if step not in (best_step, *milestones)]


def delete_incomplete(folder: RunFolder) -> None:
    """Delete folders of saves that were interrupted (`.step-N.tmp`), and of deletions that were (`.step-N.old`)."""
    for path in folder.checkpoints.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)
