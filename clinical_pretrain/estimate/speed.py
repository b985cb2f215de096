"""How long a step takes: an estimate from its arithmetic, the bytes that it moves, and what the GPUs send each other.

Nothing here has been measured on a GPU. Each constant says where it comes from; "assumed" ones are guesses that a
measurement should replace.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

from clinical_pretrain.estimate.activations import POSITIONS_PER_CHUNK, MicroBatch
from clinical_pretrain.estimate.cards import Card
from clinical_pretrain.estimate.shapes import ModelShape, parameters
from clinical_pretrain.estimate.zero import ZeroSettings

MATMUL_EFFICIENCY = 0.7
"""Share of a card's peak that half-precision matrix products reach. Assumed: an H200 has reached 0.80 (788 of 989
TFLOP/s) for one large product; those of width 768 are smaller."""
ATTENTION_EFFICIENCY = {"varlen": 0.35, "flex": 0.25, "blocked": 0.2}
"""The same for attention's kernels with windows or blocks and heads of width 64. Assumed: FlashAttention-2 (Dao 2023)
reports 0.5 to 0.7 on an A100 for full attention; short windows leave more to set up."""
BANDWIDTH_EFFICIENCY = 0.8
"""Share of the memory's bandwidth that elementwise kernels reach. Assumed: as STREAM copies on GPUs do."""
LINK_EFFICIENCY = 0.7
"""Share of a link's bandwidth that NCCL's collectives reach. Assumed."""
LATENCY_SECONDS = 15e-6
"""Of a collective, for each doubling of the number of GPUs. Assumed."""
LAUNCH_SECONDS = 5e-6
"""The host's time for a kernel launch from Python. Assumed; benchmarks/results/launches_*.json has their number."""
LAUNCHES = {True: 680, False: 2000}
"""Kernels of a micro-step of 12 layers, compiled (benchmarks/results/launches_longformer.json) or not (assumed)."""
BACKWARD_ATTENTION = 2.5
"""Arithmetic of attention's backward pass over its forward pass: five products for two (FlashAttention, Dao et al.
2022)."""
UPDATE_BYTES = 54
"""Bytes moved per updated parameter: gradients flattened and made fp32 (12), clipped (8), AdamW (28), weights copied
(6)."""


@dataclass(frozen=True)
class Network:
    """How GPUs are connected."""

    gpus_per_node: int = 8
    gigabits_per_node: float = 200.0
    """Between nodes, in each direction."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step, by what takes them."""

    products: float
    attention: float
    memory: float
    """Elementwise kernels, which wait for the GPU's memory."""
    host: float
    """What launches take beyond the GPU's own work."""
    update: float
    communication: float
    """Not hidden behind the backward pass."""
    sent: float
    """All communication, hidden or not; no part of the sum."""

    @property
    def compute(self) -> float:
        """All but communication."""
        return self.products + self.attention + self.memory + self.host + self.update

    @property
    def total(self) -> float:
        """Seconds of a step."""
        return self.compute + self.communication

    def times(self, factor: float) -> StepTime:
        """All of it multiplied."""
        return StepTime(*(factor * seconds for seconds in astuple(self)))


def step_time(
    batch: MicroBatch, zero: ZeroSettings, card: Card, network: Network, world_size: int, accumulation_steps: int
) -> StepTime:
    """The estimate for one optimizer step."""
    every = parameters(batch.model)
    trained = sum(each.numel for each in every if each.is_trained)
    products = product_flops(batch) / (card.peak_flops * MATMUL_EFFICIENCY)
    attention = attention_flops(batch) / (card.peak_flops * ATTENTION_EFFICIENCY[batch.backend])
    memory = moved_bytes(batch) / (card.memory_bandwidth * BANDWIDTH_EFFICIENCY)
    gpu = products + attention + memory
    launches = LAUNCHES[batch.compiled] * batch.model.num_hidden_layers / 12 * _recomputation(batch)
    host = max(0.0, launches * LAUNCH_SECONDS - gpu)
    update = UPDATE_BYTES * trained / world_size / (card.memory_bandwidth * BANDWIDTH_EFFICIENCY)
    sent, exposed = _communication(batch, zero, world_size, accumulation_steps, _link(card, network, world_size), gpu)
    many = accumulation_steps
    return StepTime(products * many, attention * many, memory * many, host * many, update, exposed, sent)


