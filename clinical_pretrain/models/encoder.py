"""The layers of both models, with attention by a backend of our own.

Modules, parameters and their names stay Hugging Face's; what is replaced is the code that runs through them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from clinical_pretrain.models.attention import bigbird as bigbird_attention
from clinical_pretrain.models.attention import flex
from clinical_pretrain.models.attention import longformer as longformer_attention
from clinical_pretrain.models.attention.bigbird import BigBirdContext, Plan
from clinical_pretrain.models.attention.longformer import LongformerContext


class Encoder:
    """Runs a model's embeddings and layers; the model itself stays as it was.

    Args:
        model: a LongformerForMaskedLM or BigBirdForMaskedLM.
        backend: blocked, flex or varlen.
        checkpointing: none, attention or full: what is computed again in the backward pass.
        global_tokens: none, or first: each document's first token is global.
        dropout: BigBird: of attention to everything, that of short rows; None: the model's own.
        compile_backend: torch.compile's backend for the layers, or None: as they are.
    """

    def __init__(
        self,
        model: Any,
        backend: str,
        checkpointing: str = "none",
        global_tokens: str = "none",
        dropout: float | None = None,
        compile_backend: str | None = None,
    ) -> None:
        self.base, self.config = model.base_model, model.config
        self.backend, self.global_tokens = backend, global_tokens
        self.dropout = self.config.attention_probs_dropout_prob if dropout is None else dropout
        self.is_longformer = self.config.model_type == "longformer"
        if self.is_longformer:
            self.windows = [layer.attention.self.one_sided_attn_window_size for layer in self.base.encoder.layer]
        self.compiled = compile_backend is not None
        # On Hopper torch prefers cuDNN's attention, which isn't made for keys that overlap in memory, as those of
        # `blocked` do. A setting of the process costs no call anything, and compiled code has no part in it.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self._plans: dict[tuple[int, bool], list[Plan]] = {}
        attend = (longformer_attention if self.is_longformer else bigbird_attention).self_attention
        attention = partial(_attention_part, attend)
        if checkpointing == "attention":
            attention = partial(_recomputed, attention)
        run: Any = partial(_layer, attention)
        if compile_backend:
            flex.raise_recompile_limit()
            options = flex.COMPILE_OPTIONS if (backend, compile_backend) == ("flex", "inductor") else None
            run = torch.compile(run, backend=compile_backend, dynamic=False, options=options)
        if checkpointing == "full":
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
            documents: (batch, length) int64: the document within its row that a token belongs to, from 1; 0: padding.
            position_ids: (batch, length) int64, from 0 in each document; None: from 0 in each row, which is then one
                document.
            max_documents: at least the documents of any row; counted, at which a GPU waits, where it isn't said.
            global_attention_mask: (batch, length), not 0 on Longformer's global tokens; None: as `global_tokens` says.
            training_blocks: BigBird: the random blocks of training in evaluation mode, too.
        """
        length = input_ids.shape[1]
        padding = 0 if self.is_longformer else -length % self.config.block_size
        if padding:
            input_ids = F.pad(input_ids, (0, padding), value=self.config.pad_token_id)
            documents = F.pad(documents, (0, padding))
            position_ids = None if position_ids is None else F.pad(position_ids, (0, padding))
        hidden = self._embed(input_ids, documents, position_ids)
        if self.is_longformer:
            max_documents = int(documents.max()) if max_documents is None else max_documents
            is_global, max_globals = None, 0
            if global_attention_mask is not None:
                is_global = global_attention_mask.bool() & (documents > 0)
                max_globals = int(is_global.sum(1).max())
            elif self.global_tokens == "first":
                is_global, max_globals = first_tokens(documents), max_documents
            context: Any = LongformerContext(documents, max_documents, is_global if max_globals else None, max_globals)
            layouts = context.prepare(longformer_attention.BACKENDS[self.backend], self.windows, hidden.dtype)
        else:
            isolated = position_ids is not None
            # Asking a GPU would make it wait, and code would be compiled for both answers.
            asks = documents.device.type == "cpu" and not self.compiled
            whole = asks and not isolated and bool((documents == 1).all())
            context = BigBirdContext(
                None if whole else documents, len(documents), self.config.block_size, isolated, self.dropout
            )
            plans = self._plans_for(documents, self.base.training or training_blocks)
            layouts = context.prepare(bigbird_attention.BACKENDS[self.backend], plans, hidden.dtype)
            layouts = layouts or [None] * len(self.base.encoder.layer)
        for layer, layout in zip(self.base.encoder.layer, layouts, strict=True):
            hidden = self._layer(layer, hidden, context, layout)
        return hidden[:, :length]

    def _embed(
        self, input_ids: torch.Tensor, documents: torch.Tensor, position_ids: torch.Tensor | None
    ) -> torch.Tensor:
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        if self.is_longformer:  # its positions begin after the padding's
            position_ids = torch.where(documents > 0, position_ids + 1, 0) + self.config.pad_token_id
        hidden: torch.Tensor = self.base.embeddings(input_ids=input_ids, position_ids=position_ids)
        return hidden

    def _plans_for(self, documents: torch.Tensor, training: bool) -> list[Plan]:
        """Each layer's plan; none where Hugging Face's model would attend to everything."""
        length, config = documents.shape[1], self.config
        sparse = config.attention_type == "block_sparse"
        if not sparse or length <= bigbird_attention.shortest_sparse(config.block_size, config.num_random_blocks):
            return []
        if (length, training) not in self._plans:
            self._plans[length, training] = [
                bigbird_attention.make_plan(layer.attention.self, length, training, documents.device)
                for layer in self.base.encoder.layer
            ]
        return self._plans[length, training]


