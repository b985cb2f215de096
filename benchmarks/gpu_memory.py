"""Peak GPU memory of the recipes' training steps, by sequences of a micro-batch.

    python benchmarks/gpu_memory.py --model longformer --precision bf16 --rows 1 3 6 18 --json FILE

Base size with random weights, two micro-batches a step, one GPU, or the first of several whose others aren't there
(--world-size, by torch's fake process group); all else is the recipe of configs/. Peaks are of torch's allocator,
weights and optimizer included: what tensors take (allocated), and what is asked of the GPU for them (reserved). A
process also needs about 0.5 GB for CUDA, and NCCL its buffers.

Runs on a GPU, or on the stand-ins of gpu_dry_run/.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from common import BASE_SIZE, VOCABULARY, facts

from clinical_pretrain.config.command_line import load_config
from clinical_pretrain.data.collator import capacity
from clinical_pretrain.distributed import initialise, shut_down
from clinical_pretrain.engine import deepspeed_config
from clinical_pretrain.engine.build import make_engine
from clinical_pretrain.models.build import build_model
from clinical_pretrain.models.mlm_head import mean_loss
from tokenizer_tools.files import write_json

LENGTH = 4096
ACCUMULATION_STEPS = 2


def recipe_parser(description: str | None, deepspeed: str) -> argparse.ArgumentParser:
    """With the options that `make` takes, and --json. deepspeed: the default file."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["longformer", "bigbird"], default="longformer")
    parser.add_argument("--precision", choices=["bf16", "fp16"], default="bf16")
    parser.add_argument("--activation-checkpointing", choices=["none", "attention", "full"], default="none")
    parser.add_argument("--backend", choices=["auto", "blocked", "flex", "varlen"], default="auto")
    parser.add_argument("--compile", choices=["auto", "on", "off"], default="auto")
    parser.add_argument("--deepspeed", default=deepspeed)
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens per sequence")
    parser.add_argument("--world-size", type=int, default=1, help="GPUs that share weights and optimizer")
    parser.add_argument("--json", type=Path)
    return parser


def make(args: argparse.Namespace, accumulation_steps: int = ACCUMULATION_STEPS) -> tuple[Any, Any]:
    """The recipe's config and engine, with random weights."""
    options = {
        "config": f"configs/clinical_{args.model}.yaml",
        "model.init": "random",
        "model.family": args.model,
        "precision": args.precision,
        "activation_checkpointing": args.activation_checkpointing,
        "compile": args.compile,
        "attention.backend": args.backend,
        "deepspeed": args.deepspeed,
        "batch.train_batch_size": accumulation_steps * args.world_size,
        "batch.micro_batch_size_per_gpu": 1,
        **{f"model.size.{name}": value for name, value in BASE_SIZE.items()},
    }
    config, _ = load_config([word for name, value in options.items() for word in (f"--{name}", str(value))])
    pad_id = 1 if args.model == "longformer" else 0
    tokenizer = SimpleNamespace(vocab_size=VOCABULARY[args.model], pad_id=pad_id, begin_id=2, end_id=3, name="none")
    manifest: Any = SimpleNamespace(tokenizer=tokenizer, sequence_length=args.length)
    resolved = deepspeed_config.resolve(config, args.world_size)
    model = build_model(config, manifest, deepspeed_config.zero_stage(resolved))
    if args.world_size > 1:
        from torch.testing._internal.distributed.fake_pg import FakeStore

        torch.cuda.set_device(0)
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(args.world_size)}
        torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=args.world_size)
        import deepspeed

        deepspeed.init_distributed("nccl", verbose=False)
    else:
        initialise()
    return config, make_engine(model, config, resolved)


def peak(config: Any, engine: Any, sequences: int, length: int) -> dict[str, int]:
    """Of two training steps, in bytes."""
    device = engine.device
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2 * ACCUMULATION_STEPS):
        ids = torch.randint(5, 50000, (sequences, length)).to(device)
        predicted = capacity(ids.numel(), config.masking)
        labels = torch.full((predicted,), 7).to(device)
        positions = torch.arange(predicted).to(device)
        losses, _ = engine(
            input_ids=ids, documents=torch.ones_like(ids), positions=positions, labels=labels, max_documents=1
        )
        engine.backward(mean_loss(losses, labels))
        engine.step()
    torch.cuda.synchronize()
    return {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}


def main() -> None:
    """See the module's docstring."""
    parser = recipe_parser(__doc__, "ds_configs/zero2.json")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 3, 6, 18], help="sequences per micro-batch")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("error: no GPU; benchmarks/gpu_dry_run/run.py runs this without one")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    config, engine = make(args)
    encode = engine.module.encode
    result = {
        "what": "peak memory of training steps",
        **facts(),
        "config": config.to_dict(),
        "attention": encode.backend,
        "compiled": encode.compiled,
        "sequence_length": args.length,
        "world_size": args.world_size,
        "peak_bytes_by_rows": {count: peak(config, engine, count, args.length) for count in args.rows},
    }
    shut_down()
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
