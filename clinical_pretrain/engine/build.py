"""DeepSpeed's engine around the model: new, or as a checkpoint holds it."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.distributed import uses_gpu
from clinical_pretrain.engine.deepspeed_config import zero_stage
from clinical_pretrain.engine.optim import make_optimizer
from tokenizer_tools.errors import UserError


def make_engine(model: Any, config: RunConfig, resolved: dict[str, Any]) -> Any:
    """DeepSpeed's engine around the model.

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
            # DeepSpeed's wrapper has taken a step, with gradients of zero: Adam's bias correction must not see it.
            engine.optimizer.optimizer.state.clear()
    if hasattr(engine.optimizer, "loss_scaler"):
        # An overflow at the smallest loss scale is a skipped update like others, for bad_steps.py to count.
        engine.optimizer.loss_scaler.raise_error_at_min_scale = False
    return engine


def refuse_config(name: str, resolved: dict[str, Any]) -> None:
    """Raise a UserError with DeepSpeed's own words if it can't read the config that was made of the file `name`."""
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


def backward(engine: Any, loss: torch.Tensor) -> None:
    """Gradients of a micro-batch's loss, multiplied by the loss scale in fp16.

    `engine.backward` (DeepSpeed 0.19.8) multiplies by the scale for ZeRO's optimizers alone, though the optimizer of
    stage 0 divides the gradients by it all the same.
    """
    scaler = getattr(engine.optimizer, "loss_scale_config", None)
    engine.backward(loss if scaler is None else loss * scaler.cur_scale)


def weights_are_finite(engine: Any, rank: int) -> bool:
    """Whether the weights that the model computes with, or this rank's partition of them, hold no NaN or infinity."""
    weights = []
    for parameter in engine.module.parameters():
        if hasattr(parameter, "ds_tensor"):  # ZeRO 3; the last partition ends in padding, which may be anything
            partition = parameter.ds_tensor.flatten()
            parameter = partition[: max(0, parameter.ds_numel - rank * partition.numel())]
        if parameter.numel():
            weights.append(parameter.detach())
    return bool(torch.nn.utils.get_total_norm(weights, math.inf).isfinite())


def skip_bad_updates(optimizer: torch.optim.Optimizer) -> None:
    """Make a plain fused AdamW skip steps whose gradient is NaN or infinite, as ZeRO's optimizers do, without
    waiting for the GPU."""

    def look(optimizer: Any, args: Any, kwargs: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        optimizer.found_inf = (~torch.isfinite(norm)).float()

    optimizer.register_step_pre_hook(look)
