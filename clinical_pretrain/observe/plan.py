"""What a run will need before it is started: memory, time, energy and disk. The facts come from estimate/."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

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
    largest_that_fits,
    possible_sizes,
)
from clinical_pretrain.estimate.shapes import checkpoint_bytes, parameters, shape_of
from clinical_pretrain.estimate.speed import Network
from clinical_pretrain.estimate.zero import ZeroSettings
from clinical_pretrain.observe.plan_measured import Measurement, measurement, newest_measurement
from clinical_pretrain.observe.plan_scaling import ScalingRow, scaling, scaling_lines
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest
from tokenizer_tools.wording import byte_count, short_count

STAGES = (1, 2, 3)
OPTIONS = "  options for it: "
"""What the line begins with that is copied in one piece."""


@dataclass(frozen=True)
class Asked:
    """What `plan` was asked."""

    config: RunConfig
    card: Card
    world_size: int
    network: Network
    length: int
    """Tokens per sequence, where there are no shards."""
    shards: Path | None = None
    measured: Path | None = None
    """A run folder, whose speed corrects the estimate."""


@dataclass(frozen=True)
class Plan:
    """The answer."""

    given: Conditions
    notes: list[str]
    """What differs from the config, in a sentence each."""
    asked: Candidate | None
    """As the config has it; None where it leaves it to `auto`."""
    chosen: Candidate
    """What would be the fastest under the config's ZeRO file, or under another stage where none fits under it."""
    others: list[Candidate]
    """The best of each ZeRO stage and activation checkpointing."""
    steps: int
    shards: Path | None
    manifest: Manifest | None
    """Of the shards."""
    measurement: Measurement | None = None
    """By which times are scaled."""
    options: tuple[str, ...] = ()
    """Options that make the config what is chosen, with the batch that the GPUs can share."""

    @property
    def shown(self) -> Candidate:
        """What was asked, or else chosen."""
        return self.asked or self.chosen

    @cached_property
    def largest(self) -> int:
        """The largest micro-batch that fits with what is shown."""
        return largest_that_fits(self.given, self.shown.zero, self.shown.activation_checkpointing)

    @cached_property
    def scaling(self) -> list[ScalingRow]:
        """By number of GPUs."""
        return scaling(self.given, self.shown)


def make_plan(asked: Asked) -> Plan:
    """Estimate it all.

    Raises:
        UserError: the model's shape isn't known, or something isn't covered by the estimates.
    """
    manifest = Manifest.load(asked.shards) if asked.shards else None
    length = manifest.sequence_length if manifest else asked.length
    model = shape_of(asked.config.model, length, manifest.tokenizer.vocab_size if manifest else None)
    config, steps, notes = _whole_batch(asked)
    if manifest is None and asked.config.model.init == "random":
        notes.append(f"the vocabulary of shards decides the model's size: planned with {model.vocab_size:,} tokens")
    if asked.measured:
        measured: Measurement | None = measurement(asked.measured, asked.card, asked.network)
    else:
        measured = newest_measurement(Path(config.run_dir).parent, asked.card, asked.network)
    slowdown = 1 / measured.factor if measured else 1.0
    given = Conditions(config, model, length, asked.card, asked.world_size, asked.network, slowdown)
    own = ZeroSettings.of(load(config.deepspeed))
    given.check(own)
    stages = [own if stage == own.stage else _shipped(stage) for stage in STAGES]
    others = list(candidates(given, stages))
    of_own = [each for each in others if each.zero.stage == own.stage]
    chosen = choose(of_own if any(each.fits for each in of_own) else others)
    as_asked = _as_asked(given, own, notes)
    options = options_for(asked.config, config, steps, chosen) if chosen.fits else ()
    return Plan(given, notes, as_asked, chosen, others, steps, asked.shards, manifest, measured, options)


def _as_asked(given: Conditions, own: ZeroSettings, notes: list[str]) -> Candidate | None:
    """What the config has, unless it leaves that to `auto` or the GPUs can't share a step so."""
    size, kind = given.config.batch.micro_batch_size_per_gpu, given.config.activation_checkpointing
    if not size or kind not in KINDS:
        return None
    sizes = possible_sizes(given.config.batch.train_batch_size, given.world_size)
    if size in sizes:
        return candidate(given, own, kind, size)
    notes.append(
        f"{given.world_size} GPUs can't share a step of {given.config.batch.train_batch_size} sequences in "
        f"micro-batches of {size}, but in those of {', '.join(map(str, sizes))}"
    )
    return None


