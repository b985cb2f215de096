"""A run as `watch` sees it: what its files say, read again and again without reading all of them again."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clinical_pretrain.observe import events, pace
from clinical_pretrain.observe.events import Event
from clinical_pretrain.observe.pace import TimeLeft, mean_shares, time_left
from clinical_pretrain.observe.sparkline import Curve
from clinical_pretrain.observe.status import status, unreadable
from clinical_pretrain.run_folder.history import comparable
from clinical_pretrain.run_folder.metrics import MetricsReader
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError

STATE_SECONDS, QUEUE_SECONDS = 5.0, 30.0
"""How often the state is asked for where no file of the run changes; SLURM's controller isn't asked more often."""
EVENTS = 50
"""Number of newest events that are kept."""


@dataclass(frozen=True)
class RunView:
    """A run at a moment."""

    status: dict[str, Any]
    """As observe/status.py gives it, with step and losses of `newest`."""
    newest: dict[str, Any] = field(default_factory=dict)
    """The newest training line of metrics.jsonl; empty before the first."""
    is_resuming: bool = False
    """Whether the newest start hasn't written a training line yet."""
    start: dict[str, Any] = field(default_factory=dict)
    """The newest start, as run.json has it; empty before the first."""
    summary: dict[str, Any] = field(default_factory=dict)
    """summary.json; empty where the run isn't finished."""
    time_left: TimeLeft | None = None
    """None where the run isn't running, or it can't be told."""
    shares: dict[str, float] = field(default_factory=dict)
    """Where the time went lately: shares of it, the largest first; empty where the log has none."""
    losses: tuple[float | None, ...] = ()
    """Of training, over the whole run."""
    validations: tuple[dict[str, Any], ...] = ()
    """Lines of metrics.jsonl whose figures compare with those of the newest start."""
    events: tuple[Event, ...] = ()
    """In order of time."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will be trained."""
        return bool(self.status["state"].startswith("finished"))

    @property
    def lowest_validation(self) -> dict[str, Any] | None:
        """The line with the lowest loss. That of step 0 counts: a run that only gets worse shows it."""
        return min(self.validations, key=lambda line: line["loss"], default=None)

    def as_json(self) -> dict[str, Any]:
        """For --json: the status, and the figures that are shown beside it."""
        figures = ("tokens_per_second", "tokens_per_second_per_gpu", "mfu", "memory_gb", "loss_scale",
                   "skipped_updates", "padding_share")  # fmt: skip
        return {
            **self.status,
            "seconds_left_shortest": self.time_left.shortest if self.time_left else None,
            "seconds_left_longest": self.time_left.longest if self.time_left else None,
            **{name: self.newest.get(name) for name in figures},
            "shares": self.shares,
            "events": [{"time": event.time, "text": event.text} for event in self.events],
        }


class WatchedRun:
    """Reads a run's files.

    Args:
        path: the run folder.
    """

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self._reader = MetricsReader(self.folder)
        self._status: dict[str, Any] = {}
        self._starts: list[dict[str, Any]] = []
        self._summary: dict[str, Any] = {}
        self._other_events: list[Event] = []
        """Those that aren't in metrics.jsonl."""
        self._asked_at, self._files = 0.0, list[int | None]()
        """When the state was asked for, and the times of the files that it comes from."""
        self._forget()

    def _forget(self) -> None:
        """The log was replaced: what is known of it is void."""
        self._train: deque[dict[str, Any]] = deque(maxlen=pace.LINES)
        self._losses, self._validations = Curve(), list[dict[str, Any]]()
        self._events: deque[Event] = deque(maxlen=EVENTS)

    def refresh(self) -> RunView:
        """Read what is new, and say how the run stands."""
        try:
            for line in self._reader.new_lines(self._forget):
                self._take(line)
            self._ask()
        except (UserError, OSError) as error:  # such as a network disk that is away: the next try may succeed
            self._status, self._files = unreadable(self.folder.path, error), []
        return self._view()

    def _take(self, line: dict[str, Any]) -> None:
        if line["kind"] == "train":
            self._train.append(line)
            self._losses.add(line["loss"])
        elif line["kind"] == "validation":
            self._validations.append({key: line.get(key) for key in ("kind", "step", "start", "loss", "accuracy")})
        if event := events.of_metrics(line):
            self._events.append(event)

    def _ask(self) -> None:
        """Ask for the state, where it may have changed."""
        folder, now = self.folder, time.monotonic()
        files = [_changed_at(path) for path in (folder.run_file, folder.stop_file, folder.config_file, folder.job_file)]
        patience = QUEUE_SECONDS if self._status.get("job") else STATE_SECONDS
        if files == self._files and now - self._asked_at < patience:
            return
        self._starts = folder.starts() if folder.exists else []
        self._status = status(folder.path, [*self._train, *self._validations[-1:]])
        self._summary = (folder.read_summary() or {}) if self._status["state"].startswith("finished") else {}
        stop = folder.read_stop()
        self._other_events = events.of_starts(self._starts) + ([events.of_stop(stop)] if stop else [])
        self._asked_at, self._files = now, files

    def _view(self) -> RunView:
        newest, state, train = self._train[-1] if self._train else {}, self._status, list(self._train)
        is_resuming = bool(self._starts) and newest.get("start") != len(self._starts) - 1
        left = time_left(train, state["max_steps"]) if state["state"] == "running" and not is_resuming else None
        known_starts = range(len(self._starts))
        measured = [line for line in self._validations if line["loss"] is not None and line["start"] in known_starts]
        told = {"step": newest["step"], "stage": newest.get("stage", 1), "loss": newest["loss"]} if newest else {}
        told |= {"validation_loss": self._validations[-1]["loss"]} if self._validations else {}
        told["seconds_left"] = left.seconds if left else None
        known = [event for event in (*self._other_events, *self._events) if event.time]
        if count := self._reader.damaged:
            known.append(Event(newest.get("time", 0.0), f"lines of metrics.jsonl that can't be read: {count:,}", True))
        return RunView(
            status=state | told,
            newest=newest,
            is_resuming=is_resuming,
            start=self._starts[-1] if self._starts else {},
            summary=self._summary,
            time_left=left,
            shares=mean_shares(line for line in train if line.get("start") == newest.get("start")),
            losses=self._losses.values,
            validations=tuple(comparable(measured, self._starts)),
            events=tuple(sorted(known, key=lambda event: event.time)[-EVENTS:]),
        )


def _changed_at(path: Path) -> int | None:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
    return None
