"""Settings of the model and its attention."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from clinical_pretrain.config.fields import PathText, Resume
from tokenizer_tools.errors import UserError
from tokenizer_tools.ranges import Range


@dataclass(frozen=True)
class ModelSize:
    """Size of a model with random weights, by transformers' names. A pretrained model brings its own."""

    num_hidden_layers: Annotated[int, Range(1, 1000), Resume.FIXED] = 2
    """Number of transformer layers."""
    hidden_size: Annotated[int, Range(1, 65_536), Resume.FIXED] = 128
    """Width of the hidden states."""
    num_attention_heads: Annotated[int, Range(1, 1000), Resume.FIXED] = 2
    """Number of attention heads; must divide hidden_size."""
    intermediate_size: Annotated[int, Range(1, 1_000_000), Resume.FIXED] = 512
    """Width of the feed-forward layer."""
    attention_window: Annotated[int, Range(4, 1_000_000, even=True), Resume.FIXED] = 128
    """Longformer: number of tokens in a token's attention window, half on each side. transformers needs 4 or more."""
    block_size: Annotated[int, Range(1, 65_536), Resume.FIXED] = 64
    """BigBird: tokens per attention block."""
    num_random_blocks: Annotated[int, Range(1, 1000), Resume.FIXED] = 3
    """BigBird: random key blocks per query block."""


@dataclass(frozen=True)
class ModelConfig:
    """The model to train."""

    name_or_path: Annotated[str, PathText(), Resume.FIXED] = "allenai/longformer-base-4096"
    """Base model: a local folder or a Hub id. Unused with init random."""
    init: Annotated[Literal["pretrained", "random"], Resume.FIXED] = "pretrained"
    """Initial weights. random is for tests, the demo and baselines."""
    family: Annotated[Literal["longformer", "bigbird"], Resume.FIXED] = "longformer"
    """Model family with init random. A pretrained model's own config names its family."""
    size: ModelSize = field(default_factory=ModelSize)
    """Size with init random."""
    position_embeddings: Annotated[Literal["keep", "tile"], Resume.FIXED] = "keep"
    """What to do if the sequences are longer than a pretrained model's position embeddings. keep: refuse. tile: repeat
    the embeddings up to the sequences' length, as Longformer's were made from RoBERTa's."""


@dataclass(frozen=True)
class AttentionConfig:
    """How attention is computed."""

    backend: Annotated[Literal["auto", "blocked", "flex", "varlen", "hf"], Resume.FREE] = "auto"
    """All backends compute the same function. auto: the fastest that supports the other settings. blocked:
    blocks of queries and keys, on any device. flex: flex_attention, on a GPU. varlen: FlashAttention's sliding
    window, on a GPU, for Longformer without global tokens. hf: the Hugging Face model's own code, the reference."""
    global_tokens: Annotated[Literal["none", "first"], Resume.FIXED] = "none"
    """Longformer: tokens with global attention. none: as Clinical-Longformer. first: each document's first token.
    Without any, the weights of global attention stay frozen."""
    dropout: Annotated[float, Range(0, below=1), Resume.ACCEPTED] | None = None
    """Longformer: attention dropout in training; null: the model's own. flex and varlen support only 0. BigBird's
    block-sparse attention has none."""


def heads_fault(model: ModelConfig) -> str | None:
    """The heads of a random model must divide its hidden states."""
    size = model.size
    if model.init == "pretrained" or size.hidden_size % size.num_attention_heads == 0:
        return None
    return (
        f"model.size.num_attention_heads {size.num_attention_heads} doesn't divide model.size.hidden_size "
        f"{size.hidden_size}"
    )


def dropout_fault(attention: AttentionConfig) -> str | None:
    """FlashAttention's windows and flex_attention have no dropout."""
    if attention.backend in ("flex", "varlen") and attention.dropout:
        return f"attention.backend {attention.backend} has no dropout; set attention.dropout to 0 or use auto"
    return None


def refuse_missing_folder(name_or_path: str) -> None:
    """Raise a UserError where a base model's name can only be a folder's, and that isn't there."""
    if Path(name_or_path).is_absolute() and not Path(name_or_path).is_dir():
        raise UserError(f"{name_or_path}: no such folder (model.name_or_path)")
