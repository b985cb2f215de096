"""RunConfig and its children: every setting of a run, in one place, checked when it is made."""

from __future__ import annotations

import difflib
import importlib.metadata
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml

from clinical_pretrain.config.fields import (
    PathText,
    Pattern,
    RepeatedKeyError,
    TextLoader,
    build,
    expand_home,
    flatten,
    range_faults,
    type_faults,
)
from clinical_pretrain.config.other_names import OTHER_NAMES, RENAMED
from clinical_pretrain.resources import CONFIGS, find_config, find_file, resource_names
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest
from tokenizer_tools.ranges import MANY, Range

NO_ZERO = "none"
JOBS_FOLDER = "slurm"
"""In a run folder: scripts and logs of submitted jobs, there before the run is."""


@dataclass(frozen=True)
class ModelSize:
    """Size of a model with random weights; a pretrained one brings its own."""

    num_hidden_layers: Annotated[int, Range(1, 1000)] = 2
    """Transformer layers."""
    hidden_size: Annotated[int, Range(1, 65_536)] = 128
    """Width of the hidden states."""
    num_attention_heads: Annotated[int, Range(1, 1000)] = 2
    """Attention heads; must divide hidden_size."""
    intermediate_size: Annotated[int, Range(1, 1_000_000)] = 512
    """Width inside the feed-forward part."""
    attention_window: Annotated[int, Range(4, 1_000_000, even=True)] = 128
    """Longformer: tokens that a token sees, half on each side; even. transformers' own code needs 4 or more."""
    block_size: Annotated[int, Range(1, 65_536)] = 64
    """BigBird: tokens per block."""
    num_random_blocks: Annotated[int, Range(1, 1000)] = 3
    """BigBird: random blocks per query block."""


@dataclass(frozen=True)
class ModelConfig:
    """What is trained."""

    name_or_path: Annotated[str, PathText()] = "allenai/longformer-base-4096"
    """Base model: a local folder or a Hub id. Unused where init is random."""
    init: Literal["pretrained", "random"] = "pretrained"
    """Where the weights come from. Random is for tests, the demo and baselines."""
    family: Literal["longformer", "bigbird"] = "longformer"
    """Which model to make where init is random; a pretrained one says so itself."""
    size: ModelSize = field(default_factory=ModelSize)
    """How large a random model is."""
    position_embeddings: Literal["keep", "tile"] = "keep"
    """Rows longer than a pretrained model's positions: keep refuses them; tile repeats its position embeddings up to
    the rows' length, as Longformer's were made from RoBERTa's."""


@dataclass(frozen=True)
class AttentionConfig:
    """How attention is computed."""

    backend: Literal["auto", "blocked", "flex", "varlen", "hf"] = "auto"
    """auto: the fastest that can compute what is asked. blocked: scaled_dot_product_attention, anywhere. flex:
    flex_attention, on a GPU. varlen: FlashAttention's windows, on a GPU, Longformer without global tokens. hf: the
    Hugging Face model's own code, the reference. All compute the same function."""
    global_tokens: Literal["none", "first"] = "none"
    """Longformer: tokens with global attention. none, as Clinical-Longformer; first: each document's first token."""
    dropout: Annotated[float, Range(0, below=1)] | None = None
    """Longformer: attention dropout in training; null: the model's own. flex and varlen take 0 alone. BigBird's
    block-sparse attention has none."""


@dataclass(frozen=True)
class DataConfig:
    """What it is trained on."""

    shards: Annotated[str, PathText()] = "shards"
    """Shard folder made by `clinical-pretrain build-shards`."""
    language: Annotated[
        str, Pattern("[a-z]{2,3}|multilingual", "an ISO 639 code such as en or de, or multilingual")
    ] = "en"
    """Language of the notes, for the model card: an ISO 639 code such as en or de, or multilingual."""
    document_attention: Literal["sequence", "isolate"] = "sequence"
    """row: tokens see over the borders of the notes in a row, as Clinical-Longformer's; isolate: a token sees its own
    note alone, and positions begin anew in each. BigBird's blocks stay those of the row."""


