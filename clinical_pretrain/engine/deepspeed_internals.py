"""What we rely on of DeepSpeed 0.19 beyond its documented interface. Each private or undocumented attribute is named
here and nowhere else; exceptions are the layout of its checkpoint files (reshard.py) and the build that distributed.py
leaves out. tests/unit/test_library_internals.py names what a new version has moved.

DeepSpeed's optimizers, by ZeRO stage: 0 in fp32, torch's own AdamW; 0 in half precision, FP16_UnfusedOptimizer or
BF16_Optimizer around it; 1 and 2, DeepSpeedZeroOptimizer; 3, DeepSpeedZeroOptimizer_Stage3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial, wraps
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from clinical_pretrain.engine.optimizer import skipped_update, trained_parameters

NORM_PIECE = 1 << 18
"""Elements of a gradient that are squared at a time on a CPU: 2 MB in fp64."""

# Optimizers and the loss scale --------------------------------------------------------------------------------------


def torch_optimizer(engine: Any) -> Any:
    """The AdamW within DeepSpeed's optimizer (its attribute `optimizer`), or that AdamW itself."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def forget_first_update(engine: Any) -> None:
    """Undo the update with gradients of zero that DeepSpeed's half-precision optimizers of stage 0 make in their
    constructor: Adam's bias correction must not count it."""
    engine.optimizer.optimizer.state.clear()


def skip_overflows_at_min_scale(engine: Any) -> None:
    """Treat an overflow at the smallest loss scale as a skipped update like others (`raise_error_at_min_scale` of a
    dynamic `loss_scaler`); a run counts these itself."""
    if hasattr(engine.optimizer, "loss_scaler"):
        engine.optimizer.loss_scaler.raise_error_at_min_scale = False


def find_overflows_by_norm(engine: Any) -> None:
    """Of ZeRO 1 and 2: find NaN and infinite gradients by their norm alone, which a step computes and checks as well.

    DeepSpeed looks for them before that, by 13 kernels for each parameter: in `check_overflow`, or for an offloaded
    optimizer in `update_offload_overflow_tracker`, which waits for each. Its `scaled_global_norm` takes two kernels for
    each parameter, and what follows makes a GPU wait seven times; on a CPU it copies each gradient to fp64. Ours takes
    ten kernels and waits once, or copies pieces that stay in the cache.
    """
    optimizer = engine.optimizer
    if not optimizer.compute_grad_norm:
        return
    optimizer.check_overflow = lambda partition_gradients=True: None
    optimizer.update_offload_overflow_tracker = lambda gradient: None
    if not optimizer.cpu_offload:
        optimizer.scaled_global_norm = partial(partitioned_norm, optimizer)


def partitioned_norm(optimizer: Any) -> torch.Tensor:
    """The norm of the gradients that ZeRO 1 and 2 have divided among the ranks (`averaged_gradients`, by group), as a
    scalar on the CPU: DeepSpeed clips by it without waiting for a GPU again."""
    gradients = [gradient for group in optimizer.averaged_gradients.values() for gradient in group]
    squares = square_sum_of_kernels(gradients) if gradients[0].is_cuda else square_sum_of_pieces(gradients)
    dist.all_reduce(squares, group=optimizer.dp_process_group)
    return squares.sqrt().cpu()


