"""Make AdamW with its parameter groups, and let it skip bad updates. The learning rate of a step: schedule.py."""

from __future__ import annotations

from typing import Any

import torch

from clinical_pretrain.config.optim import OptimConfig


def trained_parameters(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Trained parameters by name, in two groups: with weight decay, and without (biases, layer norms)."""
    trained = [(name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]
    return [dict(entry for entry in trained if (entry[1].ndim >= 2) is decayed) for decayed in (True, False)]


def make_optimizer(model: torch.nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW; biases and layer norms without weight decay, as in BERT and RoBERTa. Each step sets its rate."""
    decayed, others = trained_parameters(model)
    return torch.optim.AdamW(
        [
            {"params": list(decayed.values()), "weight_decay": config.weight_decay},
            {"params": list(others.values()), "weight_decay": 0.0},
        ],
        lr=0.0,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,  # also on a CPU, where ZeRO's offload updates the weights
    )


def skip_bad_updates(optimizer: torch.optim.Optimizer) -> None:
    """Make a plain fused AdamW skip updates whose gradient is NaN or infinite, as ZeRO's optimizers do, without waiting
    for the GPU.

    Relies on torch's protocol between GradScaler and fused optimizers: a step where the attribute `found_inf` isn't 0
    changes nothing.
    """

    def before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        optimizer.found_inf = (~torch.isfinite(norm)).float()

    optimizer.register_step_pre_hook(before_step)


def skipped_update(optimizer: Any) -> torch.Tensor | None:
    """A scalar bool, whether skip_bad_updates() made it skip the last step; None for other optimizers."""
    found_inf = getattr(optimizer, "found_inf", None)
    return None if found_inf is None else found_inf > 0
