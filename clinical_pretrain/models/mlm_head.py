"""The masked-LM head on the masked positions only.

Hugging Face's models compute logits for every position though only 15 % are asked for; the loss is the same.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IGNORED = -100
"""The label of a position that doesn't count, as in torch and transformers: it is there so that all batches have the
same shape."""
POSITIONS_PER_CHUNK = 16_384
"""Logits of at most this many positions are held at once: 5 GB in bf16 and fp32 for a vocabulary of 50,265."""
_POSITIONS_PER_CPU_CHUNK = 32
"""Positions per chunk of the loss on a CPU: 6 MB of logits in fp32. In half precision their number is padded to a
multiple of it: oneDNN, which multiplies there, keeps about 1 MB for each number of rows that it has seen."""

Outputs = Literal["losses", "correct", "logits"]


class MaskedPositions:
    """Mix-in for a transformers masked-LM class that replaces its forward(). Parameters, their names and the state dict
    stay Hugging Face's."""

    head_name: ClassVar[str]
    """Attribute that holds the masked-LM head: hidden states to logits."""
    encode: Any
    """An Encoder or HuggingFaceEncoder, set by build_model: ids to hidden states."""

    def forward(
        self,
        input_ids: torch.Tensor,
        documents: torch.Tensor,
        positions: torch.Tensor,
        labels: torch.Tensor,
        outputs: Outputs = "losses",
        **encoder_inputs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Losses at some positions.

        Args:
            input_ids: (batch, length) int64.
            documents: (batch, length) int64: the document within its sequence that a token belongs to, from 1; 0 on
                padding.
            positions: (predicted,) int64, into the flattened batch.
            labels: (predicted,) int64; IGNORED where a position doesn't count.
            outputs: what to return beside the losses: `losses`, nothing; `correct`, whether the likeliest token is the
                label, (predicted,) bool; `logits`, (predicted, vocabulary) fp32: large, so ask for few positions.
            encoder_inputs: passed on, see Encoder.

        Returns:
            Cross-entropy, (predicted,) fp32, in nats, 0 where a position doesn't count; and what `outputs` asks for.
        """
        hidden = self.encode(input_ids, documents, **encoder_inputs).flatten(0, 1)[positions]
        if outputs == "logits":  # the instance's predict() may be compiled, and not for this few positions
            return MaskedPositions.predict(self, hidden, labels, outputs)
        if len(labels) <= POSITIONS_PER_CHUNK:
            return self.predict(hidden, labels, outputs)
        chunks = zip(hidden.split(POSITIONS_PER_CHUNK), labels.split(POSITIONS_PER_CHUNK), strict=True)
        losses, correct = zip(
            *(checkpoint(self.predict, *chunk, outputs, use_reentrant=False) for chunk in chunks), strict=True
        )
        return torch.cat(losses), None if outputs == "losses" else torch.cat(correct)

    def predict(
        self, hidden: torch.Tensor, labels: torch.Tensor, outputs: Outputs = "losses"
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """forward()'s result for hidden states, (predicted, width). Logits are returned only where asked for: as an
        output of compiled code they would be kept, and be given a gradient of zeros."""
        in_chunks = hidden.device.type == "cpu" and not torch.compiler.is_compiling()
        if in_chunks and hidden.dtype != torch.float32 and (missing := -len(labels) % _POSITIONS_PER_CPU_CHUNK):
            # by a real row: zeros would give the head's layer norm no variance, and fp16 a gradient of 0 * infinity
            padded = torch.cat((hidden, hidden[-1:].expand(missing, -1)))
            losses, more = MaskedPositions.predict(self, padded, F.pad(labels, (0, missing), value=IGNORED), outputs)
            return losses[:-missing], None if more is None else more[:-missing]
        logits = getattr(self, self.head_name)(hidden)
        losses = (_chunked_cross_entropy if in_chunks else _cross_entropy)(logits, labels)
        if outputs == "losses":
            return losses, None
        return losses, logits.float() if outputs == "logits" else logits.argmax(-1) == labels


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(predicted,) in fp32, as bf16 would move the loss in its second digit; 0 where a position doesn't count."""
    return F.cross_entropy(logits.float(), labels, reduction="none", ignore_index=IGNORED)


def _chunked_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`_cross_entropy`, bit for bit, in chunks of positions, which the backward pass recomputes: log-probabilities stay
    in a CPU's cache."""
    chunks = zip(logits.split(_POSITIONS_PER_CPU_CHUNK), labels.split(_POSITIONS_PER_CPU_CHUNK), strict=True)
    return torch.cat(
        [checkpoint(_cross_entropy, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    )


def pad_vocabulary(model: PreTrainedModel) -> None:
    """Multiply by a vocabulary that is a multiple of 64: on GPUs half-precision kernels are slow otherwise, as at
    Longformer's 50,265. The added logits are cut off again; parameters stay as they are. Compiled code pads by itself.
    """
    decoder = model.get_output_embeddings()
    missing = -decoder.out_features % 64
    if missing:
        decoder.forward = partial(_padded_linear, decoder, missing)


def _padded_linear(linear: Any, missing: int, hidden: torch.Tensor) -> torch.Tensor:
    weight, bias = F.pad(linear.weight, (0, 0, 0, missing)), F.pad(linear.bias, (0, missing))
    return F.linear(hidden, weight, bias)[..., : linear.out_features]


def mean_loss(losses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over the positions that count, as Hugging Face's loss; 0 where none does. Doesn't make a GPU wait."""
    return losses.sum() / (labels != IGNORED).sum().clamp(min=1)
