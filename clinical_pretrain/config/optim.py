"""Settings of the optimization: batches, optimizer, learning-rate schedule, validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from clinical_pretrain.config.fields import Auto, PathText, Resume
from tokenizer_tools.ranges import MANY, Range


@dataclass(frozen=True)
class BatchConfig:
    """Batch sizes, in sequences."""

    train_batch_size: Annotated[int, Range(1, 1_000_000), Resume.ACCEPTED] = 18
    """Sequences per optimizer step, over all GPUs and accumulation steps."""
    micro_batch_size_per_gpu: Annotated[int, Auto(), Range(0, 1_000_000), Resume.ACCEPTED] = 3
    """Sequences per forward pass on one GPU. Gradient accumulation follows from this and train_batch_size. auto (or 0):
    the fastest that fits, by the estimates of `clinical-pretrain plan`; 1 on a CPU."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and the learning-rate schedule."""

    learning_rate: Annotated[float, Range(above=0, maximum=1), Resume.ACCEPTED] = 3e-5
    """Peak learning rate."""
    beta1: Annotated[float, Range(0, below=1), Resume.ACCEPTED] = 0.9
    """AdamW's decay of the first moment."""
    beta2: Annotated[float, Range(0, below=1), Resume.ACCEPTED] = 0.999
    """AdamW's decay of the second moment."""
    epsilon: Annotated[float, Range(1e-30, 1), Resume.ACCEPTED] = 1e-8
    """AdamW's term against division by zero."""
    weight_decay: Annotated[float, Range(0, 10), Resume.ACCEPTED] = 0.0
    """Decoupled weight decay; not applied to biases and layer norms."""
    max_grad_norm: Annotated[float, Range(0, MANY), Resume.ACCEPTED] = 1.0
    """Clip gradients to this global L2 norm; 0 disables clipping."""
    schedule: Annotated[Literal["linear", "cosine", "wsd"], Resume.ACCEPTED] = "linear"
    """Decay after the warm-up. linear, cosine: over all remaining steps. wsd (warm-up, stable, decay): constant, then
    linear over the last decay_steps."""
    warmup_steps: Annotated[int, Range(0, MANY), Resume.ACCEPTED] = 10_000
    """Optimizer steps of linear warm-up from 0 to the peak."""
    decay_steps: Annotated[int, Range(0, MANY), Resume.ACCEPTED] = 0
    """wsd: optimizer steps of the decay at the end."""
    final_learning_rate_fraction: Annotated[float, Range(0, 1), Resume.ACCEPTED] = 0.0
    """Learning rate at the end of the decay, as a fraction of the peak."""


@dataclass(frozen=True)
class ValidationConfig:
    """Loss and accuracy on held-out notes. Always measured at the start and at the end."""

    every_steps: Annotated[int, Range(0, MANY), Resume.ACCEPTED] = 1000
    """Optimizer steps between validations; 0: only at the start and at the end."""
    max_sequences: Annotated[int, Range(0, MANY), Resume.ACCEPTED] = 0
    """Number of validation sequences to use, spread evenly over the split; 0: all."""
    context_sequences: Annotated[int, Range(0, MANY), Resume.FREE] = 64
    """Measure about this many of the sequences with the context cut to 512 tokens, too; 0: none. Attention backend hf
    can't."""
    words: Annotated[str, PathText(may_be_empty=True), Resume.FREE] = "configs/validation/words.yaml"
    """Lists of words by name, whose loss is shown by list; a YAML file. Empty: none."""
    general_text: Annotated[str, PathText(may_be_empty=True), Resume.FREE] = "configs/validation/general.txt"
    """A text that isn't clinical, whose loss shows what the model forgets. Empty: none."""
    random_blocks: Annotated[Literal["evaluation", "training"], Resume.ACCEPTED] = "evaluation"
    """BigBird's random blocks during validation. evaluation: block 0 for all, as transformers in eval mode, so what
    users of the exported model get. training: the blocks used in training."""
    early_stopping_patience: Annotated[int, Range(0, MANY), Resume.FREE] = 0
    """End the run, with exit code 0, after this many consecutive validations without a new lowest loss; 0: never."""


def batch_fault(batch: BatchConfig) -> str | None:
    """A step must consist of whole micro-batches."""
    if not batch.micro_batch_size_per_gpu or batch.train_batch_size % batch.micro_batch_size_per_gpu == 0:
        return None
    return (
        f"batch.train_batch_size {batch.train_batch_size} is not a multiple of batch.micro_batch_size_per_gpu "
        f"{batch.micro_batch_size_per_gpu}"
    )


def schedule_fault(optim: OptimConfig, max_steps: int) -> str | None:
    """Warm-up and decay must fit in the run."""
    if optim.warmup_steps > max_steps:
        return f"optim.warmup_steps {optim.warmup_steps} is more than max_steps {max_steps}"
    if optim.schedule == "wsd" and optim.warmup_steps + optim.decay_steps > max_steps:
        return (
            f"optim.warmup_steps {optim.warmup_steps} and optim.decay_steps {optim.decay_steps} are together more than "
            f"max_steps {max_steps}"
        )
    return None


def early_stopping_fault(validation: ValidationConfig) -> str | None:
    """Early stopping needs validations on the way."""
    if validation.early_stopping_patience and not validation.every_steps:
        return "validation.early_stopping_patience needs regular validations; set validation.every_steps"
    return None
