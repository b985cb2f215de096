"""Draws configs and trains and exports what isn't refused: in a process of its own, as training initialises much.

usage: python drawn_configs.py SHARDS
"""

import math
import sys
import tempfile
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Literal, get_args, get_origin

from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_ranges import make

from clinical_pretrain.config.fields import settings_of
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.release.export import export
from clinical_pretrain.resources import resource_path
from clinical_pretrain.training.train import train
from tokenizer_tools.errors import UserError
from tokenizer_tools.ranges import Range

SHARDS = sys.argv[1]
FOLDER = tempfile.TemporaryDirectory()
MISSPELT = f"{FOLDER.name}/misspelt.json"
Path(MISSPELT).write_text('{"zero_optimization": {"stage": 2, "overlap_com": true}}')
OUTCOMES = Counter()
BASE = {
    "model.init": "random", "model.size.num_hidden_layers": 1, "model.size.hidden_size": 8,
    "model.size.intermediate_size": 8, "model.size.attention_window": 16, "model.size.block_size": 16,
    "model.size.num_random_blocks": 1,
    "data.shards": SHARDS, "max_steps": 2, "precision": "fp32", "activation_checkpointing": "none", "deepspeed": "none",
    "log_every_steps": 1, "batch.train_batch_size": 1, "batch.micro_batch_size_per_gpu": 1, "optim.warmup_steps": 1,
    "optim.learning_rate": 1e-3, "validation.max_sequences": 1,
}  # fmt: skip
"""A run of 0.1 s."""


def choices(setting):
    """What a setting may be, and what it may not: all words, or the ends of its range and what lies beside them."""
    base = setting.base
    if get_origin(base) is Literal:
        return [*get_args(base), "no such"]
    if base is bool:
        return [True, False]
    (allowed,) = (rule for rule in setting.constraints if isinstance(rule, Range))
    ends = (end for end in (allowed.minimum, allowed.maximum, allowed.above, allowed.below) if math.isfinite(end))
    beside = (-1, 0, 1) if base is int else (-0.5, 0, 0.5)
    return sorted({base(end + step) for end in ends for step in beside})


CHOICES = {  # what else would take long, or isn't a number
    "max_steps": [-1, 0, 1, 3],
    "extend": [-1, 0, 1, 2],
    "deepspeed": [*map(str, resource_path("ds_configs").glob("zero?.json")), "no/such.json", "", MISSPELT],
    "model.size.num_hidden_layers": [-1, 0, 1, 2],
    "model.size.hidden_size": [-1, 0, 1, 2, 3, 8, 15],
    "model.size.num_attention_heads": [-1, 0, 1, 2, 3, 8, 16],
    "model.size.intermediate_size": [-1, 0, 1, 3],
    "model.size.attention_window": [-2, 0, 2, 3, 4, 6, 255, 256, 512, 514, 10**6],
    "model.size.block_size": [-1, 0, 1, 3, 8, 36, 37, 65_536],
    "model.size.num_random_blocks": [-1, 0, 1, 2, 5, 1000],
    "batch.train_batch_size": [-1, 0, 1, 3, 4],
    "batch.micro_batch_size_per_gpu": [-1, 0, 1, 2],
    "compile": ["auto", "off"],
    "profile": [-1, 0, 1, 101],
    "validation.words": ["configs/validation/words.yaml", "", "no/such.yaml"],
    "validation.general_text": ["configs/validation/general.txt", "", "no/such.txt"],
    "data.language": ["de", "multilingual", "English", ""],
}
FIXED = ("run_dir", "data.shards", "model.init", "model.name_or_path")
ODD = [float("nan"), float("inf"), -float("inf"), True, None, "x", 1e308]
SETTINGS = {setting.key: setting for setting in settings_of(RunConfig)}
for key, setting in SETTINGS.items():
    if key not in CHOICES and key not in FIXED:
        CHOICES[key] = choices(setting)


@st.composite
def overrides(draw):
    """Some of the settings, each at or around an end of what it may be; in every third draw also outside."""
    keys = draw(st.lists(st.sampled_from(sorted(CHOICES)), min_size=1, max_size=4, unique=True))
    within = draw(st.integers(0, 2)) > 0
    drawn = {}
    for key in keys:
        constraints = SETTINGS[key].constraints
        values = [v for v in CHOICES[key] if not any(rule.fault(v) for rule in constraints)]
        drawn[key] = draw(st.sampled_from(values if within else CHOICES[key] + ODD))
    return drawn


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@example({"optim.final_learning_rate_fraction": -3.0})
@example({"model.size.attention_window": 2})
@example({"model.size.num_hidden_layers": 0})
@example({"model.size.num_attention_heads": 0})
@example({"model.size.hidden_size": 0})
@example({"model.size.num_random_blocks": 0, "model.family": "bigbird"})
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
