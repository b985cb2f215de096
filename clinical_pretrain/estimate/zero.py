"""What DeepSpeed's ZeRO holds: weights, gradients, optimizer, and its buffers. Read from deepspeed 0.19.8,
runtime/zero/stage_1_and_2.py and stage3.py; names of functions below are theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clinical_pretrain.estimate.shapes import ModelShape, Parameter, parameters
from clinical_pretrain.estimate.timeline import Timeline
from tokenizer_tools.errors import UserError

WEIGHTS, GRADIENTS, OPTIMIZER, BUFFERS = "weights", "gradients", "optimizer", "buffers"
ALIGNMENT = 2
"""Elements that a rank's partition is rounded up to: nccl_start_alignment_factor."""


@dataclass(frozen=True)
class ZeroSettings:
    """What memory depends on in a DeepSpeed config."""

    stage: int
    reduce_bucket_size: int = 500_000_000
    """Elements."""
    overlap_comm: bool = False
    prefetch_bucket_size: int = 50_000_000
    persistence_threshold: int = 100_000
    offload: bool = False

    @classmethod
    def of(cls, config: dict[str, Any]) -> ZeroSettings:
        """Of a DeepSpeed config; defaults as DeepSpeed's.

        Raises:
            UserError: a number isn't one.
        """
        zero = config.get("zero_optimization", {})
        stage = _number(zero, "stage", 0)
        return cls(
            stage,
            _number(zero, "reduce_bucket_size", cls.reduce_bucket_size),
            bool(zero.get("overlap_comm", stage == 3)),
            _number(zero, "stage3_prefetch_bucket_size", cls.prefetch_bucket_size),
            _number(zero, "stage3_param_persistence_threshold", cls.persistence_threshold),
            any(name in zero for name in ("offload_optimizer", "offload_param")),
        )


def _number(zero: dict[str, Any], name: str, default: int) -> int:
    value = zero.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"zero_optimization.{name} is {json.dumps(value)}, must be a number")
    return int(value)


class Partitioned:
    """Sizes of one rank's partitions, in elements: those of the rank that holds most."""

    def __init__(self, model: ModelShape, world_size: int) -> None:
        every = parameters(model)
        self.frozen = sum(each.numel for each in every if not each.is_trained)
        self.trained = sum(each.numel for each in every if each.is_trained)
        of_groups = [each for each in every if each.is_trained]
        self.groups = [[each for each in of_groups if each.is_decayed is decayed] for decayed in (True, False)]
        self.sizes = [_share(sum(each.numel for each in group), world_size) for group in self.groups]
        """Of each parameter group: what one rank updates."""
        self.gradients = max(
            sum(_overlapping(group, size, rank) for group, size in zip(self.groups, self.sizes, strict=True))
            for rank in range(world_size)
        )
        """Of the whole parameters that a rank's partition touches: copy_grads_in_partition."""
        self.every = every

    @property
    def updated(self) -> int:
        """Elements that one rank updates."""
        return sum(self.sizes)


