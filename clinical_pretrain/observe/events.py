"""What happened to a run, in plain words: from its lines of metrics, its starts, and how it last ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from clinical_pretrain.exit_codes import ENDED, STOPPED


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    time: float
    """Seconds since 1970; 0 where it isn't known."""
    text: str
    is_trouble: bool = False
    """Whether a user should look into it."""

    @property
    def clock(self) -> str:
        """When it was: the time of today, or day and time."""
        then, now = time.localtime(self.time), time.localtime()
        return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%m-%d %H:%M", then)


def of_metrics(line: dict[str, Any]) -> Event | None:
    """What a line of metrics.jsonl tells beyond figures; None for a training step."""
    kind, at, step = line["kind"], line.get("time", 0.0), f"step {line['step']:,}"
    if kind == "validation":
        if line["loss"] is None:
            return Event(at, f"{step}: the validation loss is NaN or infinite", True)
        general = (line.get("general") or {}).get("loss")
        more = "" if general is None else f"; general text {general:.4f}"
        return Event(at, f"{step}: validation loss {line['loss']:.4f}, accuracy {line['accuracy']:.1%}{more}")
    if kind == "save" and "failures" in line:
        count = line["failures"]
        return Event(at, f"{step}: not saved{f', {count} failures in a row' if count > 1 else ''}; earlier "
                     "checkpoints are unchanged", True)  # fmt: skip
    if kind == "save":
        return Event(at, f"{step}: saved, {line['bytes'] / 1e6:,.0f} MB in {line['seconds_until_whole']:,.1f} s")
    if kind == "rollback":
        return Event(at, f"rolled back to {step}, skipping {line['samples']:,} sequences", True)
    return None


def of_starts(starts: Sequence[dict[str, Any]]) -> list[Event]:
    """The starts of a run, with the steps that each restart trains again."""
    found = []
    for before, start in pairwise([{}, *starts]):
        devices = f"on {start.get('world_size', '?')} x {start.get('device', '?')}"
        step, lost = start.get("from_step", 0), before.get("to_step", 0) - start.get("from_step", 0)
        again = f" ({lost:,} {'step' if lost == 1 else 'steps'} lost)" if lost > 0 else ""
        text = f"resumed from step {step:,}{again} {devices}" if before else f"started {devices}"
        if changes := start.get("changes"):
            text += f"; changed settings: {'; '.join(changes)}"
        found.append(Event(start.get("timestamp", 0.0), text))
    return found


def of_stop(stop: dict[str, Any]) -> Event:
    """How a run last ended, as stop.json says."""
    at = 0.0
    with suppress(KeyError, ValueError):
        at = datetime.strptime(stop["time"], "%Y-%m-%dT%H:%M:%S%z").timestamp() + 0.999  # the last of its second
    return Event(at, str(stop.get("reason")), stop.get("exit_code") not in (0, STOPPED, ENDED))
