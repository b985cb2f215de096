"""How near plan's memory model comes to peaks that were measured, on CUDA's allocator without a GPU and on a CPU.

    benchmarks/gpu_dry_run.sh plan                  # the first two, an hour
    python benchmarks/plan.py gpu                   # peaks of SETTINGS in the dry run: results/plan_gpu.json
    python benchmarks/plan.py fit                   # the largest micro-batches that should fit: results/plan_fit.json
    python benchmarks/plan.py cpu                   # peaks of CPU_SETTINGS, five minutes: results/plan_cpu.json
    python benchmarks/plan.py compare               # peaks against the model

A setting is measured in a process of its own; those that the file already has are left as they are.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import DTYPES, REPOSITORY, base_config, facts, return_memory
from common import peak_memory as peak_memory_of

from clinical_pretrain.config.command_line import load_config
from clinical_pretrain.config.data import MaskingConfig, capacity
from clinical_pretrain.config.model import ModelConfig
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.estimate.activations import MicroBatch
from clinical_pretrain.estimate.cards import card_named
from clinical_pretrain.estimate.choice import CUDA_BYTES, KINDS, Conditions, largest_that_fits
from clinical_pretrain.estimate.memory import pass_memory, peak_memory
from clinical_pretrain.estimate.shapes import BIGBIRD_BASE, LONGFORMER_BASE, shape_of
from clinical_pretrain.estimate.speed import Network
from clinical_pretrain.estimate.zero import ZeroSettings
from clinical_pretrain.models.build import install_encoder
from clinical_pretrain.models.families import family_of
from clinical_pretrain.models.mlm_head import mean_loss
from tokenizer_tools.files import write_json

RESULTS = REPOSITORY / "benchmarks" / "results"
RUN = REPOSITORY / "benchmarks" / "gpu_dry_run" / "run.py"
MEMORY = REPOSITORY / "benchmarks" / "gpu_memory.py"


class Setting(NamedTuple):
    """What gpu_memory.py is asked for."""

    model: str
    capability: str
    precision: str
    activation_checkpointing: str
    zero_stage: int
    length: int
    rows: tuple[int, ...]
    """Sequences of a micro-batch, one after the other."""
    world_size: int = 1

    @property
    def name(self) -> str:
        """In result files."""
        return "_".join(str(part) for part in self if not isinstance(part, tuple))


SETTINGS = (
    Setting("longformer", "7.0", "fp16", "none", 1, 4096, (1, 3)),
    Setting("longformer", "7.0", "fp16", "none", 2, 4096, (3,), world_size=8),
    Setting("longformer", "7.0", "fp16", "full", 3, 4096, (3, 6)),
    Setting("longformer", "7.0", "fp16", "attention", 2, 16384, (1,)),
    Setting("bigbird", "7.0", "fp16", "none", 2, 16384, (1,)),
    Setting("bigbird", "7.0", "fp16", "full", 1, 4096, (2, 6)),
    Setting("bigbird", "7.0", "fp16", "attention", 3, 4096, (2,)),
    Setting("bigbird", "7.0", "fp16", "none", 3, 4096, (2,), world_size=8),
    Setting("longformer", "8.0", "bf16", "none", 1, 4096, (3, 9)),
    Setting("longformer", "8.0", "bf16", "full", 2, 4096, (6, 18)),
    Setting("longformer", "8.0", "bf16", "attention", 3, 4096, (3, 9)),
    Setting("longformer", "8.0", "fp16", "none", 2, 16384, (1, 2)),
    Setting("bigbird", "8.0", "bf16", "none", 3, 4096, (2,)),
    Setting("bigbird", "8.0", "bf16", "attention", 1, 4096, (2, 12)),
    Setting("bigbird", "8.0", "fp16", "full", 2, 16384, (1, 3)),
    Setting("bigbird", "8.0", "bf16", "none", 2, 4096, (6,), world_size=8),
    Setting("longformer", "9.0", "bf16", "none", 2, 4096, (3, 18, 54)),
    Setting("longformer", "9.0", "bf16", "attention", 2, 4096, (3, 18, 36)),
    Setting("longformer", "9.0", "bf16", "full", 1, 16384, (1, 4)),
    Setting("longformer", "9.0", "bf16", "none", 3, 16384, (1, 2)),
    Setting("longformer", "9.0", "bf16", "full", 3, 4096, (18,), world_size=8),
    Setting("longformer", "9.0", "bf16", "none", 1, 4096, (3,), world_size=8),
    Setting("bigbird", "9.0", "bf16", "none", 1, 4096, (2, 12, 36)),
    Setting("bigbird", "9.0", "bf16", "attention", 2, 16384, (1, 3)),
    Setting("bigbird", "9.0", "bf16", "full", 2, 4096, (12, 36)),
    Setting("bigbird", "9.0", "fp16", "none", 2, 16384, (1, 2)),
)


def dry_run(torch_folder: Path, setting: Setting, gigabytes: float | None = None) -> dict[str, Any] | None:
    """gpu_memory.py's result for a setting, in the dry run, on a card of this memory; None where it fails. What was
    compiled for another setting is forgotten, so that each is the first run of its kind."""
    for cache in ("inductor", "triton"):
        shutil.rmtree(torch_folder / f"{cache}-{setting.capability}", ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peaks.json"
        options = {
            "--model": setting.model,
            "--precision": setting.precision,
            "--activation-checkpointing": setting.activation_checkpointing,
            "--deepspeed": f"ds_configs/zero{setting.zero_stage}.json",
            "--length": setting.length,
            "--world-size": setting.world_size,
            "--compile": "off" if setting.capability == "7.0" else "auto",
            "--json": out,
        }
        command = [sys.executable, RUN, "--torch", torch_folder, "--capability", setting.capability, MEMORY]
        words = [word for option in options.items() for word in option]
        environment = {**os.environ, **({} if gigabytes is None else {"GPU_GIGABYTES": str(gigabytes)})}
        done = subprocess.run([str(word) for word in (*command, *words, "--rows", *setting.rows)], cwd=REPOSITORY,
                              env=environment, capture_output=True, text=True)  # fmt: skip
        if done.returncode:
            print(f"{setting.name}: {done.stderr.strip()[-300:]}", flush=True)
            return None
        found: dict[str, Any] = json.loads(out.read_text())
    return found


def begun(out: Path, what: str, of: str = "peaks") -> dict[str, Any]:
    """What a result file has so far."""
    if out.exists():
        found: dict[str, Any] = json.loads(out.read_text())
        return found
    where = {} if "CPU" in what else {"hardware": "no GPU: stand-ins for an sm_70, sm_80 and sm_90"}
    return {"what": what, **facts(), **where, of: []}


def measure_all(torch_folder: Path, out: Path) -> None:
    """All SETTINGS that a file doesn't have yet; it is written after each."""
    result = begun(out, "peaks of CUDA's allocator in two training steps")
    done = {peak["name"] for peak in result["peaks"]}
    for setting in sorted(SETTINGS, key=lambda setting: setting.world_size):
        if setting.name not in done:
            print("==", setting.name, flush=True)
            if found := dry_run(torch_folder, setting):
                kept = {name: found[name] for name in ("attention", "compiled", "peak_bytes_by_rows")}
                result["peaks"].append({"name": setting.name, **setting._asdict(), **kept})
            write_json(out, result)


