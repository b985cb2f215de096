"""Saving and loading a checkpoint: ours compared with DeepSpeed's plain save_checkpoint, in turn, on one engine.

    python benchmarks/checkpointing.py --model longformer --zero-stage 2 --json FILE
    deepspeed --num_gpus 2 benchmarks/checkpointing.py …

Base size, Adam's moments included. DeepSpeed's leaves files in the page cache, where a power cut loses them; "flushed"
is the same with every file flushed to the disk, as ours are before a checkpoint is valid. Ours also hashes what it
writes, and verifies the hashes before it loads. All keep one checkpoint, and delete the one before.

While ours is written by a thread, training continues: `stall_seconds_ours` is for how long it stands still. To see what
the thread costs the steps that run meanwhile, steps with a save in the background are compared with steps after a save
that is waited for.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from operator import truediv
from pathlib import Path
from typing import Any

import torch
from common import base_config, facts, stock_model, timed

from clinical_pretrain.checkpoint.pending_save import PendingSave
from clinical_pretrain.checkpoint.restore import load
from clinical_pretrain.checkpoint.state import RunState
from clinical_pretrain.checkpoint.verify import latest_valid
from clinical_pretrain.config.recovery import CheckpointConfig
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.distributed import Ranks, initialise, shut_down
from clinical_pretrain.engine.build import make_engine
from clinical_pretrain.engine.deepspeed_config import resolve
from clinical_pretrain.engine.deepspeed_internals import parameter_count
from clinical_pretrain.engine.memory_file import MemoryCheckpointEngine
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.files import write_json

LENGTH, STEPS = 512, 5


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["longformer", "bigbird"], default="longformer")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--zero-stage", type=int, choices=[1, 2, 3], default=2)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: a temporary one)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.umask(0o077)
    ranks = initialise()
    engine = engine_of(args, ranks)
    made = tempfile.mkdtemp(dir=args.folder) if ranks.is_first else ""
    folder = Path(ranks.broadcast(made))
    (folder / "ours").mkdir(exist_ok=True)
    try:
        result = compare(args, engine, folder, ranks)
    finally:
        ranks.barrier()
        if ranks.is_first:
            shutil.rmtree(folder)
        shut_down()
    if ranks.is_first:
        if args.json:
            write_json(args.json, result)
        print(json.dumps(result, indent=2))


def engine_of(args: argparse.Namespace, ranks: Ranks) -> Any:
    """After one step, so that Adam's moments are there."""
    config = RunConfig(precision=args.precision, deepspeed=f"ds_configs/zero{args.zero_stage}.json")
    batch = replace(config.batch, train_batch_size=ranks.world_size, micro_batch_size_per_gpu=1)
    config = replace(config, batch=batch)
    model = stock_model(base_config(args.model, args.layers, LENGTH))
    engine = make_engine(model, config, resolve(config, ranks.world_size))
    train(engine)
    return engine


def train(engine: Any) -> None:
    """A few steps, on a CPU longer than it takes to write a checkpoint."""
    for _ in range(STEPS):
        ids = torch.randint(110, 50000, (1, LENGTH), device=engine.device)
        engine.backward(engine(ids, labels=ids).loss)
        engine.step()
    if engine.device.type == "cuda":
        torch.cuda.synchronize()


def compare(args: argparse.Namespace, engine: Any, folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Save by each, in turn; then load by each, in turn."""
    plain_engine, memory = engine.checkpoint_engine, MemoryCheckpointEngine.of(engine)
    step = 0

    def plain() -> None:
        nonlocal step
        step += 1
        engine.checkpoint_engine = plain_engine
        engine.save_checkpoint(str(folder / "plain"), tag=f"step-{step}")
        if ranks.is_first:
            for old in (folder / "plain").glob("step-*"):
                if old.name != f"step-{step}":
                    shutil.rmtree(old)
        ranks.barrier()

    def flushed() -> None:
        plain()
        if ranks.is_first:
            for path in (folder / "plain" / f"step-{step}").iterdir():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
        ranks.barrier()

    def begin() -> PendingSave:
        nonlocal step
        step += 1
        engine.checkpoint_engine = memory
        state = RunState(step, step, ranks.world_size, args.zero_stage, args.precision, "")
        return PendingSave(RunFolder(folder / "ours"), engine, state, {}, ranks)

    def finish(save: PendingSave) -> None:
        saved = save.finish(CheckpointConfig(keep_latest=1))
        assert saved.error is None, saved.error

    stalls: list[float] = []

    def ours() -> None:
        began = time.monotonic()
        save = begin()
        begun = time.monotonic()
        while any(ranks.all_gather(not save.is_written)):
            time.sleep(0.01)
        written = time.monotonic()
        finish(save)
        stalls.append(time.monotonic() - written + begun - began)

    def in_background() -> None:
        save = begin()
        train(engine)
        finish(save)

    def waited_for() -> None:
        finish(begin())
        train(engine)

    def load_plain() -> None:
        engine.load_checkpoint(str(folder / "plain"))

    def load_ours() -> None:
        newest, _ = latest_valid(RunFolder(folder / "ours"), ranks)
        load(RunFolder(folder / "ours"), engine, newest)

    saves = in_turn({"plain": plain, "plain_flushed": flushed, "ours": ours}, args.repeats)
    loads = in_turn({"plain": load_plain, "ours": load_ours}, args.repeats)
    steps = in_turn({"in_background": in_background, "waited_for": waited_for, "without_save": lambda: train(engine)},
                    args.repeats)  # fmt: skip
    sizes = {
        "plain": sum(path.stat().st_size for path in (folder / "plain").rglob("*") if path.is_file()),
        "ours": sum(path.stat().st_size for path in (folder / "ours").rglob("*") if path.is_file()),
    }
    return {
        "what": "seconds of a save and of a load: DeepSpeed's save_checkpoint and ours",
        **facts(),
        "config": {"model": args.model, "layers": args.layers, "zero_stage": args.zero_stage, "ranks": ranks.world_size,
                   "precision": args.precision, "parameters": parameter_count(engine.module)},
        **{f"save_seconds_{name}": statistics.median(seconds) for name, seconds in saves.items()},
        "stall_seconds_ours": statistics.median(stalls[1:]),
        "stall_ratio": statistics.median(map(truediv, stalls[1:], saves["plain_flushed"])),
        **{f"seconds_of_{STEPS}_steps_{name}": statistics.median(seconds) for name, seconds in steps.items()},
        **{f"load_seconds_{name}": statistics.median(seconds) for name, seconds in loads.items()},
        "save_ratio": statistics.median(map(truediv, saves["ours"], saves["plain_flushed"])),
        **{f"megabytes_{name}": round(size / 1e6, 1) for name, size in sizes.items()},
    }  # fmt: skip


def in_turn(actions: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, after one round that doesn't count."""
    for action in actions.values():
        action()
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            seconds[name].append(timed(action))
    return seconds


if __name__ == "__main__":
    main()
