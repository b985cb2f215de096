"""How a run's measured speed compares with the estimate: `plan` then scales its times by that."""

from __future__ import annotations

import statistics
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clinical_pretrain.config.reading import build, flatten
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.engine.deepspeed_config import load
from clinical_pretrain.estimate.cards import Card, card_of_device
from clinical_pretrain.estimate.choice import Conditions, candidate
from clinical_pretrain.estimate.shapes import read_shape
from clinical_pretrain.estimate.speed import Network
from clinical_pretrain.estimate.zero import ZeroSettings
from clinical_pretrain.observe.status import no_run, runs_in
from clinical_pretrain.run_folder.metrics import read_metrics
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError
from tokenizer_tools.wording import counted

FEWEST_LINES = 3
"""Lines of metrics that a measurement needs; the first of a start, which compiles and fills caches, isn't one."""


@dataclass(frozen=True)
class Measurement:
    """The speed of a run on a card."""

    run: Path
    tokens_per_second: float
    estimated: float

    @property
    def factor(self) -> float:
        """The measured speed over the estimated one."""
        return self.tokens_per_second / self.estimated


def measurement(run: Path, card: Card, network: Network) -> Measurement:
    """The median speed of a run's last start, which must have been on this card.

    Raises:
        UserError: it is no run, was on another device, is too short, or isn't covered by the estimates.
    """
    folder = RunFolder(run)
    if not folder.exists or not folder.starts():
        raise no_run(run)
    starts = folder.starts()
    last = starts[-1]
    if card_of_device(str(last["device"])) != card:
        raise UserError(f"--measured {run}: trained on {last['device']}, not on {card.name}")
    lines = [line for line in read_metrics(folder, "train") if line.get("start") == len(starts) - 1][1:]
    if len(lines) < FEWEST_LINES:
        lines_there = counted(len(lines), "line")
        raise UserError(f"--measured {run}: only {lines_there} of metrics after the first; {FEWEST_LINES} are needed")
    config = build(RunConfig, flatten(last["config"]))
    length = folder.read_data()["sequence_length"]
    model = read_shape(folder.model_config / "config.json")
    given = Conditions(config, model, length, card, int(last["world_size"]), network)
    zero = ZeroSettings.of(load(config.deepspeed))
    given.check(zero)
    each = candidate(given, zero, config.activation_checkpointing, config.batch.micro_batch_size_per_gpu)
    estimated = config.batch.train_batch_size * given.length / each.time.total
    return Measurement(run, statistics.median(line["tokens_per_second"] for line in lines), estimated)


def newest_measurement(runs: Path, card: Card, network: Network) -> Measurement | None:
    """That of the newest run on this card; None where there is none.

    Args:
        runs: a folder of runs.
        card: the card.
        network: how GPUs are connected.
    """
    folders: list[Path] = []
    with suppress(UserError, OSError):  # others' runs may not be readable, or vanish
        folders = [run for run in runs_in([runs]) if RunFolder(run).metrics_file.exists()]
        folders.sort(key=lambda run: RunFolder(run).metrics_file.stat().st_mtime, reverse=True)
    for run in folders:
        with suppress(UserError, OSError):
            return measurement(run, card, network)
    return None
