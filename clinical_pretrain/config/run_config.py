"""RunConfig: every setting of a run, checked when it is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from clinical_pretrain.config.data import DataConfig, MaskingConfig
from clinical_pretrain.config.fields import PathText, range_faults, type_faults
from clinical_pretrain.config.model import AttentionConfig, ModelConfig
from clinical_pretrain.config.optim import BatchConfig, OptimConfig, ValidationConfig
from clinical_pretrain.config.recovery import BadStepsConfig, CheckpointConfig, WatchdogConfig
from clinical_pretrain.resources import find_file
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest
from tokenizer_tools.ranges import MANY, Range

NO_ZERO = "none"
JOBS_FOLDER = "slurm"
"""In a run folder: scripts and logs of submitted jobs, there before the run is."""


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    run_dir: Annotated[str, PathText()] = "runs/run"
    """Run folder. One that holds the same run is continued."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 42
    """Seed of data order, masks, dropout and random weights."""
    max_steps: Annotated[int, Range(1, MANY)] = 200_000
    """Optimizer steps; of the first stage, where the run is extended."""
    extra_steps: Annotated[int, Range(0, MANY)] = 0
    """Optimizer steps beyond max_steps, in total, as a further stage. Rows and masks continue where the stage before
    ended. The learning rate warms up again from 0, over a tenth of it but at most optim.warmup_steps, and decays
    over the rest by optim.schedule. The same number again adds nothing; a larger one adds another stage."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Arithmetic of the forward and backward pass; the optimizer keeps fp32 weights."""
    activation_checkpointing: Literal["none", "attention", "full"] = "full"
    """What is computed again in the backward pass to save memory: nothing, attention, or whole layers."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile for the layers and the head: auto: on a GPU, but not under ZeRO 3, whose hooks cut it to pieces."""
    deepspeed: Annotated[str, PathText()] = "ds_configs/zero2.json"
    """DeepSpeed file that says the ZeRO stage and offload; none: ZeRO off (stage 0)."""
    log_every_steps: Annotated[int, Range(1, MANY)] = 10
    """Optimizer steps between two lines of metrics."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What is trained."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    """How attention is computed."""
    data: DataConfig = field(default_factory=DataConfig)
    """What it is trained on."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    """What is hidden from the model."""
    batch: BatchConfig = field(default_factory=BatchConfig)
    """How many sequences a step takes."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """When to measure on held-out notes."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When to save, and what to keep."""
    bad_steps: BadStepsConfig = field(default_factory=BadStepsConfig)
    """What happens to steps without a finite loss."""
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    """When a run that stands still is ended."""

    def __post_init__(self) -> None:
        if faults := type_faults(self) or range_faults(self) or list(self._contradictions()):
            raise UserError("config: " + "; ".join(faults))

    def _contradictions(self) -> Iterator[str]:
        """Between settings that are each within their own range."""
        batch, optim, masking = self.batch, self.optim, self.masking
        if batch.train_batch_size % batch.micro_batch_size_per_gpu:
            yield (
                f"batch.train_batch_size {batch.train_batch_size} is no multiple of batch.micro_batch_size_per_gpu "
                f"{batch.micro_batch_size_per_gpu}"
            )
        dropout = self.attention.dropout
        if dropout and self.attention.backend in ("flex", "varlen"):
            yield f"attention.backend {self.attention.backend} takes no dropout; set attention.dropout to 0 or use auto"
        if self.compile == "on" and self.attention.backend == "hf":
            yield "compile is on, but attention.backend hf runs the model's own code as it is; use auto"
        if 0 < self.bad_steps.spike_factor <= 1:
            yield f"bad_steps.spike_factor is {self.bad_steps.spike_factor}, must be above 1, or 0 for none"
        if self.validation.early_stopping_patience and not self.validation.every_steps:
            yield (
                "validation.early_stopping_patience needs validations between start and end; set validation.every_steps"
            )
        if optim.warmup_steps > self.max_steps:
            yield f"optim.warmup_steps {optim.warmup_steps} is more than max_steps {self.max_steps}"
        if optim.schedule == "wsd" and optim.warmup_steps + optim.decay_steps > self.max_steps:
            yield (
                f"optim.warmup_steps {optim.warmup_steps} and optim.decay_steps {optim.decay_steps} are more than "
                f"max_steps {self.max_steps}"
            )
        if masking.replace_with_mask + masking.replace_with_random > 1 + 1e-9:
            yield "masking.replace_with_mask and masking.replace_with_random must be shares that add up to at most 1"
        size = self.model.size
        if self.model.init == "random" and size.hidden_size % size.num_attention_heads:
            yield (
                f"model.size.num_attention_heads {size.num_attention_heads} doesn't divide model.size.hidden_size "
                f"{size.hidden_size}"
            )

    def accumulation_steps(self, world_size: int) -> int:
        """Micro-batches that each of `world_size` ranks takes per optimizer step.

        Raises:
            UserError: the ranks can't share them evenly.
        """
        micro_batches = self.batch.train_batch_size // self.batch.micro_batch_size_per_gpu
        if micro_batches % world_size:
            counts = [str(n) for n in range(1, micro_batches + 1) if micro_batches % n == 0]
            raise UserError(
                f"{world_size} ranks can't share {micro_batches} micro-batches per step evenly (batch.train_batch_size "
                f"{self.batch.train_batch_size} / batch.micro_batch_size_per_gpu "
                f"{self.batch.micro_batch_size_per_gpu}); use {', '.join(counts)} ranks, or change one of the two"
            )
        return micro_batches // world_size

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values."""
        return asdict(self)

    def to_yaml(self) -> str:
        """The whole config, as `--config` reads it."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def check_files(config: RunConfig) -> None:
    """See that a run's files are there, as far as that takes no second.

    Raises:
        UserError: the shards, the DeepSpeed file or the base model's folder isn't.
    """
    Manifest.load(config.data.shards)
    if config.deepspeed != NO_ZERO:
        find_file(config.deepspeed)
    if config.model.init == "pretrained":
        refuse_missing_folder(config.model.name_or_path)


def refuse_missing_folder(name_or_path: str) -> None:
    """Raise a UserError where a base model's name can only be a folder's, and that isn't there."""
    if Path(name_or_path).is_absolute() and not Path(name_or_path).is_dir():
        raise UserError(f"{name_or_path}: no such folder (model.name_or_path)")
