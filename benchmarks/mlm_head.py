"""The masked-LM head on the masked positions only, against Hugging Face's on all of them.

    python benchmarks/mlm_head.py --json FILE

Forward and backward pass of a model with random weights, in turn, on the same row, masked in the same way.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import torch
from mtsamples import processor
from transformers import LongformerConfig, LongformerForMaskedLM

from clinical_pretrain.models.mlm_head import LongformerForMaskedPositions
from clinical_pretrain.run_folder import versions
from tokenizer_tools.manifest import write_json


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--sequence-length", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=REPOSITORY / "benchmarks" / "results" / "mlm_head.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    config = LongformerConfig(
        vocab_size=50265, num_hidden_layers=args.layers, attention_window=512, type_vocab_size=1,
        max_position_embeddings=args.sequence_length + 2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    theirs = LongformerForMaskedLM(config).train()
    ours = LongformerForMaskedPositions(config).train()
    ours.load_state_dict(theirs.state_dict())
    ids = torch.randint(5, 50000, (1, args.sequence_length))
    attention_mask = torch.ones_like(ids)
    positions = (torch.rand(args.sequence_length) < 0.15).nonzero().flatten()
    labels = torch.full_like(ids, -100)
    labels[0, positions] = ids[0, positions]

    def step_of_ours() -> float:
        losses, _ = ours(ids, attention_mask, positions, ids[0, positions])
        loss = losses.mean()
        loss.backward()
        return loss.item()

    def step_of_theirs() -> float:
        loss = theirs(ids, attention_mask=attention_mask, labels=labels).loss
        loss.backward()
        return loss.item()

    def timed(step: Callable[[], float]) -> float:
        started = time.perf_counter()
        step()
        return time.perf_counter() - started

    difference = abs(step_of_ours() - step_of_theirs())  # the warm-up, too
    pairs = [(timed(step_of_theirs), timed(step_of_ours)) for _ in range(args.repeats)]
    result = {
        "what": "forward + backward of a Longformer of base width, fp32: Hugging Face's head on all positions against "
        "ours on the masked 15 %",
        "command": f"python benchmarks/mlm_head.py --layers {args.layers} --sequence-length {args.sequence_length} "
        f"--repeats {args.repeats}",
        "seconds_hugging_face": statistics.median(theirs for theirs, _ in pairs),
        "seconds_ours": statistics.median(ours for _, ours in pairs),
        "time_ratio": statistics.median(theirs / ours for theirs, ours in pairs),
        "loss_difference": difference,
        "masked_positions": len(positions),
        "hardware": f"{processor()}, {torch.get_num_threads()} threads",
        "versions": versions(),
    }
    write_json(args.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
