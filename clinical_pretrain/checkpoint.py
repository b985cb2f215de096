"""What a run goes on from: DeepSpeed's files of weights and optimizer, and RunState, written last.

`checkpoints/step-N/` counts as whole once its `state.json` is there. Data order, masks and dropout are functions of
the seed and of integers, so no random state needs to be saved.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from clinical_pretrain.distributed import Ranks
from tokenizer_tools.manifest import UserError, write_json

FORMAT_VERSION = 1
STATE_NAME = "state.json"
PROBE_NAME = "probe.safetensors"


@dataclass(frozen=True)
class RunState:
    """Where a run stands."""

    step: int
    samples_consumed: int
    world_size: int
    zero_stage: int
    precision: str
    shard_fingerprint: str
    format_version: int = FORMAT_VERSION


def folder_of(run_dir: Path, step: int) -> Path:
    """A step's checkpoint."""
    return run_dir / "checkpoints" / f"step-{step}"


def whole_steps(run_dir: Path) -> list[int]:
    """Steps with a whole checkpoint, ascending."""
    names = (path.parent.name for path in (run_dir / "checkpoints").glob(f"step-*/{STATE_NAME}"))
    return sorted(int(name.removeprefix("step-")) for name in names)


def read_state(run_dir: Path, step: int) -> RunState:
    """A checkpoint's RunState.

    Raises:
        UserError: there is no such checkpoint, or it's of another format.
    """
    path = folder_of(run_dir, step) / STATE_NAME
    if not path.exists():
        steps = ", ".join(map(str, whole_steps(run_dir))) or "none"
        raise UserError(f"{run_dir}: no checkpoint of step {step}; there are: {steps}")
    raw = json.loads(path.read_text())
    if raw.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path}: format_version {raw.get('format_version')}, but this reads {FORMAT_VERSION}")
    return RunState(**raw)


def save(run_dir: Path, engine: Any, state: RunState, probe: dict[str, torch.Tensor], keep: int, ranks: Ranks) -> None:
    """Save on all ranks, then delete the oldest beyond `keep`.

    Args:
        run_dir: the run folder.
        engine: DeepSpeed's.
        state: where the run stands.
        probe: the model's own answers to a fixed question, for the export to compare with.
        keep: so many checkpoints stay; 0: all.
        ranks: all of them.
    """
    folder = folder_of(run_dir, state.step)
    if ranks.is_first and folder.exists():
        shutil.rmtree(folder)  # left by a run that died while saving
    ranks.barrier()
    engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)
    ranks.barrier()
    if ranks.is_first:
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in probe.items()}, folder / PROBE_NAME)
        write_json(folder / STATE_NAME, asdict(state))
        if keep:
            for step in whole_steps(run_dir)[:-keep]:
                old = folder_of(run_dir, step)
                (old / STATE_NAME).unlink()  # first: half a checkpoint must not look whole
                shutil.rmtree(old)
    ranks.barrier()


def load(run_dir: Path, engine: Any, step: int) -> None:
    """Put weights and optimizer state of a step's checkpoint into the engine, on all ranks."""
    folder = folder_of(run_dir, step)
    decays = [group["weight_decay"] for group in engine.optimizer.param_groups]
    path, _ = engine.load_checkpoint(str(folder.parent), tag=folder.name)
    if path is None:
        raise UserError(f"{folder}: DeepSpeed found nothing to load; delete this folder to go on from an earlier step")
    _mend_optimizer(engine, decays)


def _mend_optimizer(engine: Any, weight_decays: list[float]) -> None:
    """Undo two faults of DeepSpeed's stage 3 load with several parameter groups (0.19.8): every group gets the first
    one's settings, and all share one step counter, which then advances once per group."""
    for group, decay in zip(engine.optimizer.param_groups, weight_decays, strict=True):
        group["weight_decay"] = decay
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for state in inner.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()
