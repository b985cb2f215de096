"""A fine-tuning step of a plain transformers model, as it is and by accelerate_attention, in turn.

    python benchmarks/finetune_step.py --model longformer --layers 2 --sequence-length 4096 --json FILE

Token classification at base width with random weights; one sequence a step, the first token global for Longformer. A
step is forward pass, backward pass and AdamW. The outputs of both are compared without dropout, in evaluation mode;
the time is that of training, with --dropout (0.1 is the models' own).
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import DTYPES, base_config, device, facts, pairs, peak_memory
from transformers import AutoModelForTokenClassification

from clinical_pretrain import accelerate_attention
from tokenizer_tools.files import write_json

LABELS = 9


def step_of(model: Any, inputs: dict[str, torch.Tensor]) -> Callable[[], float]:
    """A training step of a model."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> float:
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


def inputs_of(args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """A sequence without padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(110, 50000, (1, args.sequence_length), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids % LABELS}
    if args.model == "longformer":
        inputs["global_attention_mask"] = torch.zeros_like(ids)
        inputs["global_attention_mask"][:, 0] = 1
    return {name: value.to(device()) for name, value in inputs.items()}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["longformer", "bigbird"], default="longformer")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--sequence-length", type=int, default=4096)
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    config = base_config(args.model, args.layers, max(4096, args.sequence_length), args.dropout)
    config.num_labels = LABELS
    stock = AutoModelForTokenClassification.from_config(config).to(device(), DTYPES[args.precision])
    fast, inputs = accelerate_attention(copy.deepcopy(stock)), inputs_of(args)
    with torch.no_grad():
        expected, found = (model.eval()(**inputs).logits.float() for model in (stock, fast))
    theirs, ours = (step_of(model.train(), inputs) for model in (stock, fast))
    theirs(), ours()
    result: dict[str, Any] = {
        "what": "a fine-tuning step of token classification, by accelerate_attention and as it is",
        **facts(),
        "config": {name: getattr(args, name) for name in
                   ("model", "layers", "sequence_length", "precision", "dropout", "repeats")},
        **pairs(theirs, ours, args.repeats),
        "largest_difference": float((found - expected).abs().max()),
        "largest_output": float(expected.abs().max()),
    }  # fmt: skip
    for name, step in (("hugging_face", theirs), ("ours", ours)):
        peak = peak_memory(step)
        result[f"peak_megabytes_{name}"] = None if peak is None else round(peak / 1e6)
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