def product_flops(batch: MicroBatch) -> float:
    """Of a micro-batch's linear layers and its head, with what is computed again."""
    model = batch.model
    of_attention, of_rest = 4 * model.hidden_size**2, 2 * model.hidden_size * model.intermediate_size
    again = {"none": 0, "attention": of_attention, "full": of_attention + of_rest}[batch.activation_checkpointing]
    layers = model.num_hidden_layers * (3 * (of_attention + of_rest) + again)
    passes = 4 if batch.predicted > POSITIONS_PER_CHUNK else 3
    head = passes * model.hidden_size * (model.hidden_size + model.vocab_size)
    return 2.0 * (batch.tokens * layers + batch.predicted * head)


def keys_per_query(model: ModelShape, length: int) -> int:
    """Tokens that a token attends to on average; see models/families.py."""
    reach = model.attention_window + 1
    if model.has_blocks:
        reach = (5 + model.num_random_blocks + 2) * model.block_size
    return min(reach, length)


def attention_flops(batch: MicroBatch) -> float:
    """Of a micro-batch's products of queries, keys and values, with what is computed again."""
    keys = keys_per_query(batch.model, batch.length)
    if batch.backend == "blocked" and batch.model.has_windows:
        keys = 3 * batch.model.attention_window // 2  # of a block's windows, of which the mask hides some
    passes = 1 + BACKWARD_ATTENTION + (batch.activation_checkpointing != "none")
    return 4.0 * batch.tokens * batch.model.num_hidden_layers * batch.model.hidden_size * keys * passes


def moved_bytes(batch: MicroBatch) -> float:
    """Of a micro-batch's elementwise kernels: hidden states and feed-forward states, each time they are read or
    written, and the logits."""
    wide, inner, dropped = batch.wide, batch.inner, batch.dropped
    if batch.compiled:  # dropout, addition and norm are one kernel
        forward, backward = 6 * wide + 2 * dropped + 2 * inner, 14 * wide + 3 * dropped + 4 * inner
        of_logits = 3 * batch.element
    else:
        forward, backward = 12 * wide + 2 * dropped + 2 * inner, 22 * wide + 2 * dropped + 4 * inner
        of_logits = 2 * batch.element + 36
    if batch.backend == "blocked":  # windows are copied, or blocks gathered; gradients are added up
        seen = 3 if batch.model.has_windows else 5 + batch.model.num_random_blocks
        forward, backward = forward + 4 * seen * wide, backward + 6 * seen * wide
    layers = batch.model.num_hidden_layers * (forward * _recomputation(batch, 1, 2) + backward)
    return float(layers + batch.predicted * batch.model.vocab_size * of_logits)


def _recomputation(batch: MicroBatch, none: float = 1.0, full: float = 4 / 3) -> float:
    """By how much computing again makes something more: from nothing to whole layers, attention being a third."""
    share = {"none": 0.0, "attention": 1 / 3, "full": 1.0}[batch.activation_checkpointing]
    return none + share * (full - none)


def _link(card: Card, network: Network, world_size: int) -> float:
    """Bytes per second through a ring of all GPUs: it is as fast as its slowest link."""
    link = card.link_bandwidth
    if world_size > network.gpus_per_node:
        link = min(link, network.gigabits_per_node * 1e9 / 8)
    return link * LINK_EFFICIENCY


def _communication(
    batch: MicroBatch, zero: ZeroSettings, world_size: int, accumulation_steps: int, link: float, gpu: float
) -> tuple[float, float]:
    """Seconds of all collectives of a step, and of those that aren't hidden behind computing.

    ZeRO 1 reduces gradients in the last micro-step, 2 and 3 in each, by all-reduces of buckets (ZeRO 3 by
    reduce-scatters); the embeddings' come last, when there is nothing left to hide behind. ZeRO 1 and 2 gather the
    weights after the update, 3 in each forward and backward pass.
    """
    if world_size == 1:
        return 0.0, 0.0
    model, every = batch.model, parameters(batch.model)
    trained = sum(each.numel for each in every if each.is_trained) * batch.element
    tables = (model.vocab_size + model.max_position_embeddings) * model.hidden_size * batch.element
    ring = (world_size - 1) / world_size / link
    latency = LATENCY_SECONDS * math.log2(world_size)
    buckets = math.ceil(trained / batch.element / zero.reduce_bucket_size)
    passes = 1 if zero.stage == 3 else 2
    reductions = 1 if zero.stage == 1 else accumulation_steps
    reduce = passes * trained * ring + buckets * latency
    last = passes * tables * ring + latency
    hidden_behind = gpu * 2 / 3 if zero.overlap_comm else 0.0
    exposed = reductions * max(last, reduce - hidden_behind)
    gather = trained * ring + latency
    if zero.stage < 3:
        return reductions * reduce + gather, exposed + gather
    gathers = 2 * gather + 2 * model.num_hidden_layers * latency
    exposed += accumulation_steps * max(0.0, gathers - gpu)
    return accumulation_steps * (reduce + gathers), exposed
