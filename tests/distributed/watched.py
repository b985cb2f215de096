"""A run in which one rank meets its fate in step 8.

python watched.py FAULT-RANK SHARDS ROOT, under variables that a launcher would set, or the deepspeed launcher's.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from worker import config

from clinical_pretrain.config.recovery import CheckpointConfig, WatchdogConfig
from clinical_pretrain.distributed import shut_down
from clinical_pretrain.training import train as training


def meet_fate(fault: str) -> None:
    """As its name says."""
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault == "hang":
        time.sleep(1000)
    if fault == "raise":
        raise RuntimeError("no luck")


def main(fault: str, shards: str, root: Path) -> None:
    """Train for ever, or until step 8."""
    kind, rank = fault.split("-")
    step_of = training.train_step

    def train_step(run: training.Run, batches: Any) -> Any:
        if run.step == 7 and run.ranks.rank == int(rank):
            meet_fate(kind)
        return step_of(run, batches)

    training.train_step = train_step
    tiny = config(root, shards, fault, stage=1)
    watchdog = WatchdogConfig(heartbeat_timeout_seconds=4, step_timeout_seconds=6 if kind == "hang" else 0)
    training.train(replace(tiny, max_steps=100_000, checkpoint=CheckpointConfig(5), watchdog=watchdog))
    shut_down()


if __name__ == "__main__":
    os.umask(0o077)
    what, shards_folder, root_folder = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    main(what, shards_folder, Path(root_folder))
