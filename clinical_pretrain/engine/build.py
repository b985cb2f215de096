"""DeepSpeed's engine around the model."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.distributed import uses_gpu
from clinical_pretrain.engine.deepspeed_config import zero_stage
from clinical_pretrain.engine.deepspeed_internals import (
    find_overflows_by_norm,
    forget_first_update,
    local_weights,
    skip_overflows_at_min_scale,
)
from clinical_pretrain.engine.optimizer import make_optimizer, skip_bad_updates
from tokenizer_tools.errors import UserError


def make_engine(model: Any, config: RunConfig, resolved: dict[str, Any]) -> Any:
    """Build DeepSpeed's engine around the model, on the GPU unless the optimizer is offloaded.

    Raises:
        UserError: DeepSpeed refuses a value of its file.
    """
    import deepspeed

    refuse_config(config.deepspeed, resolved)
    if uses_gpu() and "offload_optimizer" not in resolved.get("zero_optimization", {}):
        model.cuda()
    optimizer = make_optimizer(model, config.optim)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=resolved)
    if zero_stage(resolved) == 0:
        if config.precision == "fp32":
            skip_bad_updates(engine.optimizer)
        else:
            forget_first_update(engine)
    elif zero_stage(resolved) < 3:
        find_overflows_by_norm(engine)
    skip_overflows_at_min_scale(engine)
    return engine


def refuse_config(name: str, resolved: dict[str, Any]) -> None:
    """Refuse a config that DeepSpeed can't read.

    Args:
        name: the file that it was made from, for the message.
        resolved: the config.

    Raises:
        UserError: with DeepSpeed's own words.
    """
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
    from pydantic import ValidationError

    try:
        DeepSpeedConfig(copy.deepcopy(resolved))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise UserError(f"{name}: {error.title}: {'; '.join(faults)}") from None
    except DeepSpeedConfigError as error:
        raise UserError(f"{name}: {' '.join(str(error).split())}") from None
    except Exception as error:  # a number where it expects an object, and the like
        raise UserError(f"{name}: DeepSpeed can't read it ({type(error).__name__}: {error})") from None


def weights_are_finite(engine: Any, rank: int) -> bool:
    """Whether the weights that the model computes with, or this rank's partition of them, hold no NaN or infinity."""
    weights = list(local_weights(engine.module, rank))
    return bool(torch.nn.utils.get_total_norm(weights, math.inf).isfinite())
