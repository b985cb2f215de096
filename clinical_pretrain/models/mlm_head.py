"""The masked-LM head on the masked positions only.

Hugging Face's models compute logits for every position though only 15 % are asked for; the loss is the same.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import BigBirdForMaskedLM, LongformerForMaskedLM

IGNORED = -100
"""The label of a position that is only there so that all batches have the same shape."""
POSITIONS_PER_CHUNK = 16_384
"""More logits than these positions' are never held at once: 50,265 words, bf16 and fp32: 5 GB."""

Outputs = Literal["losses", "correct", "logits"]


class _MaskedPositions:
    """Replaces forward(); parameters, their names and the state dict stay Hugging Face's."""

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
            documents: (batch, length) int64: the document within its row that a token belongs to, from 1; 0: padding.
            positions: (predicted,) int64, into the flattened batch.
            labels: (predicted,) int64; -100 where nothing is asked.
            outputs: what to return beside the losses: `losses`, nothing; `correct`, whether the likeliest token is the
                label, (predicted,) bool; `logits`, (predicted, vocabulary) fp32: large, so ask for few positions.
            encoder_inputs: passed on, see Encoder.

        Returns:
            Cross-entropy, (predicted,) fp32, in nats, 0 where nothing is asked; and what `outputs` asks for.
        """
        hidden = self.encode(input_ids, documents, **encoder_inputs).flatten(0, 1)[positions]
        if outputs == "logits":  # by the class's own code: theirs is a shape that nothing was compiled for
            return _MaskedPositions.predict(self, hidden, labels, outputs)
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
        """forward()'s result for hidden states, (predicted, width). Logits don't leave it unasked: as an output of
        compiled code they would be kept, and be given a gradient of zeros."""
        model: Any = self
        head = model.lm_head if hasattr(model, "lm_head") else model.cls
        # In fp32: bf16 would move the loss in its second digit.
        logits = head(hidden).float()
        losses = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
        if outputs == "losses":
            return losses, None
        return losses, logits if outputs == "logits" else logits.argmax(-1) == labels


class LongformerForMaskedPositions(_MaskedPositions, LongformerForMaskedLM):
    """LongformerForMaskedLM that computes logits where they are asked for."""


class BigBirdForMaskedPositions(_MaskedPositions, BigBirdForMaskedLM):
    """BigBirdForMaskedLM that computes logits where they are asked for."""


def pad_vocabulary(model: Any) -> None:
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
    """Over what is asked, as Hugging Face's loss; 0 where nothing is. Doesn't make a GPU wait."""
    return losses.sum() / (labels != IGNORED).sum().clamp(min=1)
