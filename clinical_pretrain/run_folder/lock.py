"""One process trains in a run folder at a time."""

from __future__ import annotations

import fcntl
import time
from typing import TextIO

from clinical_pretrain.console import console
from clinical_pretrain.run_folder.compatibility import check_unused
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError

LOCK_SECONDS = 120
"""How long to wait for another run in the folder to end; a lost node's lock on a network disk lasts as long."""


def exclusive_lock(folder: RunFolder, job: str | None, restarts: int = 0) -> TextIO:
    """Lock the folder, which is made if it doesn't exist. Another process that is still there, for example saving after
    its launcher's end, is waited for.

    Args:
        folder: the run folder.
        job: the SLURM job that this process is part of.
        restarts: how often that job was requeued before.

    Returns:
        The open lock file; closing it releases the lock.

    Raises:
        UserError: the folder is in use, or holds something that isn't a run's.
    """
    if not folder.exists:
        check_unused(folder)
        folder.path.mkdir(parents=True, exist_ok=True)
    stream, deadline = folder.lock_file.open("a+"), time.monotonic() + LOCK_SECONDS
    waiting = False
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stream.truncate(0)
            stream.write(f"{job} {restarts}" if job else "")
            stream.flush()
            return stream
        except BlockingIOError:
            if time.monotonic() > deadline:
                stream.seek(0)
                if job and stream.read() in {f"{job} {number}" for number in range(restarts)}:
                    return stream  # held by an earlier start of this job, on a lost node
                raise UserError(f"{folder}: another process is still training here; stop it first") from None
            if not waiting:
                console.say(f"{folder}: another process is training here; waiting for it to end")
                waiting = True
            time.sleep(0.2)
        except OSError:  # a network disk without locks
            return stream
