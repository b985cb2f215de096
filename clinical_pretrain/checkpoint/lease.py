"""Read a checkpoint while training may delete it."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clinical_pretrain.checkpoint.state import STATE_NAME, RunState, no_checkpoint, read_state_of
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError

LEASE_PREFIX = ".export-"


@contextmanager
def lease(folder: RunFolder, choose: Callable[[list[int]], int] = max) -> Iterator[tuple[Path, RunState]]:
    """A checkpoint that stays readable, though training may delete it meanwhile: hard links to its files.

    Args:
        folder: the run folder.
        choose: the step, given those that have a checkpoint; asked again where training was faster. Default the newest.

    Yields:
        The folder to read, and the checkpoint's RunState.

    Raises:
        UserError: there is no such checkpoint.
    """
    _clear_leases(folder)
    links, gone = folder.checkpoints / f"{LEASE_PREFIX}{socket.gethostname()}-{os.getpid()}", None
    try:
        while True:
            steps = folder.saved_steps()
            if not steps:
                raise UserError(f"{folder}: no checkpoint yet; train until checkpoint.every_steps or the end")
            step = choose(steps)
            if step not in steps or step == gone:
                raise no_checkpoint(folder, step)
            if gone is not None:
                print(f"step {gone:,}: training has deleted its checkpoint in the meantime; using step {step:,}")
            try:
                checkpoint = _link_files(folder.checkpoint(step), links)
                state = read_state_of(checkpoint)
                break
            except FileNotFoundError as error:
                if folder.checkpoint(step).exists():
                    raise UserError(f"{error.filename}: missing; try another --step") from None
                gone = step
                shutil.rmtree(links, ignore_errors=True)
        yield checkpoint, state
    finally:
        shutil.rmtree(links, ignore_errors=True)


def _link_files(folder: Path, links: Path) -> Path:
    """Link a checkpoint's files into a new folder. Returns the checkpoint itself where a disk can't: one that is
    read-only, or knows no links.

    Raises:
        FileNotFoundError: the checkpoint isn't there, or no longer.
    """
    paths = list(folder.iterdir())
    try:
        links.mkdir()
        for path in paths:
            os.link(path, links / path.name)
    except FileNotFoundError:
        raise
    except OSError:
        links = folder
    if not (links / STATE_NAME).exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder / STATE_NAME))
    return links


def _clear_leases(folder: RunFolder) -> None:
    """Delete what exports of this machine that were killed have left."""
    prefix = f"{LEASE_PREFIX}{socket.gethostname()}-"
    for links in folder.checkpoints.glob(f"{prefix}*"):
        if not Path(f"/proc/{links.name.removeprefix(prefix)}").exists():
            shutil.rmtree(links, ignore_errors=True)
