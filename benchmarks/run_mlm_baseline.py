"""The stock recipe whole against ours, in turn, on the same shards under the same DeepSpeed config.

    python benchmarks/run_mlm_baseline.py --config configs/clinical_longformer.yaml --data.shards shards --json FILE

The stock side is what run_mlm.py trains: Hugging Face's masked-LM model, DataCollatorForLanguageModeling, logits and
loss at every position; without Trainer's own overhead. Both run a few optimizer steps at a time, one after the other,
in one process. Options of ours come first; all others are those of clinical_pretrain/run.py.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import facts, stock_model, timed
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling

from clinical_pretrain.config.command_line import load_config
from clinical_pretrain.config.recovery import WatchdogConfig
from clinical_pretrain.data.sampler import Sampler
from clinical_pretrain.engine.build import make_engine
from clinical_pretrain.engine.schedule import learning_rate
from clinical_pretrain.models.flops import peak_flops, training_flops_per_token
from clinical_pretrain.training.ending import close
from clinical_pretrain.training.run import Run
from clinical_pretrain.training.setup import setup
from clinical_pretrain.training.train import train_step
from tokenizer_tools.files import write_json
from tokenizer_tools.manifest import TOKENIZER_FOLDER


class Stock:
    """Hugging Face's model and collator under DeepSpeed."""

    def __init__(self, run: Run, micro_batch: int, checkpointing: bool) -> None:
        self.run, self.micro_batch, self.samples = run, micro_batch, 0
        config = run.config
        if config.model.init == "random":
            self.model = stock_model(copy.deepcopy(run.engine.module.config))
        else:
            self.model = AutoModelForMaskedLM.from_pretrained(config.model.name_or_path).train()
        if checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        for name, parameter in self.model.named_parameters():
            # Without a gradient, as ours are: DeepSpeed would fill them with zeros.
            parameter.requires_grad_("_global." not in name and ".pooler." not in name)
        resolved = run.folder.read_deepspeed()
        resolved["train_micro_batch_size_per_gpu"] = micro_batch
        resolved["gradient_accumulation_steps"] = config.batch.train_batch_size // micro_batch // run.ranks.world_size
        self.accumulation_steps = resolved["gradient_accumulation_steps"]
        self.engine = make_engine(self.model, config, resolved)
        tokenizer = AutoTokenizer.from_pretrained(Path(config.data.shards) / TOKENIZER_FOLDER)
        self.collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=config.masking.probability)
        self.sampler = Sampler(len(run.batches.split), config.seed)
        self.step = 0

    def batch(self) -> dict[str, torch.Tensor]:
        """The next sequences, masked, on the device."""
        length, features = self.run.spec.manifest.sequence_length, []
        for _ in range(self.micro_batch):
            ids = self.run.batches.split[self.sampler.sample(self.samples).sequence].input_ids.astype(np.int64)
            missing = length - len(ids)
            features.append(
                {
                    "input_ids": np.pad(ids, (0, missing), constant_values=self.model.config.pad_token_id),
                    "attention_mask": np.pad(np.ones_like(ids), (0, missing)),
                }
            )
            self.samples += 1
        return {name: tensor.to(self.engine.device) for name, tensor in self.collator(features).items()}

    def train_step(self) -> float:
        """One optimizer step; its mean loss."""
        self.step += 1
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.run.config.optim, self.run.config.max_steps)
        total = 0.0
        for _ in range(self.accumulation_steps):
            loss = self.engine(**self.batch()).loss
            self.engine.backward(loss)
            self.engine.step()
            total += loss.item() / self.accumulation_steps
        return total


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps at a time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stock-micro-batch", type=int, help="sequences per forward pass of the stock side")
    parser.add_argument("--stock-checkpointing", action="store_true")
    parser.add_argument("--json", type=Path)
    args, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        config, _ = load_config([*rest, "--run_dir", f"{folder}/run"])
        result = compare(args, replace(config, max_steps=max(config.max_steps, args.steps * (args.repeats + 1))))
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result, indent=2))


def compare(args: argparse.Namespace, config: Any) -> dict[str, Any]:
    """Train both in turn."""
    with ExitStack() as stack:
        return compare_in(setup(replace(config, watchdog=WatchdogConfig(step_timeout_seconds=0)), stack), args)


def compare_in(run: Run, args: argparse.Namespace) -> dict[str, Any]:
    """The same, with a run that has been set up."""
    config = run.config
    stock = Stock(run, args.stock_micro_batch or config.batch.micro_batch_size_per_gpu, args.stock_checkpointing)
    batches = run.batches.micro_batches(run.progress)
    losses: dict[str, list[float]] = {"hugging_face": [], "ours": []}

    def ours() -> None:
        block = []
        for _ in range(args.steps):
            block.append(train_step(run, batches))
            run.progress.step += 1
        losses["ours"] += [loss.item() for loss in block]

    def theirs() -> None:
        losses["hugging_face"] += [stock.train_step() for _ in range(args.steps)]

    both: tuple[Callable[[], None], Callable[[], None]] = (theirs, ours)
    for block in both:
        block()
    times = [(timed(theirs), timed(ours)) for _ in range(args.repeats)]
    batches.close()
    close(run)
    tokens = args.steps * config.batch.train_batch_size * run.spec.manifest.sequence_length
    speeds = {
        f"tokens_per_second_{name}": statistics.median(tokens / pair[i] for pair in times)
        for i, name in enumerate(("hugging_face", "ours"))
    }
    flops = training_flops_per_token(run.engine.module.config, run.spec.manifest.sequence_length)
    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return {
        "what": "the stock recipe against ours: optimizer steps under DeepSpeed, data included",
        **facts(),
        "config": config.to_dict() | {"run_dir": ""},
        "time_ratio": statistics.median(theirs / ours for theirs, ours in times),
        **speeds,
        "mfu_ours": speeds["tokens_per_second_ours"] * flops / peak / run.ranks.world_size if peak else None,
        "first_and_last_loss": {name: [values[0], values[-1]] for name, values in losses.items()},
    }


if __name__ == "__main__":
    main()