def _share(elements: int, world_size: int) -> int:
    """Of elements that are divided among ranks."""
    return -(-elements // (ALIGNMENT * world_size)) * ALIGNMENT


def _overlapping(group: list[Parameter], size: int, rank: int) -> int:
    start, total = 0, 0
    for parameter in group:
        if start < size * (rank + 1) and start + parameter.numel > size * rank:
            total += parameter.numel
        start += parameter.numel
    return total


class Zero12:
    """ZeRO 1 and 2: every rank has all weights. Stage 2 divides gradients in each micro-step, stage 1 in the last."""

    def __init__(self, timeline: Timeline, settings: ZeroSettings, sizes: Partitioned, element: int) -> None:
        self.timeline, self.settings, self.sizes, self.element = timeline, settings, sizes, element
        self._in_bucket = 0
        self._kept = 0
        """Elements of gradients that stage 1 keeps until the last micro-step."""
        self._steps = 0

    def start(self) -> None:
        """What is there before the first step. Adam's moments come with the first update."""
        sizes, element = self.sizes, self.element
        self.timeline.allocate(WEIGHTS, weights=(sizes.trained + sizes.frozen) * element)
        self.timeline.allocate(OPTIMIZER, master=4 * sizes.updated)

    def gradient(self, elements: int, is_boundary: bool, is_first: bool) -> None:
        """Gradients of some parameters are ready in a micro-step: the last of the step, or the first."""
        timeline, settings = self.timeline, self.settings
        if not timeline.is_alive("buckets"):
            count = 2 if settings.overlap_comm else 1
            timeline.allocate(BUFFERS, buckets=count * settings.reduce_bucket_size * self.element)
            self._in_bucket = 0
        if settings.stage == 1:
            if not is_boundary:
                if is_first:
                    self._keep(self._kept + elements)
                return
            if not is_first:
                self._keep(self._kept - elements)
        if self._in_bucket + elements > settings.reduce_bucket_size:
            self._reduce()
        self._in_bucket += elements

    def end_backward(self, is_boundary: bool, is_first: bool) -> None:
        """independent_gradient_partition_epilogue: what is left in the bucket; the partition's gradients are added to
        those of earlier micro-steps."""
        timeline = self.timeline
        if self.settings.stage == 1 and not is_boundary:
            return  # gradients and buckets stay
        self._reduce()
        timeline.free("partition", "buckets")
        if not timeline.is_alive("accumulated"):
            timeline.allocate(GRADIENTS, accumulated=self.sizes.gradients * self.element)

    def step(self) -> None:
        """Each parameter group: its gradients flattened, in fp32, and the update."""
        timeline = self.timeline
        for number, size in enumerate(self.sizes.sizes):
            timeline.allocate(GRADIENTS, flat=size * self.element)
            timeline.allocate(GRADIENTS, in_fp32=4 * size)
            timeline.free("flat")
            if number == 0:
                timeline.free("accumulated")
            if not self._steps:
                timeline.allocate(OPTIMIZER, **{f"moments{number}": 8 * size})
            timeline.free("in_fp32")
        self._steps += 1

    def _keep(self, elements: int) -> None:
        if self.timeline.is_alive("kept"):
            self.timeline.free("kept")
        self._kept = elements
        if elements > 0:
            self.timeline.allocate(GRADIENTS, kept=elements * self.element)

    def _reduce(self) -> None:
        if not self.timeline.is_alive("partition"):
            self.timeline.allocate(GRADIENTS, partition=self.sizes.gradients * self.element)
        self._in_bucket = 0


class Zero3:
    """ZeRO 3: weights are partitioned, too, and gathered for each layer."""

    def __init__(
        self, timeline: Timeline, settings: ZeroSettings, sizes: Partitioned, element: int, world_size: int
    ) -> None:
        self.timeline, self.settings, self.sizes, self.element = timeline, settings, sizes, element
        self.world_size = world_size
        self._steps = 0

    def start(self) -> None:
        """What is there before the first step, and a gradient of whole size that DeepSpeed holds until the first update
        (initialize_optimizer_states)."""
        sizes, timeline, element = self.sizes, self.timeline, self.element
        own = sum(-(-each.numel // self.world_size) for each in sizes.every)
        trained = sum(-(-each.numel // self.world_size) for each in sizes.every if each.is_trained)
        whole = sum(each.numel for each in sizes.every if each.numel <= self.settings.persistence_threshold)
        timeline.allocate(WEIGHTS, weights=own * element)
        if self.world_size > 1:
            timeline.allocate(WEIGHTS, persistent=whole * element)
            largest = max(each.numel for each in sizes.every)
            timeline.allocate(BUFFERS, gathered=max(largest, self.settings.prefetch_bucket_size) * element)
        timeline.allocate(OPTIMIZER, master=4 * trained)
        timeline.allocate(GRADIENTS, accumulated=trained * element)
        timeline.allocate(BUFFERS, buckets=self.settings.reduce_bucket_size * element)
        timeline.allocate(GRADIENTS, first=4 * sum(each.numel for each in sizes.groups[0]))

    def gradient(self, elements: int, is_boundary: bool, is_first: bool) -> None:
        """Copied into the bucket, which is there from the start."""

    def end_backward(self, is_boundary: bool, is_first: bool) -> None:
        """Nothing is left."""

    def step(self) -> None:
        """Each sub-group, which are the parameter groups: its gradients in fp32, and the update."""
        timeline = self.timeline
        for number, group in enumerate(self.sizes.groups):
            size = sum(-(-each.numel // self.world_size) for each in group)
            timeline.allocate(GRADIENTS, flat=size * self.element)
            timeline.allocate(GRADIENTS, in_fp32=4 * size)
            timeline.free("flat")
            if not self._steps:
                timeline.allocate(OPTIMIZER, **{f"moments{number}": 8 * size})
            timeline.free("in_fp32")
        if timeline.is_alive("first"):
            timeline.free("first")
        self._steps += 1


class NoOptimizer:
    """Forward and backward pass alone: gradients are kept where they are, weights and optimizer aren't counted."""

    def __init__(self, timeline: Timeline, sizes: Partitioned, element: int) -> None:
        self.timeline, self.sizes, self.element = timeline, sizes, element
        self._calls = 0

    def gradient(self, elements: int, is_boundary: bool, is_first: bool) -> None:
        """Kept."""
        self.timeline.allocate(GRADIENTS, **{f"kept{self._calls}": elements * self.element})
        self._calls += 1

    def end_backward(self, is_boundary: bool, is_first: bool) -> None:
        """Nothing is left."""


def micro_steps(accumulation_steps: int) -> Iterator[tuple[bool, bool]]:
    """Whether each micro-step that differs from others is the first and the last of a step: three at most."""
    for number in range(min(accumulation_steps, 3)):
        yield number == 0, number == min(accumulation_steps, 3) - 1
