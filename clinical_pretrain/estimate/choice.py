"""Which micro-batch, activation checkpointing and ZeRO stage a run could have, and which is the fastest that fits.

`plan` shows it; `auto` in a config asks the same functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from clinical_pretrain.config.data import capacity
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.estimate.activations import MicroBatch
from clinical_pretrain.estimate.cards import Card
from clinical_pretrain.estimate.memory import MemoryEstimate, peak_memory
from clinical_pretrain.estimate.shapes import ModelShape
from clinical_pretrain.estimate.speed import Network, StepTime, step_time
from clinical_pretrain.estimate.zero import ZeroSettings
from tokenizer_tools.errors import UserError

CUDA_BYTES = 500_000_000
"""What a process needs of a GPU beside torch's allocator: CUDA's context and kernels. Assumed: about 0.5 GB is what
nvidia-smi shows of one that holds no tensor."""
NCCL_BYTES = 500_000_000
"""Buffers of NCCL, where there are several GPUs. Assumed: 4 MB for each of some 30 channels and their peers."""
FRAGMENTATION = 0.06
"""Share of the peak that torch's allocator may hold without being able to use it, beside room for the largest tensor.
Fitted: with it the largest micro-batches train in a dry run on cards of that size (benchmarks/results/plan_fit.json).
"""
KINDS = ("none", "attention", "full")


@dataclass(frozen=True)
class Conditions:
    """What is given: the run, its model, and its GPUs."""

    config: RunConfig
    model: ModelShape
    length: int
    """Tokens per sequence."""
    card: Card
    world_size: int
    network: Network
    slowdown: float = 1.0
    """By which times are multiplied: those of a measured run over their estimate."""

    @property
    def backend(self) -> str:
        """The attention backend: as models/choose_backend.py chooses it on a GPU."""
        wanted = self.config.attention.backend
        if wanted != "auto":
            return wanted
        attention, model = self.config.attention, self.model
        has_dropout = model.has_windows and (
            model.attention_dropout if attention.dropout is None else attention.dropout
        )
        if self.card.capability < 8 or has_dropout or model.head_width < 16:
            return "blocked"
        is_varlen = model.has_windows and attention.global_tokens == "none"
        if is_varlen and self.config.precision != "fp32" and model.head_width % 8 == 0 and model.head_width <= 256:
            return "varlen"
        return "blocked" if model.has_blocks and model.block_size % 64 else "flex"

    def compiles(self, stage: int) -> bool:
        """Whether layers and head are compiled: as models/build.compiles() on a GPU. With `blocked` attention the
        estimates are those of code that isn't, which needs more: what is compiled there hasn't been checked."""
        is_compiled = self.config.compile == "on" or (self.config.compile == "auto" and stage < 3)
        return is_compiled and self.backend != "blocked"

    def check(self, zero: ZeroSettings) -> None:
        """Refuse what the model of memory doesn't know.

        Raises:
            UserError: with what it is.
        """
        config, card = self.config, self.card
        if config.precision == "bf16" and not card.has_bf16:
            raise UserError(f"precision bf16: {card.name} has no bf16 (it came with Ampere); use --precision fp16")
        unknown = {
            "precision fp32 on a GPU": config.precision == "fp32",
            "attention.backend hf": config.attention.backend == "hf",
            "attention.global_tokens": config.attention.global_tokens != "none",
            "a run without ZeRO": zero.stage == 0,
            "ZeRO with offload": zero.offload,
            "sequences that BigBird attends to in full": self.model.has_blocks
            and self.length <= (5 + 2 * self.model.num_random_blocks) * self.model.block_size,
        }
        if found := [name for name, is_there in unknown.items() if is_there]:
            raise UserError(f"{', '.join(found)}: memory and time of that can't be estimated; try it with --dry_run")

    def micro_batch(self, sequences: int, kind: str, stage: int) -> MicroBatch:
        """One of `sequences`, with activation checkpointing of a kind under a ZeRO stage."""
        block = self.model.block_size if self.model.has_blocks else 1
        length = -(-self.length // block) * block
        predicted = capacity(self.length * sequences, self.config.masking)
        precision = self.config.precision
        return MicroBatch(self.model, length, sequences, predicted, precision, self.backend, self.compiles(stage), kind)


@dataclass(frozen=True)
class Candidate:
    """One way to train, with what it takes."""

    zero: ZeroSettings
    activation_checkpointing: str
    micro_batch_size: int
    accumulation_steps: int
    memory: MemoryEstimate
    needed_bytes: int
    """Of the card: the peak, what torch's allocator can't use, CUDA and NCCL."""
    fits: bool
    time: StepTime


def candidate(given: Conditions, zero: ZeroSettings, kind: str, sequences: int) -> Candidate:
    """What a micro-batch of `sequences` takes."""
    accumulation_steps = max(1, given.config.batch.train_batch_size // (sequences * given.world_size))
    batch = given.micro_batch(sequences, kind, zero.stage)
    memory = peak_memory(batch, zero, given.world_size, accumulation_steps, given.card.capability)
    needed = needed_bytes(memory, given.world_size)
    time = step_time(batch, zero, given.card, given.network, given.world_size, accumulation_steps).times(given.slowdown)
    fits = needed <= given.card.memory_bytes
    return Candidate(zero, kind, sequences, accumulation_steps, memory, needed, fits, time)


def needed_bytes(memory: MemoryEstimate, world_size: int) -> int:
    """Memory that a card must have. Torch's allocator may not find the room for the largest tensor in what it holds."""
    held = int(memory.peak_bytes * (1 + FRAGMENTATION)) + memory.largest_bytes
    return held + CUDA_BYTES + (NCCL_BYTES if world_size > 1 else 0)


