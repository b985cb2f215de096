"""One layer's self-attention, projections included, forward and backward: every backend that runs here against
Hugging Face's, in turn.

    python benchmarks/attention.py --model longformer --sequence-length 4096 --precision fp32 --json FILE
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import DTYPES, base_config, device, facts, peak_memory, stock_model, timed

from clinical_pretrain.models.attention import bigbird as bigbird_attention
from clinical_pretrain.models.attention import longformer as longformer_attention
from clinical_pretrain.models.attention.bigbird import BigBirdAttention, BigBirdContext
from clinical_pretrain.models.attention.bigbird_plan import make_plan
from clinical_pretrain.models.attention.flex import COMPILE_OPTIONS
from clinical_pretrain.models.attention.longformer import LongformerAttention, LongformerContext
from tokenizer_tools.files import write_json


def functions(args: argparse.Namespace, module: Any) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Hidden states, (batch, length, 768), to the same, by each backend; masks are made beforehand."""
    dtype, where = DTYPES[args.precision], device()
    ones = torch.ones(args.batch, args.sequence_length, dtype=torch.long, device=where)
    on_gpu = where.type == "cuda"
    found: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
    if args.model == "longformer":
        window = module.one_sided_attn_window_size
        zeros = torch.zeros_like(ones)

        def theirs(hidden: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = module(hidden, zeros, zeros < 0, zeros > 0, False)[0]
            return out

        names = ["blocked", "flex"] if on_gpu else ["blocked"]
        names += ["varlen"] if on_gpu and args.precision != "fp32" else []
        for name in names:
            context = LongformerContext(ones, 1)
            (layout,) = context.prepare(longformer_attention.BACKENDS[name], [window], dtype)
            found[name] = partial(LongformerAttention.self_attention, module, context=context, layout=layout)
    else:
        size = module.block_size
        blocked_mask = ones.view(args.batch, -1, size).to(dtype)
        band = torch.einsum(
            "blq,blk->blqk", blocked_mask[:, 2:-2],
            torch.cat([blocked_mask[:, 1:-3], blocked_mask[:, 2:-2], blocked_mask[:, 3:-1]], 2),
        )[:, None]  # fmt: skip
        rows = ones.to(dtype)

        def theirs(hidden: torch.Tensor) -> torch.Tensor:
            masks = (band, rows[:, None, :, None], rows[:, None, None, :], blocked_mask, blocked_mask)
            out: torch.Tensor = module(hidden, *masks)[0]
            return out

        plan = make_plan(module, args.sequence_length, True, where)
        for name in ["blocked", "flex"] if on_gpu else ["blocked"]:
            plain = BigBirdContext(ones if on_gpu else None, args.batch, size, isolated=False, dropout=0.0)
            (layout,) = plain.prepare(bigbird_attention.BACKENDS[name], [plan], dtype)
            found[name] = partial(BigBirdAttention.self_attention, module, context=plain, layout=layout)
    for name in list(found) if on_gpu else ():
        options = COMPILE_OPTIONS if name == "flex" else None
        found[f"{name}, compiled"] = torch.compile(found[name], dynamic=False, options=options)
    return {"hugging_face": theirs} | found


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["longformer", "bigbird"], default="longformer")
    parser.add_argument("--sequence-length", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = stock_model(base_config(args.model, 1, args.sequence_length)).to(device(), DTYPES[args.precision])
    module = model.base_model.encoder.layer[0].attention.self
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch, args.sequence_length, 768)
    hidden = torch.randn(shape, generator=generator).to(device(), DTYPES[args.precision]).requires_grad_()
    weights = torch.randn(shape, generator=generator).to(device(), DTYPES[args.precision])
    outs: dict[str, torch.Tensor] = {}

    def run(name: str) -> Callable[[], None]:
        def step() -> None:
            out = candidates[name](hidden)
            outs[name] = out.detach()
            out.backward(weights)

        return step

    candidates = functions(args, module)
    for name in candidates:
        run(name)()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(args.repeats):
        for name in candidates:
            times[name].append(timed(run(name)))
    theirs = times["hugging_face"]
    backends = {
        name: {
            "milliseconds": 1000 * statistics.median(times[name]),
            "time_ratio": statistics.median(a / b for a, b in zip(theirs, times[name], strict=True)),
            "peak_megabytes": None if (peak := peak_memory(run(name))) is None else round(peak / 1e6),
            "largest_difference": (outs[name].float() - outs["hugging_face"].float()).abs().max().item(),
        }
        for name in candidates
    }
    settings = {name: getattr(args, name) for name in ("model", "sequence_length", "batch", "precision")}
    result = {"what": "one self-attention, forward + backward", **facts(), "config": settings, "backends": backends}
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