@dataclass(frozen=True)
class MaskingConfig:
    """Masked-LM corruption (BERT, section 3.1): drawn anew in every epoch, the same on any number of GPUs."""

    probability: Annotated[float, Range(above=0, below=1)] = 0.15
    """Share of the maskable tokens to predict. Special tokens and placeholders never are."""
    replace_with_mask: Annotated[float, Range(0, 1)] = 0.8
    """Of those, the share shown as the mask token."""
    replace_with_random: Annotated[float, Range(0, 1)] = 0.1
    """Of those, the share shown as a random maskable token; the rest is shown unchanged."""
    whole_words: bool = False
    """Choose whole words instead of single tokens."""


@dataclass(frozen=True)
class BatchConfig:
    """How many sequences a step takes."""

    train_batch_size: Annotated[int, Range(1, 1_000_000)] = 18
    """Sequences per optimizer step, over all GPUs and accumulation steps."""
    micro_batch_size_per_gpu: Annotated[int, Range(1, 1_000_000)] = 3
    """Sequences per forward pass on one GPU. With train_batch_size it decides gradient accumulation."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and the learning-rate schedule."""

    learning_rate: Annotated[float, Range(above=0, maximum=1)] = 3e-5
    """Peak learning rate."""
    beta1: Annotated[float, Range(0, below=1)] = 0.9
    """AdamW's decay of the first moment."""
    beta2: Annotated[float, Range(0, below=1)] = 0.999
    """AdamW's decay of the second moment."""
    epsilon: Annotated[float, Range(1e-30, 1)] = 1e-8
    """AdamW's term against division by zero."""
    weight_decay: Annotated[float, Range(0, 10)] = 0.0
    """Decoupled weight decay; not applied to biases and layer norms."""
    max_grad_norm: Annotated[float, Range(0, MANY)] = 1.0
    """Gradients are scaled down to this global L2 norm; 0 switches clipping off."""
    schedule: Literal["linear", "cosine", "wsd"] = "linear"
    """Decay after warm-up: linear or cosine over the rest, or wsd (warm-up, stable, decay: flat until decay_steps)."""
    warmup_steps: Annotated[int, Range(0, MANY)] = 10_000
    """Optimizer steps from 0 to the peak."""
    decay_steps: Annotated[int, Range(0, MANY)] = 0
    """wsd alone: the last steps, over which the rate falls linearly."""
    final_learning_rate_fraction: Annotated[float, Range(0, 1)] = 0.0
    """Where the decay ends, as a share of the peak."""


@dataclass(frozen=True)
class ValidationConfig:
    """Loss and accuracy on held-out notes, always at the start and at the end."""

    every_steps: Annotated[int, Range(0, MANY)] = 1000
    """Optimizer steps between two; 0: only at the start and at the end."""
    max_sequences: Annotated[int, Range(0, MANY)] = 0
    """Rows of the validation split to use, spread evenly over it; 0: all."""
    random_blocks: Literal["evaluation", "training"] = "evaluation"
    """BigBird: evaluation, where block 0 stands for all random blocks: what transformers computes in eval mode, so
    what users of the exported model get; training: the blocks that it is trained with."""
    early_stopping_patience: Annotated[int, Range(0, MANY)] = 0
    """Validations in a row without a new lowest loss after which the run ends, with exit code 0; 0: never."""


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept to go on from. The last step is always saved."""

    every_steps: Annotated[int, Range(0, MANY)] = 1000
    """Optimizer steps between two; 0: only at the end of a stage, and for keep_best."""
    keep_latest: Annotated[int, Range(0, MANY)] = 3
    """The newest so many stay; 0: all."""
    keep_every_steps: Annotated[int, Range(0, MANY)] = 0
    """Of the older ones, those at multiples of so many steps stay, too; 0: none."""
    accept_changes: bool = False
    """Go on although data or settings are others than those the run began with. Never another model or precision."""
    max_consecutive_failures: Annotated[int, Range(0, MANY)] = 3
    """So many saves in a row may fail, say on a full disk, before the run ends; the earlier checkpoints stay whole."""
    keep_best: bool = True
    """Save when a validation's loss is the lowest so far, and keep that checkpoint, for `export --step best`."""