FITS = (
    ("longformer", "v100-16gb", "fp16", "none", 2),
    ("longformer", "v100-16gb", "fp16", "attention", 1),
    ("bigbird", "v100-16gb", "fp16", "none", 2),
    ("bigbird", "v100-32gb", "fp16", "full", 2),
    ("longformer", "a100-40gb", "bf16", "none", 2),
    ("bigbird", "a100-40gb", "bf16", "attention", 2),
    ("longformer", "h100-80gb", "bf16", "none", 1),
    ("longformer", "v100-32gb", "fp16", "full", 1),
    ("bigbird", "h100-80gb", "bf16", "none", 2),
)
"""Model, card, precision, activation checkpointing and ZeRO stage: the largest micro-batch that should fit is tried."""


def try_fits(torch_folder: Path, out: Path) -> None:
    """The largest micro-batch that fits by the estimate, on a card of the memory that CUDA leaves of it."""
    result = begun(out, "whether the largest micro-batches that should fit do, on cards of that memory", "runs")
    done = {run["name"] for run in result["runs"]}
    for model, gpu, precision, kind, stage in FITS:
        card, name = card_named(gpu), "_".join(map(str, (model, gpu, precision, kind, stage)))
        if name in done:
            continue
        config, _ = load_config(["--config", f"configs/clinical_{model}.yaml", "--precision", precision])
        given = Conditions(config, shape_of(config.model, 4096), 4096, card, 1, Network())
        sequences = largest_that_fits(given, zero_settings(stage), kind)
        setting = Setting(model, str(card.capability), precision, kind, stage, 4096, (sequences,))
        print("==", name, sequences, flush=True)
        found = dry_run(torch_folder, setting, (card.memory_bytes - CUDA_BYTES) / 1e9)
        result["runs"].append({
            "name": name, "model": model, "card": gpu, "precision": precision, "activation_checkpointing": kind,
            "zero_stage": stage, "sequences": sequences, "gigabytes": round(card.memory_bytes / 1e9, 2),
            "trained": found is not None,
            "peak_bytes": found["peak_bytes_by_rows"][str(sequences)] if found else None,
        })  # fmt: skip
        write_json(out, result)


