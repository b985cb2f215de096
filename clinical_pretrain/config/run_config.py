"""RunConfig: every setting of a run, checked when it is made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import yaml

from clinical_pretrain.config.data import DataConfig, MaskingConfig, replacement_fault
from clinical_pretrain.config.fields import PathText, Resume, range_faults, type_faults
from clinical_pretrain.config.model import AttentionConfig, ModelConfig, dropout_fault, heads_fault
from clinical_pretrain.config.optim import (
    BatchConfig,
    OptimConfig,
    ValidationConfig,
    batch_fault,
    early_stopping_fault,
    schedule_fault,
)
from clinical_pretrain.config.recovery import BadStepsConfig, CheckpointConfig, WatchdogConfig, spike_factor_fault
from tokenizer_tools.errors import UserError
from tokenizer_tools.ranges import MANY, Range

NO_ZERO = "none"
"""Value of `deepspeed` for a run without ZeRO."""


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    run_dir: Annotated[str, PathText(), Resume.FREE] = "runs/run"
    """Run folder. The run that it holds is resumed."""
    seed: Annotated[int, Range(0, 2**63 - 1), Resume.ACCEPTED] = 42
    """Seed of data order, masks, dropout and random weights."""
    max_steps: Annotated[int, Range(1, MANY), Resume.BY_STEPS] = 200_000
    """Optimizer steps of the first stage. Can change with checkpoint.accept_changes until they are done."""
    extend: Annotated[int, Range(0, MANY), Resume.BY_STEPS] = 0
    """Optimizer steps after max_steps, as a further stage of the run. Data order and masks continue. The learning rate
    warms up again from 0, over a tenth of the stage but at most optim.warmup_steps, and decays by optim.schedule. A
    larger number at the next resume adds another stage; the same number adds nothing."""
    precision: Annotated[Literal["bf16", "fp16", "fp32"], Resume.FIXED] = "bf16"
    """Precision of the forward and backward pass. The optimizer keeps fp32 weights."""
    activation_checkpointing: Annotated[Literal["none", "attention", "full", "auto"], Resume.FREE] = "full"
    """What to recompute in the backward pass to save memory: nothing, attention, or whole layers. auto: as little as
    fits, by the estimates of `clinical-pretrain plan`; nothing on a CPU."""
    compile: Annotated[Literal["auto", "on", "off"], Resume.FREE] = "auto"
    """torch.compile for the layers and the head. auto: on a GPU, except under ZeRO 3, whose hooks break the graph."""
    deepspeed: Annotated[str, PathText(), Resume.FREE] = "ds_configs/zero2.json"
    """DeepSpeed config file with the ZeRO stage and offload; none: no ZeRO (stage 0). Stage and offload can change
    freely at a resume, other DeepSpeed settings with checkpoint.accept_changes."""
    keep_freed_memory: Annotated[bool, Resume.FREE] = True
    """On a CPU: keep the memory of freed tensors, up to 32 MB each, for later ones, which makes a step faster. false:
    as glibc does by itself, give it back to the kernel, for a machine that is short of memory."""
    log_every_steps: Annotated[int, Range(1, MANY), Resume.FREE] = 10
    """Optimizer steps between two lines of metrics."""
    profile: Annotated[int, Range(0, 100), Resume.FREE] = 0
    """Trace this many steps of this start with torch's profiler, after three to warm up, into the run folder's traces/,
    for TensorBoard or Perfetto; 0: none."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model to train."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    """How attention is computed."""
    data: DataConfig = field(default_factory=DataConfig)
    """The data to train on."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    """Masked-LM corruption."""
    batch: BatchConfig = field(default_factory=BatchConfig)
    """Batch sizes."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and learning-rate schedule."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Loss on held-out notes."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When to save, and what to keep."""
    bad_steps: BadStepsConfig = field(default_factory=BadStepsConfig)
    """What to do about a NaN or infinite loss."""
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    """When to end a run that hangs."""

    def __post_init__(self) -> None:
        if faults := type_faults(self) or range_faults(self) or combination_faults(self):
            raise UserError("config: " + "; ".join(faults))

    def accumulation_steps(self, world_size: int) -> int:
        """Micro-batches per optimizer step on each of `world_size` ranks; with micro-batches of `auto`, sequences.

        Raises:
            UserError: the micro-batches of a step can't be divided evenly among the ranks.
        """
        micro_batches = self.batch.train_batch_size // (self.batch.micro_batch_size_per_gpu or 1)
        if micro_batches % world_size:
            counts = [str(n) for n in range(1, micro_batches + 1) if micro_batches % n == 0]
            raise UserError(
                f"{world_size} ranks can't share {micro_batches} micro-batches per step evenly (batch.train_batch_size "
                f"{self.batch.train_batch_size} / batch.micro_batch_size_per_gpu "
                f"{self.batch.micro_batch_size_per_gpu}); use {', '.join(counts)} ranks, or change one of the two"
            )
        return micro_batches // world_size

    def checkpoints_kept(self, steps: int) -> int:
        """Number of checkpoints that lie in the run folder at once, the one that is being written among them.

        Args:
            steps: of the whole run.
        """
        settings = self.checkpoint
        saves = steps // settings.every_steps + 1 if settings.every_steps else 1
        latest = min(saves, settings.keep_latest or saves)
        older = steps // settings.keep_every_steps if settings.keep_every_steps else 0
        has_best = settings.keep_best and self.validation.every_steps > 0
        return latest + max(0, min(saves - latest, older)) + has_best + 1

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as in YAML."""
        return asdict(self)

    def to_yaml(self) -> str:
        """The whole config as YAML that `--config` reads."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def combination_faults(config: RunConfig) -> list[str]:
    """Settings that are each within their range but contradict each other."""
    found = (
        batch_fault(config.batch),
        dropout_fault(config.attention),
        _compile_fault(config),
        spike_factor_fault(config.bad_steps),
        early_stopping_fault(config.validation),
        schedule_fault(config.optim, config.max_steps),
        replacement_fault(config.masking),
        heads_fault(config.model),
    )
    return [fault for fault in found if fault]


def _compile_fault(config: RunConfig) -> str | None:
    """The reference backend runs transformers' modules uncompiled."""
    if config.compile == "on" and config.attention.backend == "hf":
        return "compile on doesn't work with attention.backend hf, which runs transformers' code as it is; use auto"
    return None
