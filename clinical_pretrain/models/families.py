"""One record per model family: everything that differs between families, apart from the computation of attention.

To add a family: a subclass of ModelFamily here, a module in attention/ for its attention, and its name in config's
ModelConfig.family. Nothing else in the package compares model types.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import BigBirdConfig, BigBirdForMaskedLM, LongformerConfig, LongformerForMaskedLM

from clinical_pretrain.config.model import ModelSize
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.models.attention import bigbird, longformer
from clinical_pretrain.models.attention.backend import Backend, FamilyAttention
from clinical_pretrain.models.attention.bigbird_plan import is_sparse, longest_full
from clinical_pretrain.models.mlm_head import MaskedPositions
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class LongformerForMaskedPositions(MaskedPositions, LongformerForMaskedLM):
    """LongformerForMaskedLM that computes logits where they are asked for."""

    head_name = "lm_head"


class BigBirdForMaskedPositions(MaskedPositions, BigBirdForMaskedLM):
    """BigBirdForMaskedLM that computes logits where they are asked for."""

    head_name = "cls"


class ModelFamily(ABC):
    """What the rest of the package asks about a family. Where a method takes a `config`, it is a transformers config of
    the family."""

    name: str
    """As model.family and tags on the Hub spell it."""
    model_type: str
    """As transformers' configs spell it."""
    title: str
    """As messages and model cards spell it."""
    model_class: type[PreTrainedModel]
    """The transformers class with the head of MaskedPositions."""
    attention: type[FamilyAttention]
    backends: Mapping[str, Backend]
    """Ways to compute the attention, by the names of attention.backend; beside them there is hf."""
    has_global_tokens = False
    """Whether attention.global_tokens can choose tokens that attend to everything."""
    unused_weights: tuple[str, ...] = ()
    """Substrings of the names of parameters that don't affect the masked-LM loss."""
    global_weights: tuple[str, ...] = ()
    """Substrings of the names of parameters that only global tokens use."""

    @abstractmethod
    def random_config(self, size: ModelSize, common: dict[str, Any], length: int) -> PreTrainedConfig:
        """The transformers config of a model with random weights.

        Args:
            size: of the model.
            common: settings that have the same name in all families' configs.
            length: tokens per sequence.

        Raises:
            UserError: the size doesn't fit the length.
        """

    def first_position(self, config: PreTrainedConfig) -> int:
        """Index of the position embedding of a document's first token."""
        return 0

    def embedding_positions(
        self, config: PreTrainedConfig, position_ids: torch.Tensor, documents: torch.Tensor
    ) -> torch.Tensor:
        """Indices of position embeddings, (batch, length) int64, for positions that start at 0 in each document."""
        return position_ids

    def length_multiple(self, config: PreTrainedConfig) -> int:
        """Sequences are padded to a multiple of this, and there must be position embeddings for the padding, too."""
        return 1

    def length_obstacle(self, config: PreTrainedConfig, length: int) -> str | None:
        """Why the family's attention can't compute sequences of this length; None: it can."""
        return None

    @abstractmethod
    def set_attention_dropout(self, model: PreTrainedModel, dropout: float) -> None:
        """Set it in the modules alone: the exported config keeps the base model's.

        Raises:
            UserError: the model's attention has no dropout.
        """

    def obstacle(self, backend: str, model: PreTrainedModel, config: RunConfig) -> str | None:
        """Why a backend can't compute what `config` asks of this family; None: it can. What holds for every family is
        checked by choose_backend.py."""
        return None

    @abstractmethod
    def keys_per_query(self, config: PreTrainedConfig, length: int) -> list[int]:
        """Number of tokens that a token attends to on average, for each layer, to count FLOPs; global tokens and the
        narrower windows at a sequence's ends aside."""

    def padded(self, config: PreTrainedConfig, length: int) -> int:
        """`length`, rounded up to length_multiple()."""
        multiple = self.length_multiple(config)
        return -(-length // multiple) * multiple


class Longformer(ModelFamily):
    """Beltagy et al. 2020: each token attends to a window around it and to global tokens."""

    name, model_type, title = "longformer", "longformer", "Longformer"
    model_class = LongformerForMaskedPositions
    attention, backends = longformer.LongformerAttention, longformer.BACKENDS
    has_global_tokens = True
    global_weights = ("_global.",)

    def random_config(self, size: ModelSize, common: dict[str, Any], length: int) -> PreTrainedConfig:
        """See ModelFamily."""
        if size.attention_window > 2 * length:
            raise UserError(
                f"model.size.attention_window {size.attention_window}: sequences of {length:,} tokens are spanned "
                f"by a window of {2 * length}; use that or less"
            )
        return LongformerConfig(
            **common,
            attention_window=size.attention_window,
            max_position_embeddings=length + common["pad_token_id"] + 1,
            type_vocab_size=1,
        )

    def first_position(self, config: PreTrainedConfig) -> int:
        """As in RoBERTa: padding has the position of its own token id, and tokens those after it."""
        return int(config.pad_token_id + 1)

    def embedding_positions(
        self, config: PreTrainedConfig, position_ids: torch.Tensor, documents: torch.Tensor
    ) -> torch.Tensor:
        """See ModelFamily."""
        return torch.where(documents > 0, position_ids + 1, 0) + config.pad_token_id

    def set_attention_dropout(self, model: PreTrainedModel, dropout: float) -> None:
        """See ModelFamily."""
        for layer in model.base_model.encoder.layer:
            layer.attention.self.dropout = dropout

    def obstacle(self, backend: str, model: PreTrainedModel, config: RunConfig) -> str | None:
        """See ModelFamily."""
        has_dropout = any(layer.attention.self.dropout for layer in model.base_model.encoder.layer)
        if backend in ("flex", "varlen") and has_dropout:
            return "takes no attention dropout, and this model has some (attention.dropout 0 switches it off)"
        if backend == "varlen" and config.attention.global_tokens != "none":
            return "takes no global tokens"
        return None

    def keys_per_query(self, config: PreTrainedConfig, length: int) -> list[int]:
        """See ModelFamily."""
        windows = config.attention_window
        windows = [windows] * config.num_hidden_layers if isinstance(windows, int) else windows
        return [min(window + 1, length) for window in windows]


class BigBird(ModelFamily):
    """Zaheer et al. 2020: each block attends to the first and the last one, its neighbours, and random ones."""

    name, model_type, title = "bigbird", "big_bird", "BigBird"
    model_class = BigBirdForMaskedPositions
    attention, backends = bigbird.BigBirdAttention, bigbird.BACKENDS
    unused_weights = (".pooler.",)

    def random_config(self, size: ModelSize, common: dict[str, Any], length: int) -> PreTrainedConfig:
        """See ModelFamily."""
        return BigBirdConfig(
            **common,
            block_size=size.block_size,
            num_random_blocks=size.num_random_blocks,
            max_position_embeddings=-(-length // size.block_size) * size.block_size,
            attention_type="block_sparse",
        )

    def length_multiple(self, config: PreTrainedConfig) -> int:
        """Whole blocks."""
        return int(config.block_size)

    def length_obstacle(self, config: PreTrainedConfig, length: int) -> str | None:
        """See ModelFamily."""
        if config.attention_type != "block_sparse" or is_sparse(config, length):
            return None
        return (
            f"sequences of {length:,} tokens are too short for BigBird's block-sparse attention (it needs more than "
            f"{longest_full(config):,}: blocks of {config.block_size}); build longer sequences or use smaller blocks"
        )

    def set_attention_dropout(self, model: PreTrainedModel, dropout: float) -> None:
        """See ModelFamily."""
        if dropout:
            raise UserError("attention.dropout: BigBird's block-sparse attention has none; leave it out or set it to 0")
        if model.config.attention_type != "block_sparse":
            for layer in model.base_model.encoder.layer:
                layer.attention.self.dropout.p = dropout

    def obstacle(self, backend: str, model: PreTrainedModel, config: RunConfig) -> str | None:
        """See ModelFamily."""
        if backend == "hf" and config.data.document_attention == "isolate":
            return "transformers' BigBird can't keep documents apart (data.document_attention isolate)"
        if backend == "hf" and config.validation.random_blocks == "training":
            return (
                "transformers' BigBird has evaluation's random blocks alone in evaluation "
                "(validation.random_blocks training)"
            )
        if backend == "flex" and model.config.block_size % 64:
            return f"needs blocks that are a multiple of 64, and this model's have {model.config.block_size} tokens"
        return None

    def keys_per_query(self, config: PreTrainedConfig, length: int) -> list[int]:
        """See ModelFamily. The first and the last block attend to all: two key blocks more for each on average."""
        reach = (5 + config.num_random_blocks + 2) * config.block_size
        return [min(reach, length)] * config.num_hidden_layers


FAMILIES: tuple[ModelFamily, ...] = (Longformer(), BigBird())


def family_named(name: str) -> ModelFamily:
    """The family that model.family names."""
    return next(family for family in FAMILIES if family.name == name)


def family_of_type(model_type: str) -> ModelFamily:
    """The family of transformers' models of this type.

    Raises:
        UserError: it is none of ours.
    """
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    known = " and ".join(sorted(family.model_type for family in FAMILIES))
    raise UserError(f"a {model_type} model; this trains {known}")


def family_of(config: PreTrainedConfig) -> ModelFamily:
    """The family of a model with this transformers config; raises as family_of_type() does."""
    return family_of_type(config.model_type)
