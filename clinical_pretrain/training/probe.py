"""What `clinical-pretrain doctor` must ask torch: a process for each rank, started as a training's ranks are.

`python -m clinical_pretrain.training.probe FOLDER` writes FOLDER/local-RANK.json, with what it finds alone. When
FOLDER/go is there, the ranks meet, exchange data, and write FOLDER/ranks-RANK.json. FOLDER/config.yaml is the run's
config, if there is one. With `--launcher OPTIONS`, a JSON list, it starts the ranks of this machine instead.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from clinical_pretrain.config.command_line import load_config
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.slurm_environment import rank_variables
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import write_json

SIZES = (4 << 10, 1 << 20, 64 << 20)
"""Bytes of the tensors that are summed over all ranks. DeepSpeed sums gradients in buckets of up to 100 MB."""
ROUNDS = 3
GO_SECONDS = 300
"""How long to wait for FOLDER/go."""


def main() -> int:
    """Start the ranks, or be one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--launcher", type=json.loads)
    parser.add_argument("--local_rank")
    args = parser.parse_args()
    if args.launcher is not None:
        from clinical_pretrain.engine.launcher import launch

        launch("clinical_pretrain.training.probe", args.launcher, [str(args.folder)])
        return 0
    rank = (rank_variables() | dict(os.environ)).get("RANK", "0")
    write_json(args.folder / f"local-{rank}.json", ask_alone(args.folder))
    deadline = time.monotonic() + GO_SECONDS
    while not (args.folder / "go").exists():
        if time.monotonic() > deadline:
            return 1
        time.sleep(0.1)
    write_json(args.folder / f"ranks-{rank}.json", ask_together())
    return 0


def ask_alone(folder: Path) -> dict[str, Any]:
    """What a rank finds without the others.

    Returns:
        world_size; torch, cuda and nccl, their versions; devices, the name and memory_gb of each GPU; uses_gpu;
        cuda_error, CUDA's own words where there is none; foreign_libraries, see below; and what ask_for_run() finds.
    """
    import torch

    from clinical_pretrain.distributed import read_environment, uses_gpu

    read_environment()
    cuda_error = None
    if torch.version.cuda and not torch.cuda.is_available():
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            cuda_error = " ".join(str(error).split())
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    found: dict[str, Any] = {
        "world_size": int(os.environ["WORLD_SIZE"]),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if gpus and torch.version.cuda else None,
        "devices": [{"name": gpu.name, "memory_gb": round(gpu.total_memory / 1e9, 1)} for gpu in gpus],
        "uses_gpu": uses_gpu(),
        "cuda_error": cuda_error,
        "foreign_libraries": foreign_libraries(),
        "compiler_error": "unused",
        "checkpoint_bytes": None,
        "faults": {},
    }
    file = folder / "config.yaml"
    return found | ask_for_run(load_config(["--config", str(file)])[0] if file.exists() else None)


def ask_for_run(config: RunConfig | None) -> dict[str, Any]:
    """What training checks before its ranks meet.

    Returns:
        faults: what it would refuse, by the name of a check. checkpoint_bytes. compiler_error: None where torch.compile
        works, "unused" where the run doesn't compile.
    """
    from clinical_pretrain.distributed import check_gpu, own_device, uses_gpu
    from clinical_pretrain.engine.deepspeed_config import resolve, zero_stage
    from clinical_pretrain.models.build import compiles
    from clinical_pretrain.training.setup import check_hardware

    faults: dict[str, str] = {}
    try:
        if config is not None:
            check_hardware(config)
        elif uses_gpu():
            check_gpu(own_device(int(os.environ["LOCAL_RANK"])))
    except UserError as error:
        faults["GPUs"] = str(error)
    if config is None:
        return {"faults": faults}
    found: dict[str, Any] = {"faults": faults}
    with suppress(UserError):  # the DeepSpeed file's: the process that has started this one finds it, too
        stage = zero_stage(resolve(config, int(os.environ["WORLD_SIZE"])))
        if compiles(config, stage) and os.environ["LOCAL_RANK"] == "0":
            found["compiler_error"] = compile_something()
    try:
        found["checkpoint_bytes"] = ask_size(config)
    except UserError as error:
        faults["base model"] = str(error)
    return found


