"""Draws configs and trains and exports what isn't refused: in a process of its own, as training initialises much.

usage: python drawn_configs.py SHARDS
"""

import sys
import tempfile
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_ranges import make

from clinical_pretrain.config import REPOSITORY, RunConfig
from clinical_pretrain.export import export
from clinical_pretrain.train import train
from tokenizer_tools.manifest import UserError

SHARDS = sys.argv[1]
FOLDER = tempfile.TemporaryDirectory()
MISSPELT = f"{FOLDER.name}/misspelt.json"
Path(MISSPELT).write_text('{"zero_optimization": {"stage": 2, "overlap_com": true}}')
OUTCOMES = Counter()
BASE = {
    "model.init": "random", "model.size.layers": 1, "model.size.hidden_size": 8, "model.size.intermediate_size": 8,
    "model.size.attention_window": 16, "model.size.block_size": 16, "model.size.random_blocks": 1,
    "data.shards": SHARDS, "max_steps": 2, "precision": "fp32", "checkpointing": "none", "deepspeed": "none",
    "log_every_steps": 1, "batch.train_batch_size": 1, "batch.micro_batch_size_per_gpu": 1, "optim.warmup_steps": 1,
    "optim.learning_rate": 1e-3, "validation.max_rows": 1,
}  # fmt: skip
"""A run of 0.1 s."""
COUNT, SHARE = [-1, 0, 1, 2, 10**9, 10**9 + 1, 10**30], [-3.0, 0.0, 1e-9, 0.5, 1 - 1e-16, 1.0, 1.5]
ODD = [float("nan"), float("inf"), -float("inf"), True, None, "x", 1e308]
CHOICES = {
    "seed": [-1, 0, 2**63 - 1, 2**63, 2**64],
    "max_steps": [-1, 0, 1, 3],
    "precision": ["bf16", "fp16", "fp32", "fp64"],
    "checkpointing": ["none", "attention", "full"],
    "deepspeed": [str(REPOSITORY / "ds_configs" / f"zero{stage}.json") for stage in (1, 2, 3)]
    + ["no/such.json", "", MISSPELT],
    "log_every_steps": COUNT,
    "model.family": ["longformer", "bigbird"],
    "model.positions": ["keep", "tile"],
    "model.size.layers": [-1, 0, 1, 2],
    "model.size.hidden_size": [-1, 0, 1, 2, 3, 8, 15],
    "model.size.heads": [-1, 0, 1, 2, 3, 8, 16],
    "model.size.intermediate_size": [-1, 0, 1, 3],
    "model.size.attention_window": [-2, 0, 2, 3, 4, 6, 255, 256, 512, 514, 10**6],
    "model.size.block_size": [-1, 0, 1, 3, 8, 36, 37, 65_536],
    "model.size.random_blocks": [-1, 0, 1, 2, 5, 1000],
    "attention.backend": ["auto", "blocked", "hf", "flex", "varlen"],
    "attention.global_tokens": ["none", "first"],
    "attention.dropout": SHARE,
    "data.document_attention": ["row", "isolate"],
    "masking.probability": SHARE,
    "masking.replace_with_mask": SHARE,
    "masking.replace_with_random": SHARE,
    "masking.whole_words": [True, False],
    "batch.train_batch_size": [-1, 0, 1, 3, 4],
    "batch.micro_batch_size_per_gpu": [-1, 0, 1, 2],
    "optim.learning_rate": [-1.0, 0.0, 1e-300, 1.0, 1.1],
    "optim.beta1": SHARE,
    "optim.beta2": SHARE,
    "optim.epsilon": [-1.0, 0.0, 1e-300, 1e-30, 1.0, 2.0],
    "optim.weight_decay": [-1.0, 0.0, 1.0, 10.0, 11.0],
    "optim.max_grad_norm": [-1.0, 0.0, 1e-30, 1e9, 1e300],
    "optim.schedule": ["linear", "cosine", "wsd"],
    "optim.warmup_steps": [-1, 0, 2, 10**9],
    "optim.decay_steps": [-1, 0, 1, 2, 10**9],
    "optim.final_learning_rate_fraction": SHARE,
    "validation.every_steps": COUNT,
    "validation.random_blocks": ["evaluation", "training"],
    "checkpoint.every_steps": COUNT,
    "checkpoint.keep": COUNT,
    "checkpoint.keep_every_steps": COUNT,
    "checkpoint.max_failures": COUNT,
    "bad_steps.max_in_a_row": COUNT,
    "bad_steps.spike_factor": [-1.0, 0.0, 0.5, 1.0, 1e9, 1e10],
    "bad_steps.max_rollbacks": COUNT,
    "watch.silence_seconds": [-1, 0, 1, 10**6, 10**7],
    "watch.step_seconds": [-1, 0, 10**6, 10**7],
}


@st.composite
def overrides(draw):
    """Some of the settings, each at or around an end of what it may be."""
    keys = draw(st.lists(st.sampled_from(sorted(CHOICES)), min_size=1, max_size=3, unique=True))
    odd = draw(st.integers(0, 9)) == 0
    return {key: draw(st.sampled_from(ODD if odd and i == 0 else CHOICES[key])) for i, key in enumerate(keys)}


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@example({"optim.final_learning_rate_fraction": -3.0})
@example({"model.size.attention_window": 2})
@example({"model.size.layers": 0})
@example({"model.size.heads": 0})
@example({"model.size.hidden_size": 0})
@example({"model.size.random_blocks": 0, "model.family": "bigbird"})
@example({"optim.beta1": 1.5})
@example({"deepspeed": MISSPELT})
@example({"optim.epsilon": -1.0})
@example({"attention.backend": "hf", "validation.random_blocks": "training"})
@given(overrides())
def refused_or_trained(drawn):
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        run_dir = Path(folder, "run")
        try:
            config = make(RunConfig, BASE | drawn | {"run_dir": str(run_dir)})
            train(config)
        except UserError as error:
            assert "\n" not in str(error) and not list(run_dir.glob("checkpoints/*")), error
            OUTCOMES["refused"] += 1
            return
        export(run_dir, Path(folder, "model"))
        OUTCOMES["exported"] += 1


if __name__ == "__main__":
    refused_or_trained()
    print(dict(OUTCOMES))
    assert min(OUTCOMES["refused"], OUTCOMES["exported"]) > 20