class HuggingFaceEncoder:
    """The reference: a model's own forward(). Arguments as those of Encoder; BigBird can't keep documents apart, and
    takes evaluation's random blocks in evaluation mode; Longformer has no random blocks."""

    backend, compiled = "hf", False

    def __init__(self, model: Any, checkpointing: str = "none", global_tokens: str = "none") -> None:
        self.base, self.global_tokens = model.base_model, global_tokens
        for layer in self.base.encoder.layer if checkpointing != "none" else ():
            part = layer if checkpointing == "full" else layer.attention
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
        apart = position_ids is not None
        if apart:  # each document in a row of its own
            rows, places = _documents_apart(documents)
            home = torch.where(places >= 0, places, 0)
            input_ids = torch.where(places >= 0, input_ids[rows[:, None], home], self.base.config.pad_token_id)
            documents, of_rows = (places >= 0).long(), documents
        inputs = {"attention_mask": (documents > 0).long()}
        if global_attention_mask is not None:
            inputs["global_attention_mask"] = global_attention_mask
        elif self.global_tokens == "first":
            inputs["global_attention_mask"] = first_tokens(documents).long()
        hidden: torch.Tensor = self.base(input_ids, **inputs)[0]
        if not apart:
            return hidden
        number, place = (places >= 0).nonzero(as_tuple=True)
        out = hidden.new_zeros(*of_rows.shape, hidden.shape[-1])
        return out.index_put((rows[number], places[number, place]), hidden[number, place])


def first_tokens(documents: torch.Tensor) -> torch.Tensor:
    """(batch, length) bool: where a document begins."""
    first = documents > 0
    first[:, 1:] &= documents[:, 1:] != documents[:, :-1]
    return first


def _documents_apart(documents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The row of each document, (documents,), and its places there, (documents, longest) int64, -1 after its end."""
    rows, starts = first_tokens(documents).nonzero(as_tuple=True)
    lengths = (documents[rows] == documents[rows, starts][:, None]).sum(1)
    step = torch.arange(int(lengths.max()), device=documents.device)
    return rows, torch.where(step < lengths[:, None], starts[:, None] + step, -1)


def _attention_part(attend: Any, layer: Any, hidden: torch.Tensor, *context: Any) -> torch.Tensor:
    attention = layer.attention
    out: torch.Tensor = attention.output(attend(attention.self, hidden, *context), hidden)
    return out


def _layer(attention: Any, layer: Any, hidden: torch.Tensor, *context: Any) -> torch.Tensor:
    hidden = attention(layer, hidden, *context)
    out: torch.Tensor = layer.output(layer.intermediate(hidden), hidden)
    return out


def _recomputed(forward: Any, *arguments: Any, **named: Any) -> Any:
    """Keeps the arguments alone, and runs again when the gradient is asked for."""
    return checkpoint(forward, *arguments, use_reentrant=False, **named)


def use_fused_gelu(model: Any) -> None:
    """BigBird's gelu_new, step by step in transformers, by torch's one kernel for the same formula."""
    for module in model.modules():
        for name in ("intermediate_act_fn", "transform_act_fn"):
            if type(getattr(module, name, None)).__name__ == "NewGELUActivation":
                setattr(module, name, torch.nn.GELU(approximate="tanh"))