def ask_size(config: RunConfig) -> int | None:
    """Bytes of a checkpoint. Builds the model, without memory for its weights. None without shards, a fault that the
    process that has started this one finds, too.

    Raises:
        UserError: the base model isn't there, or doesn't fit the shards.
    """
    import torch

    from clinical_pretrain.checkpoint.pending_save import size_of_checkpoint
    from clinical_pretrain.models.base_model import fitting_model_config
    from clinical_pretrain.models.build import freeze_unused
    from clinical_pretrain.models.families import family_of
    from clinical_pretrain.training.preflight import load_shards

    try:
        manifest = load_shards(Path(config.data.shards))
    except UserError:
        return None
    model_config = fitting_model_config(config, manifest)
    with torch.device("meta"):
        model = family_of(model_config).model_class(model_config)
    freeze_unused(model, config)
    return size_of_checkpoint(model if config.precision == "fp32" else model.half())


def compile_something() -> str | None:
    """Compile a small function for this rank's device, without the caches of earlier compilations. Returns what failed,
    in a line."""
    import torch

    from clinical_pretrain.distributed import own_device

    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": cache}
        try:
            values = torch.arange(64.0, device=own_device(int(os.environ["LOCAL_RANK"])))
            torch.compile(lambda x: x * 2 + 1)(values)
        except Exception as error:  # torch raises many kinds
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return (lines or [type(error).__name__])[0][:300]
    return None


def foreign_libraries() -> list[str]:
    """Libraries that this process has loaded from a folder of LD_LIBRARY_PATH."""
    folders = [name for name in os.environ.get("LD_LIBRARY_PATH", "").split(":") if name]
    folders = [str(Path(name).resolve()) for name in folders]
    mapped = {line.split(maxsplit=5)[-1].strip() for line in Path("/proc/self/maps").read_text().splitlines()}
    return sorted(path for path in mapped if ".so" in path and str(Path(path).parent) in folders)


def ask_together() -> dict[str, Any]:
    """Meet the other ranks as a training does, and sum tensors of several sizes over all of them.

    Returns:
        world_size; backend; all_reduce: for each size its bytes, seconds (median), and gb_per_second, NCCL's bus
        bandwidth: 2 (n - 1) / n times the bytes over the seconds; wrong: whether a sum was wrong.
    """
    import torch
    import torch.distributed as dist

    from clinical_pretrain.distributed import initialise, shut_down

    ranks = initialise(step_timeout_seconds=1)
    results, wrong = [], False
    for count in SIZES if ranks.world_size > 1 else ():
        seconds = []
        for _ in range(1 + ROUNDS):
            values = torch.full((count // 4,), float(ranks.rank + 1), device=ranks.device)
            wait_for_gpu = torch.cuda.synchronize if ranks.device.type == "cuda" else lambda: None
            wait_for_gpu()
            ranks.barrier()
            began = time.perf_counter()
            dist.all_reduce(values)
            wait_for_gpu()
            seconds.append(time.perf_counter() - began)
            expected = ranks.world_size * (ranks.world_size + 1) / 2
            wrong = wrong or not bool((values == expected).all())
        median = statistics.median(seconds[1:])
        moved = 2 * (ranks.world_size - 1) / ranks.world_size * count
        results.append({"bytes": count, "seconds": median, "gb_per_second": moved / median / 1e9})
    found = {
        "world_size": ranks.world_size,
        "backend": dist.get_backend(),
        "all_reduce": results,
        "wrong": ranks.any(wrong),
    }
    with suppress(RuntimeError):
        shut_down()
    return found


if __name__ == "__main__":
    sys.exit(main())