@dataclass(frozen=True)
class BadStepsConfig:
    """What happens to steps whose loss or gradient is no finite number: all ranks skip the update together. Where that
    doesn't end, or weights or a validation loss aren't finite, the run goes back to the last checkpoint, and past the
    samples of those steps."""

    max_consecutive_skips: Annotated[int, Range(1, MANY)] = 10
    """So many skipped updates in a row, and the run goes back. (Of fp16, only those whose loss itself isn't finite.)"""
    max_consecutive_overflows: Annotated[int, Range(1, MANY)] = 25
    """fp16: roll back after this many consecutive updates skipped because the gradients overflowed though the loss is
    finite. Each halves the loss scale, from 65,536 to 1 in 17 steps: raise it with fp16.initial_scale_power."""
    spike_factor: Annotated[float, Range(0, MANY)] = 0.0
    """A loss above so many times the median of the last 100 makes the run go back at once. 0: never."""
    max_rollbacks: Annotated[int, Range(0, MANY)] = 3
    """So often a run goes back; then it ends."""


@dataclass(frozen=True)
class WatchdogConfig:
    """When a run that stands still is ended, so that it can be started again."""

    heartbeat_timeout_seconds: Annotated[int, Range(1, 1_000_000)] = 60
    """A rank that isn't heard of for so long is lost: its node, or the process was stopped."""
    step_timeout_seconds: Annotated[int, Range(0, 1_000_000)] = 1800
    """A step that takes longer hangs: every rank's stack goes to the run folder, and the run ends. 0: none does."""


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    run_dir: Annotated[str, PathText()] = "runs/run"
    """Run folder. One that holds the same run is continued."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 42
    """Seed of data order, masks, dropout and random weights."""
    max_steps: Annotated[int, Range(1, MANY)] = 200_000
    """Optimizer steps; of the first stage, where the run is extended."""
    extra_steps: Annotated[int, Range(0, MANY)] = 0
    """Optimizer steps beyond max_steps, in total, as a further stage. Rows and masks continue where the stage before
    ended. The learning rate warms up again from 0, over a tenth of it but at most optim.warmup_steps, and decays
    over the rest by optim.schedule. The same number again adds nothing; a larger one adds another stage."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Arithmetic of the forward and backward pass; the optimizer keeps fp32 weights."""
    activation_checkpointing: Literal["none", "attention", "full"] = "full"
    """What is computed again in the backward pass to save memory: nothing, attention, or whole layers."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile for the layers and the head: auto: on a GPU, but not under ZeRO 3, whose hooks cut it to pieces."""
    deepspeed: Annotated[str, PathText()] = "ds_configs/zero2.json"
    """DeepSpeed file that says the ZeRO stage and offload; none: ZeRO off (stage 0)."""
    log_every_steps: Annotated[int, Range(1, MANY)] = 10
    """Optimizer steps between two lines of metrics."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What is trained."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    """How attention is computed."""
    data: DataConfig = field(default_factory=DataConfig)
    """What it is trained on."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    """What is hidden from the model."""
    batch: BatchConfig = field(default_factory=BatchConfig)
    """How many sequences a step takes."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """When to measure on held-out notes."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When to save, and what to keep."""
    bad_steps: BadStepsConfig = field(default_factory=BadStepsConfig)
    """What happens to steps without a finite loss."""
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    """When a run that stands still is ended."""

    def __post_init__(self) -> None:
        if faults := type_faults(self) or range_faults(self) or list(self._contradictions()):
            raise UserError("config: " + "; ".join(faults))

    def _contradictions(self) -> Iterator[str]:
        """Between settings that are each within their own range."""
        batch, optim, masking = self.batch, self.optim, self.masking
        if batch.train_batch_size % batch.micro_batch_size_per_gpu:
            yield (
                f"batch.train_batch_size {batch.train_batch_size} is no multiple of batch.micro_batch_size_per_gpu "
                f"{batch.micro_batch_size_per_gpu}"
            )
        dropout = self.attention.dropout
        if dropout and self.attention.backend in ("flex", "varlen"):
            yield f"attention.backend {self.attention.backend} takes no dropout; set attention.dropout to 0 or use auto"
        if self.compile == "on" and self.attention.backend == "hf":
            yield "compile is on, but attention.backend hf runs the model's own code as it is; use auto"
        if 0 < self.bad_steps.spike_factor <= 1:
            yield f"bad_steps.spike_factor is {self.bad_steps.spike_factor}, must be above 1, or 0 for none"
        if self.validation.early_stopping_patience and not self.validation.every_steps:
            yield (
                "validation.early_stopping_patience needs validations between start and end; set validation.every_steps"
            )
        if optim.warmup_steps > self.max_steps:
            yield f"optim.warmup_steps {optim.warmup_steps} is more than max_steps {self.max_steps}"
        if optim.schedule == "wsd" and optim.warmup_steps + optim.decay_steps > self.max_steps:
            yield (
                f"optim.warmup_steps {optim.warmup_steps} and optim.decay_steps {optim.decay_steps} are more than "
                f"max_steps {self.max_steps}"
            )
        if masking.replace_with_mask + masking.replace_with_random > 1 + 1e-9:
            yield "masking.replace_with_mask and masking.replace_with_random must be shares that add up to at most 1"
        size = self.model.size
        if self.model.init == "random" and size.hidden_size % size.num_attention_heads:
            yield (
                f"model.size.num_attention_heads {size.num_attention_heads} doesn't divide model.size.hidden_size "
                f"{size.hidden_size}"
            )

    def accumulation_steps(self, world_size: int) -> int:
        """Micro-batches that each of `world_size` ranks takes per optimizer step.

        Raises:
            UserError: the ranks can't share them evenly.
        """
        micro_batches = self.batch.train_batch_size // self.batch.micro_batch_size_per_gpu
        if micro_batches % world_size:
            counts = [str(n) for n in range(1, micro_batches + 1) if micro_batches % n == 0]
            raise UserError(
                f"{world_size} ranks can't share {micro_batches} micro-batches per step evenly (batch.train_batch_size "
                f"{self.batch.train_batch_size} / batch.micro_batch_size_per_gpu "
                f"{self.batch.micro_batch_size_per_gpu}); use {', '.join(counts)} ranks, or change one of the two"
            )
        return micro_batches // world_size

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values."""
        return asdict(self)

    def to_yaml(self) -> str:
        """The whole config, as `--config` reads it."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


