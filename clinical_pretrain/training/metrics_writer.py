"""Write a run's metrics: `metrics.jsonl`, TensorBoard, and a line of progress."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from clinical_pretrain.console import console
from clinical_pretrain.run_folder.metrics import FORMAT_VERSION, cut_metrics, duration
from clinical_pretrain.run_folder.paths import RunFolder

SMALLEST_SHARE = 0.05
"""Of the time, that the progress line shows."""


@dataclass(frozen=True)
class Usage:
    """What a rank, the first one, has used since the line before."""

    tokens_per_second_per_gpu: float
    """Or per rank, on a CPU."""
    memory_gb: float
    """Peak so far: of the GPU's tensors, or on a CPU of the process."""
    padding_share: float
    """Of its tokens, 0 to 1."""
    clock_seconds: float
    """What `shares` are of: also validations, saves and set-up."""
    shares: dict[str, float]
    """Of its time; see phases.py."""

    @property
    def main_shares(self) -> str:
        """Where most of the time goes, in words."""
        main = sorted(self.shares.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {share:.0%}" for name, share in main if share >= SMALLEST_SHARE)


@dataclass(frozen=True)
class StepMetrics:
    """A training step in figures."""

    step: int
    loss: float
    """In nats per predicted token."""
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    """Of all ranks together."""
    seconds: float
    """Of training, since the line before."""
    stage: int
    """From 1."""
    samples_consumed: int
    epoch: float
    skipped_updates: int
    loss_scale: float | None
    """Of fp16; None in other precisions."""
    usage: Usage


@dataclass(frozen=True)
class SaveMetrics:
    """A save in figures."""

    step: int
    seconds: float
    """For which training waited."""
    seconds_until_whole: float
    """The save took in all."""
    bytes: int
    error: str | None
    """Why there is no checkpoint."""
    failures: int
    """Saves that failed in a row."""


class MetricsWriter:
    """Writes a run's metrics to `metrics.jsonl` and TensorBoard, and prints them; on rank 0 only.

    Args:
        folder: the run folder.
        step: the step that the run resumes from; lines of later steps are deleted.
        max_steps: the run's last step.
        start: index of the present start in run.json's list: its settings are those behind the metrics.
        peak_tokens_per_second: of all GPUs at their peak, for the model FLOPs utilisation; None where it isn't known.
    """

    def __init__(
        self,
        folder: RunFolder,
        step: int,
        max_steps: int,
        start: int = 0,
        peak_tokens_per_second: float | None = None,
    ) -> None:
        self.folder, self.max_steps, self.start = folder, max_steps, start
        self.peak_tokens_per_second = peak_tokens_per_second
        self.open(step)

    def open(self, step: int) -> None:
        """Begin to write after this step; lines of later steps are deleted."""
        from torch.utils.tensorboard import SummaryWriter

        self.first_step, self.started = step, time.monotonic()
        cut_metrics(self.folder, step)
        self._file = self.folder.metrics_file.open("ab", buffering=0)
        self._torn, self._of_last_line = False, list[str]()
        self._board = SummaryWriter(str(self.folder.tensorboard), purge_step=step + 1)

    def train(self, metrics: StepMetrics) -> None:
        """Write and print a training step's metrics. Where the GPUs' peak is known, `mfu` is added: model FLOPs
        utilisation, 0 to 1."""
        speed = metrics.tokens_per_second
        mfu = speed / self.peak_tokens_per_second if self.peak_tokens_per_second else None
        values = asdict(metrics) | {
            "tokens_per_second": round(speed, 1),
            "seconds": round(metrics.seconds, 3),
            "epoch": round(metrics.epoch, 4),
        }
        del values["step"]
        usage = values.pop("usage")
        values |= {name: round(value, 4) if isinstance(value, float) else value for name, value in usage.items()}
        if metrics.loss_scale is None:
            del values["loss_scale"]
        if mfu is not None:
            values["mfu"] = round(mfu, 4)
        self._write(metrics.step, "train", values)
        utilisation = "" if mfu is None else f" ({mfu:.0%} MFU)"
        self._of_last_line = [f"lr {metrics.learning_rate:.2e}", f"{speed:,.0f} tokens/s{utilisation}"]
        self._of_last_line.append(metrics.usage.main_shares)
        self.progress(metrics.step, metrics.loss, log=True)

    def progress(self, step: int, loss: float, log: bool = False) -> None:
        """Print the progress: on a terminal at each step, in a log with each line of metrics."""
        left = (time.monotonic() - self.started) / (step - self.first_step) * (self.max_steps - step)
        parts = [f"step {step:,}/{self.max_steps:,}", f"loss {loss:.4f}", *self._of_last_line, f"{duration(left)} left"]
        console.progress(parts, log)

    def validation(self, step: int, result: dict[str, Any]) -> None:
        """A validation's figures, overall and by category."""
        self._write(step, "validation", result)
        parts = [f"step {step:,}", f"validation loss {result['loss']:.4f}", f"accuracy {result['accuracy']:.2%}"]
        if context := result.get("context"):
            worse = round(context["loss_cut"] - context["loss_whole"], 4) + 0.0  # not -0.0000
            parts.append(f"{worse:+.4f} with {context['tokens']} tokens of context")
        if general := result.get("general"):
            parts.append(f"general text {general['loss']:.4f}")
        console.say(" · ".join([*parts, f"{result['predicted']:,} masked tokens"]))

    def save(self, metrics: SaveMetrics) -> None:
        """Write how a save went, once that is known, some steps later."""
        values: dict[str, Any] = {
            "seconds": round(metrics.seconds, 3),
            "seconds_until_whole": round(metrics.seconds_until_whole, 3),
        }
        if metrics.error is None:
            self._write(metrics.step, "save", {**values, "bytes": metrics.bytes})
        else:
            self._write(metrics.step, "save", {**values, "failures": metrics.failures})
            console.say(
                f"step {metrics.step:,} · not saved ({metrics.error}), {metrics.failures} failures in a row; earlier "
                "checkpoints are unchanged"
            )

    def goodput(self, step: int, goodput: dict[str, Any]) -> None:
        """What the run has lost and spent so far."""
        self._write(step, "goodput", goodput)

    def rollback(self, step: int, first_sample: int, samples: int) -> None:
        """The run rolled back to this step, and skips these samples, numbered in the order of the data."""
        self._write(step, "rollback", {"first_sample": first_sample, "samples": samples})

    def _write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        line = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "kind": kind,
            "time": round(time.time(), 3),
            "start": self.start,
            **_without_infinities(values),
        }
        text = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()
        try:
            written = self._file.write(b"\n" + text if self._torn else text)
            self._torn = written < len(text)
        except OSError:  # a full disk costs the figures, not the run; saving says what is wrong
            self._torn = True
        with suppress(OSError):
            for name, value in values.items():
                if isinstance(value, dict):
                    for category, figures in value.items():
                        figure = figures["loss"] if isinstance(figures, dict) else figures
                        self._board.add_scalar(f"{kind}_{name}/{category}", figure, step)
                else:
                    # TensorBoard sorts by the alphabet: losses first.
                    group = "run" if kind == "goodput" else kind
                    tag = f"loss/{kind}" if name == "loss" else f"{group}/{name}"
                    self._board.add_scalar(tag, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        with suppress(OSError):
            self._board.close()


def _without_infinities(values: dict[str, Any]) -> dict[str, Any]:
    """None for each NaN or infinite number, which JSON doesn't have."""
    return {
        name: _without_infinities(value)
        if isinstance(value, dict)
        else None
        if isinstance(value, float) and not math.isfinite(value)
        else value
        for name, value in values.items()
    }
