"""Settings of the training data and its masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from clinical_pretrain.config.fields import PathText, Pattern
from tokenizer_tools.ranges import Range


@dataclass(frozen=True)
class DataConfig:
    """What it is trained on."""

    shards: Annotated[str, PathText()] = "shards"
    """Shard folder made by `clinical-pretrain build-shards`."""
    language: Annotated[
        str, Pattern("[a-z]{2,3}|multilingual", "an ISO 639 code such as en or de, or multilingual")
    ] = "en"
    """Language of the notes, for the model card: an ISO 639 code such as en or de, or multilingual."""
    document_attention: Literal["sequence", "isolate"] = "sequence"
    """row: tokens see over the borders of the notes in a row, as Clinical-Longformer's; isolate: a token sees its own
    note alone, and positions begin anew in each. BigBird's blocks stay those of the row."""


@dataclass(frozen=True)
class MaskingConfig:
    """Masked-LM corruption (BERT, section 3.1): drawn anew in every epoch, the same on any number of GPUs."""

    probability: Annotated[float, Range(above=0, below=1)] = 0.15
    """Share of the maskable tokens to predict. Special tokens and placeholders never are."""
    replace_with_mask: Annotated[float, Range(0, 1)] = 0.8
    """Of those, the share shown as the mask token."""
    replace_with_random: Annotated[float, Range(0, 1)] = 0.1
    """Of those, the share shown as a random maskable token; the rest is shown unchanged."""
    whole_words: bool = False
    """Choose whole words instead of single tokens."""
