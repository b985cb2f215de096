"""Time and memory per token from 1,024 to 16,384 tokens: our step at every length, in turn, and Hugging Face's where
it fits.

    python benchmarks/lengths.py --model longformer --layers 2 --precision fp32 --json FILE

Each step has the same number of tokens, in one long sequence or in several shorter ones. The memory of Hugging Face's
side at a length is predicted from its peaks at the three shortest; where that is more than two thirds of this machine's
memory, the result says "predicted, not tried".
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DTYPES, device, facts, timed
from train_step import Pass, Sides, peak_of_side, step_of

from tokenizer_tools.files import write_json

LENGTHS = (1024, 2048, 4096, 8192, 16384)
SETTINGS = ("model", "layers", "precision", "activation_checkpointing")


def settings(args: argparse.Namespace, length: int, micro_batch: int) -> argparse.Namespace:
    """The options of train_step.py."""
    return argparse.Namespace(
        model=args.model, layers=args.layers, sequence_length=length, micro_batch=micro_batch, dropout=0.0,
        precision=args.precision, activation_checkpointing=args.activation_checkpointing, backend="auto",
        compile="auto",
    )  # fmt: skip


def seconds(args: argparse.Namespace, side: str, lengths: list[int]) -> dict[int, list[float]]:
    """Of steps of one side at each length, taken in turn."""
    steps = {}
    for length in lengths:
        sides = Sides(settings(args, length, args.tokens // length))
        if side == "ours":
            steps[length] = step_of(Pass(sides.ours(), sides.loss_of_ours), [])
        else:
            steps[length] = step_of(Pass(sides.theirs(), sides.loss_of_theirs), [])
        steps[length]()
    times: dict[int, list[float]] = {length: [] for length in lengths}
    for _ in range(args.repeats):
        for length in lengths:
            times[length].append(timed(steps[length]))
    return times


def peak(args: argparse.Namespace, side: str, length: int) -> int:
    """Bytes that a step of one sequence needs, in a process of its own."""
    options = {"model": args.model, "layers": args.layers, "precision": args.precision, "sequence-length": length,
               "activation-checkpointing": args.activation_checkpointing}  # fmt: skip
    return peak_of_side(side, [f"--{name}={value}" for name, value in options.items()]) or 0


def machine_memory() -> int:
    """Bytes of the GPU, or of this machine."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["longformer", "bigbird"], default="longformer")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    parser.add_argument("--activation-checkpointing", choices=["none", "attention", "full"], default="none")
    parser.add_argument("--tokens", type=int, default=16384, help="tokens of a step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    measured = {length: peak(args, "hugging_face", length) for length in LENGTHS[:3]}
    predict = np.polynomial.Polynomial.fit(list(measured), list(measured.values()), 2)
    fits = [length for length in LENGTHS if predict(length) < machine_memory() * 2 / 3]
    # All sequences of a step must fit at once, too, together with the models of the other lengths.
    together = [length for length in fits if predict(length) * (args.tokens // length) < machine_memory() / 2]
    measured |= {length: peak(args, "hugging_face", length) for length in fits if length not in measured}
    peaks = {length: peak(args, "ours", length) for length in LENGTHS}  # before this process takes memory itself
    ours = seconds(args, "ours", list(LENGTHS))
    theirs = seconds(args, "hugging_face", together)
    rows: dict[str, Any] = {}
    for length in LENGTHS:
        row: dict[str, Any] = {"tokens_per_second_ours": args.tokens / statistics.median(ours[length])}
        row["peak_megabytes_of_a_row_ours"] = round(peaks[length] / 1e6)
        row["peak_megabytes_of_a_row_hugging_face"] = (
            round(measured[length] / 1e6)
            if length in measured
            else f"{predict(length) / 1e6:,.0f} (predicted, not tried)"
        )
        row["tokens_per_second_hugging_face"] = (
            args.tokens / statistics.median(theirs[length]) if length in theirs else "predicted not to fit, not tried"
        )
        rows[str(length)] = row
    growth = [long / short - 1 for long, short in zip(ours[16384], ours[4096], strict=True)]
    result = {
        "what": f"one training step of {args.tokens} tokens by the length of its sequences",
        **facts(),
        "config": {name: getattr(args, name) for name in SETTINGS},
        "device": str(device()),
        "by_sequence_length": rows,
        "growth_of_time_per_token_from_4096_to_16384": statistics.median(growth),
    }
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
