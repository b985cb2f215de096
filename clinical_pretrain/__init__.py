"""Tokenised shards to a Hugging Face model: continued masked-LM pretraining of Longformer and BigBird."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clinical_pretrain.models.accelerate import accelerate_attention

__all__ = ["accelerate_attention"]


def __getattr__(name: str) -> Any:
    """Import what the package offers when it is asked for: importing it imports torch."""
    if name == "accelerate_attention":
        from clinical_pretrain.models.accelerate import accelerate_attention

        return accelerate_attention
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