def square_sum_of_kernels(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The sum of all squares by a GPU, in fp32 and few kernels.

    Relies on torch's private _foreach_norm: get_total_norm() would compute in bf16. On a CPU it is no way: the sum of
    38 million squares one by one in fp32, those of the embeddings, is wrong in its third digit.
    """
    return torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float32)).square().sum()


def square_sum_of_pieces(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The sum of all squares by a CPU, in fp64 and by pieces that stay in its cache; as a scalar in fp32."""
    pieces = (piece for gradient in gradients for piece in gradient.flatten().split(NORM_PIECE))
    return torch.stack([piece.double().square_().sum() for piece in pieces]).sum().float()


def loss_scaler(engine: Any) -> Any:
    """The object that holds fp16's `cur_scale`: `loss_scale_config` at stage 0, else `loss_scaler`; None in other
    precisions."""
    optimizer = engine.optimizer
    return getattr(optimizer, "loss_scale_config", getattr(optimizer, "loss_scaler", None))


def loss_scale(engine: Any) -> float:
    """The present loss scale, 1.0 without fp16 (property `loss_scale` of all fp16 optimizers)."""
    return float(getattr(engine.optimizer, "loss_scale", 1.0))


def backward(engine: Any, loss: torch.Tensor) -> None:
    """Gradients of a micro-batch's loss, multiplied by the loss scale in fp16.

    `engine.backward` (DeepSpeed 0.19.8) multiplies by the scale for ZeRO's optimizers alone, though the optimizer of
    stage 0, known by its `loss_scale_config`, divides the gradients by it all the same.
    """
    scaler = getattr(engine.optimizer, "loss_scale_config", None)
    engine.backward(loss if scaler is None else loss * scaler.cur_scale)


def gradient_norm(engine: Any, scale: float, like: torch.Tensor) -> torch.Tensor:
    """The gradients' norm in the step just taken, before clipping: a scalar like `like`; infinite where the update was
    skipped, NaN where DeepSpeed doesn't say.

    Args:
        engine: DeepSpeed's.
        scale: loss scale of these gradients; the engine's may already be another.
        like: a scalar tensor.
    """
    optimizer, norm = engine.optimizer, engine.get_global_grad_norm()
    if getattr(optimizer, "overflow", False):
        norm = math.inf  # stage 3 still returns the norm of the step before
    elif hasattr(optimizer, "loss_scale_config"):
        norm = norm / scale  # stage 0 returns the norm of the scaled gradients
    if not isinstance(norm, torch.Tensor):
        norm = torch.full_like(like, math.nan if norm is None else norm)
    skipped = skipped_update(optimizer)
    return norm if skipped is None else torch.where(skipped, math.inf, norm)


# Partitioned parameters ---------------------------------------------------------------------------------------------


def parameter_count(model: torch.nn.Module, only_trained: bool = False) -> int:
    """Number of a model's parameters, or of those that aren't frozen; those that ZeRO 3 has partitioned by their whole
    size (`ds_numel`)."""
    counted = (p for p in model.parameters() if p.requires_grad or not only_trained)
    return sum(p.ds_numel if hasattr(p, "ds_numel") else p.numel() for p in counted)


def local_weights(model: torch.nn.Module, rank: int) -> Iterator[torch.Tensor]:
    """The weights that a model computes with, or under ZeRO 3 this rank's partition of them (`ds_tensor`), without the
    padding of the last partition, which may hold anything."""
    parameter: Any
    for parameter in model.parameters():
        weights = parameter.detach()
        if hasattr(parameter, "ds_tensor"):
            partition = parameter.ds_tensor.detach().flatten()
            weights = partition[: max(0, parameter.ds_numel - rank * partition.numel())]
        if weights.numel():
            yield weights


class Shard(NamedTuple):
    """The part of a parameter that this rank's optimizer updates."""

    start: int
    """Where in the flattened parameter it begins."""
    size: int
    tensor: torch.Tensor
    """The optimizer's own, in fp32: flat, or of the parameter's shape."""
    offset: int
    """Where in that tensor, flattened, it begins."""

    def fill(self, tensor: torch.Tensor, parameter: torch.Tensor) -> None:
        """Copy this part of a whole parameter's values into a tensor that is laid out as the optimizer's own."""
        values = parameter.flatten()[self.start : self.start + self.size]
        tensor.view(-1)[self.offset : self.offset + self.size].copy_(values)


def local_shards(engine: Any, rank: int, zero_stage: int) -> Iterator[tuple[str, Shard]]:
    """Names of the trained parameters that this rank's optimizer holds something of, and what it holds."""
    for names, group in zip(trained_parameters(engine.module), torch_optimizer(engine).param_groups, strict=True):
        if zero_stage == 0:
            for name, tensor in zip(names, group["params"], strict=True):
                yield name, Shard(0, tensor.numel(), tensor, 0)
            continue
        for name, parameter in names.items():
            if zero_stage == 3:
                shard = _stage_3_shard(engine.optimizer, parameter, rank)
            else:
                shard = _stage_1_or_2_shard(group["params"][0], parameter)
            if shard is not None:
                yield name, shard


def _stage_1_or_2_shard(flat: torch.Tensor, parameter: Any) -> Shard | None:
    """`flat`: this rank's partition of the parameter's group. `_hp_mapping` says where a parameter lies in it."""
    if (mapping := parameter._hp_mapping) is None:
        return None
    high, low = mapping.hp_fragment_address, mapping.lp_fragment_address
    return Shard(low.start, high.numel, flat, high.start)


def _stage_3_shard(optimizer: Any, parameter: Any, rank: int) -> Shard | None:
    """Every parameter is partitioned by itself; `grad_position` says where, in `fp32_partitioned_groups_flat`."""
    group, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
    start = size * rank
    size = min(size, parameter.ds_numel - start)  # the last partition ends in padding
    return Shard(start, size, optimizer.fp32_partitioned_groups_flat[group], offset) if size > 0 else None


# Checkpoints --------------------------------------------------------------------------------------------------------


def use_checkpoint_engine(engine: Any, checkpoint_engine: Any) -> None:
    """Let the engine write its files by another TorchCheckpointEngine, and without the script that it copies beside
    them (`_copy_recovery_script`): `export` does that work."""
    engine.checkpoint_engine = checkpoint_engine
    engine._copy_recovery_script = lambda folder: None


def load_checkpoint(engine: Any, checkpoint: Path) -> bool:
    """Load weights and optimizer state from a folder that the same ZeRO stage and number of ranks have written.

    The settings of the engine's optimizer and its clipping (`clip_grad`) are kept: the config may have changed since.
    This also undoes two faults of DeepSpeed's stage 3 with several parameter groups (0.19.8): every group gets the
    settings of the first one, and all share one step counter, which then advances once per group.

    Returns:
        Whether DeepSpeed found something to load.
    """
    optimizer = engine.optimizer
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    clip = getattr(optimizer, "clip_grad", None)
    path, _ = engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    if path is None:
        return False
    for group, configured in zip(optimizer.param_groups, settings, strict=True):
        group.update(configured)
    for state in torch_optimizer(engine).state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()
    if clip is not None:
        optimizer.clip_grad = clip
    return True


# Communication ------------------------------------------------------------------------------------------------------


def time_collectives(timed: Callable[[], AbstractContextManager[None]]) -> None:
    """Time what DeepSpeed's collectives take: each is called within `timed()`. They go through one object, `cdb`. Of
    those that run in the background only the call is timed."""
    import deepspeed.comm.comm as communication

    def within(collective: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(collective)
        def call(*arguments: Any, **named: Any) -> Any:
            with timed():
                return collective(*arguments, **named)

        return call

    backend = communication.cdb
    for name in ("all_gather", "all_gather_into_tensor", "all_reduce", "broadcast", "reduce", "reduce_scatter_tensor"):
        collective = getattr(backend, name)
        setattr(backend, name, within(getattr(collective, "__wrapped__", collective)))
