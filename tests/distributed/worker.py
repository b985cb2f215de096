"""Runs on two real ranks under the deepspeed launcher: trains what the tests then look at, all in one start.

deepspeed --num_gpus 2 worker.py JOB SHARDS ROOT
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch._dynamo.utils import counters

from clinical_pretrain.checkpoint.state import RunState
from clinical_pretrain.config.data import DataConfig, MaskingConfig
from clinical_pretrain.config.model import AttentionConfig, ModelConfig, ModelSize
from clinical_pretrain.config.optim import BatchConfig, OptimConfig, ValidationConfig
from clinical_pretrain.config.recovery import BadStepsConfig, CheckpointConfig
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.engine import build as engine_build
from clinical_pretrain.engine import deepspeed_internals
from clinical_pretrain.engine import memory_file as checkpoint_engine
from clinical_pretrain.engine.deepspeed_internals import square_sum_of_kernels
from clinical_pretrain.exit_codes import STOPPED
from clinical_pretrain.models import build
from clinical_pretrain.release.export import export
from clinical_pretrain.resources import find_file
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.training import train as training
from clinical_pretrain.training import validation
from clinical_pretrain.training.checkpointer import Checkpointer, save
from clinical_pretrain.training.train import train
from tokenizer_tools.errors import UserError

STEPS = 20
BF16 = {"precision": "bf16", "max_steps": 6, "checkpoint": CheckpointConfig(4)}
build.COMPILER = "aot_eager"  # torch.compile without its code generator, which takes minutes


def zero_file(root: Path, stage: int, offload: bool = False) -> str:
    """A file of ds_configs/; a tiny model is only partitioned under stage 3 with threshold 0."""
    if stage == 0:
        return "none"
    name = f"zero{stage}{'_offload' if offload else ''}.json"
    content = json.loads(find_file(f"ds_configs/{name}").read_text())
    if stage == 3:
        content["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    path = root / f"{os.environ.get('RANK', '0')}-{name}"
    path.write_text(json.dumps(content))
    return str(path)


def config(root: Path, shards: str, name: str, family: str = "longformer", stage: int = 0, **changes) -> RunConfig:
    """A tiny run: four micro-batches of two rows a step, weight decay and dropout on."""
    size = ModelSize(2, 32, 2, 64, attention_window=32, block_size=16, num_random_blocks=3)
    base = RunConfig(
        run_dir=str(root / name),
        max_steps=STEPS,
        precision="fp32",
        activation_checkpointing="none",
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


@contextmanager
def norms_compared(run_dir: Path) -> Iterator[None]:
    """Writes down each step's gradient norm under ZeRO 1 and 2: by DeepSpeed, as it is on a GPU, and as on CPUs."""
    norms, find_overflows_by_norm = [], engine_build.find_overflows_by_norm

    def computing_both(engine: Any) -> None:
        by_deepspeed = engine.optimizer.scaled_global_norm
        find_overflows_by_norm(engine)
        ours = engine.optimizer.scaled_global_norm

        def scaled_global_norm() -> torch.Tensor:
            with patch.object(deepspeed_internals, "square_sum_of_pieces", square_sum_of_kernels):
                as_on_a_gpu = ours()
            norms.append([float(by_deepspeed()), float(as_on_a_gpu), float(ours())])
            return ours()

        engine.optimizer.scaled_global_norm = scaled_global_norm

    engine_build.find_overflows_by_norm = computing_both
    yield
    engine_build.find_overflows_by_norm = find_overflows_by_norm
    (run_dir / f"norms-{os.environ['RANK']}.json").write_text(json.dumps(norms))


