"""Every setting has a range, and what lies within it works."""

import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from clinical_pretrain.config.fields import settings_of
from clinical_pretrain.config.model import ModelConfig, ModelSize
from clinical_pretrain.config.optim import OptimConfig
from clinical_pretrain.config.reading import build, flatten
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.config.slurm import SlurmConfig
from tokenizer_tools.errors import UserError
from tokenizer_tools.ranges import Range
from tokenizer_tools.yaml_files import TextLoader


def make(cls, values, prefix=""):
    """A config of dotted keys."""
    hints = get_type_hints(cls)
    given_ = {}
    for entry in fields(cls):
        key = prefix + entry.name
        if is_dataclass(hints[entry.name]) and key not in values:
            given_[entry.name] = make(hints[entry.name], values, f"{key}.")
        elif key in values:
            given_[entry.name] = values[key]
    return cls(**given_)


@pytest.mark.parametrize("cls", [RunConfig, SlurmConfig])
def test_every_number_has_both_ends(cls):
    for setting in settings_of(cls):
        if setting.base in (int, float):
            (found,) = (rule for rule in setting.constraints if isinstance(rule, Range))
            assert max(found.minimum, found.above) > -1e9 and min(found.maximum, found.below) < 1e20, setting.key


def test_every_setting_of_a_run_says_whether_a_resume_may_change_it():
    assert all(setting.resume for setting in settings_of(RunConfig))
    assert not any(setting.resume for setting in settings_of(SlurmConfig))


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("optim.final_learning_rate_fraction", -3, "optim.final_learning_rate_fraction is -3, must be at least 0"),
        ("model.size.attention_window", 2, "model.size.attention_window is 2, must be at least 4"),
        ("model.size.attention_window", 7, "model.size.attention_window is 7, must be even"),
        ("model.size.num_hidden_layers", 0, "model.size.num_hidden_layers is 0, must be at least 1"),
        ("model.size.num_attention_heads", 0, "model.size.num_attention_heads is 0, must be at least 1"),
        ("model.size.hidden_size", 0, "model.size.hidden_size is 0, must be at least 1"),
        ("optim.beta1", 1.5, "optim.beta1 is 1.5, must be below 1"),
        ("optim.epsilon", -1.0, "optim.epsilon is -1.0, must be at least 1e-30"),
        ("optim.learning_rate", float("nan"), "optim.learning_rate is nan, must be a finite number"),
        ("optim.max_grad_norm", float("inf"), "optim.max_grad_norm is inf, must be a finite number"),
        ("seed", 2**63, "seed is 9223372036854775808, must be at most 9,223,372,036,854,775,807"),
        ("max_steps", True, "max_steps is true, must be a whole number"),
        ("max_steps", 2.0, "max_steps is 2.0, must be a whole number"),
        ("optim.learning_rate", "fast", "optim.learning_rate is fast, must be a number"),
        ("attention.dropout", "x", "attention.dropout is x, must be a number or null"),
        ("precision", "fp64", "precision is fp64, must be one of bf16, fp16, fp32"),
        ("data.language", "en\nde", "data.language is en de, must be an ISO 639 code such as en or de, or multiling"),
        ("run_dir", "", "run_dir is '', must be a path in printable characters"),
        ("validation", None, "validation is null, must be a section with keys such as every_steps; leave it out for"),
    ],
)
def test_what_a_setting_cannot_be_is_refused(key, value, fault):
    with pytest.raises(UserError) as caught:
        make(RunConfig, {key: value})
    assert fault in str(caught.value) and "\n" not in str(caught.value)


def test_all_faults_are_told_at_once():
    with pytest.raises(UserError, match="seed is a huge number, must be at most"):
        RunConfig(seed=10**5000)
    with pytest.raises(UserError) as caught:
        RunConfig(max_steps=0, optim=OptimConfig(beta1=1.0), model=ModelConfig(size=ModelSize(num_hidden_layers=0)))
    assert str(caught.value).count("must be") == 3
    with pytest.raises(UserError, match=r"^slurm: nodes is 0, must be at least 1; gpus_per_node is 1001, must be at"):
        SlurmConfig(nodes=0, gpus_per_node=1001)


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.text(max_size=9),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    st.sampled_from([ModelSize(), "on", "random", "wsd", "flex", "hf", "null", "none", "1e5", "de", 10**5000, b"x"]),
)


@settings(max_examples=300, derandomize=True, database=None)
@given(st.dictionaries(st.sampled_from([setting.key for setting in settings_of(RunConfig)]), ANYTHING, max_size=4))
def test_making_a_config_raises_nothing_but_a_line(values):
    try:
        config = make(RunConfig, values)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return
    for setting in settings_of(RunConfig):
        value = config
        for part in setting.key.split("."):
            value = getattr(value, part)
        if setting.base in (int, float) and value is not None:
            assert type(value) in (setting.base, int) and not any(rule.fault(value) for rule in setting.constraints)
    assert build(RunConfig, flatten(yaml.load(config.to_yaml(), TextLoader))) == config


@pytest.mark.slow
def test_a_drawn_config_is_refused_or_trained_and_exported(shards):
    call = [sys.executable, Path(__file__).with_name("drawn_configs.py"), shards]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
