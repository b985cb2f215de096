"""A whole training step on a CPU over the bare matrix products that it can't do without, and over Hugging Face's.

    python benchmarks/limit.py --model longformer --layers 12 --precision fp32 --json FILE

The products are those of the linear layers, of attention over the keys that the function needs and of the head at the
masked positions, forward and backward, with outputs allocated beforehand; nothing else. Times of either side depend on
how malloc has been set, and on what else a process has done: each side has a process of its own, started anew in each
round, with two steps to warm up. Sides are measured as users have them, and ours without, Hugging Face's with freed
memory kept (clinical_pretrain/allocator.py). With --shards, a step of a real run under ZeRO 1 on one rank, data
included, is compared with ours, too: with a bare step on weights in bf16, and with `ours_fp32_weights`, a bare step
that keeps weights in fp32 and clips the gradients in fp32, as a run does. `ours_tcmalloc` is our bare step with
tcmalloc in malloc's place, where it is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from allocators import preloaded
from common import BASE_SIZE, DTYPES, facts, timed
from train_step import Pass, Sides, peak_of_side, step_of
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

from clinical_pretrain.allocator import keep_freed_memory
from clinical_pretrain.config.command_line import load_config
from clinical_pretrain.training.ending import close
from clinical_pretrain.training.setup import setup
from clinical_pretrain.training.train import train_step
from tokenizer_tools.files import write_json

SIDES = ("products", "ours", "ours_memory_returned", "hugging_face", "hugging_face_memory_kept")
FP32_WEIGHTS = "ours_fp32_weights"
TCMALLOC = "ours_tcmalloc"
OPTIONAL_SIDES = (FP32_WEIGHTS, TCMALLOC)
KEEPING = ("ours", "hugging_face_memory_kept", FP32_WEIGHTS)
RUN = "run"
WARM_UP = 2
"""Steps until the optimizer's state is there and freed memory is what the next step asks for."""
TILES = {"longformer": (128, 640), "bigbird": (64, 512)}
"""Queries of a tile and the keys that they are multiplied with: windows of 256 tokens on each side, and 8 blocks."""


