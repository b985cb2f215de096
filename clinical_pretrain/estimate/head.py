"""What the masked-LM head allocates: models/mlm_head.py, at the predicted positions."""

from __future__ import annotations

from clinical_pretrain.estimate.activations import ACTIVATIONS, HEAD, POSITIONS_PER_CHUNK, MicroBatch
from clinical_pretrain.estimate.timeline import Timeline


class Head:
    """Replays forward and backward pass of the head. Its chunks, if there are several, are computed again in the
    backward pass."""

    def __init__(self, timeline: Timeline, batch: MicroBatch) -> None:
        self.timeline, self.batch = timeline, batch
        rest = batch.predicted % POSITIONS_PER_CHUNK
        whole = [POSITIONS_PER_CHUNK] * (batch.predicted // POSITIONS_PER_CHUNK)
        self.chunks = [*whole, rest] if rest else whole
        self._padded = -(-batch.model.vocab_size // 64) * 64
        """Rows of the decoder in a GPU's matrix product: pad_vocabulary(); compiled code aligns the logits' rows."""

    def forward(self) -> None:
        """The losses, from the last layer's hidden states."""
        batch, timeline = self.batch, self.timeline
        timeline.allocate(HEAD, picked=self._hidden(batch.predicted))
        timeline.free(f"hidden{batch.model.num_hidden_layers}")
        for positions in self.chunks:
            kept = self._chunk(positions)
            if len(self.chunks) > 1:
                timeline.free(*kept)

    def backward(self, is_compiling: bool = False) -> None:
        """To `gradient`, of the last layer's output. `decoder`, the gradient of the decoder's weights, stays: they are
        the embeddings, too. While code is compiled, the autotuner copies the logits, which the gradient replaces
        (torch/_inductor/runtime/triton_heuristics.py, maybe_clone_args)."""
        batch, timeline = self.batch, self.timeline
        for positions in reversed(self.chunks):
            kept = list(self._chunk(positions)) if len(self.chunks) > 1 else self._kept
            if batch.compiled and is_compiling:
                timeline.allocate(HEAD, copy=positions * self._padded * batch.element)
                timeline.free("copy")
            self._chunk_backward(positions, kept)
        timeline.allocate(ACTIVATIONS, gradient=batch.wide)
        timeline.free("picked")

    @property
    def _kept(self) -> list[str]:
        names = ["dense", "normed", "statistics"]
        if self.batch.compiled:
            return [*names, "logits"]
        return [*names, "gelu", "logits" if self.batch.on_cpu else "log_softmax", *self._padded_weights]

    @property
    def _padded_weights(self) -> dict[str, int]:
        pads = self.batch.precision != "fp32" and not self.batch.compiled and not self.batch.on_cpu
        return {"padded_weights": self._decoder(self._padded)} if pads else {}

    def _chunk(self, positions: int) -> list[str]:
        """Some positions' losses. Returns the names of what the backward pass needs."""
        hidden, timeline, batch = self._hidden(positions), self.timeline, self.batch
        timeline.allocate(HEAD, dense=hidden, normed=hidden, statistics=8 * positions)
        if batch.compiled:
            timeline.allocate(HEAD, logits=positions * self._padded * batch.element)
            return self._kept
        timeline.allocate(HEAD, gelu=hidden, **self._padded_weights)
        if batch.on_cpu:  # the loss is computed in small chunks, and again in the backward pass
            timeline.allocate(HEAD, logits=positions * batch.model.vocab_size * batch.element)
            return self._kept
        timeline.allocate(HEAD, logits=positions * self._padded * batch.element)
        if batch.precision != "fp32":
            timeline.allocate(HEAD, in_fp32=self._in_fp32(positions))
        timeline.allocate(HEAD, log_softmax=self._in_fp32(positions))
        timeline.free("logits", *(["in_fp32"] if batch.precision != "fp32" else []))
        return self._kept

    def _chunk_backward(self, positions: int, kept: list[str]) -> None:
        batch, timeline = self.batch, self.timeline
        decoder = self._decoder(batch.model.vocab_size)
        if batch.on_cpu:
            size = positions * batch.model.vocab_size * batch.element
            timeline.allocate(HEAD, of_chunks=size)
            timeline.free("logits")
            timeline.allocate(HEAD, dlogits=size)
            timeline.free("of_chunks")
        elif not batch.compiled:
            timeline.allocate(HEAD, dlosses=self._in_fp32(positions), dlogits=self._in_fp32(positions))
            timeline.free("log_softmax", "dlosses")
            if batch.precision != "fp32":
                size = positions * self._padded * batch.element
                timeline.allocate(HEAD, rounded=positions * batch.model.vocab_size * batch.element)
                timeline.free("dlogits")
                timeline.allocate(HEAD, dlogits=size)
                timeline.free("rounded")
        timeline.allocate(HEAD, dnormed=self._hidden(positions))
        name = "more" if timeline.is_alive("decoder") else "decoder"
        timeline.allocate("gradients", **{name: decoder})
        timeline.free("dnormed", *(each for each in kept if timeline.is_alive(each)))
        if not batch.compiled:
            timeline.free("dlogits")
        if name == "more":
            timeline.free(name)

    def _hidden(self, positions: int) -> int:
        return positions * self.batch.model.hidden_size * self.batch.element

    def _in_fp32(self, positions: int) -> int:
        return positions * self.batch.model.vocab_size * 4

    def _decoder(self, rows: int) -> int:
        return rows * self.batch.model.hidden_size * self.batch.element
