"""A whole training step, ours against stock Hugging Face, in turn on the same machine and masked sequences.

    python benchmarks/train_step.py --model longformer --layers 12 --sequence-length 4096 --precision fp32 --json FILE

A step is forward pass, backward pass and fused AdamW, at base size with random weights. Hugging Face's side is the
masked-LM model as run_mlm.py uses it: its own attention, logits and loss at every position. Memory is the peak of
forward and backward pass above the level before them (gradients count, weights and optimizer state don't), on a CPU
measured in a process of its own for each side.

--part head or attention replaces only one of the two; --parts measures head, attention and all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import DTYPES, base_config, device, facts, pairs, peak_memory, stock_model, timed

from clinical_pretrain.config.model import AttentionConfig, ModelConfig
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.data.collator import capacity
from clinical_pretrain.models.build import install_encoder
from clinical_pretrain.models.families import family_of
from clinical_pretrain.models.flops import peak_flops, training_flops_per_token
from clinical_pretrain.models.mlm_head import IGNORED, mean_loss
from tokenizer_tools.files import write_json

Step = Callable[[], float]
MASK_SHARE = 0.15


class Sides:
    """Both models with the same weights, and the same batch for both."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, device()
        self.config = base_config(args.model, args.layers, args.sequence_length, args.dropout)
        generator = torch.Generator().manual_seed(0)
        shape = (args.micro_batch, args.sequence_length)
        ids = torch.randint(110, 50000, shape, generator=generator)
        chosen = torch.rand(shape, generator=generator) < MASK_SHARE
        self.predicted = int(chosen.sum())
        self.positions = chosen.flatten().nonzero().flatten()
        self.labels = ids.flatten()[self.positions]
        self.all_labels = torch.where(chosen, ids, IGNORED)
        if self.device.type == "cuda":  # one shape for all batches, as in training
            missing = capacity(ids.numel(), RunConfig().masking) - len(self.positions)
            self.positions = torch.nn.functional.pad(self.positions, (0, missing))
            self.labels = torch.nn.functional.pad(self.labels, (0, missing), value=IGNORED)
        self.ids = torch.where(chosen, 4, ids)
        for name in ("ids", "positions", "labels", "all_labels"):
            setattr(self, name, getattr(self, name).to(self.device))
        self.ones = torch.ones_like(self.ids)

    def theirs(self) -> Any:
        """Hugging Face's model; with gradient checkpointing by its own switch."""
        model = stock_model(self.config).to(self.device, DTYPES[self.args.precision])
        if self.args.activation_checkpointing != "none":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return model

    def ours(self, part: str = "all") -> Any:
        """Our model; part head: with Hugging Face's attention."""
        model: Any = family_of(self.config).model_class(self.config)
        model.load_state_dict(stock_model(self.config).state_dict())
        model.to(self.device, DTYPES[self.args.precision])
        settings = RunConfig(
            model=ModelConfig(family=self.args.model),
            precision=self.args.precision,
            activation_checkpointing=self.args.activation_checkpointing,
            compile=self.args.compile,
            attention=AttentionConfig(backend="hf" if part == "head" else self.args.backend),
        )
        install_encoder(model, settings, zero_stage=1)
        return model.train()

    def loss_of_theirs(self, model: Any) -> torch.Tensor:
        """Logits and loss at every position."""
        loss: torch.Tensor = model(self.ids, attention_mask=self.ones, labels=self.all_labels).loss
        return loss

    def loss_of_ours(self, model: Any, part: str = "all") -> torch.Tensor:
        """Logits and loss at the masked positions; part attention: at every one."""
        inputs = {"input_ids": self.ids, "documents": self.ones, "max_documents": 1}
        if part == "attention":
            labels = self.all_labels.flatten()
            hidden = model.encode(**inputs).flatten(0, 1)
            return mean_loss(model.predict(hidden, labels)[0], labels)
        return mean_loss(model(**inputs, positions=self.positions, labels=self.labels)[0], self.labels)


@dataclass(frozen=True)
class Pass:
    """A model's forward pass."""

    model: Any
    loss_of: Callable[[Any], torch.Tensor]

    def __call__(self) -> torch.Tensor:
        return self.loss_of(self.model)

    def backward(self) -> None:
        """And its backward pass."""
        self().backward()


def step_of(forward: Pass, losses: list[float]) -> Step:
    """One optimizer step."""
    optimizer = torch.optim.AdamW(forward.model.parameters(), lr=1e-5, fused=True)

    def step() -> float:
        loss = forward()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        return losses[-1]

    return step


