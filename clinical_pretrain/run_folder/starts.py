"""Record a run's starts (host, versions, settings), roll-backs and ends; read skipped samples and goodput from them."""

from __future__ import annotations

import importlib.metadata
import itertools
import math
import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clinical_pretrain.resources import clone
from clinical_pretrain.run_folder.metrics import read_metrics
from clinical_pretrain.run_folder.paths import RunFolder


@dataclass(frozen=True)
class SkippedSamples:
    """A range of samples that the run leaves out after a roll-back."""

    at: int
    """Samples consumed before, of those that earlier roll-backs had left."""
    count: int
    """Samples left out."""


def record_start(folder: RunFolder, facts: dict[str, Any]) -> None:
    """Add a start to run.json.

    Args:
        folder: the run folder.
        facts: what only training knows: from_step, stages, shard_fingerprint, world_size, zero_stage, device, config,
            data, validation_set, changes, and more. The time, the host, and versions are added here.
    """
    run = folder.read_run()
    run["shard_fingerprint"], run["stages"] = facts.pop("shard_fingerprint"), facts["stages"]
    if run["starts"]:
        run["starts"][-1] |= _reached(folder, len(run["starts"]) - 1)
    now = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "timestamp": round(time.time(), 3)}
    here = {"host": socket.gethostname(), "process": os.getpid(), "git_commit": git_commit(), "versions": versions()}
    run["starts"].append({**now, **facts, **here})
    folder.write_run(run)


def record_rollback(folder: RunFolder, step: int, skipped_ranges: list[SkippedSamples]) -> None:
    """Write down the samples that the run will leave out, before it does, and the step that it rolls back to: later
    steps are made with the settings of this start, though it may have begun after that step."""
    run = folder.read_run()
    start = run["starts"][-1]
    start["from_step"] = min(start["from_step"], step)
    folder.write_run({**run, "skipped_samples": [asdict(skipped) for skipped in skipped_ranges]})


def record_stop(folder: RunFolder, reason: str, exit_code: int, step: int) -> None:
    """Write down why the run ended."""
    facts = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "reason": reason, "exit_code": exit_code, "step": step}
    with suppress(OSError):  # no run folder yet, or a full disk
        folder.write_versioned(folder.stop_file, facts)


def read_skipped_samples(folder: RunFolder) -> list[SkippedSamples]:
    """Ranges of samples that the run leaves out."""
    return [SkippedSamples(**skipped) for skipped in folder.read_run().get("skipped_samples", [])]


def data_position(samples_consumed: int, skipped_ranges: list[SkippedSamples]) -> int:
    """Position in the order of the data of the sample that comes after so many: all ranges are passed over, in whatever
    order the roll-backs were."""
    return _position(samples_consumed, _skipped_spans(skipped_ranges))


def data_runs(begin: int, end: int, skipped_ranges: list[SkippedSamples]) -> Iterator[tuple[int, int, int]]:
    """Where the samples from `begin` to before `end` lie in the order of the data, in pieces without a gap: the number
    of a piece's first sample, its position, and how many it has."""
    spans = _skipped_spans(skipped_ranges)
    while begin < end:
        position = _position(begin, spans)
        gap = min((first for first, _ in spans if first > position), default=math.inf)
        count = int(min(end - begin, gap - position))
        yield begin, position, count
        begin += count


def _skipped_spans(skipped_ranges: list[SkippedSamples]) -> list[tuple[int, int]]:
    """Positions that are left out, as spans [begin, end) in order and apart from each other."""
    spans: list[tuple[int, int]] = []
    for skipped in skipped_ranges:
        first, last = _position(skipped.at, spans), _position(skipped.at + skipped.count - 1, spans)
        spans = _merged([*spans, (first, last + 1)])
    return spans


def _position(samples: int, spans: list[tuple[int, int]]) -> int:
    """The position after so many outside of spans, [begin, end), which are in order and apart from each other."""
    for begin, end in spans:
        if begin > samples:
            break
        samples += end - begin
    return samples


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same positions as spans in order and apart from each other."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged


def lost_steps(folder: RunFolder, step: int) -> str:
    """A line for the user if an earlier start trained beyond the step that this one resumes from; else empty."""
    last = max((line["step"] for line in read_metrics(folder, "train")), default=0)
    if last <= step:
        return ""
    if step == 0:
        return f"an earlier start reached step {last:,} but saved no checkpoint: training restarts at step 0"
    return f"an earlier start reached step {last:,}: the steps after step {step:,} are trained again"


def goodput(folder: RunFolder) -> dict[str, Any]:
    """What a run has lost and spent since its first start.

    Returns:
        restarts; lost_steps, trained again after a restart; seconds_in_save; seconds_in_training, of the steps that
        count; seconds_running, of all processes so far; and effective_training_time, the share of training in them.
    """
    starts = folder.starts()
    ends = [start.get("until", 0.0) for start in starts[:-1]] + [time.time()]
    running = sum(max(0.0, end - start.get("timestamp", end)) for start, end in zip(starts, ends, strict=True))
    spent = {"train": 0.0, "save": 0.0}
    for line in read_metrics(folder):
        if line["kind"] in spent:
            spent[line["kind"]] += line.get("seconds", 0.0)
    lost = sum(max(0, a.get("to_step", 0) - b["from_step"]) for a, b in itertools.pairwise(starts))
    return {
        "restarts": len(starts) - 1,
        "lost_steps": lost,
        "seconds_in_save": round(spent["save"], 1),
        "seconds_in_training": round(spent["train"], 1),
        "seconds_running": round(running, 1),
        "effective_training_time": round(spent["train"] / running, 3) if running else 0.0,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that determine the result."""
    names = ("clinical-pretrain", "torch", "transformers", "deepspeed", "tokenizers", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def git_commit() -> str | None:
    """The clone's commit, with '+changes' where files differ from it, other than stored results; None without one."""
    if (folder := clone()) is None:
        return None

    def git(*arguments: str) -> str:
        call = ["git", "-C", str(folder), *arguments]
        return subprocess.run(call, capture_output=True, text=True, timeout=30, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def base_model(name_or_path: str, is_random: bool) -> str | None:
    """The Hub id of the model that a run begins with; None where that is a local folder, or has random weights. Only a
    run's start can tell an id from a folder of the same name."""
    return None if is_random or Path(name_or_path).is_dir() else name_or_path


def _reached(folder: RunFolder, start: int) -> dict[str, Any]:
    """How far a start came, and when, as far as the metrics say."""
    lines = [line for line in read_metrics(folder) if line["start"] == start]
    return {"to_step": max(line["step"] for line in lines), "until": lines[-1]["time"]} if lines else {}
