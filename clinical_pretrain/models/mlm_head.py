"""The masked-LM head on the masked positions only.

Hugging Face's models compute logits for every position though only 15 % are asked for; the loss is the same.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import BigBirdForMaskedLM, LongformerForMaskedLM


class _MaskedPositions:
    """Replaces forward(); parameters, their names and the state dict stay Hugging Face's."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        positions: torch.Tensor,
        labels: torch.Tensor,
        **encoder_inputs: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses and logits at some positions.

        Args:
            input_ids: (batch, length) int64.
            attention_mask: (batch, length) int64, 1 on tokens, 0 on padding.
            positions: (predicted,) int64, into the flattened batch.
            labels: (predicted,) int64.
            encoder_inputs: passed on to the encoder, such as Longformer's global_attention_mask.

        Returns:
            Cross-entropy, (predicted,) fp32, in nats; logits, (predicted, vocabulary) fp32.
        """
        model: Any = self
        hidden = model.base_model(input_ids, attention_mask=attention_mask, **encoder_inputs)[0]
        head = model.lm_head if hasattr(model, "lm_head") else model.cls
        # In fp32: bf16 would move the loss in its second digit.
        logits = head(hidden.flatten(0, 1)[positions]).float()
        return F.cross_entropy(logits, labels, reduction="none"), logits


class LongformerForMaskedPositions(_MaskedPositions, LongformerForMaskedLM):
    """LongformerForMaskedLM that computes logits where they are asked for."""


class BigBirdForMaskedPositions(_MaskedPositions, BigBirdForMaskedLM):
    """BigBirdForMaskedLM that computes logits where they are asked for."""
