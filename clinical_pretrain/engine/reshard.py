"""Between ZeRO stages and numbers of ranks: DeepSpeed's files put together to whole fp32 tensors, and these taken apart
again for whoever goes on.

DeepSpeed cuts parameters, in the order of the optimizer's groups, into one piece per rank: stages 1 and 2 a whole
group, end to end, into equal parts; stage 3 each parameter by itself. (Its own universal checkpoints can't go between
stages 2 and 3, nor into stage 0.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clinical_pretrain.engine.deepspeed_internals import Fragment, fragment, loss_scaler, torch_optimizer
from clinical_pretrain.engine.optim import trained_parameters

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's, by torch's names."""
SCALER_STATE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""Of fp16's loss scaler, by DeepSpeed's names; stage 0 has no hysteresis."""


class StoredCheckpoint:
    """A checkpoint's trained weights in fp32 and Adam's state of them, by Hugging Face's names.

    DeepSpeed's files are pickles: read only checkpoints that you made yourself.

    Args:
        folder: the checkpoint.
        zero_stage: of the run that wrote it.
        model: any with the same parameters, frozen where that run's were frozen.
    """

    def __init__(self, folder: Path, zero_stage: int, model: torch.nn.Module) -> None:
        self.zero_stage = zero_stage
        model_file = f"{'zero_pp_rank_0_' if zero_stage == 3 else ''}mp_rank_00_model_states.pt"
        self._model = _read(folder / model_file)
        if zero_stage == 0:
            self._names = list(itertools.chain(*trained_parameters(model)))
        else:
            paths = sorted(folder.glob("*_optim_states.pt"), key=_rank_of)
            self._parts = [_read(path)["optimizer_state_dict"] for path in paths]

    @property
    def adam_step(self) -> float:
        """How many updates Adam has made."""
        return float(next(iter(self._adam_states(0).values()))["step"])

    @property
    def loss_scaler(self) -> dict[str, Any]:
        """What fp16's dynamic loss scaler has come to; empty where there is none."""
        found = self._model["optimizer"] if self.zero_stage == 0 else vars(self._parts[0]["loss_scaler"])
        is_dynamic = found.get("dynamic_loss_scale") or found.get("dynamic")
        return {name: found[name] for name in SCALER_STATE if name in found} if is_dynamic else {}

    def tensors(self, kind: str) -> dict[str, torch.Tensor]:
        """Every trained parameter's fp32 weight, `exp_avg` or `exp_avg_sq`, in its own shape."""
        if self.zero_stage == 0:
            return self._replicated(kind)
        return self._split_by_parameter(kind) if self.zero_stage == 3 else self._split_by_group(kind)

    def _replicated(self, kind: str) -> dict[str, torch.Tensor]:
        if kind != WEIGHT:
            states = self._adam_states(0)
            return {name: states[number][kind] for number, name in enumerate(self._names)}
        if "fp32_groups" in self._model["optimizer"]:  # of a half precision
            return dict(zip(self._names, itertools.chain(*self._model["optimizer"]["fp32_groups"]), strict=True))
        return {name: self._model["module"][name] for name in self._names}

    def _split_by_group(self, kind: str) -> dict[str, torch.Tensor]:
        found = {}
        for group, shapes in enumerate(self._model["param_shapes"]):
            flat = torch.cat([self._flat(rank, group, kind) for rank in range(len(self._parts))])
            gaps = (self._parts[0].get("param_alignment_paddings") or {group: [0] * len(shapes)})[group]
            start = 0
            for (name, shape), gap in zip(shapes.items(), gaps, strict=True):
                found[name] = flat[start : start + shape.numel()].view(shape)
                start += shape.numel() + gap
        return found

    def _split_by_parameter(self, kind: str) -> dict[str, torch.Tensor]:
        groups = range(len(self._parts[0]["fp32_flat_groups"]))
        ranks = range(len(self._parts))
        flats = [torch.cat([self._flat(rank, group, kind) for group in groups]) for rank in ranks]
        found, start = {}, 0
        for name, shape in itertools.chain(*(shapes.items() for shapes in self._model["param_shapes"])):
            size = math.ceil(shape.numel() / len(flats))
            whole = torch.cat([flat[start : start + size] for flat in flats])
            found[name] = whole[: shape.numel()].view(shape)
            start += size
        return found

    def _flat(self, rank: int, group: int, kind: str) -> torch.Tensor:
        """A rank's shard of a group."""
        key = "fp32_flat_groups" if self.zero_stage == 3 else "single_partition_of_fp32_groups"
        shard = self._parts[rank][key][group] if kind == WEIGHT else self._adam_states(rank)[group][kind]
        return shard.detach().float().cpu().flatten()

    def _adam_states(self, rank: int) -> dict[int, dict[str, Any]]:
        if self.zero_stage == 0:
            optimizer = self._model["optimizer"]
            return dict(optimizer.get("optimizer_state_dict", optimizer)["state"])
        key = "optimizer_state_dict" if self.zero_stage == 3 else "base_optimizer_state"
        return dict(self._parts[rank][key]["state"])


