"""Processes that train in a run folder, and the faults that are injected into them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinical_pretrain.checkpoint.plain_model import plain_model
from clinical_pretrain.checkpoint.state import read_state
from clinical_pretrain.distributed import free_port
from clinical_pretrain.exit_codes import ENDED, LOST
from clinical_pretrain.run_folder.metrics import read_metrics
from clinical_pretrain.run_folder.paths import RunFolder

WAIT_STEPS = 8
"""A fault is injected at most this many steps after the run has resumed, unless it waits for a save or validation."""
SAVE_EVERY, VALIDATE_EVERY = 5, 20
LARGEST_FILE = 2_000_000
"""Limit in bytes that simulates a full disk: metrics fit, a checkpoint of the demo's model doesn't."""
PATIENCE_SECONDS = 120
KINDS = ("kill one rank", "kill all ranks", "SIGTERM", "stop one rank", "damage a checkpoint", "full disk")
MOMENTS = ("step", "save", "validation")


@dataclass
class Fault:
    """A fault, and how the run recovered from it."""

    kind: str
    moment: str
    step: int = 0
    """The last completed step at the fault."""
    survived: bool = False
    lost_steps: int = 0
    """Steps that were repeated."""
    seconds_to_resume: float = 0.0
    """From the fault to the next new step."""


class TrainingProcesses:
    """The processes that train in a run folder."""

    def __init__(self, config_file: Path, shards: Path, run_dir: Path, max_steps: int, log: Path) -> None:
        self.folder, self.log, self.max_steps = RunFolder(run_dir), log, max_steps
        self.processes: list[subprocess.Popen[bytes]] = []
        settings = {
            "--config": config_file,
            "--data.shards": shards,
            "--run_dir": run_dir,
            "--max_steps": max_steps,
            "--log_every_steps": 1,
            "--checkpoint.every_steps": SAVE_EVERY,
            "--validation.every_steps": VALIDATE_EVERY,
            "--validation.max_sequences": 2,
            "--watchdog.heartbeat_timeout_seconds": 5,
        }
        self._arguments = [word for setting in settings.items() for word in setting]

    def start(self, ranks: int, overrides: tuple[str, ...] = ()) -> None:
        """Start this number of ranks, as a launcher would."""
        port = free_port()
        for rank in range(ranks):
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1",
                     "MASTER_PORT": port, "OMP_NUM_THREADS": 1, "DS_ACCELERATOR": "cpu"}  # fmt: skip
            call = [
                sys.executable,
                "-m",
                "clinical_pretrain.run",
                *map(str, self._arguments),
                *overrides,
            ]
            with self.log.open("ab") as stream:
                self.processes.append(
                    subprocess.Popen(call, env=os.environ | {k: str(v) for k, v in names.items()}, stdout=stream,
                                     stderr=stream, start_new_session=True)
                )  # fmt: skip

    def running(self) -> bool:
        """Whether any rank is running."""
        return any(process.poll() is None for process in self.processes)

    def last(self) -> dict[str, Any]:
        """The newest line of the metrics, except those on saves, which are written late."""
        try:
            with self.folder.metrics_file.open("rb") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - 8192))
                lines = stream.read().splitlines()
        except OSError:
            return {"step": 0, "kind": ""}
        for line in reversed(lines):
            with suppress(ValueError):
                facts = dict(json.loads(line))
                if facts["kind"] not in ("save", "goodput"):
                    return facts
        return {"step": 0, "kind": ""}

    def end(self, patience: float = math.inf) -> set[int | None]:
        """Wait until all ranks have ended. Returns their exit codes; None for a rank that had to be killed."""
        _wait_until(lambda: not self.running(), patience)
        codes: set[int | None] = set()
        for process in self.processes:
            codes.add(process.poll())
            process.kill()
            process.wait()
        self.processes = []
        return codes

    def weights(self) -> str:
        """sha256 of the final weights and Adam's moments, unpartitioned, by name."""
        from clinical_pretrain.engine.reshard import MOMENTS as ADAM
        from clinical_pretrain.engine.reshard import WEIGHT, StoredCheckpoint

        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        state = read_state(self.folder, self.max_steps)
        stored = StoredCheckpoint(self.folder.checkpoint(state.step), state.zero_stage, plain_model(self.folder)[0])
        digest = hashlib.sha256()
        for kind in (WEIGHT, *ADAM):
            for name, tensor in sorted(stored.tensors(kind).items()):
                digest.update(f"{kind} {name}".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def losses(self) -> list[float]:
        """Losses of all steps, then of all validations."""
        return [line["loss"] for kind in ("train", "validation") for line in read_metrics(self.folder, kind)]


def possible_kinds(run: TrainingProcesses) -> list[str]:
    """The kinds of faults that can be injected now."""
    alone, steps = len(run.processes) < 2, run.folder.saved_steps()
    impossible = {"stop one rank": alone, "kill one rank": alone, "damage a checkpoint": len(steps) < 2}
    return [kind for kind in KINDS if not impossible.get(kind)]


def first_step_beyond(run: TrainingProcesses, beyond: int = 0) -> int:
    """Wait for a step beyond that one, and return it; 0 if the run ends before."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        step = run.last()["step"]
        if step > beyond or (step and run.folder.summary_file.exists()):
            return int(step)
        if not run.running():
            return int(run.last()["step"]) if run.last()["step"] > beyond else 0
        time.sleep(0.02)
    return 0


def last_start(run: TrainingProcesses) -> int:
    return int(run.folder.starts()[-1]["from_step"])


def wait_for(run: TrainingProcesses, fault: Fault, begun: int, rng: random.Random) -> bool:
    """Wait for the fault's moment. Returns False if the run has ended before."""
    first = begun + rng.randint(1, WAIT_STEPS)
    while run.running():
        last = run.last()
        if fault.moment == "save":
            if any(run.folder.checkpoints.glob(".step-*.tmp")):
                time.sleep(rng.uniform(0, 0.05))
                return True
        elif fault.moment == "validation":
            if last["kind"] == "train" and last["step"] % VALIDATE_EVERY == 0:
                time.sleep(rng.uniform(0, 0.1))
                return True
        elif last["step"] >= first:
            time.sleep(rng.uniform(0, 0.3))
            return True
        time.sleep(0.001)
    return False


def inject_fault(run: TrainingProcesses, fault: Fault, rng: random.Random) -> bool:
    """Inject a fault, and wait until the ranks have ended if they should. Returns whether they ended as expected."""
    alive = [process for process in run.processes if process.poll() is None]
    if not alive or fault.kind == "full disk":
        return _fill_disk(run, alive)
    victim = rng.choice(alive)
    expected: set[int | None] = {0, -signal.SIGKILL}  # 0: the run had just come to its end
    if fault.kind == "kill one rank":
        victim.kill()
        expected.add(LOST)
    elif fault.kind == "stop one rank":
        victim.send_signal(signal.SIGSTOP)
        _wait_until(lambda: all(process.poll() is not None for process in alive if process is not victim))
        victim.kill()
        expected.add(LOST)
    elif fault.kind == "SIGTERM":
        for process in alive:
            process.terminate()
        expected = {0, ENDED}
    else:
        for process in alive:
            process.kill()
    codes = run.end(PATIENCE_SECONDS)
    if fault.kind == "damage a checkpoint":
        _damage(run, rng)
    return codes <= expected


def _fill_disk(run: TrainingProcesses, alive: list[subprocess.Popen[bytes]]) -> bool:
    """Limit file sizes until a save has failed, or the run has ended. Returns whether one of them happened."""
    failed = len(_failed_saves(run))
    _limit(alive, LARGEST_FILE)
    _wait_until(lambda: len(_failed_saves(run)) > failed or not run.running())
    _limit(alive, resource.RLIM_INFINITY)
    return len(_failed_saves(run)) > failed or not run.running()


def _limit(alive: list[subprocess.Popen[bytes]], size: int) -> None:
    for process in alive:
        with suppress(ProcessLookupError):  # it has just ended
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _failed_saves(run: TrainingProcesses) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run.folder, "save") if "failures" in line]


def _damage(run: TrainingProcesses, rng: random.Random) -> None:
    """Damage one file of the newest checkpoint."""
    steps = run.folder.saved_steps()
    path = rng.choice(sorted(run.folder.checkpoint(steps[-1]).iterdir()))
    how = rng.choice(("truncate", "flip", "remove"))
    if how == "remove":
        path.unlink()
    elif how == "truncate":
        os.truncate(path, path.stat().st_size // 2)
    else:
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)


def _wait_until(condition: Callable[[], bool], patience: float = PATIENCE_SECONDS) -> None:
    until = time.monotonic() + patience
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
