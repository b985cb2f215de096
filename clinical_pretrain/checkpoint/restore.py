"""Load a checkpoint into DeepSpeed's engine."""

from __future__ import annotations

from typing import Any

from clinical_pretrain.checkpoint.state import RunState
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.distributed import Ranks
from clinical_pretrain.engine.build import make_engine
from clinical_pretrain.engine.deepspeed_config import zero_stage
from clinical_pretrain.engine.deepspeed_internals import load_checkpoint
from clinical_pretrain.engine.reshard import WEIGHT, StoredCheckpoint, load_into
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError


def restore_engine(
    model: Any, config: RunConfig, resolved: dict[str, Any], folder: RunFolder, state: RunState, ranks: Ranks
) -> Any:
    """Build the engine with the weights and optimizer state of a checkpoint, which may be of another number of ranks,
    ZeRO stage or settings of it."""
    stage = zero_stage(resolved)
    if state.fits(ranks.world_size, stage, resolved.get("zero_optimization", {})):
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
    if not load_checkpoint(engine, checkpoint):
        raise UserError(
            f"{checkpoint}: DeepSpeed found nothing to load; delete this folder to resume from an earlier step"
        )
