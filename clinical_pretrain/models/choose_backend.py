"""Choose the attention backend of a run: the fastest one that can compute what is asked.

The backends themselves are the BACKENDS of each family, in attention/longformer.py and attention/bigbird.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.models.families import family_of
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FASTEST_FIRST = ("varlen", "flex", "blocked")
"""The order in which attention.backend `auto` tries them."""
NEED_GPU = {"flex": "has no backward pass on a CPU", "varlen": "needs a GPU"}


def choose_backend(model: PreTrainedModel, config: RunConfig, on_gpu: bool) -> str:
    """The attention backend that attention.backend names, or the fastest one that can compute what is asked.

    Raises:
        UserError: the one it names can't, with the reason.
    """
    wanted = config.attention.backend
    if wanted == "auto":
        return next(name for name in FASTEST_FIRST if not _obstacle(name, model, config, on_gpu))
    if obstacle := _obstacle(wanted, model, config, on_gpu):
        raise UserError(f"attention.backend {wanted}: {obstacle}; use auto")
    return wanted


def _obstacle(backend: str, model: PreTrainedModel, config: RunConfig, on_gpu: bool) -> str | None:
    """Why a backend can't compute what is asked; None: it can."""
    family = family_of(model.config)
    if backend in NEED_GPU:
        if not on_gpu:
            return NEED_GPU[backend]
        if torch.cuda.get_device_capability() < (8, 0):
            return "needs a GPU of Ampere's generation or later"
    if backend != "hf" and backend not in family.backends:
        return f"can't compute {family.title}'s attention"
    if obstacle := family.obstacle(backend, model, config):
        return obstacle
    width = model.config.hidden_size // model.config.num_attention_heads
    if backend == "flex" and width < 16:
        return f"needs heads of width 16 or more, and this model's have {width}"
    if backend == "varlen" and (width % 8 or width > 256):
        return f"needs heads whose width is a multiple of 8 up to 256, and this model's have {width}"
    if backend == "varlen" and config.precision == "fp32":
        return "computes in bf16 and fp16 alone"
    return None
