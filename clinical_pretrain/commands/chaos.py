"""Train under random faults, resume after each, and compare with the same training without faults.

Processes, signals and files are real. Ranks are killed, stopped and sent SIGTERM, during a step, a save or a
validation. Checkpoints are truncated, lose a file or have one bit changed. The disk is full for the ranks (by the
system's limit on a file's size). A shard build is killed, too. In the end the weights must be bit-identical; with
`elastic`, where each start has another number of ranks and another ZeRO stage, the losses must agree to fp32 rounding.
"""

from __future__ import annotations

import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clinical_pretrain.commands.faults import (
    MOMENTS,
    SAVE_EVERY,
    Fault,
    TrainingProcesses,
    first_step_beyond,
    inject_fault,
    last_start,
    possible_kinds,
    wait_for,
)
from clinical_pretrain.config.command_line import load_config
from clinical_pretrain.resources import resource_path
from clinical_pretrain.run_folder.starts import git_commit, versions
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest

STEPS_PER_FAULT = 14
"""Length of the run per fault; on average the next fault comes earlier."""
TOLERANCE = 1e-5
"""Relative tolerance for the losses of an elastic run."""


def chaos(
    config_file: Path, out: Path, faults: int, seed: int, ranks: int = 2, elastic: bool = False
) -> dict[str, Any]:
    """Train under faults.

    Args:
        config_file: config of the run, small enough for a CPU.
        out: folder for all output; must be new or empty.
        faults: number of faults.
        seed: seed of the faults.
        ranks: number of ranks.
        elastic: at each start choose 1 or `ranks` ranks, and ZeRO 1, 2 or 3, at random.

    Returns:
        faults, survived, identical, effective_training_time (training seconds of the run without faults over
        all seconds of the other), and more.

    Raises:
        UserError: `out` isn't empty, or the run fails without any fault.
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
    alone = TrainingProcesses(config_file, shards, out / "alone", max_steps, log)
    print(f"{max_steps} steps without faults", flush=True)
    began = time.monotonic()
    alone.start(ranks)
    if alone.end() != {0}:
        raise UserError(f"{config_file}: the run fails without any fault; see {log}")
    seconds_alone = time.monotonic() - began
    run = TrainingProcesses(config_file, shards, out / "run", max_steps, log)
    began = time.monotonic()
    for fault in train_under_faults(run, faults - in_building, rng, starts(out, rng, ranks, elastic)):
        done.append(fault)
        outcome = "resumed" if fault.survived else "LOST"
        print(
            f"fault {len(done):>3}/{faults} · {fault.kind} in a {fault.moment} at step {fault.step} · {outcome} after "
            f"{fault.seconds_to_resume:.1f} s, {fault.lost_steps} steps again",
            flush=True,
        )
    seconds = time.monotonic() - began
    command = f"clinical-pretrain chaos --config configs/{config_file.name} --faults {faults} --seed {seed}"
    command += f" --ranks {ranks}" + (" --elastic" if elastic else "")
    return {"command": command} | report(done, alone, run, seconds_alone, seconds, elastic)


def report(
    done: list[Fault],
    alone: TrainingProcesses,
    run: TrainingProcesses,
    seconds_alone: float,
    seconds: float,
    elastic: bool,
) -> dict[str, Any]:
    """The result, for JSON."""
    finished = run.max_steps in run.folder.saved_steps()
    losses, expected = run.losses() if finished else [], alone.losses()
    largest = max((abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=False)), default=math.inf)
    same_losses = len(losses) == len(expected) and largest <= (TOLERANCE if elastic else 0)
    kinds = Counter(fault.kind for fault in done)
    return {
        "elastic": elastic,
        "faults": len(done),
        "survived": sum(fault.survived for fault in done),
        "finished": finished,
        "identical": finished and not elastic and same_losses and run.weights() == alone.weights(),
        "largest_relative_loss_difference": largest,
        "agrees": finished and same_losses,
        "lost_steps": sum(fault.lost_steps for fault in done),
        "median_seconds_to_resume": round(statistics.median(fault.seconds_to_resume for fault in done), 1),
        "effective_training_time": round(seconds_alone / seconds, 3),
        "seconds": round(seconds, 1),
        "steps": run.max_steps,
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        "git_commit": git_commit(),
        "by_kind": dict(kinds),
        "each": [asdict(fault) for fault in done],
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    """Lines of a table by kind of fault, and totals."""
    yield f"{'fault':<24}{'times':>6}{'survived':>10}{'steps again':>13}{'s to resume':>12}"
    for kind in result["by_kind"]:
        own = [fault for fault in result["each"] if fault["kind"] == kind]
        seconds = statistics.median(fault["seconds_to_resume"] for fault in own)
        yield (
            f"{kind:<24}{len(own):>6}{sum(fault['survived'] for fault in own):>10}"
            f"{sum(fault['lost_steps'] for fault in own):>13}{seconds:>12.1f}"
        )
    yield ""
    yield f"survived {result['survived']} of {result['faults']} faults"
    if result["identical"]:
        yield "the final weights and Adam's moments are bit-identical to those of the run without faults"
    else:
        difference = result["largest_relative_loss_difference"]
        yield f"losses differ by up to {difference:.1e} from those of the run without faults"
    yield f"effective training time: {result['effective_training_time']:.0%} of {result['seconds']:,.0f} s"


def starts(out: Path, rng: random.Random, ranks: int, elastic: bool) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the number of ranks and the overrides of each start."""
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
    """Build shards of synthetic notes twice, once undisturbed and once under kills, and compare their fingerprints."""
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
        for arguments in (
            ["make-notes", "--out", str(notes), "--patients", "120"],
            ["train-tokenizer", "--notes", str(notes), "--out", str(tokenizer), "--vocab-size", "2000"],
        ):
            subprocess.run([*command, *arguments], stdout=stream, stderr=stream, check=True)  # fmt: skip
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
        fault.survived, fault.seconds_to_resume = same, time.monotonic() - began
    return out / "shards"


def _fingerprint(shards: Path) -> str:
    return Manifest.load(shards).fingerprint


def train_under_faults(
    run: TrainingProcesses, faults: int, rng: random.Random, how: Iterator[tuple[int, tuple[str, ...]]]
) -> Iterator[Fault]:
    """Start, inject a fault, and start again, until the run has ended; yields each fault once the run has resumed."""
    for _ in range(faults):
        if not run.running():
            ranks, overrides = next(how)
            run.start(ranks, overrides)
        begun = first_step_beyond(run)
        fault = Fault(rng.choice(possible_kinds(run)), rng.choice(MOMENTS))
        if not begun or not wait_for(run, fault, begun, rng):
            break
        at = time.monotonic()
        as_expected = inject_fault(run, fault, rng)
        fault.step = run.last()["step"]  # a run that is asked to stop does one more
        if not run.running():
            ranks, overrides = next(how)
            run.start(ranks, overrides)
        resumed = first_step_beyond(run, beyond=fault.step)
        fault.survived = as_expected and resumed > 0
        fault.seconds_to_resume = time.monotonic() - at
        fault.lost_steps = max(0, fault.step - last_start(run)) if fault.kind != "full disk" else 0
        yield fault
    if run.running():
        run.end()
    for _ in range(3):
        if run.folder.summary_file.exists():
            break
        ranks, overrides = next(how)
        run.start(ranks, overrides)
        run.end()
