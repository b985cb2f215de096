"""Any encoder of Hugging Face with the head of a task on it."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from clinical_pretrain.models.accelerate import accelerate_attention, can_accelerate
from clinical_pretrain.models.base_model import from_hub_or_folder
from clinical_pretrain.tasks.encoding import IGNORED, check_vocabulary
from clinical_pretrain.tasks.records import Kind
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

HEADS = {
    "entities": AutoModelForTokenClassification,
    "answers": AutoModelForQuestionAnswering,
    "class": AutoModelForSequenceClassification,
    "labels": AutoModelForSequenceClassification,
}


def load_tokenizer(model: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a model.

    Raises:
        UserError: there is none, or it doesn't fit the model.
    """
    config = from_hub_or_folder(AutoConfig.from_pretrained, model)
    tokenizer: PreTrainedTokenizerFast = from_hub_or_folder(AutoTokenizer.from_pretrained, model)
    check_vocabulary(tokenizer, config.vocab_size, model)
    return tokenizer


def load_with_head(model: str, kind: Kind, names: Sequence[str]) -> PreTrainedModel:
    """A model's encoder in fp32 with a new head for a task, its attention accelerated where it is Longformer's or
    BigBird's.

    Args:
        model: a folder or an id on the Hub.
        kind: of the task.
        names: what the head's outputs mean; empty for answers.

    Raises:
        UserError: it can't be loaded, or lacks weights of the encoder.
    """
    labels = (
        {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}} if names else {}
    )
    network, loading = from_hub_or_folder(
        HEADS[kind].from_pretrained,
        model,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # the head of another task
        output_loading_info=True,
        **labels,
    )
    prefix = f"{network.base_model_prefix}."
    lost = sorted(k for k in loading["missing_keys"] if k.startswith(prefix) and not k.startswith(f"{prefix}pooler."))
    lost += sorted(str(key[0]) for key in loading["mismatched_keys"] if str(key[0]).startswith(prefix))
    if lost:
        raise UserError(
            f"{model}: {lost[0]} (and {len(lost) - 1} more weights of the encoder) missing or of another size"
        )
    if can_accelerate(network):
        accelerate_attention(network)
    return network


def longest_input(network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int:
    """Tokens of the longest sequence that a model takes, the special ones included."""
    table: Any = next(
        (module for name, module in network.base_model.named_modules() if name.endswith("position_embeddings")), None
    )
    if not isinstance(table, nn.Embedding):  # rotary, or relative
        positions = int(network.config.max_position_embeddings)
    else:  # as in RoBERTa, positions may begin after that of padding
        positions = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return min(positions, int(tokenizer.model_max_length))


def model_inputs(network: PreTrainedModel) -> list[str]:
    """The names of what a model's forward() takes."""
    names = list(inspect.signature(network.forward).parameters)
    if getattr(network.config, "type_vocab_size", 1) < 2:
        names = [name for name in names if name != "token_type_ids"]
    return names


def batch_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """A micro-batch's part of the mean loss of its batch, for transformers' Trainer, which adds these up: cross-entropy
    of classes or tags, (examples,) or (examples, tokens), or binary cross-entropy of labels, (examples, labels) as
    floats. IGNORED is no target.

    Args:
        outputs: of the model.
        labels: the targets.
        num_items_in_batch: number of targets in all micro-batches of the step.
    """
    known, logits = labels != IGNORED, outputs.logits.float()
    if labels.is_floating_point():
        losses = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0), reduction="none")
        total = (losses * known).sum()
    else:
        total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / max(1, int(num_items_in_batch))


def count_attention(network: PreTrainedModel, batches: Counter[str]) -> None:
    """Count each batch by the attention that a BigBird takes: sparse, or full where all sequences are short."""

    def count(module: Any, *_: object) -> None:
        phase = "training" if module.training else "evaluation"
        batches[f"{phase}, {'sparse' if module.attention_type == 'block_sparse' else 'full'}"] += 1

    if hasattr(network.base_model, "attention_type"):
        network.base_model.register_forward_hook(count)