_WORD = Pattern(r"\S*", "one word")


@dataclass(frozen=True)
class SlurmConfig:
    """A job on a SLURM cluster. What is the same for all jobs of a cluster stands in slurm/site.yaml."""

    nodes: Annotated[int, Range(1, 100_000)] = 1
    """Nodes of a training."""
    gpus_per_node: Annotated[int, Range(0, 1000)] = 2
    """GPUs on each, such that all share a step's micro-batches evenly (6 in the recipes); 0: trains on CPUs."""
    tasks_per_node: Annotated[int, Range(0, 1000)] = 0
    """Ranks on each; 0: one per GPU, or one."""
    cpus_per_task: Annotated[int, Range(1, 1000)] = 4
    """CPU cores of each rank."""
    tasks: Annotated[int, Range(1, 100_000)] = 32
    """submit-shards: jobs that share the packing."""
    time: str = "24:00:00"
    """Time limit, as SLURM writes it; ahead of it a training saves, and is queued again."""
    warning_seconds: Annotated[int, Range(0, 1_000_000)] = 300
    """So long before the time limit a training is told. More than a step and a save take."""
    memory: Annotated[str, _WORD] = ""
    """Memory of each node, such as 200G; empty: the cluster's default."""
    partition: Annotated[str, _WORD] = ""
    """Empty: the cluster's default."""
    account: Annotated[str, _WORD] = ""
    """Who pays."""
    qos: Annotated[str, _WORD] = ""
    """Quality of service."""
    constraint: Annotated[str, _WORD] = ""
    """Features of the nodes, such as a100."""
    python: Annotated[str, PathText(may_be_empty=True)] = ""
    """Interpreter on the nodes; empty: the one that submits."""
    container: Annotated[str, PathText(may_be_empty=True)] = ""
    """Apptainer image that holds the interpreter."""
    container_options: str = ""
    """For `apptainer exec`, such as --bind /data."""
    setup: str = ""
    """Shell lines that each job runs first."""
    options: dict[str, str] = field(default_factory=dict)
    """More options of sbatch, such as {"exclude": "node7"}."""

    def __post_init__(self) -> None:
        if faults := type_faults(self):
            raise UserError("slurm: " + "; ".join(faults))
        faults = range_faults(self)
        limit = seconds_of(self.time)
        if limit is None:
            faults.append(f"time {self.time}: write minutes (90), hours (1:30:00) or days (1-12:00:00)")
        elif limit <= self.warning_seconds:
            faults.append(f"time {self.time} must be longer than warning_seconds ({self.warning_seconds})")
        if faults:
            raise UserError("slurm: " + "; ".join(faults))

    @property
    def ranks_per_node(self) -> int:
        """Ranks on each node of a training."""
        return self.tasks_per_node or self.gpus_per_node or 1


