"""The peak of a GPU's memory in training, by a replay of two steps."""

from __future__ import annotations

from dataclasses import dataclass

from clinical_pretrain.estimate.activations import MicroBatch, Passes
from clinical_pretrain.estimate.head import Head
from clinical_pretrain.estimate.shapes import layer_parameters
from clinical_pretrain.estimate.timeline import Timeline
from clinical_pretrain.estimate.zero import BUFFERS, NoOptimizer, Partitioned, Zero3, Zero12, ZeroSettings, micro_steps

CUBLAS_WORKSPACE = {True: 32 << 20, False: (8 << 20) + (128 << 10)}
"""Bytes that torch keeps for cuBLAS, from Hopper on and before: aten/src/ATen/cuda/CublasHandlePool.cpp,
parseChosenWorkspaceSize."""

CPU_LIBRARIES = 10_000_000
"""Bytes that a process on a CPU takes beside tensors in a pass, for buffers of MKL and oneDNN.
Fitted to benchmarks/results/plan_cpu.json: torch's profiler shows that the tensors themselves are as replayed."""


@dataclass(frozen=True)
class MemoryEstimate:
    """The most that torch's allocator hands out on one GPU."""

    peak_bytes: int
    phase: str
    """What the step is doing then."""
    by_part: dict[str, int]
    """Bytes of each part then."""
    largest_bytes: int
    """The largest tensor that a step allocates, for which there must be room in one piece."""


def peak_memory(
    batch: MicroBatch, zero: ZeroSettings, world_size: int, accumulation_steps: int, capability: float = 9.0
) -> MemoryEstimate:
    """Replay two optimizer steps: the first has no moments yet; in the second, which has all, code is compiled, as in
    the first step after a resume."""
    timeline = Timeline()
    sizes = Partitioned(batch.model, world_size)
    parts = (timeline, zero, sizes, batch.element)
    optimizer = Zero3(*parts, world_size) if zero.stage == 3 else Zero12(*parts)
    optimizer.start()
    timeline.allocate(BUFFERS, cublas=CUBLAS_WORKSPACE[capability >= 9])
    timeline.largest_bytes = 0  # weights and optimizer come before anything is in pieces
    for is_compiling in (False, True):
        for is_first, is_last in micro_steps(accumulation_steps):
            _micro_step(timeline, batch, optimizer, is_first, is_last, is_compiling and is_first)
        timeline.phase = "update"
        optimizer.step()
    return MemoryEstimate(timeline.peak_bytes, timeline.peak_phase, timeline.peak_by_part, timeline.largest_bytes)


def pass_memory(batch: MicroBatch) -> MemoryEstimate:
    """Replay one forward and backward pass: activations and gradients, not weights and optimizer. On a CPU, too."""
    timeline = Timeline()
    if batch.on_cpu:
        timeline.allocate("libraries", libraries=CPU_LIBRARIES)
    _micro_step(timeline, batch, NoOptimizer(timeline, Partitioned(batch.model, 1), batch.element), True, True)
    return MemoryEstimate(timeline.peak_bytes, timeline.peak_phase, timeline.peak_by_part, timeline.largest_bytes)


def _micro_step(
    timeline: Timeline,
    batch: MicroBatch,
    optimizer: Zero12 | Zero3 | NoOptimizer,
    is_first: bool,
    is_last: bool,
    is_compiling: bool = False,
) -> None:
    model, passes, head = batch.model, Passes(timeline, batch), Head(timeline, batch)
    of_layer = layer_parameters(model)
    of_tables = (model.vocab_size + model.max_position_embeddings + model.type_vocab_size + 2) * model.hidden_size
    trained = optimizer.sizes.trained
    timeline.phase = "forward"
    passes.embed()
    for layer in range(model.num_hidden_layers):
        passes.forward(layer)
    timeline.phase = "head"
    head.forward()
    head.backward(is_compiling)
    optimizer.gradient(trained - of_tables - model.num_hidden_layers * of_layer, is_last, is_first)
    timeline.phase = "backward"
    for layer in reversed(range(model.num_hidden_layers)):
        passes.backward(layer)
        optimizer.gradient(of_layer, is_last, is_first)
    passes.embed_backward()
    optimizer.gradient(of_tables, is_last, is_first)
    optimizer.end_backward(is_last, is_first)
