"""A short training under random faults, resumed after each, beside the same training left alone.

Real processes, real signals, real files: ranks are killed, stopped and asked to end, in a step, a save or a validation;
checkpoints are truncated, changed in a bit or robbed of a file; the disk is full for the ranks (the system's limit on a
file's size); shard building is killed, too. In the end the weights must be the same, bit for bit; with `elastic`, where
each start has another number of ranks and another ZeRO stage, the losses to fp32 rounding.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import random
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clinical_pretrain.checkpoint.plain_model import plain_model
from clinical_pretrain.checkpoint.state import read_state
from clinical_pretrain.config.command_line import load_config
from clinical_pretrain.distributed import free_port
from clinical_pretrain.exit_codes import ENDED, LOST
from clinical_pretrain.resources import resource_path
from clinical_pretrain.run_folder.metrics import read_metrics
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.run_folder.starts import git_commit, versions
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest

STEPS_PER_FAULT = 14
"""So long is the run; on average it meets its next fault before."""
WAIT_STEPS = 8
"""A fault comes at most so many steps after the run has gone on, if it needn't wait for a save or a validation."""
SAVE_EVERY, VALIDATE_EVERY = 5, 20
LARGEST_FILE = 2_000_000
"""Bytes, where the disk is full: the figures still fit, a checkpoint of the demo's model doesn't."""
TOLERANCE = 1e-5
"""Relative, of the losses of an elastic run."""
PATIENCE_SECONDS = 120
KINDS = ("kill one rank", "kill all ranks", "SIGTERM", "stop one rank", "damage a checkpoint", "full disk")
MOMENTS = ("step", "save", "validation")


@dataclass
class Fault:
    """What was done to a run, and what became of it."""

    kind: str
    moment: str
    step: int = 0
    """The last one done then."""
    survived: bool = False
    lost_steps: int = 0
    """Steps that had to be done again."""
    seconds_to_go_on: float = 0.0
    """From the fault to the next new step."""


