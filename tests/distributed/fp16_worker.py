"""fp16 on CPU ranks, by patching what DeepSpeed's accelerator claims: trains what test_fp16.py then looks at.

[deepspeed --num_gpus N] fp16_worker.py JOB SHARDS ROOT
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from worker import again
from worker import config as base_config

from clinical_pretrain.config.recovery import BadStepsConfig, CheckpointConfig
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.training import setup
from clinical_pretrain.training import train as training
from tokenizer_tools.errors import UserError

CPU_Accelerator.is_fp16_supported = lambda self: True
CPU_Accelerator.supported_dtypes = lambda self: [torch.float, torch.bfloat16, torch.float16]
setup.check_hardware = lambda config: None


def config(root: Path, shards: str, name: str, stage: int, **changes) -> RunConfig:
    """A tiny run in fp16. Stage 0 is written both ways: as no file, and as a file that says so."""
    common = {"precision": "fp16", "max_steps": 10, "checkpoint": CheckpointConfig(4, keep_latest=0)}
    run = base_config(root, shards, name, stage=stage, **{**common, **changes})
    if stage == 0 and name.endswith("file"):
        path = root / f"{os.environ['RANK']}-stage0.json"
        path.write_text(json.dumps({"zero_optimization": {"stage": 0}, "fp16": {"enabled": "auto"}}))
        run = replace(run, deepspeed=str(path))
    return run


@contextmanager
def overflow_at(steps: Iterable[int], once: bool = False) -> Iterator[None]:
    """The last rank's gradients overflow at these steps, though the loss is what it was.

    Args:
        steps: counted from 1.
        once: not again after a roll-back.
    """
    mean_loss, train_step = training.mean_loss, training.train_step

    def steep(losses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = mean_loss(losses, labels)
        return loss.detach() + (loss - loss.detach()) * 1e30

    def step(run: training.Run, *arguments) -> torch.Tensor:
        is_chosen = run.step + 1 in steps and run.ranks.rank == run.ranks.world_size - 1
        planted = is_chosen and not (once and run.batches.skipped_ranges)
        training.mean_loss = steep if planted else mean_loss
        return train_step(run, *arguments)

    training.train_step = step
    try:
        yield
    finally:
        training.mean_loss, training.train_step = mean_loss, train_step


def two(root: Path, shards: str) -> None:
    """By two ranks: whole runs, their second halves, and overflows that don't end."""
    for stage in range(4):
        with overflow_at((2, 3)):
            training.train(config(root, shards, f"fp16-{stage}", stage))
        again(config(root, shards, f"fp16-{stage}-again", stage), root / f"fp16-{stage}", 4)
        with overflow_at(range(6, 9), once=True):
            bad_steps = BadStepsConfig(max_consecutive_overflows=3)
            training.train(config(root, shards, f"overflows-{stage}", stage, bad_steps=bad_steps))
        with overflow_at(range(2, 35)):
            try:
                training.train(
                    config(root, shards, f"hopeless-{stage}", stage, max_steps=34, checkpoint=CheckpointConfig(40))
                )
            except UserError as error:
                (root / f"hopeless-{stage}-{os.environ['RANK']}.txt").write_text(str(error))
    with overflow_at((2, 3)):
        training.train(config(root, shards, "fp16-0-file", 0))


def elastic(root: Path, shards: str) -> None:
    """By another number of ranks: second halves, under the same ZeRO stage and under others."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    for stage, other in ((0, 0), (2, 2), (0, 2), (1, 0), (3, 0), (0, 3)):
        run = config(root, shards, f"fp16-{stage}-then-{other}-by-{ranks}", other)
        again(run, root / f"fp16-{stage}", 4)


if __name__ == "__main__":
    os.umask(0o077)
    job, shards_folder, root_folder = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    {"two": two, "elastic": elastic}[job](Path(root_folder), shards_folder)