class Products:
    """The matrix products of a step."""

    def __init__(self, sides: Sides, precision: str) -> None:
        config, self.dtype = sides.config, DTYPES[precision]
        tokens, width, inner = sides.ids.numel(), config.hidden_size, config.intermediate_size
        heads, self.layers = config.num_attention_heads, config.num_hidden_layers
        queries, keys = TILES[config.model_type.replace("_", "")]
        linear = [(tokens, width, width)] * 4 + [(tokens, width, inner), (tokens, inner, width)]
        self.layer = [self._linear(*shape) for shape in linear]
        self.layer.append(self._attention(tokens // queries * heads, queries, keys, width // heads))
        self.head = [
            self._linear(sides.predicted, width, columns) for columns in (width, config.vocab_size)
        ]  # fmt: skip

    def __call__(self) -> None:
        for multiply in self.layer * self.layers + self.head:
            multiply()

    def _random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape).mul_(0.02).to(self.dtype)

    def _linear(self, rows: int, width: int, columns: int) -> Callable[[], None]:
        """x @ w, and the gradients of both."""
        x, w, grad = self._random(rows, width), self._random(width, columns), self._random(rows, columns)
        out, of_x, of_w = torch.empty_like(grad), torch.empty_like(x), torch.empty_like(w)

        def multiply() -> None:
            torch.mm(x, w, out=out)
            torch.mm(grad, w.T, out=of_x)
            torch.mm(x.T, grad, out=of_w)

        return multiply

    def _attention(self, tiles: int, queries: int, keys: int, width: int) -> Callable[[], None]:
        """Scores and values, and the gradients of weights, queries, keys and values."""
        q, k = self._random(tiles, queries, width), self._random(tiles, keys, width)
        scores, of_q, of_k = self._random(tiles, queries, keys), torch.empty_like(q), torch.empty_like(k)

        def multiply() -> None:
            for _ in range(2):
                torch.bmm(q, k.mT, out=scores)
                torch.bmm(scores, k, out=of_q)
                torch.bmm(scores.mT, q, out=of_k)

        return multiply


def seconds(args: argparse.Namespace) -> list[float]:
    """Of the steps of one side, in this process."""
    if args.side == RUN:
        return seconds_of_run(args)
    if args.side in KEEPING:
        assert keep_freed_memory()
    sides = Sides(args)
    if args.side == "products":
        step: Callable[[], Any] = Products(sides, args.precision)
    elif args.side == FP32_WEIGHTS:
        step = step_with_fp32_weights(Pass(sides.ours(), sides.loss_of_ours))
    elif args.side.startswith("ours"):
        step = step_of(Pass(sides.ours(), sides.loss_of_ours), [])
    else:
        step = step_of(Pass(sides.theirs(), sides.loss_of_theirs), [])
    return [timed(step) for _ in range(WARM_UP + args.steps)][WARM_UP:]


def step_with_fp32_weights(forward: Pass) -> Callable[[], float]:
    """One optimizer step on a copy of the weights in fp32, with clipping."""
    weights = list(forward.model.parameters())
    copies = [weight.detach().float().requires_grad_() for weight in weights]
    optimizer = torch.optim.AdamW(copies, lr=1e-5, fused=True)

    def step() -> float:
        loss = forward()
        loss.backward()
        for weight, copied in zip(weights, copies, strict=True):
            copied.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        torch.nn.utils.clip_grad_norm_(copies, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(weights, copies)
        return float(loss.item())

    return step


def run_words(args: argparse.Namespace) -> list[str]:
    """Options of a run of one sequence a step under ZeRO 1, of base width."""
    settings = {
        "model.init": "random", "model.family": args.model,
        **{f"model.size.{name}": value for name, value in (BASE_SIZE | {"num_hidden_layers": args.layers}).items()},
        "precision": args.precision, "activation_checkpointing": args.activation_checkpointing,
        "deepspeed": "ds_configs/zero1.json", "data.shards": args.shards, "batch.train_batch_size": 1,
        "batch.micro_batch_size_per_gpu": 1, "watchdog.step_timeout_seconds": 0,
        "keep_freed_memory": not args.return_memory,
    }  # fmt: skip
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def seconds_of_run(args: argparse.Namespace) -> list[float]:
    """Of the optimizer steps of a run of one sequence a step, as a user starts it."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        run = setup(load_config([*run_words(args), "--run_dir", f"{folder}/run"])[0], stack)
        for module in run.engine.module.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = args.dropout
            elif isinstance(module, LongformerSelfAttention):
                module.dropout = args.dropout
        batches = run.batches.micro_batches(run.progress)

        def step() -> None:
            train_step(run, batches).item()
            run.progress.step += 1

        times = [timed(step) for _ in range(WARM_UP + args.steps)][WARM_UP:]
        batches.close()
        close(run)
    return times


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds per step of each side in each of its rounds: the median of the round's steps."""
    times: dict[str, list[float]] = {side: [] for side in args.sides}
    for number in range(args.rounds):
        with_theirs = number < (args.hugging_face_rounds or args.rounds)
        for side in args.sides:
            if side.startswith("hugging_face") and not with_theirs:
                continue
            call = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            environment = preloaded("tcmalloc_minimal") if side == TCMALLOC else {}
            if environment is None:
                raise SystemExit(f"{side}: tcmalloc isn't installed (Debian: libtcmalloc-minimal4)")
            done = subprocess.run(call, capture_output=True, text=True, env=os.environ | environment)
            if done.returncode:
                raise SystemExit(done.stderr)
            times[side].append(statistics.median(json.loads(done.stdout.splitlines()[-1])))
            print(f"{side:<26} {times[side][-1]:.2f} s", flush=True)
    return times


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(TILES), default="longformer")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    parser.add_argument("--sequence-length", type=int, default=4096)
    parser.add_argument("--activation-checkpointing", choices=["none", "attention", "full"], default="none")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--hugging-face-rounds", type=int, help="of Hugging Face's sides, the first ones; default: all")
    parser.add_argument("--steps", type=int, default=1, help="measured in each round, after two to warm up")
    parser.add_argument("--sides", nargs="+", choices=[*SIDES, *OPTIONAL_SIDES], default=SIDES)
    parser.add_argument("--shards", type=Path, help="of the model's vocabulary: measure a run on them, too")
    parser.add_argument("--return-memory", action="store_true", help="of the run: as without keep_freed_memory")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=[*SIDES, *OPTIONAL_SIDES, RUN], help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.micro_batch, args.backend, args.compile = 1, "auto", "off"
    if args.side:
        print(f"\n{json.dumps(seconds(args))}")
        return
    args.sides = [*args.sides, RUN] if args.shards else args.sides
    times = measure(args)

    def ratio(side: str, over: str) -> float | None:
        if side not in times or over not in times:
            return None
        return round(statistics.median(a / b for a, b in zip(times[side], times[over], strict=False)), 3)

    names = ("model", "layers", "precision", "sequence_length", "activation_checkpointing")
    config = {name: getattr(args, name) for name in names}
    peak = peak_of_side("ours", [f"--{name.replace('_', '-')}={value}" for name, value in config.items()])
    result = {
        "what": "a training step over its matrix products, and over Hugging Face's step",
        **facts(),
        "config": config | {"dropout": args.dropout, "rounds": args.rounds},
        "of_products": ratio("ours", "products"),
        "of_products_tcmalloc": ratio(TCMALLOC, "products"),
        "of_products_memory_returned": ratio("ours_memory_returned", "products"),
        "of_stock": ratio("hugging_face", "ours"),
        "of_stock_at_best": ratio("hugging_face_memory_kept", "ours"),
        "run_of_step": ratio(RUN, "ours"),
        "run_of_step_with_fp32_weights": ratio(RUN, FP32_WEIGHTS),
        "peak_mb": peak and round(peak / 1e6),
        "seconds": times,
    }
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