@dataclass(frozen=True)
class Shard:
    """The part of a parameter that this rank's optimizer updates."""

    name: str
    fragment: Fragment

    @property
    def tensor(self) -> torch.Tensor:
        """The optimizer's own, flat or of the parameter's shape."""
        return self.fragment.tensor

    def fill(self, tensor: torch.Tensor, whole: torch.Tensor) -> None:
        """Copy this part of a whole parameter's values into a tensor that is laid out as the optimizer's own."""
        start, size, _, offset = self.fragment
        tensor.view(-1)[offset : offset + size].copy_(whole.flatten()[start : start + size])


def local_shards(engine: Any, rank: int, zero_stage: int) -> Iterator[Shard]:
    """What this rank's optimizer holds of each trained parameter."""
    for names, group in zip(trained_parameters(engine.module), torch_optimizer(engine).param_groups, strict=True):
        if zero_stage == 0:
            for name, tensor in zip(names, group["params"], strict=True):
                yield Shard(name, Fragment(0, tensor.numel(), tensor, 0))
            continue
        for name, parameter in names.items():
            if found := fragment(engine, parameter, group["params"][0], rank, zero_stage):
                yield Shard(name, found)


def load_into(engine: Any, stored: StoredCheckpoint, rank: int, zero_stage: int) -> None:
    """Give a fresh engine a checkpoint's fp32 weights and Adam's state, of whatever stage and number of ranks.

    Args:
        engine: made of a model that has `stored.tensors(WEIGHT)`: its half-precision copy is left as it is.
        stored: the checkpoint.
        rank: this one.
        zero_stage: of the engine.
    """
    optimizer = torch_optimizer(engine)
    with torch.no_grad():
        mine = list(local_shards(engine, rank, zero_stage))
        for tensor in {id(shard.tensor): shard.tensor for shard in mine}.values():
            step = torch.tensor(stored.adam_step, dtype=torch.float32, device=tensor.device)
            optimizer.state[tensor] = {"step": step} | {kind: torch.zeros_like(tensor) for kind in MOMENTS}
        for kind in (WEIGHT, *MOMENTS):
            whole = stored.tensors(kind)
            for shard in mine:
                target = shard.tensor.data if kind == WEIGHT else optimizer.state[shard.tensor][kind]
                shard.fill(target, whole[shard.name])
    scaler = loss_scaler(engine)
    for name, value in stored.loss_scaler.items():
        if hasattr(scaler, name):
            setattr(scaler, name, value)


def _read(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, map_location="cpu", mmap=True, weights_only=False))


def _rank_of(path: Path) -> int:
    return int(path.name.split("_pp_rank_")[1].split("_")[0])
