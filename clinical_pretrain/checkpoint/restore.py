"""Load a checkpoint into DeepSpeed's engine."""

from __future__ import annotations

from typing import Any

import torch

from clinical_pretrain.checkpoint.state import RunState
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.distributed import Ranks
from clinical_pretrain.engine.build import make_engine
from clinical_pretrain.engine.deepspeed_config import zero_stage
from clinical_pretrain.engine.optim import torch_optimizer
from clinical_pretrain.engine.reshard import WEIGHT, StoredCheckpoint, load_into
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError


def restore_engine(
    model: Any, config: RunConfig, resolved: dict[str, Any], folder: RunFolder, state: RunState, ranks: Ranks
) -> Any:
    """Build the engine with the weights and optimizer state of a checkpoint, which may be of another number of ranks or
    ZeRO stage."""
    stage = zero_stage(resolved)
    if state.layout == (stage, ranks.world_size):
        engine = make_engine(model, config, resolved)
        load(folder, engine, state.step)
        return engine
    stored = StoredCheckpoint(folder.checkpoint(state.step), state.zero_stage, model)
    model.load_state_dict(stored.tensors(WEIGHT), strict=False)  # tied and frozen weights aren't among them
    engine = make_engine(model, config, resolved)
    load_into(engine, stored, ranks.rank, stage)
    return engine


def load(folder: RunFolder, engine: Any, step: int) -> None:
    """Load weights and optimizer state of a step's checkpoint into the engine, on all ranks."""
    checkpoint = folder.checkpoint(step)
    settings = [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]
    clip = getattr(engine.optimizer, "clip_grad", None)
    path, _ = engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    if path is None:
        raise UserError(
            f"{checkpoint}: DeepSpeed found nothing to load; delete this folder to resume from an earlier step"
        )
    _repair_optimizer(engine, settings)
    if clip is not None:
        engine.optimizer.clip_grad = clip


def _repair_optimizer(engine: Any, settings: list[dict[str, Any]]) -> None:
    """Restore the config's settings, which may have changed since the checkpoint; and undo two faults of DeepSpeed's
    stage 3 load with several parameter groups (0.19.8): every group gets the first one's settings, and all share one
    step counter, which then advances once per group."""
    for group, configured in zip(engine.optimizer.param_groups, settings, strict=True):
        group.update(configured)
    for state in torch_optimizer(engine).state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()
