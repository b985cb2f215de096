"""What a run says of itself: metrics.jsonl, TensorBoard, and one line of progress."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

METRICS_NAME = "metrics.jsonl"
FORMAT_VERSION = 1


class Metrics:
    """Writes a run's figures; on rank 0 only.

    Args:
        run_dir: the run folder.
        step: the step that the run goes on from; later lines, of a time that was lost, are cut off.
        max_steps: of the run.
    """

    def __init__(self, run_dir: Path, step: int, max_steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.max_steps, self.first_step, self.started = max_steps, step, time.monotonic()
        path = run_dir / METRICS_NAME
        _cut_back(path, step)
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1 if step else None)
        self._open_line = False

    def train(self, step: int, *, loss: float, learning_rate: float, gradient_norm: float, tokens_per_second: float,
              mfu: float | None, samples_consumed: int, epoch: float) -> None:  # fmt: skip
        """One training step's figures. Loss in nats per predicted token; mfu: model FLOPs utilisation, a share, where
        the GPU's peak is known."""
        values = {
            "loss": loss,
            "learning_rate": learning_rate,
            "gradient_norm": gradient_norm,
            "tokens_per_second": round(tokens_per_second, 1),
            **({} if mfu is None else {"mfu": round(mfu, 4)}),
            "samples_consumed": samples_consumed,
            "epoch": round(epoch, 4),
        }
        self._write(step, "train", values)
        done = step - self.first_step
        left = (time.monotonic() - self.started) / done * (self.max_steps - step)
        self._progress(
            f"step {step:,}/{self.max_steps:,} · loss {loss:.4f} · lr {learning_rate:.2e} · "
            f"{tokens_per_second:,.0f} tokens/s{'' if mfu is None else f' ({mfu:.0%} MFU)'} · {_duration(left)} left",
            last=step == self.max_steps,
        )

    def validation(self, step: int, result: dict[str, Any]) -> None:
        """A validation's figures, overall and by category."""
        self._write(step, "validation", result)
        self.say(
            f"step {step:,} · validation loss {result['loss']:.4f} · accuracy {result['accuracy']:.2%} · "
            f"{result['predicted']:,} masked tokens"
        )

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if self._open_line:
            print(file=sys.stdout)
            self._open_line = False
        print(line, flush=True)

    def _progress(self, line: str, last: bool) -> None:
        if sys.stdout.isatty():
            print(f"\r\x1b[K{line}", end="", flush=True)
            self._open_line = True
            if last:
                self.say("")
        else:
            print(line, flush=True)

    def _write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        line = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "kind": kind,
            "time": round(time.time(), 3),
            **values,
        }
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, dict):
                for category, figures in value.items():
                    self._board.add_scalar(f"{kind}_{name}/{category}", figures["loss"], step)
            else:
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        self._board.close()


def read_metrics(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind, `train` or `validation`, in order."""
    path = run_dir / METRICS_NAME
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return [line for line in lines if line["kind"] == kind]


def _cut_back(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.endswith("}") and json.loads(line)["step"] <= step
    ]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    temporary.replace(path)


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