def seconds_of(time: str) -> float | None:
    """A time limit in one of SLURM's ways to write it, in seconds; None where it is none of them."""
    if time.upper() in ("UNLIMITED", "INFINITE", "0"):
        return math.inf
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if found is None:
        return None
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is None and len(numbers) < 3:  # minutes, or minutes and seconds
        numbers.insert(0, 0)
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def keys_of(cls: type, prefix: str = "") -> list[str]:
    """Every dotted key of a config class: `optim.learning_rate`, and groups such as `optim`."""
    keys = []
    hints = get_type_hints(cls)
    for entry in fields(cls):
        keys.append(prefix + entry.name)
        if is_dataclass(hints[entry.name]):
            keys += keys_of(hints[entry.name], f"{prefix}{entry.name}.")
    return keys


def refuse_unknown(names: Iterable[str], valid: Sequence[str], dashes: str = "", file: str = "") -> None:
    """Raise a UserError that names every unknown key, of options or of a file, and the nearest valid one.

    Where all of a file's keys are strange, none is named: it may be notes.
    """
    faults, all_strange = [], True
    last_parts = {key.split(".")[-1]: key for key in reversed(valid)}
    for name in names:
        word = name.lower().replace("-", "_").split(".")[-1]
        of_others = OTHER_NAMES.get(word, "") if "max_steps" in valid else ""
        same = [key for key in valid if key.split(".")[-1] == word] or [key for key in valid if key == of_others]
        near = same or difflib.get_close_matches(name, valid, n=1, cutoff=0.8)
        near = near or [last_parts[part] for part in difflib.get_close_matches(word, last_parts, n=1, cutoff=0.75)]
        all_strange &= not (near or of_others or name.split(".")[0] in valid)
        near = near or difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
        hint = f" (did you mean {dashes}{near[0]}?)" if near else ""
        if new_name := RENAMED.get(name) if "max_steps" in valid else None:
            all_strange, hint = False, f" (renamed to {dashes}{new_name})"
        elif of_others and not same:
            hint = f" ({of_others})"
        elif not near and len(valid) < 20:
            hint = f" (there are {', '.join(valid)})"
        elif not near and dashes:
            hint = " (--help lists all)"
        if name not in valid:
            faults.append(f"unknown {dashes}{name}{hint}")
    if faults and file and all_strange:
        raise UserError(f"{file}: none of its keys is a setting, such as {valid[0]}")
    if faults:
        raise UserError((f"{file}: " if file else "") + "; ".join(faults))


def load_config(argv: Sequence[str], needs_file: bool = False) -> tuple[RunConfig, str | None]:
    """One config from `--config FILE` and dotted overrides; later ones win.

    Args:
        argv: the options.
        needs_file: refuse options without a `--config`.

    Returns:
        The config, and the file that `--json` names. `--print_config`, `--help` and `--version` print and exit with 0.

    Raises:
        UserError: a key is unknown, a value is of the wrong kind, or the settings contradict each other.
    """
    valid = keys_of(RunConfig)
    given = split_options(argv, ("print_config", "help", "version"))
    names = [name for name, _ in given]
    refuse_unknown(names, [*valid, "config", "print_config", "help", "version", "json"], "--")
    if "help" in names:
        config_parser().print_help()
        sys.exit(0)
    if "version" in names:
        print(version())
        sys.exit(0)
    flat: dict[str, Any] = {}
    for name, value in given:
        if name == "config":
            of_file = flatten(read_yaml(find_config(value)))
            refuse_unknown(of_file, valid, file=value)
            flat |= of_file
        elif name in valid:
            flat |= read_option(name, value, RunConfig)
    refuse_unknown(flat, valid, "--")
    config = build(RunConfig, flat)
    if "print_config" in names:
        print(config.to_yaml(), end="")
        sys.exit(0)
    if needs_file and "config" not in names:
        there = ", ".join(resource_names(CONFIGS, ".yaml"))
        raise UserError(f"no --config: name the file with the run's settings; there are {there}")
    json_file = dict(given).get("json")
    if json_file is not None and (not json_file or Path(json_file).is_dir()):
        raise UserError(f"--json {json_file}: a file is wanted, not a folder")
    return config, json_file


