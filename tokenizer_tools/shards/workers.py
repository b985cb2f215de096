"""Jobs over worker processes, with progress, and with memory that doesn't grow with the number of jobs."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from types import TracebackType
from typing import Any

from tokenizer_tools.errors import UserError
from tokenizer_tools.garbage import collect_seldom
from tokenizer_tools.progress import Progress

Job = Callable[[], None]
"""Runs in another process, so it must be picklable: a `functools.partial` of a module's function."""


class LostWorkerError(UserError):
    """A worker process was killed. What is finished stays, and the next start goes on from there."""


_notes_done: Any = None
"""Counter of notes, shared by this process and its workers. Jobs advance it note by note, because a progress bar that
moved only when a whole part is done would seem to hang."""


def advance(count: int) -> None:
    """Report from within a job that `count` more notes are done."""
    with _notes_done.get_lock():
        _notes_done.value += count


class Workers:
    """Worker processes for all jobs of a build. Use as a context manager.

    Args:
        count: processes; default: one per core of this process, or of its SLURM task.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count or int(os.environ.get("SLURM_CPUS_PER_TASK") or len(os.sched_getaffinity(0)))
        self._pool: ProcessPoolExecutor | None = None
        self._has_run = False

    def __enter__(self) -> Workers:
        global _notes_done
        _notes_done = get_context("spawn").Value("q", 0)
        return self

    def start(self, load: Job) -> None:
        """Start the processes, and let each load what its jobs will need while this process does something else."""
        if self.count > 1:
            for _ in range(self.count):
                self._submit(load)

    @property
    def are_started(self) -> bool:
        """Whether the processes run."""
        return self._pool is not None

    def run(self, jobs: Iterator[Job], progress: Progress | None = None) -> None:
        """Run all jobs, in this process if there is one job or one worker.

        Args:
            jobs: created as they are needed, at most two per worker ahead.
            progress: is advanced by the notes that jobs report; None if they report none.

        Raises:
            LostWorkerError: a worker process was killed.
            BaseException: whatever a job raises; the earliest job that fails, if several do.
        """
        self._has_run = True
        first = list(itertools.islice(jobs, 2))
        jobs = itertools.chain(first, jobs)
        with _shown(progress) if progress else contextlib.nullcontext():
            if self.count == 1 or len(first) < 2:  # with a single job, the tokenizer's own threads use the cores
                for job in jobs:
                    job()
            else:
                self._run_in_pool(jobs)

    def _run_in_pool(self, jobs: Iterable[Job]) -> None:
        try:
            waiting: list[Future[None]] = []  # in the jobs' order
            for job in jobs:
                waiting.append(self._submit(job))
                if len(waiting) >= 2 * self.count:
                    wait(waiting, return_when=FIRST_COMPLETED)
                    if any(future.done() and future.exception() for future in waiting):
                        break
                    waiting = [future for future in waiting if not future.done() or future.exception()]
            for future in waiting:
                future.result()
        except BrokenProcessPool:
            raise LostWorkerError(
                "a worker process was killed, perhaps because memory ran out; run the same command again, with "
                f"--workers {max(1, self.count // 2)}: finished parts are kept"
            ) from None

    def _submit(self, job: Job) -> Future[None]:
        if self._pool is None:
            arguments = os.getpid(), _notes_done
            self._pool = ProcessPoolExecutor(self.count, get_context("spawn"), _start_worker, arguments)
        with _interrupts_blocked():  # workers start here and inherit the mask: Ctrl-C is for this process alone
            return self._pool.submit(job)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        # They wait for jobs that won't come, or still load libraries, and would take a while to end. After an error a
        # job may be about to finish its part.
        if error is None or isinstance(error, KeyboardInterrupt) or not self._has_run:
            for process in list(self._pool._processes.values()):
                process.kill()
        self._pool.shutdown(cancel_futures=True)


def _start_worker(parent: int, counter: Any) -> None:
    global _notes_done
    _notes_done = counter
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.umask(0o077)
    collect_seldom()

    def exit_with_parent() -> None:  # a killed parent can't stop its workers, which would wait forever
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _shown(progress: Progress) -> Iterator[None]:
    """Show the counter of notes, several times a second."""
    ended, before = threading.Event(), _notes_done.value

    def show() -> None:
        shown, is_last = before, False
        while not is_last:
            is_last = ended.wait(0.2)
            count = _notes_done.value
            progress.advance(count - shown)
            shown = count

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
