"""Runs on two real ranks under the deepspeed launcher: trains what the tests then look at, all in one start.

deepspeed --num_gpus 2 worker.py JOB SHARDS ROOT
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch._dynamo.utils import counters

from clinical_pretrain import train as training
from clinical_pretrain.checkpoint import whole_steps
from clinical_pretrain.config import (
    REPOSITORY,
    AttentionConfig,
    BatchConfig,
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    ModelSize,
    OptimConfig,
    RunConfig,
    ValidationConfig,
)
from clinical_pretrain.models import build
from clinical_pretrain.train import STOPPED, train
from tokenizer_tools.manifest import UserError

STEPS = 20
build.COMPILER = "aot_eager"  # torch.compile without its code generator, which takes minutes


def zero_file(root: Path, stage: int, offload: bool = False) -> str:
    """A file of ds_configs/; a tiny model is only partitioned under stage 3 with threshold 0."""
    if stage == 0:
        return "none"
    name = f"zero{stage}{'_offload' if offload else ''}.json"
    content = json.loads((REPOSITORY / "ds_configs" / name).read_text())
    if stage == 3:
        content["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    path = root / f"{os.environ.get('RANK', '0')}-{name}"
    path.write_text(json.dumps(content))
    return str(path)


def config(root: Path, shards: str, name: str, family: str = "longformer", stage: int = 0, **changes) -> RunConfig:
    """A tiny run: four micro-batches of two rows a step, weight decay and dropout on."""
    size = ModelSize(2, 32, 2, 64, attention_window=32, block_size=16, random_blocks=3)
    base = RunConfig(
        run_dir=str(root / name),
        max_steps=STEPS,
        precision="fp32",
        checkpointing="none",
        deepspeed=zero_file(root, stage),
        log_every_steps=1,
        model=ModelConfig(init="random", family=family, size=size),
        data=DataConfig(shards),
        batch=BatchConfig(8, 2),
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=4, weight_decay=0.1),
        validation=ValidationConfig(0, 8),
        checkpoint=CheckpointConfig(10),
    )
    return replace(base, **changes)


@contextmanager
def graphs_counted(run_dir: Path) -> Iterator[None]:
    """Writes down after each step how many graphs have been compiled since the run began."""
    counts, train_step = [], training.train_step
    torch._dynamo.reset()  # what an earlier run compiled would serve this one, too
    counters.clear()

    def counting(*arguments):
        loss = train_step(*arguments)
        counts.append(counters["stats"]["unique_graphs"])
        return loss

    training.train_step = counting
    yield
    training.train_step = train_step
    (run_dir / f"graphs-{os.environ['RANK']}.json").write_text(json.dumps(counts))


def stages(root: Path, shards: str) -> None:
    """Both models, stages 0 to 3 in fp32; then the other precisions, checkpointing and offload."""
    for family in ("longformer", "bigbird"):
        for stage in range(4):
            train(config(root, shards, f"{family}-{stage}", family, stage))
        train(config(root, shards, f"{family}-bf16-0", family, 0, precision="bf16", max_steps=6))
        train(config(root, shards, f"{family}-bf16-2", family, 2, precision="bf16", max_steps=6))
        train(config(root, shards, f"{family}-full", family, 3, checkpointing="full"))
        train(config(root, shards, f"{family}-attention", family, 2, checkpointing="attention"))
        no_dropout = AttentionConfig(dropout=0.0)
        train(config(root, shards, f"{family}-blocked", family, 2, attention=no_dropout))
        train(config(root, shards, f"{family}-hf", family, 1, attention=replace(no_dropout, backend="hf")))
        for stage, kind in ((1, "none"), (2, "full"), (3, "attention")):
            compiled = config(root, shards, f"{family}-compiled-{stage}", family, stage, attention=no_dropout)
            with graphs_counted(Path(compiled.run_dir)):
                train(replace(compiled, compile="on", checkpointing=kind))
        data = DataConfig(shards, document_attention="isolate")
        train(config(root, shards, f"{family}-isolate", family, 2, data=data))
    blocks = ValidationConfig(0, 8, random_blocks="training")
    train(config(root, shards, "bigbird-training-blocks", "bigbird", 1, validation=blocks, max_steps=6))
    try:
        train(config(root, shards, "diverging", optim=OptimConfig(learning_rate=1e30, warmup_steps=0)))
    except UserError as error:
        (root / f"diverging-{os.environ['RANK']}.txt").write_text(str(error))
    train(config(root, shards, "global", stage=3, attention=AttentionConfig(global_tokens="first"), max_steps=6))
    for stage in (2, 3):
        train(config(root, shards, f"offload-{stage}", deepspeed=zero_file(root, stage, offload=True)))


def resume(root: Path, shards: str) -> None:
    """For each stage: a run that is stopped by a signal and started again, beside one that isn't."""
    for stage in range(4):
        train(config(root, shards, f"whole-{stage}", stage=stage))
        stopped = config(root, shards, f"stopped-{stage}", stage=stage)
        if os.environ["RANK"] == "1":  # not the rank that writes: the others must learn of it
            threading.Thread(target=_signal_after, args=(Path(stopped.run_dir), 5), daemon=True).start()
        try:
            train(stopped)
            raise AssertionError("the signal didn't stop the run")
        except SystemExit as caught:
            assert caught.code == STOPPED
        assert 5 <= whole_steps(Path(stopped.run_dir))[-1] < STEPS
        train(stopped)


def _signal_after(run_dir: Path, step: int) -> None:
    path = run_dir / "metrics.jsonl"
    while not path.exists() or f'"step": {step}, "kind": "train"' not in path.read_text():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGUSR1)


if __name__ == "__main__":
    os.umask(0o077)
    job, shards_folder, root_folder = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    {"stages": stages, "resume": resume}[job](Path(root_folder), shards_folder)
