"""The state of a run at a step, which each checkpoint stores beside DeepSpeed's files.

Data order, masks and dropout are functions of the seed and of integers, so no random state needs to be saved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import read_json

FORMAT_VERSION = 4
"""Of state.json and manifest.json."""
STATE_NAME = "state.json"
PROBE_NAME = "probe.safetensors"
MANIFEST_NAME = "manifest.json"
LATEST_NAME = "latest"
"""Names the newest checkpoint's folder, as DeepSpeed's own file of that name does."""


@dataclass(frozen=True)
class RunState:
    """The state of a run at a step."""

    step: int
    samples_consumed: int
    world_size: int
    zero_stage: int
    precision: str
    shard_fingerprint: str
    samples_skipped: int = 0
    """Left out after roll-backs."""
    recent_losses: tuple[float, ...] = ()
    """The losses that a spike is measured against."""
    consecutive_bad_steps: int = 0
    """The number of steps since the last one with a finite loss and update."""
    consecutive_overflows: int = 0
    """The number of steps since the last one whose gradients did not overflow in fp16."""
    skipped_updates: int = 0
    """Total number of skipped updates."""
    zero_optimization: dict[str, Any] = field(default_factory=dict)
    """That section of DeepSpeed's config; empty in a checkpoint of an earlier version, which didn't write it."""
    format_version: int = FORMAT_VERSION

    def fits(self, world_size: int, zero_stage: int, zero_optimization: dict[str, Any]) -> bool:
        """Whether an engine of so many ranks with these settings partitions its tensors as the checkpoint's did. Any of
        the settings may count (sub_group_size does)."""
        is_alike = self.zero_optimization in ({}, zero_optimization)
        return is_alike and (self.zero_stage, self.world_size) == (zero_stage, world_size)


def read_state(folder: RunFolder, step: int) -> RunState:
    """Read the state of a step's checkpoint.

    Raises:
        UserError: there is no such checkpoint, or it is of another format version.
    """
    if not (folder.checkpoint(step) / STATE_NAME).exists():
        raise no_checkpoint(folder, step)
    return read_state_of(folder.checkpoint(step))


def read_state_of(checkpoint: Path) -> RunState:
    """Read the state in a checkpoint's folder.

    Raises:
        UserError: it is damaged, or of another format version.
    """
    return RunState(**read_json(checkpoint / STATE_NAME, FORMAT_VERSION, "choose another step or --run_dir"))


def no_checkpoint(folder: RunFolder, step: int) -> UserError:
    """The error for a step without a checkpoint."""
    steps = ", ".join(map(str, folder.saved_steps())) or "none"
    return UserError(f"{folder}: no checkpoint of step {step}; there are: {steps}")
