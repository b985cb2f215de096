"""Give a model rows for the entries that its tokenizer has gained: each the mean of the rows of its pieces."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers

from clinical_pretrain.models.base_model import brings_no_other_tokenizer, load_model_config, load_pretrained
from tokenizer_tools.errors import UserError
from tokenizer_tools.tokenizer.identity import vocab_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def check_model(name_or_path: str, vocabulary: dict[str, int], tokenizer: str) -> PreTrainedConfig:
    """The transformers config of a base model, if the tokenizer to extend is its own.

    Args:
        name_or_path: of the model.
        vocabulary: of the tokenizer.
        tokenizer: its name, for messages.

    Raises:
        UserError: there is no such model, it is of no known family, or its ids are others.
    """
    config = load_model_config(name_or_path)
    size = max(vocabulary.values()) + 1
    if size > config.vocab_size or not brings_no_other_tokenizer(name_or_path, vocab_sha256(vocabulary)):
        raise UserError(f"{name_or_path}: not trained with the ids of {tokenizer}; extend the model's own tokenizer")
    return config


def extend_model(
    name_or_path: str, config: PreTrainedConfig, pieces: Mapping[int, Sequence[int]], out: Path
) -> PreTrainedModel:
    """Save a copy of a base model with rows for new ids. All other weights, and the dtype, stay.

    The head's weights are the embeddings, so that before training a new logit is the mean of its pieces' logits.

    Args:
        name_or_path: of the base model.
        config: from `check_model`.
        pieces: of each new id, the old ids for the same text.
        out: a folder, which may hold the tokenizer already.

    Raises:
        UserError: the model lacks weights.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers loads DeepSpeed, which would warn that there's no GPU
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)  # for weights that masked-LM training leaves alone and a checkpoint may lack, as the pooler's
    model = load_pretrained(name_or_path, config, transformers.AutoModelForMaskedLM, "auto")
    wider = widened(model, pieces)
    wider.save_pretrained(out)
    return wider


def widened(model: PreTrainedModel, pieces: Mapping[int, Sequence[int]]) -> PreTrainedModel:
    """A copy of a masked-LM model with rows for new ids: embeddings, the head's weights and its bias."""
    size = max(model.config.vocab_size, *(new + 1 for new in pieces))
    with torch.device("meta"):
        one_more = _empty(model, model.config.vocab_size + 1).state_dict()
    weights = model.state_dict()
    for name, tensor in weights.items():
        if tensor.shape != one_more[name].shape:
            weights[name] = _with_rows(tensor, size, pieces)
    wider = _empty(model, size).to(model.dtype)
    wider.load_state_dict(weights)
    return wider


def _empty(model: PreTrainedModel, vocab_size: int) -> PreTrainedModel:
    config = copy.deepcopy(model.config)
    config.vocab_size = vocab_size
    return type(model)(config)


def _with_rows(tensor: torch.Tensor, size: int, pieces: Mapping[int, Sequence[int]]) -> torch.Tensor:
    wide = tensor.new_zeros((size, *tensor.shape[1:]))
    wide[: len(tensor)] = tensor
    for new, old in pieces.items():
        wide[new] = tensor[list(old)].float().mean(0)
    return wide
