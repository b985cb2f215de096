"""Settings of the model and its attention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from clinical_pretrain.config.fields import PathText
from tokenizer_tools.ranges import Range


@dataclass(frozen=True)
class ModelSize:
    """Size of a model with random weights; a pretrained one brings its own."""

    num_hidden_layers: Annotated[int, Range(1, 1000)] = 2
    """Transformer layers."""
    hidden_size: Annotated[int, Range(1, 65_536)] = 128
    """Width of the hidden states."""
    num_attention_heads: Annotated[int, Range(1, 1000)] = 2
    """Attention heads; must divide hidden_size."""
    intermediate_size: Annotated[int, Range(1, 1_000_000)] = 512
    """Width inside the feed-forward part."""
    attention_window: Annotated[int, Range(4, 1_000_000, even=True)] = 128
    """Longformer: tokens that a token sees, half on each side; even. transformers' own code needs 4 or more."""
    block_size: Annotated[int, Range(1, 65_536)] = 64
    """BigBird: tokens per block."""
    num_random_blocks: Annotated[int, Range(1, 1000)] = 3
    """BigBird: random blocks per query block."""


@dataclass(frozen=True)
class ModelConfig:
    """What is trained."""

    name_or_path: Annotated[str, PathText()] = "allenai/longformer-base-4096"
    """Base model: a local folder or a Hub id. Unused where init is random."""
    init: Literal["pretrained", "random"] = "pretrained"
    """Where the weights come from. Random is for tests, the demo and baselines."""
    family: Literal["longformer", "bigbird"] = "longformer"
    """Which model to make where init is random; a pretrained one says so itself."""
    size: ModelSize = field(default_factory=ModelSize)
    """How large a random model is."""
    position_embeddings: Literal["keep", "tile"] = "keep"
    """Rows longer than a pretrained model's positions: keep refuses them; tile repeats its position embeddings up to
    the rows' length, as Longformer's were made from RoBERTa's."""


@dataclass(frozen=True)
class AttentionConfig:
    """How attention is computed."""

    backend: Literal["auto", "blocked", "flex", "varlen", "hf"] = "auto"
    """auto: the fastest that can compute what is asked. blocked: scaled_dot_product_attention, anywhere. flex:
    flex_attention, on a GPU. varlen: FlashAttention's windows, on a GPU, Longformer without global tokens. hf: the
    Hugging Face model's own code, the reference. All compute the same function."""
    global_tokens: Literal["none", "first"] = "none"
    """Longformer: tokens with global attention. none, as Clinical-Longformer; first: each document's first token."""
    dropout: Annotated[float, Range(0, below=1)] | None = None
    """Longformer: attention dropout in training; null: the model's own. flex and varlen take 0 alone. BigBird's
    block-sparse attention has none."""