def stages(root: Path, shards: str) -> None:
    """Both models, stages 0 to 3 in fp32; then the other precisions, checkpointing and offload."""
    for family in ("longformer", "bigbird"):
        for stage in range(4):
            with norms_compared(root / f"{family}-{stage}"):
                train(config(root, shards, f"{family}-{stage}", family, stage))
        train(config(root, shards, f"{family}-bf16-0", family, 0, **BF16))
        with norms_compared(root / f"{family}-bf16-2"):
            train(config(root, shards, f"{family}-bf16-2", family, 2, **BF16))
        train(config(root, shards, f"{family}-full", family, 3, activation_checkpointing="full"))
        train(config(root, shards, f"{family}-attention", family, 2, activation_checkpointing="attention"))
        no_dropout = AttentionConfig(dropout=0.0)
        train(config(root, shards, f"{family}-blocked", family, 2, attention=no_dropout))
        train(config(root, shards, f"{family}-hf", family, 1, attention=replace(no_dropout, backend="hf")))
        # Stage 3's hooks break the graphs, so compiling takes a minute: with one family.
        for stage, kind in ((1, "none"), (2, "full"), (3, "attention"))[: 3 if family == "bigbird" else 2]:
            compiled = config(root, shards, f"{family}-compiled-{stage}", family, stage, attention=no_dropout)
            with graphs_counted(Path(compiled.run_dir)):
                train(replace(compiled, compile="on", activation_checkpointing=kind))
        data = DataConfig(shards, document_attention="isolate")
        train(config(root, shards, f"{family}-isolate", family, 2, data=data))
    blocks = ValidationConfig(0, 8, random_blocks="training")
    train(config(root, shards, "bigbird-training-blocks", "bigbird", 1, validation=blocks, max_steps=6))
    diverging = config(root, shards, "diverging", optim=OptimConfig(warmup_steps=0))
    object.__setattr__(diverging.optim, "learning_rate", 1e30)  # a config refuses it
    try:
        train(diverging)
    except UserError as error:
        (root / f"diverging-{os.environ['RANK']}.txt").write_text(str(error))
    train(config(root, shards, "global", stage=3, attention=AttentionConfig(global_tokens="first"), max_steps=6))
    for stage in (2, 3):
        train(config(root, shards, f"offload-{stage}", deepspeed=zero_file(root, stage, offload=True)))


def resume(root: Path, shards: str) -> None:
    """For each stage: a run that is stopped by a signal and started again, beside one that isn't."""
    for stage in range(4):
        often = ValidationConfig(int(stage == 1), 8)  # there the stop comes before a validation that is due
        train(config(root, shards, f"whole-{stage}", stage=stage, validation=often))
        stopped = config(root, shards, f"stopped-{stage}", stage=stage, validation=often)
        if os.environ["RANK"] == "1":  # not the rank that writes: the others must learn of it
            threading.Thread(target=_signal_after, args=(Path(stopped.run_dir), 5), daemon=True).start()
        try:
            train(stopped)
            raise AssertionError("the signal didn't stop the run")
        except SystemExit as caught:
            assert caught.code == STOPPED
        assert 5 <= RunFolder(Path(stopped.run_dir)).saved_steps()[-1] < STEPS
        train(stopped)
    asked_amid_validations(root, shards)


def asked_amid_validations(root: Path, shards: str) -> None:
    """A run that is asked to stop in each of its validations, and started again."""
    run, validate, asked, stops = (
        config(root, shards, "validating", stage=2, validation=ValidationConfig(10, 8)), validation.validate, set(), [],
    )  # fmt: skip

    def ask_and_validate(run: training.Run) -> None:
        if run.step not in asked and run.ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
            while run.watchdog.signal is None:  # a thread hears it
                time.sleep(0.001)
        asked.add(run.step)
        validate(run)

    validation.validate = ask_and_validate
    for _ in range(3):
        try:
            train(run)
            raise AssertionError("the signal didn't stop the run")
        except SystemExit:
            stop = json.loads((Path(run.run_dir) / "stop.json").read_text())
            stops.append({**stop, "saved": RunFolder(Path(run.run_dir)).saved_steps()})
    train(run)
    validation.validate = validate
    if os.environ["RANK"] == "0":
        (root / "stops.json").write_text(json.dumps(stops))


@contextmanager
def asked_to_stop_after(step: int) -> Iterator[None]:
    """A signal comes at the end of this step, once."""
    train_step, asked = training.train_step, []

    def asking(run: training.Run, batches: Any) -> torch.Tensor:
        loss = train_step(run, batches)
        if run.step + 1 == step and not asked:
            asked.append(os.kill(os.getpid(), signal.SIGUSR1))
            while run.watchdog.signal is None:  # a thread hears it
                time.sleep(0.001)
        return loss

    training.train_step = asking
    try:
        yield
    except SystemExit as caught:
        assert caught.code == STOPPED
    else:
        raise AssertionError("the signal didn't stop the run")
    finally:
        training.train_step = train_step