class Course:
    """A run folder and the processes that train in it."""

    def __init__(self, config_file: Path, shards: Path, run_dir: Path, max_steps: int, log: Path) -> None:
        self.run_dir, self.log, self.max_steps = run_dir, log, max_steps
        self.processes: list[subprocess.Popen[bytes]] = []
        self._words = ["--config", config_file, "--data.shards", shards, "--run_dir", run_dir, "--max_steps", max_steps,
                       "--log_every_steps", 1, "--checkpoint.every_steps", SAVE_EVERY, "--validation.every_steps",
                       VALIDATE_EVERY, "--validation.max_sequences", 2,
                       "--watchdog.heartbeat_timeout_seconds", 5]  # fmt: skip

    def start(self, ranks: int, overrides: tuple[str, ...] = ()) -> None:
        """Start so many ranks, as a launcher would."""
        port = free_port()
        for rank in range(ranks):
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1",
                     "MASTER_PORT": port, "OMP_NUM_THREADS": 1, "DS_ACCELERATOR": "cpu"}  # fmt: skip
            call = [
                sys.executable,
                "-m",
                "clinical_pretrain.run",
                *map(str, self._words),
                *overrides,
            ]
            with self.log.open("ab") as stream:
                self.processes.append(
                    subprocess.Popen(call, env=os.environ | {k: str(v) for k, v in names.items()}, stdout=stream,
                                     stderr=stream, start_new_session=True)
                )  # fmt: skip

    def running(self) -> bool:
        """Whether any rank is."""
        return any(process.poll() is None for process in self.processes)

    def last(self) -> dict[str, Any]:
        """The newest line of the metrics, but for those on saves, which come late."""
        try:
            with RunFolder(self.run_dir).metrics_file.open("rb") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - 8192))
                lines = stream.read().splitlines()
        except OSError:
            return {"step": 0, "kind": ""}
        for line in reversed(lines):
            with suppress(ValueError):
                facts = dict(json.loads(line))
                if facts["kind"] not in ("save", "account"):
                    return facts
        return {"step": 0, "kind": ""}

    def end(self, patience: float = math.inf) -> set[int | None]:
        """Wait until all ranks have ended. Their exit codes; None for one that had to be killed, as it didn't end."""
        _wait_until(lambda: not self.running(), patience)
        codes: set[int | None] = set()
        for process in self.processes:
            codes.add(process.poll())
            process.kill()
            process.wait()
        self.processes = []
        return codes

    def weights(self) -> str:
        """sha256 of the final weights and Adam's moments, whole, by name."""
        from clinical_pretrain.engine.reshard import MOMENTS as ADAM
        from clinical_pretrain.engine.reshard import WEIGHT, StoredCheckpoint

        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        state = read_state(RunFolder(self.run_dir), self.max_steps)
        stored = StoredCheckpoint(
            RunFolder(self.run_dir).checkpoint(state.step), state.zero_stage, plain_model(RunFolder(self.run_dir))[0]
        )
        digest = hashlib.sha256()
        for kind in (WEIGHT, *ADAM):
            for name, tensor in sorted(stored.tensors(kind).items()):
                digest.update(f"{kind} {name}".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def losses(self) -> list[float]:
        """Of all steps, then of all validations."""
        return [
            line["loss"] for kind in ("train", "validation") for line in read_metrics(RunFolder(self.run_dir), kind)
        ]


def chaos(
    config_file: Path, out: Path, faults: int, seed: int, ranks: int = 2, elastic: bool = False
) -> dict[str, Any]:
    """Train under faults.

    Args:
        config_file: the run, small enough for a CPU.
        out: a folder for all that is made; it must be new or empty.
        faults: how many.
        seed: of the faults.
        ranks: processes of a run.
        elastic: start with 1 or `ranks` ranks, and under ZeRO 1, 2 or 3, as it comes.

    Returns:
        faults, survived, identical, effective_training_time (training seconds of the run left alone over all seconds
        of the other), and more.

    Raises:
        UserError: `out` isn't empty, or the run doesn't even work when it's left alone.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: not empty; choose another --out, or delete it")
    out.mkdir(parents=True, exist_ok=True)
    config, _ = load_config(["--config", str(config_file)])
    rng, log = random.Random(seed), out / "log.txt"
    in_building = max(1, faults // 10)
    done = [Fault("kill a shard building", "shard building") for _ in range(in_building)]
    shards = build_under_faults(out, done, rng, log)
    for number, fault in enumerate(done, 1):
        print(
            f"fault {number:>3}/{faults} · {fault.kind} · {'the same bytes' if fault.survived else 'LOST'}", flush=True
        )
    max_steps = max((faults - in_building) * STEPS_PER_FAULT + 2 * SAVE_EVERY, config.optim.warmup_steps)
    alone = Course(config_file, shards, out / "alone", max_steps, log)
    print(f"{max_steps} steps, left alone", flush=True)
    began = time.monotonic()
    alone.start(ranks)
    if alone.end() != {0}:
        raise UserError(f"{config_file}: the run fails without any fault; see {log}")
    seconds_alone = time.monotonic() - began
    course = Course(config_file, shards, out / "run", max_steps, log)
    began = time.monotonic()
    for fault in train_under_faults(course, faults - in_building, rng, starts(out, rng, ranks, elastic)):
        done.append(fault)
        became = "went on" if fault.survived else "LOST"
        print(
            f"fault {len(done):>3}/{faults} · {fault.kind} in a {fault.moment} at step {fault.step} · {became} after "
            f"{fault.seconds_to_go_on:.1f} s, {fault.lost_steps} steps again",
            flush=True,
        )
    seconds = time.monotonic() - began
    words = ["clinical-pretrain chaos --config", f"configs/{config_file.name}", f"--faults {faults} --seed {seed}"]
    command = " ".join([*words, f"--ranks {ranks}", *(["--elastic"] if elastic else [])])
    return {"command": command} | report(done, alone, course, seconds_alone, seconds, elastic)


def report(
    done: list[Fault], alone: Course, course: Course, seconds_alone: float, seconds: float, elastic: bool
) -> dict[str, Any]:
    """All in figures."""
    finished = course.max_steps in RunFolder(course.run_dir).saved_steps()
    losses, expected = course.losses() if finished else [], alone.losses()
    largest = max((abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=False)), default=math.inf)
    same_losses = len(losses) == len(expected) and largest <= (TOLERANCE if elastic else 0)
    kinds = Counter(fault.kind for fault in done)
    return {
        "elastic": elastic,
        "faults": len(done),
        "survived": sum(fault.survived for fault in done),
        "finished": finished,
        "identical": finished and not elastic and same_losses and course.weights() == alone.weights(),
        "largest_relative_loss_difference": largest,
        "agrees": finished and same_losses,
        "lost_steps": sum(fault.lost_steps for fault in done),
        "median_seconds_to_go_on": round(statistics.median(fault.seconds_to_go_on for fault in done), 1),
        "effective_training_time": round(seconds_alone / seconds, 3),
        "seconds": round(seconds, 1),
        "steps": course.max_steps,
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        "git_commit": git_commit(),
        "by_kind": dict(kinds),
        "each": [asdict(fault) for fault in done],
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    """The report for a reader: a line per kind of fault, then the whole."""
    yield f"{'fault':<24}{'times':>6}{'survived':>10}{'steps again':>13}{'s to go on':>12}"
    for kind in result["by_kind"]:
        mine = [fault for fault in result["each"] if fault["kind"] == kind]
        seconds = statistics.median(fault["seconds_to_go_on"] for fault in mine)
        yield (
            f"{kind:<24}{len(mine):>6}{sum(fault['survived'] for fault in mine):>10}"
            f"{sum(fault['lost_steps'] for fault in mine):>13}{seconds:>12.1f}"
        )
    yield ""
    yield f"survived {result['survived']} of {result['faults']} faults"
    if result["identical"]:
        yield "the final weights and Adam's moments are those of the run left alone, bit for bit"
    else:
        difference = result["largest_relative_loss_difference"]
        yield f"losses differ by up to {difference:.1e} from those of the run left alone"
    yield f"effective training time: {result['effective_training_time']:.0%} of {result['seconds']:,.0f} s"


def starts(out: Path, rng: random.Random, ranks: int, elastic: bool) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Number of ranks and overrides of each start."""
    while True:
        if elastic:
            stage = rng.choice((1, 2, 3))
            yield rng.choice((1, ranks)), ("--deepspeed", str(_zero_file(out, stage)))
        else:
            yield ranks, ()


def _zero_file(out: Path, stage: int) -> Path:
    content = json.loads(resource_path(f"ds_configs/zero{stage}.json").read_text())
    if stage == 3:  # else nothing of a small model is partitioned
        content["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    path = out / f"zero{stage}.json"
    path.write_text(json.dumps(content))
    return path


def build_under_faults(out: Path, faults: list[Fault], rng: random.Random, log: Path) -> Path:
    """Shards of synthetic notes, built once in peace and once while being killed: the same bytes."""
    notes, tokenizer = out / "NOTEEVENTS.csv.gz", out / "tokenizer"
    command = [sys.executable, "-m", "clinical_pretrain"]
    key = ["--patient-key", str(out / "patient_key")]

    def build(folder: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as stream:
            return subprocess.Popen(
                [*command, "build-shards", "--notes", str(notes), "--tokenizer", str(tokenizer), "--out", str(folder),
                 "--notes-per-part", "100", "--workers", "1", *key], stdout=stream, stderr=stream
            )  # fmt: skip

    with log.open("ab") as stream:
        for words in (
            ["make-notes", "--out", str(notes), "--patients", "120"],
            ["train-tokenizer", "--notes", str(notes), "--out", str(tokenizer), "--vocab-size", "2000"],
        ):
            subprocess.run([*command, *words], stdout=stream, stderr=stream, check=True)  # fmt: skip
    began = time.monotonic()
    if build(out / "shards").wait():
        raise UserError(f"building shards fails without any fault; see {log}")
    seconds = time.monotonic() - began
    for _ in faults:
        process = build(out / "shards_under_faults")
        time.sleep(rng.uniform(0.2, 1.0) * seconds)
        process.kill()
        process.wait()
    began = time.monotonic()
    ended = build(out / "shards_under_faults").wait()
    same = not ended and _fingerprint(out / "shards") == _fingerprint(out / "shards_under_faults")
    for fault in faults:
        fault.survived, fault.seconds_to_go_on = same, time.monotonic() - began
    return out / "shards"


def _fingerprint(shards: Path) -> str:
    return Manifest.load(shards).fingerprint


def train_under_faults(
    course: Course, faults: int, rng: random.Random, how: Iterator[tuple[int, tuple[str, ...]]]
) -> Iterator[Fault]:
    """Start, do harm, and start again, until the run has ended; yields each fault once the run has gone on after it."""
    for _ in range(faults):
        if not course.running():
            ranks, overrides = next(how)
            course.start(ranks, overrides)
        begun = _begun(course)
        fault = Fault(rng.choice(_possible(course)), rng.choice(MOMENTS))
        if not begun or not wait_for(course, fault, begun, rng):
            break
        at = time.monotonic()
        as_it_should = hurt(course, fault, rng)
        fault.step = course.last()["step"]  # a run that is asked to stop does one more
        if not course.running():
            ranks, overrides = next(how)
            course.start(ranks, overrides)
        resumed = _begun(course, beyond=fault.step)
        fault.survived = as_it_should and resumed > 0
        fault.seconds_to_go_on = time.monotonic() - at
        fault.lost_steps = max(0, fault.step - _from_step(course)) if fault.kind != "full disk" else 0
        yield fault
    if course.running():
        course.end()
    for _ in range(3):
        if (course.run_dir / "summary.json").exists():
            break
        ranks, overrides = next(how)
        course.start(ranks, overrides)
        course.end()


def _possible(course: Course) -> list[str]:
    """Not all can be done at any time."""
    alone, steps = len(course.processes) < 2, RunFolder(course.run_dir).saved_steps()
    impossible = {"stop one rank": alone, "kill one rank": alone, "damage a checkpoint": len(steps) < 2}
    return [kind for kind in KINDS if not impossible.get(kind)]


def _begun(course: Course, beyond: int = 0) -> int:
    """The first step that has been done beyond that one, once it has; 0 where the run ends before."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        step = course.last()["step"]
        if step > beyond or (step and (course.run_dir / "summary.json").exists()):
            return int(step)
        if not course.running():
            return int(course.last()["step"]) if course.last()["step"] > beyond else 0
        time.sleep(0.02)
    return 0


def _from_step(course: Course) -> int:
    starts = json.loads((course.run_dir / "run.json").read_text())["starts"]
    return int(starts[-1]["from_step"])


def wait_for(course: Course, fault: Fault, begun: int, rng: random.Random) -> bool:
    """Until the fault's moment has come. False: the run has ended before."""
    first = begun + rng.randint(1, WAIT_STEPS)
    while course.running():
        last = course.last()
        if fault.moment == "save":
            if any((course.run_dir / "checkpoints").glob(".step-*.tmp")):
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


def hurt(course: Course, fault: Fault, rng: random.Random) -> bool:
    """Do it, and wait until the ranks have ended, where that is to be expected. False: they didn't, or not as meant."""
    alive = [process for process in course.processes if process.poll() is None]
    if not alive or fault.kind == "full disk":
        return _fill_disk(course, alive)
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
    codes = course.end(PATIENCE_SECONDS)
    if fault.kind == "damage a checkpoint":
        _damage(course, rng)
    return codes <= expected


def _fill_disk(course: Course, alive: list[subprocess.Popen[bytes]]) -> bool:
    """Until a save has failed, or the run has ended. False: neither."""
    failed = len(_failed_saves(course))
    _limit(alive, LARGEST_FILE)
    _wait_until(lambda: len(_failed_saves(course)) > failed or not course.running())
    _limit(alive, resource.RLIM_INFINITY)
    return len(_failed_saves(course)) > failed or not course.running()


def _limit(alive: list[subprocess.Popen[bytes]], size: int) -> None:
    for process in alive:
        with suppress(ProcessLookupError):  # it has just ended
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _failed_saves(course: Course) -> list[dict[str, Any]]:
    return [line for line in read_metrics(RunFolder(course.run_dir), "save") if "failures" in line]


def _damage(course: Course, rng: random.Random) -> None:
    """Spoil one file of the newest checkpoint."""
    steps = RunFolder(course.run_dir).saved_steps()
    path = rng.choice(sorted(RunFolder(course.run_dir).checkpoint(steps[-1]).iterdir()))
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
