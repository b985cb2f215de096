"""Resident memory of a real run on a CPU over many steps, with freed memory kept and validation in between.

    python benchmarks/resident_memory.py --model longformer --shards SHARDS --json FILE

A model of base width and one layer is trained, one sequence a step, each with other notes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from common import facts, resident_memory
from limit import run_words

from clinical_pretrain.config.command_line import load_config
from clinical_pretrain.data.collator import MicroBatch
from clinical_pretrain.training import train as training
from clinical_pretrain.training.run import Run
from tokenizer_tools.files import write_json

SETTLED = 50
"""Steps after which all of a run's tensors have been there: the first validation is over."""


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["longformer", "bigbird"], default="longformer")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--shards", type=Path, required=True, help="of the model's vocabulary")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    resident, train_step = [], training.train_step

    def measured(run: Run, batches: Iterator[MicroBatch]) -> torch.Tensor:
        loss = train_step(run, batches)
        resident.append(round(resident_memory() / 1e6, 1))
        return loss

    training.train_step = measured
    args.layers, args.activation_checkpointing, args.return_memory = 1, "none", False
    with tempfile.TemporaryDirectory() as folder:
        words = [*run_words(args), "--run_dir", f"{folder}/run", "--max_steps", str(args.steps), "--optim.warmup_steps",
                 "10", "--validation.every_steps", str(SETTLED // 2), "--validation.max_sequences", "8"]  # fmt: skip
        training.train(load_config(words)[0])
    result = {
        "what": "resident memory of a run by its steps, with validation in between",
        **facts(),
        "config": {name: getattr(args, name) for name in ("model", "layers", "precision", "steps")},
        "megabytes_when_settled": resident[SETTLED - 1],
        "megabytes_at_the_end": resident[-1],
        "growth": round(resident[-1] / resident[SETTLED - 1] - 1, 4),
        "megabytes": resident,
    }
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
