"""Fast attention for any plain Longformer or BigBird of transformers, in place.

The self-attention modules of a model get a subclass of their own class, whose forward() computes the same function by
a backend of ours, and BigBird's gelu_new becomes torch's kernel for the same formula. Modules, parameters, names and
configs stay as they are, so transformers' Trainer, gradient checkpointing, `save_pretrained`, copies and replicas of
the model work as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.models.big_bird.modeling_big_bird import (
    BigBirdAttention,
    BigBirdBlockSparseAttention,
    BigBirdModel,
    BigBirdSelfAttention,
)
from transformers.models.longformer.modeling_longformer import LongformerModel, LongformerSelfAttention

from clinical_pretrain.models.attention import bigbird, longformer
from clinical_pretrain.models.attention.bigbird_plan import Plan, longest_full, make_plan
from clinical_pretrain.models.encoder import use_fused_gelu
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Model = TypeVar("Model", bound="PreTrainedModel")

_contexts: Any = WeakTensorKeyDictionary()
"""What all layers share for one batch, by the mask that they are all given."""


def accelerate_attention(model: Model) -> Model:
    """Let a Longformer or BigBird of transformers compute its attention by scaled_dot_product_attention on blocks.

    Outputs and gradients are the same to rounding, in training and in evaluation mode, with padding and global
    attention, on CPUs and GPUs. Dropout draws other random numbers. Where attention weights are asked for
    (`output_attentions`), transformers' own code computes them.

    Longformer's inputs aren't padded to a multiple of its largest window, which makes 512 tokens of a sentence of 40;
    the backend pads what it needs.

    Two side effects of transformers' BigBird are left out: training resets NumPy's global random generator, and a
    batch of short sequences makes all later ones attend to everything, too. Here it is full attention for that batch.

    Args:
        model: a LongformerModel or BigBirdModel, or any model with a head on one. It is changed in place.

    Returns:
        The same model.

    Raises:
        UserError: the model has no attention of these kinds, or is a decoder.
    """
    modules: list[Any] = list(model.modules())
    found = [module for module in modules if _has_fast_form(module)]
    if not found:
        raise UserError(f"{type(model).__name__}: no Longformer or BigBird; there is no attention to accelerate")
    if getattr(model.config, "is_decoder", False):
        raise UserError(f"{type(model).__name__}: a decoder; only encoders are accelerated")
    # On Hopper torch prefers cuDNN's attention, which isn't made for keys that overlap in memory.
    torch.backends.cuda.enable_cudnn_sdp(False)
    for module in found:
        _accelerate(module, model.config)
    use_fused_gelu(model)
    for module in modules:
        if isinstance(module, BigBirdModel) and not hasattr(module, "_attention_is_chosen"):
            module.register_forward_pre_hook(_choose_attention, with_kwargs=True)
            module._attention_is_chosen = True
        if isinstance(module, LongformerModel) and not hasattr(module, "_padding_is_chosen"):
            module.register_forward_pre_hook(_choose_padding, with_kwargs=True)
            module._padding_is_chosen = True
    return model


def can_accelerate(model: PreTrainedModel) -> bool:
    """Whether `accelerate_attention` takes a model."""
    return any(map(_has_fast_form, model.modules())) and not getattr(model.config, "is_decoder", False)


def _has_fast_form(module: nn.Module) -> bool:
    return not {*type(module).__mro__}.isdisjoint(_FAST)


def _accelerate(module: nn.Module, config: Any) -> None:
    fast = _FAST.get(type(module))
    if fast is not None:
        module.__class__ = fast
    if isinstance(module, BigBirdBlockSparseAttention | BigBirdSelfAttention):
        module.probability_of_dropout = config.attention_probs_dropout_prob


def _choose_attention(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before a BigBird's forward(): choose this batch's attention, and note whether weights are asked for."""
    inputs = [*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
    length = next((value.shape[1] for value in inputs if value is not None), 0)
    if model.config.attention_type == "block_sparse":
        model.set_attention_type("block_sparse" if length > longest_full(model.config) else "original_full")
    gives_weights = _asks_for_weights(model, kwargs)
    for layer in model.encoder.layer:
        layer.attention.self.gives_weights = gives_weights


def _choose_padding(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before a Longformer's forward(): pad only where weights are asked for, which transformers' own code computes."""
    if _asks_for_weights(model, kwargs):
        vars(model).pop("_pad_to_window_size", None)
    else:
        model._pad_to_window_size = _leave_unpadded


def _leave_unpadded(
    input_ids: Any, attention_mask: Any, token_type_ids: Any, position_ids: Any, inputs_embeds: Any, pad_token_id: int
) -> tuple[Any, ...]:
    """Instead of LongformerModel's method of that signature: no padding, and the inputs as they are."""
    return 0, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds


def _asks_for_weights(model: Any, kwargs: dict[str, Any]) -> bool:
    asked = kwargs.get("output_attentions")
    return bool(model.config.output_attentions if asked is None else asked)


class FastLongformerSelfAttention(LongformerSelfAttention):
    """A LongformerSelfAttention by the backend `blocked`."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        *args: Any,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, ...]:
        """As transformers' own. `attention_mask`, (batch, length), is negative on padding, positive on global tokens.

        Returns:
            The output, (batch, length, width), zero on padding; and the weights, if they are asked for.
        """
        if output_attentions:
            return tuple(super().forward(hidden_states, attention_mask, *args, output_attentions=True, **kwargs))
        context, layouts = _contexts.get(attention_mask) or _share(attention_mask)
        key = (self.one_sided_attn_window_size, _dtype(hidden_states))
        if key not in layouts:
            (layouts[key],) = context.prepare(longformer.BACKENDS["blocked"], [key[0]], key[1])
        out = longformer.LongformerAttention.self_attention(self, hidden_states, context, layouts[key])
        return (out.masked_fill(attention_mask[..., None] < 0, 0),)


def _share(attention_mask: torch.Tensor) -> tuple[longformer.LongformerContext, dict[Any, longformer.WindowLayout]]:
    """The context of a batch, and its layouts by window and dtype, for all layers that are given this mask."""
    is_global = attention_mask > 0
    max_globals = int(is_global.sum(1).max())
    documents = (attention_mask >= 0).long()
    context = longformer.LongformerContext(documents, 1, is_global if max_globals else None, max_globals)
    layouts: dict[Any, longformer.WindowLayout] = {}
    _contexts[attention_mask] = context, layouts
    return context, layouts


class FastBigBirdSelfAttention(BigBirdSelfAttention):
    """A BigBirdSelfAttention, that is full attention, by scaled_dot_product_attention."""

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """As transformers' own: the output, (batch, length, width), and the weights, None unless they are asked for."""
        return _full(self, hidden_states, attention_mask)


class FastBigBirdBlockSparseAttention(BigBirdBlockSparseAttention):
    """A BigBirdBlockSparseAttention by the backend `blocked`; for short sequences full attention."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        band_mask: torch.Tensor | None = None,
        from_mask: torch.Tensor | None = None,
        to_mask: torch.Tensor | None = None,
        from_blocked_mask: torch.Tensor | None = None,
        to_blocked_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As transformers' own; without a `from_blocked_mask`, (batch, blocks, block size), as BigBirdSelfAttention's.

        Returns:
            The output, (batch, length, width), in block-sparse attention zero on padding; and the weights, None unless
            they are asked for.
        """
        if from_blocked_mask is None:
            return _full(self, hidden_states, kwargs.get("attention_mask"))
        if self.gives_weights:
            masks = (band_mask, from_mask, to_mask, from_blocked_mask, to_blocked_mask)
            out, weights = super().forward(hidden_states, *masks, **kwargs)
            return out, weights
        context = _contexts.get(from_blocked_mask)
        if context is None:
            is_token = from_blocked_mask.flatten(1) > 0
            fills = is_token.device.type == "cpu" and bool(is_token.all())  # a GPU would wait for the answer
            documents = None if fills else is_token.long()
            context = bigbird.BigBirdContext(documents, len(is_token), self.block_size, isolated=False, dropout=0.0)
            _contexts[from_blocked_mask] = context
        context.backend = bigbird.BACKENDS["blocked"]
        layout = context.backend.prepare(self._plan(hidden_states), context, _dtype(hidden_states))
        out = bigbird.BigBirdAttention.self_attention(self, hidden_states, context, layout)
        return (out if context.documents is None else out * (context.documents[..., None] > 0)), None

    def _plan(self, hidden: torch.Tensor) -> Plan:
        plans: dict[tuple[int, bool, torch.device], Plan] = self.__dict__.setdefault("_plans", {})
        key = (hidden.shape[1], self.training, hidden.device)
        if key not in plans:
            plans[key] = make_plan(self, *key)
        return plans[key]


class FastBigBirdAttention(BigBirdAttention):
    """A BigBirdAttention whose one module computes both kinds of attention."""

    def set_attention_type(self, value: str, layer_idx: int | None = None) -> None:
        """Choose `block_sparse` or `original_full` attention; unlike transformers' own, without new modules."""
        if isinstance(self.self, FastBigBirdBlockSparseAttention):
            self.attention_type = value
        else:
            super().set_attention_type(value, layer_idx)
            _accelerate(self.self, self.config)


_FAST: dict[type[nn.Module], type[nn.Module]] = {
    LongformerSelfAttention: FastLongformerSelfAttention,
    BigBirdSelfAttention: FastBigBirdSelfAttention,
    BigBirdBlockSparseAttention: FastBigBirdBlockSparseAttention,
    BigBirdAttention: FastBigBirdAttention,
}


def _full(module: Any, hidden: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention to everything that the mask, (batch, 1, length or 1, length), lets through: output and weights."""
    heads = (module.num_attention_heads, module.attention_head_size)
    q, k, v = (
        linear(hidden).unflatten(-1, heads).transpose(1, 2) for linear in (module.query, module.key, module.value)
    )
    dropout = module.probability_of_dropout if module.training else 0.0
    mask = mask if mask is None or mask.dtype == torch.bool else mask.to(q.dtype)
    if not module.gives_weights:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return out.transpose(1, 2).flatten(2), None
    scores = q @ k.transpose(-1, -2) / heads[1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = F.dropout(scores.softmax(-1), dropout)
    return (weights @ v).transpose(1, 2).flatten(2), weights


def _dtype(hidden: torch.Tensor) -> torch.dtype:
    """The dtype of queries and keys: that of the hidden states, or autocast's."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
