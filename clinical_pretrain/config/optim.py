"""Settings of the optimization: batches, optimizer, learning-rate schedule, validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tokenizer_tools.ranges import MANY, Range


@dataclass(frozen=True)
class BatchConfig:
    """How many sequences a step takes."""

    train_batch_size: Annotated[int, Range(1, 1_000_000)] = 18
    """Sequences per optimizer step, over all GPUs and accumulation steps."""
    micro_batch_size_per_gpu: Annotated[int, Range(1, 1_000_000)] = 3
    """Sequences per forward pass on one GPU. With train_batch_size it decides gradient accumulation."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and the learning-rate schedule."""

    learning_rate: Annotated[float, Range(above=0, maximum=1)] = 3e-5
    """Peak learning rate."""
    beta1: Annotated[float, Range(0, below=1)] = 0.9
    """AdamW's decay of the first moment."""
    beta2: Annotated[float, Range(0, below=1)] = 0.999
    """AdamW's decay of the second moment."""
    epsilon: Annotated[float, Range(1e-30, 1)] = 1e-8
    """AdamW's term against division by zero."""
    weight_decay: Annotated[float, Range(0, 10)] = 0.0
    """Decoupled weight decay; not applied to biases and layer norms."""
    max_grad_norm: Annotated[float, Range(0, MANY)] = 1.0
    """Gradients are scaled down to this global L2 norm; 0 switches clipping off."""
    schedule: Literal["linear", "cosine", "wsd"] = "linear"
    """Decay after warm-up: linear or cosine over the rest, or wsd (warm-up, stable, decay: flat until decay_steps)."""
    warmup_steps: Annotated[int, Range(0, MANY)] = 10_000
    """Optimizer steps from 0 to the peak."""
    decay_steps: Annotated[int, Range(0, MANY)] = 0
    """wsd alone: the last steps, over which the rate falls linearly."""
    final_learning_rate_fraction: Annotated[float, Range(0, 1)] = 0.0
    """Where the decay ends, as a share of the peak."""


@dataclass(frozen=True)
class ValidationConfig:
    """Loss and accuracy on held-out notes, always at the start and at the end."""

    every_steps: Annotated[int, Range(0, MANY)] = 1000
    """Optimizer steps between two; 0: only at the start and at the end."""
    max_sequences: Annotated[int, Range(0, MANY)] = 0
    """Rows of the validation split to use, spread evenly over it; 0: all."""
    random_blocks: Literal["evaluation", "training"] = "evaluation"
    """BigBird: evaluation, where block 0 stands for all random blocks: what transformers computes in eval mode, so
    what users of the exported model get; training: the blocks that it is trained with."""
    early_stopping_patience: Annotated[int, Range(0, MANY)] = 0
    """Validations in a row without a new lowest loss after which the run ends, with exit code 0; 0: never."""
