"""Settings of the training data and its masks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from clinical_pretrain.config.fields import PathText, Pattern, Resume
from tokenizer_tools.ranges import Range

_LANGUAGE = Pattern("[a-z]{2,3}|multilingual", "an ISO 639 code such as en or de, or multilingual")


@dataclass(frozen=True)
class DataConfig:
    """The data to train on."""

    shards: Annotated[str, PathText(), Resume.FREE] = "shards"
    """Shard folder made by `clinical-pretrain build-shards`. It may move; other data needs checkpoint.accept_changes,
    and another sequence length or tokenizer is always refused."""
    language: Annotated[str, _LANGUAGE, Resume.FREE] = "en"
    """Language of the notes, for the model card: an ISO 639 code such as en or de, or multilingual."""
    document_attention: Annotated[Literal["sequence", "isolate"], Resume.ACCEPTED] = "sequence"
    """What a token attends to in a sequence packed from several notes. sequence: all notes, as Clinical-Longformer.
    isolate: its own note alone, and positions restart in each note. BigBird's blocks stay those of the sequence."""


@dataclass(frozen=True)
class MaskingConfig:
    """Masked-LM corruption (BERT, section 3.1). Masks differ in every epoch and don't depend on the number of GPUs."""

    probability: Annotated[float, Range(above=0, below=1), Resume.ACCEPTED] = 0.15
    """Share of the tokens to predict. Special tokens and placeholders are never predicted."""
    replace_with_mask: Annotated[float, Range(0, 1), Resume.ACCEPTED] = 0.8
    """Share of the predicted tokens that the mask token replaces."""
    replace_with_random: Annotated[float, Range(0, 1), Resume.ACCEPTED] = 0.1
    """Share of the predicted tokens that a random token replaces. The rest stays unchanged."""
    whole_words: Annotated[bool, Resume.ACCEPTED] = False
    """Mask whole words instead of single tokens."""


def replacement_fault(masking: MaskingConfig) -> str | None:
    """The two shares of replaced tokens must leave a share of at least 0."""
    if masking.replace_with_mask + masking.replace_with_random <= 1 + 1e-9:
        return None
    return "masking.replace_with_mask and masking.replace_with_random must add up to at most 1"


def capacity(tokens: int, config: MaskingConfig) -> int:
    """Upper bound of the positions to predict in a micro-batch of `tokens`, so that all can have one shape: mean + 6
    standard deviations of what is drawn, rounded up to a multiple of 64. About one micro-batch in 10^9 draws more."""
    share = config.probability
    # The tokens of a word are chosen together, which multiplies the variance by the mean, over tokens, of their words'
    # lengths: below 4 in clinical notes.
    deviation = math.sqrt(tokens * share * (1 - share) * (4 if config.whole_words else 1))
    return min(tokens, -(-int(tokens * share + 6 * deviation + 1) // 64) * 64)