def zero_settings(stage: int) -> ZeroSettings:
    """Of a file of ds_configs/."""
    return ZeroSettings.of(json.loads((REPOSITORY / f"ds_configs/zero{stage}.json").read_text()))


class Peak(NamedTuple):
    """A peak that was measured, and what the model says."""

    setting: str
    measured: int
    reserved: int
    """What torch's allocator asked the GPU for."""
    predicted: int
    phase: str

    @property
    def error(self) -> float:
        """Of the model, as a share of the peak."""
        return self.predicted / self.measured - 1


def gpu_peaks(result: dict[str, Any]) -> Iterator[Peak]:
    """Each peak of plan_gpu.json, with the model's."""
    for found in result["peaks"]:
        base = LONGFORMER_BASE if found["model"] == "longformer" else BIGBIRD_BASE
        length = found["length"]
        model = replace(base, max_position_embeddings=length + base.first_position())
        zero = zero_settings(found["zero_stage"])
        for rows, peak in found["peak_bytes_by_rows"].items():
            count = int(rows)
            batch = MicroBatch(
                model,
                length,
                count,
                capacity(length * count, MaskingConfig()),
                found["precision"],
                found["attention"],
                found["compiled"],
                found["activation_checkpointing"],
            )
            memory = peak_memory(batch, zero, found["world_size"], 2, float(found["capability"]))
            name = f"{found['name']} {count}"
            yield Peak(name, peak["allocated"], peak["reserved"], memory.peak_bytes, memory.phase)


class CpuSetting(NamedTuple):
    """A forward and backward pass on a CPU: base size with fewer layers, no dropout."""

    model: str
    layers: int
    precision: str
    activation_checkpointing: str
    length: int = 4096

    @property
    def name(self) -> str:
        """In result files."""
        return "_".join(map(str, self))


CPU_SETTINGS = [
    CpuSetting(model, 3, precision, kind)
    for model in ("longformer", "bigbird")
    for precision in ("fp32", "bf16")
    for kind in KINDS
]
CPU_SETTINGS += [CpuSetting(model, 1, "bf16", "none", 16384) for model in ("longformer", "bigbird")]