def stages_of_a_run(root: Path, shards: str) -> None:
    """A run in two stages, by one command, and by several with stops between; runs that end early, and the best of one
    whose loss rises again."""
    first = config(root, shards, "staged", stage=2, max_steps=8, checkpoint=CheckpointConfig(0))
    watched = Poison()  # of which none is given
    watched.train(replace(first, run_dir=str(root / "whole"), extend=4))
    watched.train(replace(first, run_dir=str(root / "one-stage"), max_steps=12))
    train(first)
    with asked_to_stop_after(10):
        train(replace(first, extend=4))
    train(replace(first, extend=4))
    train(replace(first, extend=4))
    still = replace(first.optim, learning_rate=1e-12, warmup_steps=0)
    common = {"validation": ValidationConfig(2, 8, early_stopping_patience=2), "max_steps": 20, "stage": 1}
    early = config(root, shards, "early", checkpoint=CheckpointConfig(1, keep_latest=1), optim=still, **common)
    with asked_to_stop_after(3):
        train(early)
    for _ in range(2):
        train(early)
    rises = config(root, shards, "rises", stage=1, max_steps=6, validation=ValidationConfig(2, 8),
                   checkpoint=CheckpointConfig(4, keep_latest=1, accept_changes=True))  # fmt: skip
    train(rises)
    train(replace(rises, extend=6, optim=replace(first.optim, learning_rate=1.0)))
    if os.environ["RANK"] == "0":
        shutil.copytree(root / "early", root / "on")
    dist.barrier()
    on = replace(early, run_dir=str(root / "on"), max_steps=20, validation=ValidationConfig(2, 8))
    train(on)


def one_rank_goes_on(root: Path, shards: str) -> None:
    """With the second stage of a run of two."""
    first = config(root, shards, "by-1", stage=2, max_steps=8, checkpoint=CheckpointConfig(0))
    again(replace(first, extend=4), root / "whole", 8)