def compare(args: argparse.Namespace, part: str) -> dict[str, Any]:
    """Times, losses and, on a GPU, memory of both sides, in turn."""
    sides = Sides(args)
    passes = {"ours": Pass(sides.ours(part), partial(sides.loss_of_ours, part=part))}
    if not args.ours_only:
        passes["hugging_face"] = Pass(sides.theirs(), sides.loss_of_theirs)
    losses: dict[str, list[float]] = {side: [] for side in passes}
    steps = {side: step_of(passes[side], losses[side]) for side in passes}
    result: dict[str, Any] = {}
    steps["ours"]()  # warm-up
    try:
        if not args.ours_only:
            steps["hugging_face"]()
    except torch.OutOfMemoryError:
        result["hugging_face"] = "out of memory"
        del steps["hugging_face"], passes["hugging_face"]
        torch.cuda.empty_cache()
    if "hugging_face" in steps:
        result |= pairs(steps["hugging_face"], steps["ours"], args.repeats)
        differences = [abs(a - b) for a, b in zip(losses["hugging_face"], losses["ours"], strict=True)]
        result["max_loss_difference"] = max(differences)
    else:
        result["seconds_ours"] = statistics.median(timed(steps["ours"]) for _ in range(args.repeats))
    tokens = args.micro_batch * args.sequence_length
    for side in steps:
        result[f"tokens_per_second_{side}"] = tokens / result[f"seconds_{side}"]
    result["mega_flops_per_token"] = training_flops_per_token(sides.config, args.sequence_length) / 1e6
    peak = peak_flops(torch.cuda.get_device_name()) if sides.device.type == "cuda" else None
    if peak:
        for side in steps:
            rate = result[f"tokens_per_second_{side}"]
            result[f"mfu_{side}"] = rate * result["mega_flops_per_token"] * 1e6 / peak
    if sides.device.type == "cuda":
        result |= peaks({side: peak_memory(forward.backward) for side, forward in passes.items()})
    if args.profile:
        profile(steps["ours"], args.profile)
    return result


def profile(step: Step, path: Path) -> None:
    """A table of the operations that a step spends most time on."""
    with torch.profiler.profile() as profiler:
        step()
    order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    path.write_text(profiler.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=90))


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peaks of both sides, each in a process of its own."""
    sides = ("ours",) if args.ours_only else ("hugging_face", "ours")
    return peaks({side: peak_of_side(side, sys.argv[1:]) for side in sides})


def peaks(bytes_of: dict[str, int | None]) -> dict[str, Any]:
    """Of both sides, and their ratio."""
    found: dict[str, Any] = {f"peak_megabytes_{side}": peak and round(peak / 1e6) for side, peak in bytes_of.items()}
    ours, theirs = bytes_of["ours"], bytes_of.get("hugging_face")
    return found | {"memory_ratio": ours / theirs if ours and theirs else None}


def peak_of_side(side: str, options: list[str]) -> int | None:
    """Bytes, from a process of its own, started with this script's options."""
    call = [sys.executable, __file__, *options, "--memory-of", side]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: int | None = json.loads(done.stdout)
    return found


def memory_of(args: argparse.Namespace) -> int | None:
    """Peak of forward and backward pass of one side."""
    sides = Sides(args)
    if args.memory_of == "ours":
        return peak_memory(Pass(sides.ours(), sides.loss_of_ours).backward)
    return peak_memory(Pass(sides.theirs(), sides.loss_of_theirs).backward)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["longformer", "bigbird"], default="longformer")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--sequence-length", type=int, default=4096)
    parser.add_argument("--micro-batch", type=int, default=1, help="sequences per step")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    parser.add_argument("--activation-checkpointing", choices=["none", "attention", "full"], default="none")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--backend", choices=["auto", "blocked", "flex", "varlen"], default="auto")
    parser.add_argument("--compile", choices=["auto", "on", "off"], default="auto")
    parser.add_argument("--part", choices=["all", "head", "attention"], default="all")
    parser.add_argument("--parts", action="store_true", help="measure head, attention and all")
    parser.add_argument("--ours-only", action="store_true", help="where Hugging Face's side wouldn't fit")
    parser.add_argument("--profile", type=Path, help="write a table of what our step spends its time on")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", choices=["hugging_face", "ours"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(json.dumps(memory_of(args)))
        return
    result: dict[str, Any] = {"what": "one training step: Hugging Face's over ours", **facts()}
    names = ("model", "layers", "sequence_length", "micro_batch", "precision", "activation_checkpointing", "dropout")
    result["config"] = {name: getattr(args, name) for name in names}
    if args.parts:
        shares = {part: compare(args, part)["time_ratio"] for part in ("head", "attention")}
        result["time_ratio_of_part"] = shares
    result |= compare(args, args.part)
    if device().type == "cpu":
        result |= memory(args)
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