def cpu_peak(setting: CpuSetting) -> dict[str, Any]:
    """Resident memory of a pass above what is held before it, in bytes, after another pass."""
    return_memory()  # before the first tensor, as holes in the heap, which differ by process, would be counted
    config: Any = base_config(setting.model, setting.layers, setting.length)
    family = family_of(config)
    model = family.model_class(config).to(DTYPES[setting.precision])
    settings = RunConfig(
        model=ModelConfig(family=family.name),  # type: ignore[arg-type]
        precision=setting.precision,  # type: ignore[arg-type]
        activation_checkpointing=setting.activation_checkpointing,  # type: ignore[arg-type]
    )
    install_encoder(model, settings, zero_stage=1)
    model.train()
    predicted = capacity(setting.length, MaskingConfig())

    def one_pass(length: int) -> None:
        ids, labels = torch.randint(110, 50000, (1, length)), torch.full((predicted,), 7)
        positions = torch.arange(predicted) % length
        losses, _ = model(ids, torch.ones_like(ids), positions, labels, max_documents=1)
        mean_loss(losses, labels).backward()

    one_pass(1024)  # what is made once
    model.zero_grad()
    return {"peak_bytes": peak_memory_of(partial(one_pass, setting.length)), "predicted": predicted}


def measure_on_cpu(out: Path) -> None:
    """All CPU_SETTINGS that a file doesn't have yet, each in a process of its own."""
    result = begun(out, "peaks of a forward and backward pass on a CPU")
    done = {peak["name"] for peak in result["peaks"]}
    spawn = multiprocessing.get_context("spawn")
    for setting in CPU_SETTINGS:
        if setting.name not in done:
            print("==", setting.name, flush=True)
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                found = pool.submit(cpu_peak, setting).result()
            result["peaks"].append({"name": setting.name, **setting._asdict(), **found})
            write_json(out, result)


def cpu_peaks(result: dict[str, Any]) -> Iterator[Peak]:
    """Each peak of plan_cpu.json, with the model's."""
    for found in result["peaks"]:
        base, length = (LONGFORMER_BASE if found["model"] == "longformer" else BIGBIRD_BASE), found["length"]
        model = replace(
            base,
            num_hidden_layers=found["layers"],
            max_position_embeddings=length + base.first_position(),
            hidden_dropout=0.0,
        )
        kind, precision = found["activation_checkpointing"], found["precision"]
        batch = MicroBatch(model, length, 1, found["predicted"], precision, "blocked", False, kind, on_cpu=True)
        memory = pass_memory(batch)
        yield Peak(found["name"], found["peak_bytes"], 0, memory.peak_bytes, memory.phase)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["gpu", "fit", "cpu", "compare"])
    parser.add_argument("--torch", type=Path, default=Path("build/cuda"), help="folder with CUDA's build of torch")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of plan_gpu.json and plan_cpu.json")
    args = parser.parse_args()
    on_gpu, on_cpu = args.results / "plan_gpu.json", args.results / "plan_cpu.json"
    if args.part == "gpu":
        measure_all(args.torch.resolve(), on_gpu)
    if args.part == "fit":
        try_fits(args.torch.resolve(), args.results / "plan_fit.json")
    if args.part == "cpu":
        measure_on_cpu(on_cpu)
    for part, peaks_of in (("gpu", gpu_peaks), ("cpu", cpu_peaks)):
        if (args.results / f"plan_{part}.json").exists():
            compare(args.results, part, peaks_of)


def compare(results: Path, part: str, peaks_of: Callable[[dict[str, Any]], Iterator[Peak]]) -> None:
    """Print measured and estimated peaks, and write them."""
    measured = json.loads((results / f"plan_{part}.json").read_text())
    found = list(peaks_of(measured))
    for peak in found:
        print(f"{peak.setting:55s} {peak.measured / 1e9:8.3f} {peak.predicted / 1e9:8.3f} {peak.error:+6.1%} "
              f"{peak.reserved / 1e9:8.3f} {peak.phase}")  # fmt: skip
    rows = [{**peak._asdict(), "error": round(peak.error, 4)} for peak in found]
    of = {name: measured[name] for name in ("hardware", "versions")}
    result = {"what": "estimated peaks of memory against measured ones", **facts(), **of, "peaks": rows}
    write_json(results / f"plan_compared_{part}.json", result)


if __name__ == "__main__":
    main()