def possible_sizes(train_batch_size: int, world_size: int) -> list[int]:
    """Micro-batches that share a step evenly among the GPUs, ascending."""
    each = train_batch_size // world_size
    return [size for size in range(1, each + 1) if each % size == 0]


def candidates(
    given: Conditions, stages: Iterable[ZeroSettings], kinds: Iterable[str] = KINDS, sizes: list[int] | None = None
) -> Iterator[Candidate]:
    """For each ZeRO stage and kind of activation checkpointing the largest micro-batch that fits, of `sizes` or of all
    that the GPUs can share; the smallest where none does."""
    sizes = sizes or possible_sizes(given.config.batch.train_batch_size, given.world_size)
    for zero in stages:
        for kind in kinds:
            of_size = cache(lambda size, zero=zero, kind=kind: candidate(given, zero, kind, size))
            yield next((of_size(size) for size in reversed(sizes) if of_size(size).fits), of_size(sizes[0]))


def largest_that_fits(given: Conditions, zero: ZeroSettings, kind: str) -> int:
    """The largest micro-batch that fits, of any size; 0: none does."""
    low, high = 0, 1
    while candidate(given, zero, kind, high).fits:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if candidate(given, zero, kind, middle).fits else (low, middle)
    return low


def choose(found: Iterable[Candidate]) -> Candidate:
    """The fastest that fits; of those within 2 % of it the one that needs least memory. Where none fits, the one that
    needs least."""
    every = list(found)
    fitting = [each for each in every if each.fits]
    if not fitting:
        return min(every, key=lambda each: each.needed_bytes)
    fastest = min(each.time.total for each in fitting)
    return min((each for each in fitting if each.time.total <= 1.02 * fastest), key=lambda each: each.needed_bytes)


@dataclass(frozen=True)
class Remedy:
    """A change of settings that needs less memory."""

    option: str
    """What to add to the command."""
    result: Candidate


def remedies(given: Conditions, now: Candidate, others: Iterable[ZeroSettings]) -> list[Remedy]:
    """Up to three changes that would make a run fit, the fastest first; those that still don't fit come last.

    Args:
        given: the run.
        now: what doesn't fit.
        others: ZeRO settings of the files that the package brings.
    """
    kind, size = now.activation_checkpointing, now.micro_batch_size
    smaller = [each for each in possible_sizes(given.config.batch.train_batch_size, given.world_size) if each < size]
    fitting = [each for each in reversed(smaller) if candidate(given, now.zero, kind, each).fits]
    found = [
        Remedy(f"--batch.micro_batch_size_per_gpu {each}", candidate(given, now.zero, kind, each))
        for each in (fitting or smaller)[:1]
    ]
    found += [
        Remedy(f"--activation_checkpointing {each}", candidate(given, now.zero, each, size))
        for each in KINDS[KINDS.index(kind) + 1 :]
    ]
    found += [
        Remedy(f"--deepspeed ds_configs/zero{zero.stage}.json", candidate(given, zero, kind, size))
        for zero in others
        if zero.stage > now.zero.stage and given.world_size > 1
    ]
    useful = [each for each in found if each.result.needed_bytes < now.needed_bytes]
    return sorted(useful, key=lambda each: (not each.result.fits, each.result.time.total))[:3]