def split_options(argv: Sequence[str], flags: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Names and values of `--name value` and `--name=value`, in order; `flags` take no value.

    Raises:
        UserError: a value is missing, or belongs to no option.
    """
    given, words = [], list(map(expand_home, argv))
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if word == "-h":
            name, word = "help", "--help"
        if not word.startswith("--"):
            hint = f"--config {word}" if word.endswith((".yaml", ".yml")) else "an option begins with --"
            raise UserError(f"{word}: belongs to no option ({hint})")
        if not equals and name not in flags:
            if not words or (words[0].startswith("--") and " " not in words[0]):
                raise UserError(f"--{name}: no value follows it")
            value = words.pop(0)
        given.append((name, value))
    return given


def read_option(key: str, value: str, cls: type) -> dict[str, Any]:
    """What an option sets, by dotted keys: itself, or what a section such as `--optim '{warmup_steps: 10}'` holds."""
    if any(name.startswith(f"{key}.") for name in keys_of(cls)):
        try:
            return flatten({key: yaml.load(value, TextLoader)})
        except (yaml.YAMLError, RecursionError):
            pass
    return {key: value}


def version() -> str:
    """The installed package's."""
    return f"clinical-pretrain {importlib.metadata.version('clinical-pretrain')}"


def config_parser(program: str = "deepspeed -q clinical_pretrain/run.py") -> Any:
    """A jsonargparse parser over RunConfig, for its help and for completion."""
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=program,
        usage=f"{program} --config FILE [--key value ...] [--print_config] [--json FILE]",
        description="Continue masked-LM pretraining of Longformer or BigBird on a shard folder. DeepSpeed says only "
        "warnings: DEEPSPEED_LOG_LEVEL=info brings its other messages back, deepspeed -q leaves out its launcher's.",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file; dotted options after it override it")
    parser.add_argument("--print_config", action="store_true", help="print the whole config, checked, and exit")
    parser.add_argument("--json", metavar="FILE", help="also write the run's summary to this file")
    parser.add_argument("--version", action="store_true", help="print the version, and exit")
    parser.add_class_arguments(RunConfig)
    return parser


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file, all of them text or null.

    Raises:
        UserError: it can't be read, holds something else, or a key twice.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), TextLoader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except RepeatedKeyError as error:
        assert error.problem_mark is not None
        raise UserError(f"{path}, line {error.problem_mark.line + 1}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError, KeyError, AttributeError) as error:  # a tag's, as in !!int abc
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not text, too deep, or a value that isn't of its tag"
        raise UserError(f"{path}{where}: not YAML ({problem})") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a config file holds keys and values, such as 'max_steps: 1000'")
    return raw


def one_line(message: str) -> str:
    """jsonargparse's explanation without its indented lines of nested parsers."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    return " ".join(lines)[:400]


def check_files(config: RunConfig) -> None:
    """See that a run's files are there, as far as that takes no second.

    Raises:
        UserError: the shards, the DeepSpeed file or the base model's folder isn't.
    """
    Manifest.load(config.data.shards)
    if config.deepspeed != NO_ZERO:
        find_file(config.deepspeed)
    if config.model.init == "pretrained":
        refuse_missing_folder(config.model.name_or_path)


def refuse_missing_folder(name_or_path: str) -> None:
    """Raise a UserError where a base model's name can only be a folder's, and that isn't there."""
    if Path(name_or_path).is_absolute() and not Path(name_or_path).is_dir():
        raise UserError(f"{name_or_path}: no such folder (model.name_or_path)")
