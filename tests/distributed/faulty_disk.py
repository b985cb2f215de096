"""Every file operation of a save fails, one after the other; then the run is killed at each.

python faulty_disk.py SHARDS ROOT: one rank; writes ROOT/faults.json.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from worker import config

from clinical_pretrain.checkpoint.restore import load
from clinical_pretrain.checkpoint.verify import latest_valid
from clinical_pretrain.config.recovery import CheckpointConfig
from clinical_pretrain.distributed import shut_down
from clinical_pretrain.training.checkpointer import save
from clinical_pretrain.training.ending import close
from clinical_pretrain.training.setup import setup

OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir", "shutil.rmtree")


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


class Disk:
    """Counts file operations, and lets one of them fail, or all from one on."""

    def __init__(self) -> None:
        self.active, self.count, self.fail_at, self.dead_from = False, 0, -1, -1
        self.names: list[str] = []
        sys.addaudithook(self._audit)
        fsync, path_open = os.fsync, Path.open

        def watched_fsync(descriptor: int) -> None:
            self.operation("fsync")
            fsync(descriptor)

        def watched_open(path: Path, mode: str = "r", **how: Any) -> Any:
            stream = path_open(path, mode, **how)
            return WatchedStream(stream, self) if self.active and mode == "wb" else stream

        os.fsync = watched_fsync
        Path.open = watched_open

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.active and event in OPERATIONS:
            self.operation(event)

    def operation(self, name: str) -> None:
        """One more."""
        thread = threading.current_thread()
        if not self.active or not (thread is threading.main_thread() or thread.name.startswith("checkpoint")):
            return  # TensorBoard has a thread of its own
        self.names.append(name)
        self.count += 1
        if 0 <= self.dead_from < self.count:
            raise Killed
        if self.count - 1 == self.fail_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def watched(self, fail_at: int = -1, dead_from: int = -1) -> Iterator[None]:
        """Within, operation `fail_at` fails, or all from `dead_from` on do."""
        self.active, self.count, self.fail_at, self.dead_from, self.names = True, 0, fail_at, dead_from, []
        try:
            yield
        finally:
            self.active = False


class WatchedStream:
    """A stream whose writes count."""

    def __init__(self, stream: Any, disk: Disk) -> None:
        self._stream, self._disk = stream, disk
        self.flush, self.fileno = stream.flush, stream.fileno

    def __enter__(self) -> WatchedStream:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def write(self, data: Any) -> int:
        self._disk.operation("write")
        return int(self._stream.write(data))


def main(shards: str, root: Path) -> None:
    """Save at one step after the other, each time with another fault."""
    disk, found = Disk(), []
    keeps_one = CheckpointConfig(0, keep_latest=1)
    with ExitStack() as stack:
        run = setup(replace(config(root, shards, "run", stage=2), checkpoint=keeps_one), stack)
        run.progress.step = 1
        assert save(run)
        run.progress.step = 2
        with disk.watched():
            assert save(run)
        operations = disk.names
        for kind in ("fail_at", "dead_from"):
            for number, name in enumerate(operations):
                run.progress.step += 1
                before = run.folder.saved_steps()
                try:
                    with disk.watched(**{kind: number}):
                        saved = save(run)
                except Killed:
                    assert kind == "dead_from"
                    saved = run.checkpointer.pending = None
                steps = run.folder.saved_steps()
                newest, faults = latest_valid(run.folder, run.ranks)
                if kind == "dead_from":
                    load(run.folder, run.engine, newest)
                found.append({"kind": kind, "operation": name, "step": run.step, "saved": saved, "before": before,
                              "steps": steps, "newest": newest, "faults": faults})  # fmt: skip
            run.progress.step += 1
            assert save(run), kind  # and the next one works
            left = sorted(path.name for path in run.folder.checkpoints.iterdir())
            assert left == ["latest", f"step-{run.step}"], left
        (root / "faults.json").write_text(json.dumps(found))
        close(run)
    shut_down()


if __name__ == "__main__":
    os.umask(0o077)
    main(sys.argv[1], Path(sys.argv[2]))