def _whole_batch(asked: Asked) -> tuple[RunConfig, int, list[str]]:
    """The config with a batch that the GPUs can share, its number of steps for as many sequences, and what changed."""
    config, size = asked.config, asked.config.batch.train_batch_size
    steps = config.max_steps + config.extend
    if size % asked.world_size == 0:
        return config, steps, []
    larger = -(-size // asked.world_size) * asked.world_size
    fewer = math.ceil(steps * size / larger)
    counts = [count for count in range(1, size + 1) if size % count == 0]
    note = (
        f"{asked.world_size} GPUs can't share batch.train_batch_size {size} evenly: planned with {larger} a step, and "
        f"{fewer:,} steps for as many sequences; {', '.join(map(str, counts))} GPUs can"
    )
    micro = config.batch.micro_batch_size_per_gpu
    micro = 0 if micro and larger % micro else micro  # a config must agree with itself
    batch = replace(config.batch, train_batch_size=larger, micro_batch_size_per_gpu=micro)
    return replace(config, batch=batch), fewer, [note]


def options_for(before: RunConfig, shared: RunConfig, steps: int, chosen: Candidate) -> tuple[str, ...]:
    """What to add to the command for what is chosen; what the config leaves to `auto` stays so.

    Args:
        before: the config as it was given.
        shared: the config whose batch the GPUs can share.
        steps: as many as that takes, `extend` included.
        chosen: the choice.
    """
    own_stage = ZeroSettings.of(load(before.deepspeed)).stage
    warmup_steps = before.optim.warmup_steps
    max_steps = -(-before.max_steps * before.batch.train_batch_size // shared.batch.train_batch_size)
    size, kind, stage = before.batch.micro_batch_size_per_gpu, before.activation_checkpointing, chosen.zero.stage
    values = [  # option, the config's value, the choice's
        ("--max_steps", before.max_steps, max_steps),
        ("--extend", before.extend, steps - max_steps),
        ("--optim.warmup_steps", warmup_steps, min(warmup_steps, max_steps)),
        ("--batch.train_batch_size", before.batch.train_batch_size, shared.batch.train_batch_size),
        ("--batch.micro_batch_size_per_gpu", size, chosen.micro_batch_size if size else size),
        ("--activation_checkpointing", kind, chosen.activation_checkpointing if kind in KINDS else kind),
        ("--deepspeed", before.deepspeed, before.deepspeed if stage == own_stage else f"ds_configs/zero{stage}.json"),
    ]
    return tuple(word for option, own, new in values if own != new for word in (option, str(new)))


def _shipped(stage: int) -> ZeroSettings:
    return ZeroSettings.of(load(f"ds_configs/zero{stage}.json"))


def facts(plan: Plan) -> dict[str, Any]:
    """For --json: the flat figures of what was asked or chosen, then all the rest."""
    given, shown = plan.given, plan.shown
    return {
        **_figures(plan, shown),
        "is_estimate": True,
        "measured_over_estimated": round(plan.measurement.factor, 3) if plan.measurement else None,
        "source": "chosen" if plan.asked is None else "config",
        "gpus": given.world_size,
        "gpu": given.card.name,
        "train_batch_size": given.config.batch.train_batch_size,
        "steps": plan.steps,
        "tokens": plan.steps * given.config.batch.train_batch_size * given.length,
        "gpu_hours": round(_hours(plan, shown) * given.world_size, 7),
        "kilowatt_hours": round(_kilowatt_hours(plan, shown), 7),
        "largest_micro_batch_size": plan.largest,
        "memory_gb_by_part": {part: round(size / 1e9, 3) for part, size in shown.memory.by_part.items() if size},
        "peak_phase": shown.memory.phase,
        "needed_gb": round(shown.needed_bytes / 1e9, 3),
        "card_gb": round(given.card.memory_bytes / 1e9, 3),
        "seconds_of_a_step": {name: round(value, 5) for name, value in asdict(shown.time).items()},
        "chosen": _figures(plan, plan.chosen),
        "candidates": [_figures(plan, each) for each in plan.others],
        "disk_gb": {name: round(size / 1e9, 2) for name, size in disk(plan).items()},
        "epochs": _epochs(plan),
        "scaling": [asdict(row) for row in plan.scaling],
        "notes": plan.notes,
        "options": list(plan.options),
    }


def _figures(plan: Plan, each: Candidate) -> dict[str, Any]:
    return {
        "peak_gb_per_gpu": round(each.memory.peak_bytes / 1e9, 3),
        "tokens_per_second": round(_tokens_per_second(plan, each)),
        "hours": round(_hours(plan, each), 7),
        "micro_batch_size_per_gpu": each.micro_batch_size,
        "checkpointing": each.activation_checkpointing,
        "fits": each.fits,
        "zero_stage": each.zero.stage,
    }


def _tokens_per_second(plan: Plan, each: Candidate) -> float:
    return plan.given.config.batch.train_batch_size * plan.given.length / each.time.total


def _hours(plan: Plan, each: Candidate) -> float:
    tokens = plan.steps * plan.given.config.batch.train_batch_size * plan.given.length
    return tokens / _tokens_per_second(plan, each) / 3600


def _kilowatt_hours(plan: Plan, each: Candidate) -> float:
    return _hours(plan, each) * plan.given.world_size * plan.given.card.watts / 1000


def _epochs(plan: Plan) -> float | None:
    if plan.manifest is None:
        return None
    sequences = plan.manifest.splits["train"].sequences
    if not sequences:
        raise UserError("--shards: no training sequences in these shards")
    return round(plan.steps * plan.given.config.batch.train_batch_size / sequences, 2)


def disk(plan: Plan) -> dict[str, int]:
    """Bytes on the disk, by what for: the shards, one checkpoint, all that are kept at once, the export."""
    every = parameters(plan.given.model)
    trained, total = (sum(each.numel for each in every if each.is_trained or not only) for only in (True, False))
    of_checkpoint = checkpoint_bytes(total, trained, 4 if plan.given.config.precision == "fp32" else 2)
    found = {}
    if plan.shards is not None:
        found["shards"] = sum(path.stat().st_size for path in plan.shards.rglob("*") if path.is_file())
    kept = plan.given.config.checkpoints_kept(plan.steps)
    return found | {"checkpoint": of_checkpoint, "checkpoints": kept * of_checkpoint, "export": 4 * total}


def report(plan: Plan) -> Iterator[str]:
    """The lines that a user reads."""
    given, shown = plan.given, plan.shown
    config, model = given.config, given.model
    tokens = plan.steps * config.batch.train_batch_size * given.length
    count = sum(each.numel for each in parameters(model))
    compiled = ", compiled" if given.compiles(shown.zero.stage) else ""
    yield _what_it_is(plan.measurement)
    yield (
        f"{model.family}, {count / 1e6:.1f} M parameters, {given.world_size} x {given.card.name}, {config.precision}, "
        f"{given.backend} attention{compiled}"
    )
    yield (
        f"{config.batch.train_batch_size} sequences of {given.length:,} tokens a step, {plan.steps:,} steps: "
        f"{short_count(tokens)} tokens"
    )
    yield from plan.notes
    yield ""
    yield f"{'as in the config' if plan.asked else 'chosen'}: {_name(shown)}"
    yield from _memory_lines(plan)
    yield from _time_lines(plan)
    yield from _disk_lines(plan)
    yield ""
    yield "the largest micro-batch that fits, by ZeRO stage and what is computed again:"
    yield "  ZeRO  computed again  sequences      GB  fits   tokens/s      time"
    for each in plan.others:
        mark = "  <- chosen" if each == plan.chosen else ""
        yield (
            f"  {each.zero.stage:>4}  {each.activation_checkpointing:<14}  {each.micro_batch_size:>9}  "
            f"{each.needed_bytes / 1e9:>6.1f}  {'yes' if each.fits else 'no':<4}  "
            f"{_tokens_per_second(plan, each):>9,.0f}  {_time(_hours(plan, each)):>8}{mark}"
        )
    yield _why(plan)
    if plan.options:
        yield f"{OPTIONS}{' '.join(plan.options)}"
    yield ""
    yield from scaling_lines(plan.scaling)


def _what_it_is(measured: Measurement | None) -> str:
    if measured is None:
        return "An estimate: nothing of it was measured on this GPU."
    return (
        f"An estimate, its times scaled by {measured.factor:.2f}: {measured.run} trained "
        f"{measured.tokens_per_second:,.0f} tokens/s on this GPU, where {measured.estimated:,.0f} were estimated."
    )


def _name(each: Candidate) -> str:
    return (
        f"ZeRO {each.zero.stage}, micro-batches of {each.micro_batch_size}, {each.accumulation_steps} a step on each "
        f"GPU, activation_checkpointing {each.activation_checkpointing}"
    )


def _memory_lines(plan: Plan) -> Iterator[str]:
    given, shown = plan.given, plan.shown
    peak, card = shown.memory.peak_bytes, given.card.memory_bytes
    parts = sorted(shown.memory.by_part.items(), key=lambda part: -part[1])
    yield f"  memory    {peak / 1e9:.2f} GB at the peak ({shown.memory.phase}): " + ", ".join(
        f"{name} {size / 1e9:.2f}" for name, size in parts if size >= 5e6
    )
    verdict = "fits" if shown.fits else "does NOT fit"
    yield (
        f"            {shown.needed_bytes / 1e9:.2f} of {card / 1e9:.2f} GB with fragmentation, CUDA and NCCL: "
        f"{verdict}; at most {plan.largest} sequences would"
    )


def _time_lines(plan: Plan) -> Iterator[str]:
    given, shown = plan.given, plan.shown
    time, hours = shown.time, _hours(plan, shown)
    speed = _tokens_per_second(plan, shown)
    parts = {"matrix products": time.products, "attention": time.attention, "memory": time.memory,
             "launches": time.host, "update": time.update, "communication": time.communication}  # fmt: skip
    shares = ", ".join(f"{name} {part / time.total:.0%}" for name, part in parts.items())
    yield f"  time      {_time(hours)}: {speed:,.0f} tokens/s, {time.total:.3f} s a step ({shares})"
    yield (
        f"            {_amount(hours * given.world_size)} GPU-hours, {_amount(_kilowatt_hours(plan, shown))} kWh at "
        f"{given.card.watts:.0f} W a GPU, without hosts and cooling; validation and saving not counted"
    )


def _time(hours: float) -> str:
    """In seconds, minutes or hours."""
    if hours < 1 / 60:
        return f"{3600 * hours:,.2g} s"
    return f"{60 * hours:,.1f} min" if hours < 1 else f"{hours:,.1f} h"


def _amount(value: float) -> str:
    """With two digits where it is small."""
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}" if value >= 0.01 else "under 0.01"


def _disk_lines(plan: Plan) -> Iterator[str]:
    sizes, kept = disk(plan), plan.given.config.checkpoints_kept(plan.steps)
    shards = f"shards {byte_count(sizes['shards'])}, " if "shards" in sizes else ""
    yield (
        f"  disk      {shards}checkpoints {byte_count(sizes['checkpoints'])} ({kept} of "
        f"{byte_count(sizes['checkpoint'])}), export {byte_count(sizes['export'])}"
    )
    if plan.manifest is not None:
        train = plan.manifest.splits["train"]
        yield f"  data      {_epochs(plan):,} epochs over {train.sequences:,} sequences, {train.tokens:,} tokens"


def _why(plan: Plan) -> str:
    chosen = plan.chosen
    if not chosen.fits:
        return "nothing fits: a larger card, shorter sequences or more GPUs under ZeRO 3 are needed"
    own = ZeroSettings.of(load(plan.given.config.deepspeed)).stage
    is_own = chosen.zero.stage == own
    where = f"under ZeRO {own}, the config's" if is_own else f"of all stages, as none fits under ZeRO {own}"
    return f"choice: {_name(chosen)}: the fastest that fits {where} (within 2 % the one that needs least memory)"
