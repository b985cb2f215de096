"""Ours against Hugging Face's on the same masked sequences, by every backend that runs here: loss and gradients.

    python benchmarks/parity.py --model longformer --layers 2 --json FILE

In fp32: the loss's difference, and the largest relative difference of a parameter's gradient. In bf16, where both only
round: the gradients' error against the same weights in fp32, and that error over Hugging Face's own. On a GPU also: how
often forward and backward pass make the CPU wait for it, and graphs compiled after the first step.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from common import DTYPES, device, facts
from torch._dynamo.utils import counters
from train_step import Sides

from tokenizer_tools.files import write_json

Gradients = dict[str, torch.Tensor]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["longformer", "bigbird"], default="longformer")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--sequence-length", type=int, default=4096)
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = {precision: compare(args, precision) for precision in DTYPES}
    result = {
        "what": "loss and gradients, ours against Hugging Face's",
        **facts(),
        "config": {name: getattr(args, name) for name in ("model", "layers", "sequence_length", "micro_batch")},
        "by_precision": found,
    }
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result, indent=2))


def ways(model: str, precision: str) -> list[tuple[str, str]]:
    """Backends that run here, and whether compiled."""
    if device().type == "cpu":
        return [("blocked", "off")]
    backends = ["blocked", "flex"]
    if model == "longformer" and precision == "bf16":
        backends.append("varlen")
    return [(backend, compiled) for backend in backends for compiled in ("off", "on")]


def compare(args: argparse.Namespace, precision: str) -> dict[str, Any]:
    """Hugging Face's and all of ours in one precision."""
    options = argparse.Namespace(**vars(args), precision=precision, dropout=0.0, activation_checkpointing="none")
    sides = Sides(options)
    exact = sides.theirs().float()  # the same weights, rounded to this precision
    reference_loss, reference = loss_and_gradients(exact, sides.loss_of_theirs)
    del exact
    rows: dict[str, Any] = {}
    error_of_theirs = 0.0
    if precision != "fp32":
        loss, gradients = loss_and_gradients(sides.theirs(), sides.loss_of_theirs)
        error_of_theirs = error(gradients, reference)
        rows["hugging_face"] = {"loss_difference": abs(loss - reference_loss), "gradient_error": error_of_theirs}
    for options.backend, options.compile in ways(args.model, precision):
        model = sides.ours()
        loss, gradients = loss_and_gradients(model, sides.loss_of_ours)
        row: dict[str, Any] = {"loss_difference": abs(loss - reference_loss)}
        if precision == "fp32":
            row["largest_gradient_difference"] = largest_difference(gradients, reference)
        else:
            row["gradient_error"] = error(gradients, reference)
            row["gradient_error_over_hugging_faces"] = row["gradient_error"] / error_of_theirs
        if device().type == "cuda":
            row |= on_the_gpu(model, sides)
        rows[options.backend + (", compiled" if options.compile == "on" else "")] = row
    return rows


def loss_and_gradients(model: Any, loss_of: Any) -> tuple[float, Gradients]:
    """Of one step; the gradients in fp32."""
    loss = loss_of(model)
    loss.backward()
    gradients = {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.item(), gradients


def largest_difference(gradients: Gradients, reference: Gradients) -> float:
    """Relative, over parameters. A key's bias moves nothing and has a gradient of rounding alone, hence the floor."""
    floor = 1e-2 * max(gradient.norm().item() for gradient in reference.values())
    return max(
        ((gradients.get(name, 0) - gradient).norm() / gradient.norm().clamp(min=floor)).item()
        for name, gradient in reference.items()
    )


def error(gradients: Gradients, reference: Gradients) -> float:
    """Root mean square over all parameters together, relative."""
    off = sum((gradients.get(name, 0) - gradient).double().pow(2).sum().item() for name, gradient in reference.items())
    return float((off / sum(gradient.double().pow(2).sum().item() for gradient in reference.values())) ** 0.5)


def on_the_gpu(model: Any, sides: Sides) -> dict[str, int]:
    """How often two more steps wait for the GPU, and how many graphs they compile."""
    graphs = counters["stats"]["unique_graphs"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        for _ in range(2):
            sides.loss_of_ours(model).backward()
        torch.cuda.set_sync_debug_mode("default")
    return {
        "waits_for_the_gpu": sum("synchroniz" in str(warning.message) for warning in caught),
        "graphs_compiled_later": counters["stats"]["unique_graphs"] - graphs,
    }


if __name__ == "__main__":
    main()
