"""The layers of a model, with attention by a backend of ours.

Modules, parameters and their names stay Hugging Face's; what is replaced is the code that runs through them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from clinical_pretrain.models.attention import flex
from clinical_pretrain.models.attention.backend import AttentionSettings, DocumentBatch
from clinical_pretrain.models.attention.documents import first_tokens, locate_documents
from clinical_pretrain.models.families import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Encoder:
    """Runs a model's embeddings and layers; the model itself stays as it was.

    Args:
        model: a masked-LM model of one of the families.
        backend: blocked, flex or varlen.
        activation_checkpointing: none, attention or full: what is computed again in the backward pass.
        global_tokens: none, or first: each document's first token is global.
        dropout: of attention to everything, for families whose sparse attention has none; None: the model's own.
        compile_backend: torch.compile's backend for the layers, or None: as they are.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        backend: str,
        activation_checkpointing: str = "none",
        global_tokens: str = "none",
        dropout: float | None = None,
        compile_backend: str | None = None,
    ) -> None:
        self.base, self.config, self.family = model.base_model, model.config, family_of(model.config)
        self.backend, self.compiled = backend, compile_backend is not None
        dropout = self.config.attention_probs_dropout_prob if dropout is None else dropout
        settings = AttentionSettings(backend, global_tokens, dropout, self.compiled)
        self.attention = self.family.attention(model, settings)
        # On Hopper torch prefers cuDNN's attention, which isn't made for keys that overlap in memory, as those of
        # `blocked` do. A setting of the process costs no call anything, and compiled code has no part in it.
        torch.backends.cuda.enable_cudnn_sdp(False)
        attention = partial(_attention_part, self.attention.self_attention)
        if activation_checkpointing == "attention":
            attention = partial(_recomputed, attention)
        run: Any = partial(_layer, attention)
        if compile_backend:
            flex.raise_recompile_limit()
            options = flex.COMPILE_OPTIONS if (backend, compile_backend) == ("flex", "inductor") else None
            run = torch.compile(run, backend=compile_backend, dynamic=False, options=options)
        if activation_checkpointing == "full":
            run = partial(_recomputed, run)
        self._layer = run

    def __call__(
        self,
        input_ids: torch.Tensor,
        documents: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        max_documents: int | None = None,
        global_attention_mask: torch.Tensor | None = None,
        training_blocks: bool = False,
    ) -> torch.Tensor:
        """Hidden states, (batch, length, width).

        Args:
            input_ids: (batch, length) int64.
            documents: (batch, length) int64: the document within its sequence that a token belongs to, from 1; 0 on
                padding.
            position_ids: (batch, length) int64, from 0 in each document; None: from 0 in each sequence, which is then
                one document.
            max_documents: upper bound of the documents in any sequence; None: counted, for which a GPU waits.
            global_attention_mask: (batch, length), not 0 on global tokens; None: as `global_tokens` says.
            training_blocks: the random blocks of training in evaluation mode, too, for families that have some.
        """
        length = input_ids.shape[1]
        if padding := -length % self.family.length_multiple(self.config):
            input_ids = F.pad(input_ids, (0, padding), value=self.config.pad_token_id)
            documents = F.pad(documents, (0, padding))
            position_ids = None if position_ids is None else F.pad(position_ids, (0, padding))
        hidden = self._embed(input_ids, documents, position_ids)
        batch = DocumentBatch(
            documents,
            isolated=position_ids is not None,
            max_documents=max_documents,
            global_attention_mask=global_attention_mask,
            training=self.base.training or training_blocks,
        )
        context, layouts = self.attention.prepare(batch, hidden.dtype)
        for layer, layout in zip(self.base.encoder.layer, layouts, strict=True):
            hidden = self._layer(layer, hidden, context, layout)
        return hidden[:, :length]

    def _embed(
        self, input_ids: torch.Tensor, documents: torch.Tensor, position_ids: torch.Tensor | None
    ) -> torch.Tensor:
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        position_ids = self.family.embedding_positions(self.config, position_ids, documents)
        hidden: torch.Tensor = self.base.embeddings(input_ids=input_ids, position_ids=position_ids)
        return hidden


class HuggingFaceEncoder:
    """The reference: a model's own forward(), with Encoder's arguments. What a family's own code can't do, its
    ModelFamily.obstacle() says: isolated documents, or the random blocks of training in evaluation mode."""

    backend, compiled = "hf", False

    def __init__(
        self, model: PreTrainedModel, activation_checkpointing: str = "none", global_tokens: str = "none"
    ) -> None:
        self.base, self.global_tokens = model.base_model, global_tokens
        for layer in self.base.encoder.layer if activation_checkpointing != "none" else ():
            part = layer if activation_checkpointing == "full" else layer.attention
            part.forward = partial(_recomputed, part.forward)

    def __call__(
        self,
        input_ids: torch.Tensor,
        documents: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        max_documents: int | None = None,
        global_attention_mask: torch.Tensor | None = None,
        training_blocks: bool = False,
    ) -> torch.Tensor:
        """Hidden states, (batch, length, width)."""
        isolated, packed = position_ids is not None, documents
        if isolated:  # make each document a sequence of its own
            sequences, positions = locate_documents(packed)
            is_token = positions >= 0
            tokens = input_ids[sequences[:, None], torch.where(is_token, positions, 0)]
            input_ids = torch.where(is_token, tokens, self.base.config.pad_token_id)
            documents = is_token.long()
        inputs = {"attention_mask": (documents > 0).long()}
        if global_attention_mask is not None:
            inputs["global_attention_mask"] = global_attention_mask
        elif self.global_tokens == "first":
            inputs["global_attention_mask"] = first_tokens(documents).long()
        hidden: torch.Tensor = self.base(input_ids, **inputs)[0]
        if not isolated:
            return hidden
        document, token = is_token.nonzero(as_tuple=True)
        out = hidden.new_zeros(*packed.shape, hidden.shape[-1])
        return out.index_put((sequences[document], positions[document, token]), hidden[document, token])


def _attention_part(attend: Any, layer: Any, hidden: torch.Tensor, *context: Any) -> torch.Tensor:
    attention = layer.attention
    out: torch.Tensor = attention.output(attend(attention.self, hidden, *context), hidden)
    return out


def _layer(attention: Any, layer: Any, hidden: torch.Tensor, *context: Any) -> torch.Tensor:
    hidden = attention(layer, hidden, *context)
    out: torch.Tensor = layer.output(layer.intermediate(hidden), hidden)
    return out


def _recomputed(forward: Any, *arguments: Any, **named: Any) -> Any:
    """forward(), of which only the arguments are kept: the backward pass runs it again."""
    return checkpoint(forward, *arguments, use_reentrant=False, **named)


def use_fused_gelu(model: PreTrainedModel) -> None:
    """BigBird's gelu_new, step by step in transformers, by torch's one kernel for the same formula."""
    for module in model.modules():
        for name in ("intermediate_act_fn", "transform_act_fn"):
            if type(getattr(module, name, None)).__name__ == "NewGELUActivation":
                setattr(module, name, torch.nn.GELU(approximate="tanh"))
