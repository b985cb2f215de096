"""Tokenised shards to a Hugging Face model: continued masked-LM pretraining of Longformer and BigBird."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clinical_pretrain.allocator import keep_freed_memory
    from clinical_pretrain.models.accelerate import accelerate_attention

__all__ = ["accelerate_attention", "keep_freed_memory"]


def __getattr__(name: str) -> Any:
    """Import what the package offers when it is asked for: importing it imports torch."""
    if name == "accelerate_attention":
        from clinical_pretrain.models.accelerate import accelerate_attention

        return accelerate_attention
    if name == "keep_freed_memory":
        from clinical_pretrain.allocator import keep_freed_memory

        return keep_freed_memory
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
