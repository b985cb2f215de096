"""A real run's step and memory on a CPU by what allocates: glibc, glibc that keeps freed memory, jemalloc, tcmalloc.

    python benchmarks/allocators.py --shards SHARDS --precision bf16 --json FILE

Each is a process of its own, in turn. jemalloc and tcmalloc are loaded in malloc's place (LD_PRELOAD), where they are
installed, and told to keep what is freed, as far as they can be. The run is that of limit.py: ZeRO 1, one rank, one
sequence a step.
"""

from __future__ import annotations

import argparse
import ctypes.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import facts

from tokenizer_tools.files import write_json

LIMIT = Path(__file__).with_name("limit.py")
PRELOADED: dict[str, dict[str, str]] = {
    "jemalloc": {},
    "jemalloc, keeping": {"MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1"},
    "jemalloc, huge pages": {"MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always,metadata_thp:auto"},
    "tcmalloc_minimal": {"TCMALLOC_RELEASE_RATE": "0"},
}
"""Environments by the library that is preloaded, up to a comma, and how."""


def cases() -> dict[str, tuple[list[str], dict[str, str]]]:
    """What limit.py is called with, and in which environment."""
    found: dict[str, tuple[list[str], dict[str, str]]] = {
        "glibc": (["--return-memory"], {}),
        "glibc, keeping": ([], {}),
    }
    for name in PRELOADED:
        if environment := preloaded(name):
            found[name] = ([], environment)
        else:
            print(f"not installed: {name}", flush=True)
    return found


def preloaded(name: str) -> dict[str, str] | None:
    """The environment in which a process allocates by one of PRELOADED, if it is installed."""
    library = ctypes.util.find_library(name.split(",")[0])
    return PRELOADED[name] | {"LD_PRELOAD": library} if library else None


def measure(words: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Median seconds of a step, and the peak of resident memory in MB."""
    process = subprocess.Popen(
        [sys.executable, str(LIMIT), *words, "--side", "run"],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"limit.py {' '.join(words)}: exit status {status}")
    return statistics.median(json.loads(out.splitlines()[-1])), used.ru_maxrss / 1e3


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["longformer", "bigbird"], default="longformer")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--shards", type=Path, required=True, help="of the model's vocabulary")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="measured in each round, after two to warm up")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names = ("model", "precision", "layers", "steps")
    words = [word for name in (*names, "shards") for word in (f"--{name}", str(getattr(args, name)))]
    seconds: dict[str, list[float]] = {}
    megabytes: dict[str, list[float]] = {}
    found = cases()
    for _ in range(args.rounds):
        for name, (more, environment) in found.items():
            step, peak = measure(words + more, environment)
            seconds.setdefault(name, []).append(step)
            megabytes.setdefault(name, []).append(peak)
            print(f"{name:<22} {step:.2f} s, {peak:,.0f} MB", flush=True)
    ours = seconds["glibc, keeping"]
    result: dict[str, Any] = {
        "what": "a run's step and memory by the allocator",
        **facts(),
        "config": {name: getattr(args, name) for name in (*names, "rounds")},
        "over_glibc_keeping": {
            name: round(statistics.median(a / b for a, b in zip(own, ours, strict=True)), 3)
            for name, own in seconds.items()
        },
        "peak_mb": {name: round(statistics.median(own)) for name, own in megabytes.items()},
        "seconds": seconds,
    }
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
