"""What the forward pass of a model keeps for the backward pass, and what both allocate on the way.

The order of allocations is that of models/encoder.py, models/attention/ and models/mlm_head.py. For compiled code it is
that of the code which torch.compile (2.13) makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from clinical_pretrain.estimate.shapes import ModelShape, layer_parameters
from clinical_pretrain.estimate.timeline import Timeline

POSITIONS_PER_CHUNK = 16_384
"""As in models/mlm_head.py, which imports torch; a test compares them."""
ACTIVATIONS, HEAD, MASKS = "activations", "masked head", "attention masks"


@dataclass(frozen=True)
class MicroBatch:
    """One forward and backward pass on one GPU."""

    model: ModelShape
    length: int
    """Tokens per sequence, padded to whole blocks."""
    sequences: int
    predicted: int
    """Positions whose tokens are predicted: data/collator.capacity()."""
    precision: str
    backend: str
    """blocked, flex or varlen."""
    compiled: bool
    activation_checkpointing: str
    on_cpu: bool = False

    @property
    def tokens(self) -> int:
        """In all sequences."""
        return self.length * self.sequences

    @property
    def element(self) -> int:
        """Bytes of a number of the hidden states."""
        return 4 if self.precision == "fp32" else 2

    @cached_property
    def wide(self) -> int:
        """Bytes of hidden states."""
        return self.tokens * self.model.hidden_size * self.element

    @cached_property
    def inner(self) -> int:
        """Bytes of the feed-forward layer's states."""
        return self.tokens * self.model.intermediate_size * self.element

    @property
    def dropped(self) -> int:
        """Bytes of a dropout's mask: one for each number; on a CPU a number of the same kind."""
        if not self.model.hidden_dropout:
            return 0
        return self.wide if self.on_cpu else self.tokens * self.model.hidden_size

    @property
    def statistics(self) -> int:
        """Bytes of a layer norm's mean and deviation, in fp32."""
        return 8 * self.tokens

    @cached_property
    def attention(self) -> dict[str, int]:
        """Bytes of what attention keeps in one layer, by name."""
        kept = dict.fromkeys(("q", "k", "v", "out"), self.wide)
        by_products = self.on_cpu and self.precision != "fp32"  # models/attention/products.py
        if not by_products:
            kept["log_sums"] = 4 * self.tokens * self.model.num_attention_heads
        if self.on_cpu and self.model.has_blocks:
            if not by_products:
                kept["out_by_blocks"] = self.wide
        elif self.backend == "blocked" and self.model.has_blocks:
            blocks = self.length // self.model.block_size
            seen = 5 + self.model.num_random_blocks
            of_middle = self.wide * (blocks - 2) // blocks
            kept |= {"k_seen": seen * of_middle, "v_seen": seen * of_middle, "out_by_blocks": of_middle}
            keys = seen * self.model.block_size
            queries = self.model.num_attention_heads * self.sequences * (blocks - 2)
            kept["mask"] = queries * keys * self.element
        if self.joins_projections:
            kept["joined_weight"] = 3 * self.model.hidden_size**2 * self.element
        return kept

    @property
    def joins_projections(self) -> bool:
        """Whether queries, keys and values are one matrix product: models/attention/backend.project()."""
        return self.compiled

    @cached_property
    def shared_masks(self) -> int:
        """Bytes of what all layers share for one batch."""
        model, blocks = self.model, self.length // self.model.block_size
        if self.backend == "blocked" and model.has_windows:
            return self.tokens * self._windows_over_block * self._query_block * self.element
        if self.backend == "flex" and model.has_blocks:
            of_sequence = model.num_hidden_layers * model.num_attention_heads * blocks**2 * 4
            return of_sequence * (4 * self.sequences + 3)  # bigbird_plan.Plan: orders(); counts, seen_keys, seen_by
        return 0

    @property
    def _query_block(self) -> int:
        """Longformer's blocked attention: tokens of a query block; models/attention/longformer.py."""
        window = self.model.attention_window // 2
        is_halved = (self.on_cpu or self.precision == "fp32") and window >= 256 and window % 2 == 0
        return window // 2 if is_halved else window

    @property
    def _windows_over_block(self) -> int:
        """Keys that a query block sees, in blocks: itself and a window on each side."""
        return 1 + self.model.attention_window // self._query_block

    @property
    def _products_of_head(self) -> int:
        """Bytes of one head's weights and two gradients of them, and BigBird's gathered keys and values with theirs."""
        model = self.model
        if model.has_windows:
            return 3 * self.tokens * self._windows_over_block * self._query_block * self.element
        seen = 5 + model.num_random_blocks
        gathered = 4 * seen * self.wide // model.num_attention_heads
        return 3 * self.tokens * seen * model.block_size * self.element + gathered

    @property
    def attention_gradients(self) -> dict[str, int]:
        """Bytes of the gradients of what attention is given, as its kernel returns them."""
        gradients = dict.fromkeys(("dq", "dk", "dv"), self.wide)
        if self.backend == "varlen":
            gradients["dq_sums"] = 4 * self.tokens * self.model.hidden_size  # FlashAttention sums them in fp32
        elif self.backend == "blocked" and self.model.has_windows:
            gradients |= dict.fromkeys(("dk", "dv"), self._windows_over_block * self.wide)
        elif self.backend == "blocked" and not self.on_cpu:
            gradients |= {"dk": self.attention["k_seen"], "dv": self.attention["v_seen"]}
        if self.on_cpu and self.precision != "fp32":  # one head after the other, by products
            gradients["of_head"] = self._products_of_head
        return gradients


