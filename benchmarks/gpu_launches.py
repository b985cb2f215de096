"""What a training step asks of a GPU: kernel launches, copies, fills, waits and collectives, each with its origin.

    python benchmarks/gpu_dry_run/run.py --torch build/cuda benchmarks/gpu_launches.py --model longformer --json FILE

The step is training's own, with its batches in pinned memory and its report at the end: base size with random weights,
one rank, one micro-batch of the recipe, ZeRO 1. Counted by the stand-ins of gpu_dry_run/, so it runs without a GPU, and
only there. A count is no speed: where the GPU has more work than the host, fewer launches change nothing.
"""

from __future__ import annotations

import ctypes
import json
import logging
import re
import subprocess
import sys
from collections import Counter
from functools import partial
from types import FrameType, SimpleNamespace
from typing import Any

import torch
import torch._inductor.config as inductor
from common import REPOSITORY, facts
from gpu_memory import LENGTH, make, recipe_parser

from clinical_pretrain.data.collator import MicroBatch, capacity
from clinical_pretrain.distributed import initialise, shut_down
from clinical_pretrain.engine.deepspeed_internals import time_collectives
from clinical_pretrain.engine.step_reports import StepReports
from clinical_pretrain.training.phases import Phases
from clinical_pretrain.training.train import train_step
from tokenizer_tools.files import write_json

KINDS = ("launch", "copy", "fill", "wait", "collective", "captured")
SEQUENCES = {"longformer": 3, "bigbird": 2}
Call = tuple[str, str, str]
"""Kind, origin, and the kernel's or the call's name."""


class Watcher:
    """Counts what the stand-ins are asked for while it is on."""

    def __init__(self) -> None:
        self.calls: Counter[Call] = Counter()
        kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p)
        self._function = kind(self._count)
        self._pointer = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stand_in_watcher")

    def __enter__(self) -> Counter[Call]:
        self.calls.clear()
        self._pointer.value = ctypes.cast(self._function, ctypes.c_void_p).value
        return self.calls

    def __exit__(self, *_: object) -> None:
        self._pointer.value = None

    def _count(self, kind: bytes, name: bytes) -> None:
        self.calls[kind.decode(), origin(sys._getframe().f_back), name.decode()] += 1


def origin(frame: FrameType | None) -> str:
    """The innermost function of DeepSpeed's, of this project's or of torch's optimizers, or generated code."""
    while frame is not None:
        path = frame.f_code.co_filename
        if "/inductor-" in path:
            return f"compiled, {'backward' if is_backward(frame) else 'forward'}"
        for package in ("deepspeed", "clinical_pretrain", "torch/optim"):
            if (start := path.rfind(f"/{package}/")) >= 0 and "/accelerator/" not in path:
                return f"{path[start + 1 :]}: {frame.f_code.co_qualname}"
        frame = frame.f_back
    return "autograd"


def is_backward(frame: FrameType | None) -> bool:
    """Whether compiled code runs for a backward pass."""
    while frame is not None:
        if frame.f_code.co_name == "backward" and "_functorch" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def kernel_names(calls: Counter[Call]) -> dict[str, str]:
    """C++'s names, without arguments; numbers that torch.compile gives to its kernels are left out."""
    names = sorted({name for _, _, name in calls})
    command = ["c++filt", "--no-params"]
    plain = subprocess.run(command, input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return {name: shorter(found) for name, found in zip(names, plain.splitlines(), strict=True)}


def shorter(name: str) -> str:
    """The functor of a template, or else the name as it is."""
    if "::" in name:
        inner = re.findall(r"\w+(?:Functor|Ops|_kernel)\w*", name)
        name = " ".join(dict.fromkeys([re.sub(r".*::", "", name.split("<")[0]), *inner[:3]]))
    return re.sub(r"_\d+$", "", name.strip())


def micro_batch(config: Any, sequences: int) -> MicroBatch:
    """Random, in pinned memory."""
    ids = torch.randint(5, 50000, (sequences, LENGTH))
    predicted = capacity(ids.numel(), config.masking)
    return MicroBatch(
        ids, torch.ones_like(ids), torch.arange(predicted), torch.full((predicted,), 7), None, max_documents=1
    ).pinned()


def main() -> None:
    """See the module's docstring."""
    parser = recipe_parser(__doc__, "ds_configs/zero1.json")
    parser.add_argument("--accumulation-steps", type=int, default=1)
    parser.add_argument("--cuda-graphs", action="store_true", help="torch.compile's own, which training doesn't use")
    args = parser.parse_args()
    if not hasattr(ctypes.CDLL(None), "stand_in_watcher"):
        raise SystemExit("error: run this by benchmarks/gpu_dry_run/run.py")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    inductor.triton.cudagraphs = args.cuda_graphs
    config, engine = make(args, args.accumulation_steps)
    ranks = initialise()
    run: Any = SimpleNamespace(
        config=config,
        ranks=ranks,
        engine=engine,
        step=0,
        phases=Phases(ranks.device),
        spec=SimpleNamespace(accumulation_steps=args.accumulation_steps),
    )
    run.progress = SimpleNamespace(stage=lambda step: SimpleNamespace(learning_rate=lambda step, optim: 1e-5))
    time_collectives(partial(run.phases, "communication"))
    reports = StepReports(ranks, engine)
    watcher = Watcher()
    for step in range(1, 7):  # the last is counted
        batches = [micro_batch(config, SEQUENCES[args.model]) for _ in range(args.accumulation_steps)]
        with watcher as calls:
            loss = train_step(run, iter(batches))
            reports.exchange(step, loss, False)
            run.phases.take_shares()
        run.step = step
    totals = {kind: sum(count for (of, _, _), count in calls.items() if of == kind) for kind in KINDS}
    names = kernel_names(calls)
    origins: dict[str, dict[str, Counter[str]]] = {kind: {} for kind in KINDS}
    for (kind, place, name), count in calls.items():
        origins[kind].setdefault(place, Counter())[names[name]] += count
    result = {
        "what": "what a training step asks of a GPU",
        **facts(),
        "model": args.model,
        "sequences": SEQUENCES[args.model],
        "attention": engine.module.encode.backend,
        "compiled": engine.module.encode.compiled,
        "deepspeed": json.loads((REPOSITORY / args.deepspeed).read_text()),
        "counts": totals,
        "origins": {kind: sorted_by_count(places) for kind, places in origins.items()},
    }
    shut_down()
    if args.json:
        write_json(args.json, result)
    for kind, places in result["origins"].items():
        print(f"{totals[kind]:6,} {kind}")
        for place, counted in places.items():
            print(f"       {counted.total():6,} {place}")


def sorted_by_count(places: dict[str, Counter[str]]) -> dict[str, Counter[str]]:
    """Both origins and the names within each, most first."""
    most_first = sorted(places.items(), key=lambda item: -item[1].total())
    return {place: Counter(dict(counted.most_common())) for place, counted in most_first}


if __name__ == "__main__":
    main()
