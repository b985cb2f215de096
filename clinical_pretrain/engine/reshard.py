"""Load a checkpoint into an engine of another ZeRO stage or number of ranks: DeepSpeed's files are joined to whole fp32
tensors, of which each rank takes its part.

This is also the only place that knows the layout of DeepSpeed's checkpoint files. Stages 1 and 2 join the parameters of
a group end to end and cut the result into equal parts, one per rank; stage 3 cuts each parameter by itself.
(DeepSpeed's own universal checkpoints can't go between stages 2 and 3, nor into stage 0.)
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import torch

from clinical_pretrain.engine.deepspeed_internals import local_shards, loss_scaler, torch_optimizer
from clinical_pretrain.engine.optimizer import trained_parameters

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's moments, by torch's names."""
SCALER_STATE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""State of fp16's loss scaler, by DeepSpeed's names; stage 0 has no hysteresis."""


class StoredCheckpoint:
    """A checkpoint's trained weights in fp32 and Adam's state of them, by Hugging Face's names.

    DeepSpeed's files are pickles: read only checkpoints that you made yourself.

    Args:
        folder: the checkpoint.
        zero_stage: of the run that wrote it.
        model: one with the same parameters, frozen where that run's were frozen.
    """

    def __init__(self, folder: Path, zero_stage: int, model: torch.nn.Module) -> None:
        self.zero_stage = zero_stage
        model_file = f"{'zero_pp_rank_0_' if zero_stage == 3 else ''}mp_rank_00_model_states.pt"
        self._model = _read(folder / model_file)
        if zero_stage == 0:
            self._names = list(itertools.chain(*trained_parameters(model)))
        else:
            paths = sorted(folder.glob("*_optim_states.pt"), key=_rank_of)
            self._optimizers = [_read(path)["optimizer_state_dict"] for path in paths]

    @property
    def adam_step(self) -> float:
        """Number of updates that Adam has made."""
        return float(next(iter(self._adam_states(0).values()))["step"])

    @property
    def loss_scaler(self) -> dict[str, Any]:
        """State of fp16's dynamic loss scaler; empty where there is none."""
        found = self._model["optimizer"] if self.zero_stage == 0 else vars(self._optimizers[0]["loss_scaler"])
        is_dynamic = found.get("dynamic_loss_scale") or found.get("dynamic")
        return {name: found[name] for name in SCALER_STATE if name in found} if is_dynamic else {}

    def tensors(self, kind: str) -> dict[str, torch.Tensor]:
        """Every trained parameter's fp32 weight, `exp_avg` or `exp_avg_sq`, in its own shape."""
        if self.zero_stage == 0:
            return self._replicated(kind)
        return self._split_by_parameter(kind) if self.zero_stage == 3 else self._split_by_group(kind)

    def _replicated(self, kind: str) -> dict[str, torch.Tensor]:
        """Stage 0: every rank holds whole parameters."""
        if kind != WEIGHT:
            states = self._adam_states(0)
            return {name: states[number][kind] for number, name in enumerate(self._names)}
        if "fp32_groups" in self._model["optimizer"]:  # of a half precision
            return dict(zip(self._names, itertools.chain(*self._model["optimizer"]["fp32_groups"]), strict=True))
        return {name: self._model["module"][name] for name in self._names}

    def _split_by_group(self, kind: str) -> dict[str, torch.Tensor]:
        """Stages 1 and 2. In some precisions there is alignment padding after each parameter."""
        found = {}
        for group, shapes in enumerate(self._model["param_shapes"]):
            flat = torch.cat([self._flat(rank, group, kind) for rank in range(len(self._optimizers))])
            all_paddings = self._optimizers[0].get("param_alignment_paddings") or {group: [0] * len(shapes)}
            start = 0
            for (name, shape), padding in zip(shapes.items(), all_paddings[group], strict=True):
                found[name] = flat[start : start + shape.numel()].view(shape)
                start += shape.numel() + padding
        return found

    def _split_by_parameter(self, kind: str) -> dict[str, torch.Tensor]:
        """Stage 3: each rank's partitions of all parameters lie one after the other."""
        groups = range(len(self._optimizers[0]["fp32_flat_groups"]))
        ranks = range(len(self._optimizers))
        flats = [torch.cat([self._flat(rank, group, kind) for group in groups]) for rank in ranks]
        found, start = {}, 0
        for name, shape in itertools.chain(*(shapes.items() for shapes in self._model["param_shapes"])):
            size = math.ceil(shape.numel() / len(flats))
            whole = torch.cat([flat[start : start + size] for flat in flats])
            found[name] = whole[: shape.numel()].view(shape)
            start += size
        return found

    def _flat(self, rank: int, group: int, kind: str) -> torch.Tensor:
        """A rank's part of a group, flat, in fp32."""
        key = "fp32_flat_groups" if self.zero_stage == 3 else "single_partition_of_fp32_groups"
        flat = self._optimizers[rank][key][group] if kind == WEIGHT else self._adam_states(rank)[group][kind]
        return flat.detach().float().cpu().flatten()

    def _adam_states(self, rank: int) -> dict[int, dict[str, Any]]:
        if self.zero_stage == 0:
            optimizer = self._model["optimizer"]
            return dict(optimizer.get("optimizer_state_dict", optimizer)["state"])
        key = "optimizer_state_dict" if self.zero_stage == 3 else "base_optimizer_state"
        return dict(self._optimizers[rank][key]["state"])


def load_into(engine: Any, stored: StoredCheckpoint, rank: int, zero_stage: int) -> None:
    """Give a new engine the fp32 weights, Adam's state and the loss scale of a checkpoint of any stage and number of
    ranks.

    Args:
        engine: made of a model that already has `stored.tensors(WEIGHT)`: its half-precision copy is left as it is.
        stored: the checkpoint.
        rank: this one.
        zero_stage: of the engine.
    """
    optimizer = torch_optimizer(engine)
    with torch.no_grad():
        shards = list(local_shards(engine, rank, zero_stage))
        # Under ZeRO several parameters share one flat tensor, which has one state.
        for tensor in {id(shard.tensor): shard.tensor for _, shard in shards}.values():
            step = torch.tensor(stored.adam_step, dtype=torch.float32, device=tensor.device)
            optimizer.state[tensor] = {"step": step} | {kind: torch.zeros_like(tensor) for kind in MOMENTS}
        for kind in (WEIGHT, *MOMENTS):
            whole = stored.tensors(kind)
            for name, shard in shards:
                target = shard.tensor.data if kind == WEIGHT else optimizer.state[shard.tensor][kind]
                shard.fill(target, whole[name])
    scaler = loss_scaler(engine)
    for name, value in stored.loss_scaler.items():
        if hasattr(scaler, name):
            setattr(scaler, name, value)


def _read(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, map_location="cpu", mmap=True, weights_only=False))


def _rank_of(path: Path) -> int:
    return int(path.name.split("_pp_rank_")[1].split("_")[0])