class Passes:
    """Replays forward and backward pass of the encoder's layers and the head.

    Names of tensors: `hidden0` is what the first layer gets, `hidden1` what it returns.
    """

    def __init__(self, timeline: Timeline, batch: MicroBatch) -> None:
        self.timeline, self.batch = timeline, batch
        self.weights_of_layer = layer_parameters(batch.model) * batch.element

    def embed(self) -> None:
        """Embeddings and the masks that all layers share."""
        batch = self.batch
        self._add(MASKS, "", masks=batch.shared_masks)
        self._add(ACTIVATIONS, "embedding.", ids=40 * batch.tokens, sum=batch.wide, dropped=batch.dropped)
        self._add(ACTIVATIONS, "embedding.", statistics=batch.statistics)
        self._add(ACTIVATIONS, "", hidden0=batch.wide)

    def forward(self, layer: int) -> None:
        """A layer; what isn't kept is gone at its end."""
        kind = self.batch.activation_checkpointing
        if kind == "full":
            self._add(ACTIVATIONS, "", **{f"hidden{layer + 1}": self.batch.wide})
            return
        self._attention(layer)
        self._feed_forward(layer)
        self._add(ACTIVATIONS, "", **{f"hidden{layer + 1}": self.batch.wide})
        if kind == "attention":
            self._free_attention(layer)

    def backward(self, layer: int) -> None:
        """A layer's gradients: from `gradient`, of its output, to that of its input."""
        batch, name, timeline = self.batch, f"layer{layer}.", self.timeline
        wide, inner = batch.wide, batch.inner
        if batch.activation_checkpointing == "full":
            self._attention(layer)
            self._feed_forward(layer)
            self._add(ACTIVATIONS, "", output=wide)
            timeline.free("output")
        if batch.compiled and batch.activation_checkpointing != "attention":
            norm = 4 * batch.tokens * batch.model.hidden_size
            self._add(ACTIVATIONS, "", norm=norm)  # computed again, in fp32
        self._add(ACTIVATIONS, "", dsum2=wide)
        if batch.compiled:
            self._add(ACTIVATIONS, "", doutput=wide)
            self._free(name, "sum2", "dropped2", "statistics2")
            timeline.free("gradient")
        else:
            self._free(name, "sum2", "statistics2")
            timeline.free("gradient")
            self._add(ACTIVATIONS, "", doutput=wide)
            self._free(name, "dropped2")
        self._add("gradients", "", layer_gradients=self.weights_of_layer)
        if batch.compiled:
            self._free(name, "gelu")
            self._add(ACTIVATIONS, "", dinner=inner)
            timeline.free("doutput")
            self._free(name, "inner")
        else:
            self._add(ACTIVATIONS, "", dgelu=inner)
            self._free(name, "gelu")
            timeline.free("doutput")
            self._add(ACTIVATIONS, "", dinner=inner)
            timeline.free("dgelu")
            self._free(name, "inner")
        self._add(ACTIVATIONS, "", dnormed=wide)
        if batch.activation_checkpointing == "attention":
            if not batch.compiled:
                timeline.free("dinner")
                self._free(name, "normed")
            self._attention(layer)
        self._free(name, "normed")
        if timeline.is_alive("dinner"):
            timeline.free("dinner")
        self._add(ACTIVATIONS, "", dsum1=wide, dprojected=wide)
        timeline.free("dnormed", "dsum2")
        self._free(name, "sum1", "dropped1", "statistics1")
        if timeline.is_alive("norm"):
            timeline.free("norm")
        self._add(ACTIVATIONS, "", dattended=wide)
        timeline.free("dprojected")
        self._attention_backward(layer)
        timeline.free("layer_gradients", "dsum1", f"hidden{layer}")
        self._add(ACTIVATIONS, "", gradient=wide)

    def embed_backward(self) -> None:
        """The embeddings' gradients; the head's part of them is alive."""
        table = self.batch.model.vocab_size * self.batch.model.hidden_size * self.batch.element
        self._add(ACTIVATIONS, "", dsum=self.batch.wide)
        self.timeline.free("gradient")
        self._free("embedding.", "sum", "dropped", "statistics")
        self._add("gradients", "", table=table)
        self._free("embedding.", "ids")
        self._add("gradients", "", summed=table)
        self.timeline.free("dsum", "table", "decoder", "summed", "masks")

    def _attention(self, layer: int) -> None:
        batch, name = self.batch, f"layer{layer}."
        self._add(ACTIVATIONS, name, **batch.attention)
        self._add(ACTIVATIONS, name, sum1=batch.wide, dropped1=batch.dropped, statistics1=batch.statistics)
        self._add(ACTIVATIONS, name, normed=batch.wide)

    def _free_attention(self, layer: int) -> None:
        """What the backward pass computes again; compiled code does so with the norm, too."""
        self._free(f"layer{layer}.", *self.batch.attention, "sum1", "dropped1", "statistics1")
        if self.batch.compiled:
            self._free(f"layer{layer}.", "normed")

    def _feed_forward(self, layer: int) -> None:
        batch, name = self.batch, f"layer{layer}."
        self._add(ACTIVATIONS, name, inner=batch.inner, gelu=batch.inner)
        self._add(ACTIVATIONS, name, sum2=batch.wide, dropped2=batch.dropped, statistics2=batch.statistics)

    def _attention_backward(self, layer: int) -> None:
        batch, timeline = self.batch, self.timeline
        self._add(ACTIVATIONS, "", **batch.attention_gradients)
        self._free(f"layer{layer}.", *batch.attention)
        timeline.free("dattended")
        if batch.joins_projections:
            self._add(ACTIVATIONS, "", joined=3 * batch.wide)
        timeline.free(*batch.attention_gradients)
        if not batch.joins_projections:
            self._add(ACTIVATIONS, "", joined=3 * batch.wide)
        timeline.free("joined")

    def _add(self, part: str, prefix: str, **tensors: int) -> None:
        self.timeline.allocate(part, **{f"{prefix}{name}": size for name, size in tensors.items()})

    def _free(self, prefix: str, *names: str) -> None:
        self.timeline.free(*(f"{prefix}{name}" for name in names))
