"""The signature that all attention backends share, and what a family's attention is given.

A backend works in two steps. `prepare` makes, once per batch, what all layers with the same pattern share: a mask, a
BlockMask, or the blocks to gather. `attend` computes a layer's attention with it. So the backends of a family can be
exchanged for one another, and a test compares them.

Shapes: b batch, l length, h heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AttentionInputs(NamedTuple):
    """What a backend takes in one layer."""

    q_blhd: torch.Tensor
    k_blhd: torch.Tensor
    v_blhd: torch.Tensor
    layout: Any
    """What the backend's `prepare` returned for the layer."""
    context: Any
    """What all layers share for one batch: LongformerContext or BigBirdContext."""
    dropout: float = 0.0
    """Probability of dropping an attention weight; 0 in evaluation mode."""


class Backend(NamedTuple):
    """One way to compute a family's attention."""

    prepare: Callable[[Any, Any, torch.dtype], Any]
    """(pattern, context, dtype) -> layout. The pattern is the layer's own: Longformer's window, BigBird's plan; dtype
    is that of the hidden states."""
    attend: Callable[[AttentionInputs], torch.Tensor]
    """-> out_blhd."""


@dataclass(frozen=True)
class AttentionSettings:
    """How a model's attention is to be computed."""

    backend: str
    """A key of the family's BACKENDS."""
    global_tokens: str = "none"
    """none, or first: each document's first token is global."""
    dropout: float = 0.0
    """In training, on attention to everything; families with a dropout in their modules take that one."""
    compiled: bool = False
    """Whether the layers run under torch.compile."""


class DocumentBatch(NamedTuple):
    """What decides who attends to whom in one batch."""

    documents: torch.Tensor
    """(batch, length) int64: the document within its sequence that a token belongs to, from 1; 0 on padding."""
    isolated: bool
    """Whether a sequence may hold several documents, apart from each other. If not, `documents` is 0 or 1."""
    max_documents: int | None = None
    """Upper bound of the documents in any sequence; None: to be counted, for which a GPU waits."""
    global_attention_mask: torch.Tensor | None = None
    """(batch, length), not 0 on global tokens; None: as AttentionSettings.global_tokens says."""
    training: bool = True
    """Whether to use the attention pattern of training mode."""


class FamilyAttention(Protocol):
    """The attention of one model: made once, asked for each batch."""

    def __init__(self, model: PreTrainedModel, settings: AttentionSettings) -> None: ...

    def prepare(self, batch: DocumentBatch, dtype: torch.dtype) -> tuple[Any, list[Any]]:
        """The batch's context, and the layout of each layer, for hidden states of `dtype`."""

    @staticmethod
    def self_attention(module: Any, hidden: torch.Tensor, context: Any, layout: Any) -> torch.Tensor:
        """The output of a layer's self-attention module, (batch, length, width), for hidden states of this shape. A
        static method, so that compiled code has no part in the object's state."""


def project(hidden: torch.Tensor, *linears: Any) -> Sequence[torch.Tensor]:
    """The outputs of linear layers that have the same input and the same width, (…, width) each.

    In code that is compiled for a GPU they are one matrix product, by weights that are joined at each call: the layers
    and their weights, which are trained and saved, stay as they are. Elsewhere each layer is called.
    """
    if torch.compiler.is_compiling() and hidden.is_cuda and all(is_plain(linear) for linear in linears):
        return project_at_once(hidden, *linears)
    return [linear(hidden) for linear in linears]


def is_plain(linear: Any) -> bool:
    """Whether a layer is torch's own, without hooks, and has its weights: ZeRO 3 gathers them when it is called."""
    hooks = linear._forward_pre_hooks or linear._forward_hooks
    return type(linear) is torch.nn.Linear and not hooks and not hasattr(linear.weight, "ds_tensor")


def project_at_once(hidden: torch.Tensor, *linears: Any) -> Sequence[torch.Tensor]:
    """project() by one matrix product."""
    weight = torch.cat([linear.weight for linear in linears])
    bias = torch.cat([linear.bias for linear in linears])
    return F.linear(hidden, weight, bias).chunk(len(linears), -1)
