"""Make one DeepSpeed config of a file of ds_configs/ and a RunConfig.

The file owns ZeRO and offload. What RunConfig owns is "auto" there, and is filled in here; contiguous_gradients may be,
too. No other "auto" may be left: DeepSpeed replaces one that it doesn't know by a default without a word.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

from clinical_pretrain.config.run_config import NO_ZERO, RunConfig
from clinical_pretrain.resources import find_file
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import unique_keys

AUTO = "auto"
_SECTIONS = ("zero_optimization", "bf16", "fp16", "data_types")


def resolve(config: RunConfig, world_size: int) -> dict[str, Any]:
    """The config for `deepspeed.initialize`.

    Raises:
        UserError: the file is missing or damaged, disagrees with the run config, or leaves an "auto"; with all faults.
    """
    raw = load(config.deepspeed)
    owned = {
        "train_batch_size": config.batch.train_batch_size,
        "train_micro_batch_size_per_gpu": config.batch.micro_batch_size_per_gpu,
        "gradient_accumulation_steps": config.accumulation_steps(world_size),
        "gradient_clipping": config.optim.max_grad_norm,
        "bf16.enabled": config.precision == "bf16",
        "fp16.enabled": config.precision == "fp16",
    }
    zero = raw.get("zero_optimization", {})
    if zero.get("contiguous_gradients") == AUTO:
        zero["contiguous_gradients"] = world_size > 1 or _is_on_gpu()
    faults = [*_section_faults(raw, owned), *_fill_in(raw, owned)]
    raw.setdefault("steps_per_print", 1 << 31)
    faults += _value_faults(raw, config.precision)
    if faults:
        raise UserError(f"{config.deepspeed}: " + "; ".join(faults))
    # We bring torch's AdamW: DeepSpeed's own CPU optimizer would be compiled at start-up.
    raw.setdefault("zero_force_ds_cpu_optimizer", False)
    # It waits for the GPU twice a step, and our log has the speed.
    raw.setdefault("timers", {"throughput": {"enabled": False}})
    return raw


def _section_faults(raw: dict[str, Any], owned: dict[str, Any]) -> Iterator[str]:
    """Sections that aren't the file's business, and misspelt ones."""
    for key in ("optimizer", "scheduler"):
        if key in raw:
            yield f"{key}: learning rate and optimizer are set by optim.* in the run config; delete this section"
    # DeepSpeed has many rarer sections, and ignores those that it doesn't know: only what looks misspelt is refused.
    known = ["zero_optimization", "data_types", *(key.split(".")[0] for key in owned)]
    for key in sorted(raw.keys() - known):
        if near := difflib.get_close_matches(key, known, n=1, cutoff=0.8):
            yield f"unknown {key} (did you mean {near[0]}?)"


def _fill_in(raw: dict[str, Any], owned: dict[str, Any]) -> Iterator[str]:
    """Set what RunConfig owns. Yields where the file disagrees, or an "auto" is left."""
    for key, value in owned.items():
        section, name = _section(raw, key)
        given = section.get(name, AUTO)
        if given not in (AUTO, value):
            yield f'{key} is {json.dumps(given)} but the run config says {json.dumps(value)}; write "auto"'
        section[name] = value
    for key in _autos(raw):
        yield f'{key} is "auto", which nothing fills in'


def _value_faults(raw: dict[str, Any], precision: str) -> Iterator[str]:
    """Values that don't work, though DeepSpeed reads them or says so in no clear words."""
    stage = raw.get("zero_optimization", {}).get("stage", 0)
    if type(stage) is not int or stage not in (0, 1, 2, 3):
        yield f"zero_optimization.stage is {json.dumps(stage)}, must be 0, 1, 2 or 3"
    if raw.get("zero_optimization", {}).get("round_robin_gradients"):
        yield "zero_optimization.round_robin_gradients: such a run can't go on with other ranks; leave it out"
    accumulated = raw.get("data_types", {}).get("grad_accum_dtype")
    if stage in (0, 1) and accumulated not in (None, precision):
        # At stage 0 DeepSpeed refuses it; at stage 1 in bf16 it chooses an optimizer that makes NaN updates.
        yield f"data_types.grad_accum_dtype {json.dumps(accumulated)} needs zero_optimization.stage 2 or 3"
    steps = raw["steps_per_print"]
    if type(steps) is not int or steps < 1:
        yield f"steps_per_print is {json.dumps(steps)}, must be 1 or more"


def zero_stage(resolved: dict[str, Any]) -> int:
    """ZeRO stage of a resolved config."""
    return int(resolved.get("zero_optimization", {}).get("stage", 0))


def _is_on_gpu() -> bool:
    """Contiguous gradients keep a GPU's memory in one piece. A single rank on a CPU copies each gradient twice for
    nothing."""
    from clinical_pretrain.distributed import uses_gpu  # imports torch

    return uses_gpu()


def load(name: str) -> dict[str, Any]:
    """A file of ds_configs/ as it is, where it may say "auto"; `none` is stage 0.

    Raises:
        UserError: it is missing or damaged.
    """
    if name == NO_ZERO:
        return {"zero_optimization": {"stage": 0}}
    path = find_file(name)
    try:
        raw = json.loads(path.read_text(), object_pairs_hook=unique_keys)
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: not a JSON file ({error})") from None
    if not isinstance(raw, dict):
        raise UserError(f"{name}: a DeepSpeed config is a JSON object")
    if wrong := [key for key in _SECTIONS if not isinstance(raw.get(key, {}), dict)]:
        raise UserError(f'{name}: {", ".join(wrong)} must be a JSON object, such as {{"enabled": "auto"}}')
    return raw


def _section(raw: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The section of a dotted key, created if it is missing, and the key's name in it."""
    *path, name = key.split(".")
    for part in path:
        raw = raw.setdefault(part, {})
    return raw, name


def _autos(value: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys whose value is "auto"."""
    if value == AUTO:
        yield prefix
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _autos(inner, f"{prefix}.{key}" if prefix else key)
