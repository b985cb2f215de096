"""What a run says of itself: metrics.jsonl, TensorBoard, and one line of progress."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from clinical_pretrain.console import console
from tokenizer_tools.files import write_atomically

METRICS_NAME = "metrics.jsonl"
FORMAT_VERSION = 2


class Metrics:
    """Writes a run's figures; on rank 0 only.

    Args:
        run_dir: the run folder.
        step: the step that the run goes on from; later lines, of a time that was lost, are cut off.
        max_steps: the run's last step.
        start: the place of the run's present start in run.json, from 0: its settings are those behind the figures.
    """

    def __init__(self, run_dir: Path, step: int, max_steps: int, start: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.max_steps, self.first_step, self.started = max_steps, step, time.monotonic()
        self.start = start
        path = run_dir / METRICS_NAME
        _cut_back(path, step)
        self._file = path.open("ab", buffering=0)
        self._torn, self._of_last_line = False, list[str]()
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1)

    def train(
        self,
        step: int,
        *,
        loss: float,
        learning_rate: float,
        gradient_norm: float,
        tokens_per_second: float,
        seconds: float,
        mfu: float | None,
        samples_consumed: int,
        epoch: float,
        skipped_updates: int,
        loss_scale: float | None,
        stage: int = 1,
    ) -> None:
        """One training step's figures. Loss in nats per predicted token; mfu: model FLOPs utilisation, a share, where
        the GPU's peak is known; seconds: of training, since the line before; loss_scale: in fp16; stage: from 1."""
        values = {
            "loss": loss,
            "learning_rate": learning_rate,
            "gradient_norm": gradient_norm,
            "tokens_per_second": round(tokens_per_second, 1),
            "seconds": round(seconds, 3),
            **({} if mfu is None else {"mfu": round(mfu, 4)}),
            "stage": stage,
            "samples_consumed": samples_consumed,
            "epoch": round(epoch, 4),
            "skipped_updates": skipped_updates,
            **({} if loss_scale is None else {"loss_scale": loss_scale}),
        }
        self._write(step, "train", values)
        speed = f"{tokens_per_second:,.0f} tokens/s{'' if mfu is None else f' ({mfu:.0%} MFU)'}"
        self._of_last_line = [f"lr {learning_rate:.2e}", speed]
        self.progress(step, loss, log=True)

    def progress(self, step: int, loss: float, log: bool = False) -> None:
        """Say how far the run is: on a terminal at each step, in a log with each line of metrics."""
        left = (time.monotonic() - self.started) / (step - self.first_step) * (self.max_steps - step)
        parts = [f"step {step:,}/{self.max_steps:,}", f"loss {loss:.4f}", *self._of_last_line, f"{duration(left)} left"]
        console.progress(parts, log)

    def validation(self, step: int, result: dict[str, Any]) -> None:
        """A validation's figures, overall and by category."""
        self._write(step, "validation", result)
        console.say(
            f"step {step:,} · validation loss {result['loss']:.4f} · accuracy {result['accuracy']:.2%} · "
            f"{result['predicted']:,} masked tokens"
        )

    def save(
        self, step: int, *, seconds: float, seconds_until_whole: float, size: int, error: str | None, failures: int
    ) -> None:
        """How long training stood still for a step's checkpoint, and how long it took in all; its size in bytes, or why
        there is none. Written when that is known, some steps later."""
        values = {"seconds": round(seconds, 3), "seconds_until_whole": round(seconds_until_whole, 3)}
        if error is None:
            self._write(step, "save", {**values, "bytes": size})
        else:
            self._write(step, "save", {**values, "failures": failures})
            console.say(
                f"step {step:,} · not saved ({error}), {failures} in a row; earlier checkpoints are as they were"
            )

    def account(self, step: int, account: dict[str, Any]) -> None:
        """What the run has lost and what it has spent so far."""
        self._write(step, "account", account)

    def rollback(self, step: int, first_sample: int, samples: int) -> None:
        """The run went back to this step, and past these samples, numbered in the order of the data."""
        self._write(step, "rollback", {"first_sample": first_sample, "samples": samples})

    def _write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        line = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "kind": kind,
            "time": round(time.time(), 3),
            "start": self.start,
            **{name: None if isinstance(value, float) and not math.isfinite(value) else value
               for name, value in values.items()},
        }  # fmt: skip
        text = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        try:
            written = self._file.write(b"\n" + text if self._torn else text)
            self._torn = written < len(text)
        except OSError:  # a full disk costs the figures, not the run; saving says what is wrong
            self._torn = True
        with suppress(OSError):
            for name, value in values.items():
                if isinstance(value, dict):
                    for category, figures in value.items():
                        self._board.add_scalar(f"{kind}_{name}/{category}", figures["loss"], step)
                else:
                    # TensorBoard sorts by the alphabet: losses first.
                    group = "run" if kind == "account" else kind
                    tag = f"loss/{kind}" if name == "loss" else f"{group}/{name}"
                    self._board.add_scalar(tag, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        with suppress(OSError):
            self._board.close()


def read_metrics(run_dir: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of one kind, such as `train` or `validation`, or all, in order."""
    path = run_dir / METRICS_NAME
    if not path.exists():
        return []
    return [line for _, line in _whole_lines(path) if kind in (None, line["kind"])]


def _whole_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines and what they say, without those that a full disk or a sudden end left in pieces."""
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # a category may hold U+2028
        with suppress(ValueError):
            yield text, json.loads(text)


def _cut_back(path: Path, step: int) -> None:
    if path.exists():
        write_atomically(path, "".join(f"{text}\n" for text, line in _whole_lines(path) if line["step"] <= step))


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
