"""`auto` in a config: the micro-batch and the activation checkpointing that a run gets on this machine."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.engine.deepspeed_config import load
from clinical_pretrain.estimate.cards import Card
from clinical_pretrain.estimate.choice import (
    KINDS,
    Candidate,
    Conditions,
    candidate,
    candidates,
    choose,
    possible_sizes,
    remedies,
)
from clinical_pretrain.estimate.shapes import shape_of
from clinical_pretrain.estimate.speed import Network
from clinical_pretrain.estimate.zero import ZeroSettings
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest

AUTO = "auto"


def is_auto(config: RunConfig) -> bool:
    """Whether something is left to `auto`."""
    return not config.batch.micro_batch_size_per_gpu or config.activation_checkpointing == AUTO


def as_before(config: RunConfig, world_size: int) -> RunConfig:
    """A config whose `auto` is what the run in its folder was given, as long as its ranks can share that."""
    folder = RunFolder(Path(config.run_dir))
    if not is_auto(config) or not folder.exists:
        return config
    former = folder.read_config()
    size = former["batch"]["micro_batch_size_per_gpu"]
    shared = size in possible_sizes(config.batch.train_batch_size, world_size)
    return _given(config, size if shared else 0, former["activation_checkpointing"])


def settle(config: RunConfig, world_size: int, card: Card | None) -> RunConfig:
    """A config without `auto`, for ranks on GPUs of this kind, or on CPUs.

    Raises:
        UserError: nothing fits, or the estimates don't cover the run.
    """
    config = as_before(config, world_size)
    if not is_auto(config):
        return config
    if card is None:
        return _given(config, 1, "none")
    config.accumulation_steps(world_size)  # refuses a batch that can't be shared
    given, zero = conditions(config, world_size, card)
    kinds = KINDS if config.activation_checkpointing == AUTO else (config.activation_checkpointing,)
    size = config.batch.micro_batch_size_per_gpu
    chosen = choose(candidates(given, [zero], kinds, [size] if size else None))
    if not chosen.fits:
        raise UserError(
            f"auto: not even micro-batches of {chosen.micro_batch_size} fit: {chosen.needed_bytes / 1e9:.1f} of "
            f"{card.memory_bytes / 1e9:.1f} GB with activation_checkpointing {chosen.activation_checkpointing}; "
            "see 'clinical-pretrain plan'"
        )
    return _given(config, chosen.micro_batch_size, chosen.activation_checkpointing)


def conditions(config: RunConfig, world_size: int, card: Card) -> tuple[Conditions, ZeroSettings]:
    """What the estimates are asked about.

    Raises:
        UserError: they don't cover it.
    """
    manifest = Manifest.load(config.data.shards)
    model = shape_of(config.model, manifest.sequence_length, manifest.tokenizer.vocab_size)
    given = Conditions(config, model, manifest.sequence_length, card, world_size, Network())
    zero = ZeroSettings.of(load(config.deepspeed))
    given.check(zero)
    return given, zero


def estimated(config: RunConfig, world_size: int, card: Card | None) -> Candidate | None:
    """The estimate for a config without `auto`; None where there is none."""
    if card is None:
        return None
    with suppress(UserError):
        given, zero = conditions(config, world_size, card)
        return candidate(given, zero, config.activation_checkpointing, config.batch.micro_batch_size_per_gpu)
    return None


def out_of_memory(config: RunConfig, world_size: int, card: Card | None) -> str:
    """A message for a run whose GPU hasn't enough memory: the numbers, and the settings that would help."""
    what = (
        f"out of memory: micro-batches of {config.batch.micro_batch_size_per_gpu} with activation_checkpointing "
        f"{config.activation_checkpointing}"
    )
    now = estimated(config, world_size, card)
    if card is None or now is None:
        return f"{what}; use a smaller --batch.micro_batch_size_per_gpu or --activation_checkpointing full"
    given, _ = conditions(config, world_size, card)
    shipped = [ZeroSettings.of(load(f"ds_configs/zero{stage}.json")) for stage in (2, 3)]
    options = [
        f"{each.option} ({each.result.needed_bytes / 1e9:.1f} GB{'' if each.result.fits else ', not enough alone'})"
        for each in remedies(given, now, shipped)
    ] or ["a larger GPU"]
    return (
        f"{what} need about {now.needed_bytes / 1e9:.1f} GB of {card.memory_bytes / 1e9:.1f}; best first: "
        f"{', '.join(options)}"
    )


def _given(config: RunConfig, size: int, kind: str) -> RunConfig:
    """A config whose `auto` is replaced."""
    batch = config.batch
    if not batch.micro_batch_size_per_gpu:
        batch = replace(batch, micro_batch_size_per_gpu=size)
    kind = kind if config.activation_checkpointing == AUTO else config.activation_checkpointing
    return replace(config, batch=batch, activation_checkpointing=kind)  # type: ignore[arg-type]