class Poison:
    """Makes the loss of chosen micro-batches no number, on rank 1 alone. They are known by the sum of their labels."""

    def __init__(self) -> None:
        self.mean_loss, self.seen, self.chosen, self.factor = training.mean_loss, [], set(), math.nan
        training.mean_loss = self

    def __call__(self, losses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss, label_sum = self.mean_loss(losses, labels), int(labels.sum())
        self.seen.append(label_sum)
        return loss * self.factor if label_sum in self.chosen and os.environ["RANK"] == "1" else loss

    def train(self, run: RunConfig, steps: range = range(0), factor: float = math.nan) -> None:
        """Train with the micro-batches of these steps, counted from 1, of the first run poisoned."""
        start = 2 * (steps.start - 1)
        self.chosen, self.factor = set(self.first[start : start + 2 * len(steps)]) if steps else set(), factor
        self.seen = []
        train(run)
        (Path(run.run_dir) / f"seen-{os.environ['RANK']}.json").write_text(json.dumps(self.seen))

    def first_run(self, run: RunConfig) -> None:
        """A run without poison."""
        self.train(run)
        self.first = self.seen


def bad(root: Path, shards: str) -> None:
    """Losses that are no numbers, for a step or for long, and one that jumps."""
    poison = Poison()
    poison.first_run(config(root, shards, "well", stage=2, checkpoint=CheckpointConfig(5, keep_latest=0)))
    for stage in range(4):
        common = {"stage": stage, "checkpoint": CheckpointConfig(5, keep_latest=0), "bad_steps": BadStepsConfig(3)}
        poison.train(config(root, shards, f"once-{stage}", **common), range(8, 9))
        poison.train(config(root, shards, f"thrice-{stage}", **common), range(8, 11))
    for stage in (0, 2):
        half = {"stage": stage, "precision": "bf16", "checkpoint": CheckpointConfig(5, keep_latest=0)}
        poison.train(config(root, shards, f"once-bf16-{stage}", **half), range(8, 9))
    half["deepspeed"] = zero_file(root, 2, offload=True)
    poison.train(config(root, shards, "once-bf16-offload", **half), range(8, 9))
    moved = config(
        root, shards, "moved", stage=1, checkpoint=CheckpointConfig(5, keep_latest=0), bad_steps=BadStepsConfig(3)
    )
    if os.environ["RANK"] == "0":
        shutil.copytree(root / "well", moved.run_dir)
        (Path(moved.run_dir) / "summary.json").unlink()
        for later in (10, 15, 20):
            shutil.rmtree(RunFolder(Path(moved.run_dir)).checkpoint(later))
    dist.barrier()
    try:
        poison.train(moved, range(8, 11))
        raise AssertionError("a checkpoint of another stage was read as if it were of this one")
    except SystemExit as caught:
        assert caught.code == STOPPED
    poison.train(moved)
    jumps = BadStepsConfig(spike_factor=3.0)
    longer = {"max_steps": 40, "stage": 2, "checkpoint": CheckpointConfig(10), "bad_steps": jumps}
    poison.first_run(config(root, shards, "longer", **longer))
    poison.train(config(root, shards, "spike", **longer), range(30, 31), factor=50.0)
    again(config(root, shards, "spike-again", **longer), root / "spike", 30)
    spoilt(root, shards)
    for name, steps in (("early", range(2, 6)), ("often", range(12, 41))):
        try:
            poison.train(config(root, shards, name, stage=2, checkpoint=CheckpointConfig(5),
                                bad_steps=BadStepsConfig(2, max_rollbacks=2), max_steps=40), steps)  # fmt: skip
        except UserError as error:
            (root / f"{name}-{os.environ['RANK']}.txt").write_text(str(error))


def spoilt(root: Path, shards: str) -> None:
    """Weights and validation losses that are not finite, at a save, at the end or at the start."""
    five = CheckpointConfig(5, keep_latest=1)
    for stage in range(4):
        with weights_lost_after(10):  # when they would be saved
            train(config(root, shards, f"spoilt-{stage}", stage=stage, max_steps=13, checkpoint=five))
        with weights_lost_after(11):  # two steps before the end
            train(config(root, shards, f"spoilt-end-{stage}", stage=stage, max_steps=13, checkpoint=five))
        with weights_lost_after(1):  # before the first checkpoint
            refused(config(root, shards, f"diverged-{stage}", stage=stage, max_steps=6))
    with weights_lost_after(7), asked_to_stop_at(8):
        stopped = config(root, shards, "spoilt-stop", stage=2, max_steps=13, checkpoint=five)
        try:
            train(stopped)
            raise AssertionError("the signal didn't stop the run")
        except SystemExit as caught:
            assert caught.code == STOPPED
    train(stopped)
    for name, steps in (("validation-once", {10}), ("validation-always", {10, 13}), ("validation-first", {0})):
        run = config(root, shards, name, max_steps=13, checkpoint=five, validation=ValidationConfig(5, 8))
        with validation_lost_at(steps, once=name == "validation-once"):
            refused(run)
    train(config(root, shards, "validation-empty", max_steps=6, masking=MaskingConfig(probability=1e-9)))


def refused(run: RunConfig) -> None:
    """Train, and write down the error, if there is one."""
    try:
        train(run)
    except UserError as error:
        Path(f"{run.run_dir}-{os.environ['RANK']}.txt").write_text(str(error))


@contextmanager
def weights_lost_after(step: int) -> Iterator[None]:
    """After this step, but not again after a roll-back, rank 1's weights are NaN, or its part of them."""
    train_step = training.train_step

    def losing(run: training.Run, *arguments: Any) -> torch.Tensor:
        loss = train_step(run, *arguments)
        if run.step + 1 == step and not run.batches.skipped_ranges and run.ranks.rank == 1:
            for parameter in run.engine.module.parameters():
                getattr(parameter, "ds_tensor", parameter).data.fill_(math.nan)
        return loss

    training.train_step = losing
    try:
        yield
    finally:
        training.train_step = train_step


@contextmanager
def asked_to_stop_at(step: int) -> Iterator[None]:
    """Rank 1 gets the signal in this step."""
    train_step = training.train_step

    def asking(run: training.Run, *arguments: Any) -> torch.Tensor:
        if run.step + 1 == step and run.ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
            while run.watchdog.signal is None:  # a thread hears it
                time.sleep(0.001)
        return train_step(run, *arguments)

    training.train_step = asking
    try:
        yield
    finally:
        training.train_step = train_step


@contextmanager
def validation_lost_at(steps: set[int], once: bool) -> Iterator[None]:
    """Activations of the held-out sequences overflow at these steps; `once`: not again after a roll-back."""
    validate = validation.validate

    def lost(run: training.Run) -> None:
        if run.step not in steps or (once and run.batches.skipped_ranges):
            return validate(run)
        hook = run.engine.module.register_forward_hook(lambda _, __, output: (output[0] * math.inf, *output[1:]))
        try:
            validate(run)
        finally:
            hook.remove()

    validation.validate = lost
    try:
        yield
    finally:
        validation.validate = validate


ELASTIC = (("longformer", 1), ("longformer", 2), ("longformer", 3), ("bigbird", 2))
"""Runs whose ranks and stages change. A family differs in its parameters alone: one stage of BigBird shows that."""


def fewer(root: Path, shards: str) -> None:
    """Alone: second halves of runs of two ranks; then whole runs, which two ranks will go on with."""
    for family, stage in ELASTIC:
        again(config(root, shards, f"{family}-{stage}-by-1", family, stage), root / f"{family}-{stage}")
        train(config(root, shards, f"{family}-{stage}-of-1", family, stage))
    bf16 = config(root, shards, "bf16-2-by-1", "longformer", 2, **BF16)
    again(replace(bf16, deepspeed=zero_file(root, 3)), root / "longformer-bf16-2", 4)


def more(root: Path, shards: str) -> None:
    """By two ranks: second halves of runs of one, and of runs of two under another ZeRO stage; with other settings."""
    for family, stage in ELASTIC:
        again(config(root, shards, f"{family}-{stage}-by-2", family, stage), root / f"{family}-{stage}-of-1")
        other = {1: 3, 2: 1, 3: 2}[stage]
        again(config(root, shards, f"{family}-{stage}-then-{other}", family, other), root / f"{family}-{stage}")
    for stage, other in ((0, 2), (3, 0), (1, 0), (0, 3)):
        again(config(root, shards, f"longformer-{stage}-then-{other}", stage=other), root / f"longformer-{stage}")
    for stage, other in ((0, 2), (2, 0)):
        bf16 = config(root, shards, f"bf16-{stage}-then-{other}", stage=other, **BF16)
        again(bf16, root / f"longformer-bf16-{stage}", 4)
    optim = replace(config(root, shards, "").optim, beta2=0.99)
    smaller = {"batch": BatchConfig(4, 2), "optim": optim, "checkpoint": CheckpointConfig(10, accept_changes=True)}
    again(config(root, shards, "smaller-batch", stage=2, **smaller), root / "longformer-2")


def again(second: RunConfig, first: Path, step: int = 10) -> None:
    """Go on from the middle of a run that has been done."""
    if os.environ.get("RANK", "0") == "0":
        shutil.copytree(first, second.run_dir)
        (Path(second.run_dir) / "summary.json").unlink()
        for later in (later for later in RunFolder(Path(second.run_dir)).saved_steps() if later > step):
            shutil.rmtree(RunFolder(Path(second.run_dir)).checkpoint(later))
    if dist.is_initialized():
        dist.barrier()
    # What has been put together is saved at once, to be compared with what it was put together of.
    steps_of = training.train_to_end

    def saved_first(run: training.Run) -> Any:
        assert save(run)
        betas = {tuple(group["betas"]) for group in run.engine.optimizer.param_groups}
        assert betas == {(second.optim.beta1, second.optim.beta2)}
        return steps_of(run)

    training.train_to_end = saved_first
    try:
        train(second)
    finally:
        training.train_to_end = steps_of


def release(root: Path, shards: str) -> None:
    """Alone: a run that goes on with other data and settings, a BigBird in two stages, and runs that begin with a model
    in a local folder and with one of the Hub."""
    small = {"max_steps": 8, "checkpoint": CheckpointConfig(4, keep_latest=0)}
    train(config(root, shards, "first", **small))
    other = {"data": DataConfig(str(root / "other-shards"), language="de"), "batch": BatchConfig(4, 2),
             "optim": OptimConfig(learning_rate=1e-3, warmup_steps=4), "validation": ValidationConfig(0, 2),
             "checkpoint": CheckpointConfig(4, keep_latest=0, accept_changes=True), "max_steps": 8}  # fmt: skip
    again(config(root, shards, "changed", **other), root / "first", 4)
    train(config(root, shards, "bigbird", "bigbird", max_steps=4, extend=2))
    os.chdir(root)
    export(root / "first", Path("bases/lf_bin"))
    based = ModelConfig("bases/lf_bin")
    train(config(root, shards, "based", model=based, max_steps=4))
    downloaded = Path(os.environ["HF_HOME"]) / "hub" / "models--hospital--longformer"
    shutil.copytree("bases/lf_bin", downloaded / "snapshots" / "1", dirs_exist_ok=True)
    (downloaded / "refs").mkdir(exist_ok=True)
    (downloaded / "refs" / "main").write_text("1")
    train(config(root, shards, "of-hub", model=ModelConfig("hospital/longformer"), max_steps=4))


def faults(root: Path, shards: str) -> None:
    """Runs whose checkpoints are spoilt and that go on from an earlier one; a disk that is full for one rank."""
    whole = config(root, shards, "whole", stage=2, checkpoint=CheckpointConfig(5, keep_latest=0))
    train(whole)
    for name, spoil in SPOILERS.items():
        spoilt = replace(whole, run_dir=str(root / name))
        if os.environ["RANK"] == "0":
            shutil.copytree(whole.run_dir, spoilt.run_dir)
            spoil(sorted((Path(spoilt.run_dir) / "checkpoints" / "step-20").glob("*_states.pt"))[-1])
        dist.barrier()
        train(spoilt)
    slow = config(root, shards, "slow-disk", stage=2, checkpoint=CheckpointConfig(5, keep_latest=0))
    with disk_slow_for(3):
        train(slow)
    again(replace(whole, run_dir=str(root / "after-slow-disk")), root / "slow-disk", 5)
    full = config(root, shards, "full-disk", stage=2, checkpoint=CheckpointConfig(2, keep_latest=2))
    with disk_full_between(4, 8):
        train(full)
    try:
        with disk_full_between(4, 30):
            train(replace(full, run_dir=str(root / "always-full")))
    except UserError as error:
        (root / f"always-full-{os.environ['RANK']}.txt").write_text(str(error))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


SPOILERS = {"truncated": truncate, "bit-flipped": flip_a_bit, "missing": Path.unlink}


@contextmanager
def disk_full_between(first: int, last: int) -> Iterator[None]:
    """Rank 1 can't write large files while these steps are saved: the system's limit on a file's size."""
    begin, finish, before = Checkpointer.begin, Checkpointer.finish, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(self: Checkpointer, engine: Any, state: RunState, probe: Any) -> None:
        if self.ranks.rank == 1 and first <= state.step <= last:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        begin(self, engine, state, probe)

    def unlimited(self: Checkpointer, **options: Any) -> bool:
        try:
            return finish(self, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    Checkpointer.begin, Checkpointer.finish = limited, unlimited
    try:
        yield
    finally:
        Checkpointer.begin, Checkpointer.finish = begin, finish


@contextmanager
def disk_slow_for(steps: int) -> Iterator[None]:
    """A checkpoint is on rank 1's disk only after so many steps more, or when it's waited for."""
    write, finish, train_step = checkpoint_engine.write_hashed, Checkpointer.finish, training.train_step
    done, waited_for = 0, threading.Event()

    def slow(path: Path, chunks: Any) -> dict[str, Any]:
        begun = done
        while os.environ["RANK"] == "1" and done < begun + steps and not waited_for.wait(0.01):
            pass
        return write(path, chunks)

    def finished(self: Checkpointer, **options: Any) -> bool:
        waited_for.set()
        saved = finish(self, **options)
        waited_for.clear()
        return saved

    def counted(*arguments: Any) -> torch.Tensor:
        nonlocal done
        done += 1
        return train_step(*arguments)

    checkpoint_engine.write_hashed, Checkpointer.finish, training.train_step = slow, finished, counted
    try:
        yield
    finally:
        checkpoint_engine.write_hashed, Checkpointer.finish, training.train_step = write, finish, train_step


def _signal_after(run_dir: Path, step: int) -> None:
    path = run_dir / "metrics.jsonl"
    while not path.exists() or f'"step": {step}, "kind": "train"' not in path.read_text():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGUSR1)


if __name__ == "__main__":
    os.umask(0o077)
    job, shards_folder, root_folder = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    {
        "stages": stages,
        "resume": resume,
        "faults": faults,
        "fewer": fewer,
        "more": more,
        "bad": bad,
        "stages_of_a_run": stages_of_a_run,
        "one_rank_goes_on": one_rank_goes_on,
        "release": release,
    }[job](Path(root_folder), shards_folder)
