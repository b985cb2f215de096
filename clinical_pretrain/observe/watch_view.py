"""What `watch` shows, as lines of text: a panel for each run, side by side where they fit."""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from clinical_pretrain.observe.events import Event
from clinical_pretrain.observe.sparkline import LEVELS, sparkline
from clinical_pretrain.observe.status import FRESH_SECONDS, table
from clinical_pretrain.observe.watched_run import RunView
from clinical_pretrain.run_folder.metrics import duration

LABEL = 11
"""Characters of the column with the names of figures."""
GAP = " │ "
"""Between panels."""
FEWEST_COLUMNS, FEWEST_LINES = 38, 8
"""The smallest panel. Where the runs' panels would be smaller, each run gets one line of a table."""
EVENTS = 8
"""Number of newest events of a run that a snapshot shows, in up to two lines each."""
REASON_LINES = 3
COLOURS = {"running": "green", "finished": "green", "failed": "red", "lost": "red", "unreadable": "red"}
"""Of states; others, such as pending and stopped, are yellow."""
ASCII = str.maketrans(f"{LEVELS}█░│·…", "_.,-=+*##.|-~")
"""For a terminal without Unicode."""


def screen(views: Sequence[RunView], width: int, height: int) -> list[Text]:
    """A full screen: at most `height` lines, none wider than `width`."""
    columns = max(1, min(len(views), (width + len(GAP)) // (FEWEST_COLUMNS + len(GAP))))
    rows = math.ceil(len(views) / columns)
    each = height // rows - 1  # a blank line below each, and the last line of the screen
    lines: list[Text] = []
    if len(views) > 1 and each < FEWEST_LINES:
        told = table([view.status | {"run_dir": _short(view.status["run_dir"], width // 3)} for view in views])
        lines = [Text(line) for line in told[: height - 1]]
        if len(told) > height - 1 > 0:
            lines[-1] = Text(f"and {len(told) - height + 2} more", "dim")
    else:
        panel_width = (width - len(GAP) * (columns - 1)) // columns
        for first in range(0, len(views), columns):
            beside = [panel(view, panel_width, each) for view in views[first : first + columns]]
            lines += [*_side_by_side(beside, panel_width), Text()]
    lines = [*lines, *[Text()] * height][: max(0, height - 1)]
    return [*lines, Text(f"{time.strftime('%H:%M:%S')} · q or Ctrl-C leaves; the run continues", "dim")]


def snapshot(views: Sequence[RunView], width: int) -> list[Text]:
    """All runs below each other."""
    return [line for view in views for line in (*panel(view, width), Text())][:-1]


def panel(view: RunView, width: int, height: int | None = None) -> list[Text]:
    """Lines on a run, the most important first; None: as many as there are to show."""
    lines = [_head(view, width), _progress(view, width)]
    lines += [*_ending(view, width), *_silence(view, width), *_figures(view, width)]
    events, room = (view.events[-EVENTS:], 2 * EVENTS) if height is None else (view.events, height - len(lines) - 1)
    told = _events(events, width, room)
    return [*lines, Text(), *told][:height] if told else lines[:height]


def _events(events: Sequence[Event], width: int, room: int) -> list[Text]:
    """The newest events in at most `room` lines, two for a long one; the newest last."""
    clock = max((len(event.clock) for event in events), default=0) + 1
    found: list[Text] = []
    for event in reversed(events):
        texts = textwrap.wrap(event.text, max(8, width - clock), max_lines=2, placeholder=" …")
        if len(found) + len(texts) > room:
            break
        style = "yellow" if event.is_trouble else ""
        clocks = [event.clock.ljust(clock), " " * clock]
        found[:0] = [Text.assemble((at, "dim"), (text, style)) for at, text in zip(clocks, texts, strict=False)]
    return found


def fit(line: Text, width: int, encoding: str = "utf-8") -> Text:
    """A line that is safe to print: at most `width` cells, without control characters, in this encoding."""
    line = line.copy()
    line.plain = "".join(letter if letter.isprintable() else "?" for letter in line.plain)
    line.truncate(width, overflow="ellipsis")
    if not encoding.lower().startswith("utf"):
        line.plain = line.plain.translate(ASCII).encode(encoding, "replace").decode(encoding)
    return line


def _side_by_side(panels: Sequence[Sequence[Text]], width: int) -> Iterator[Text]:
    for number in range(max(map(len, panels))):
        line = Text()
        for column, lines in enumerate(panels):
            cell = fit(lines[number], width) if number < len(lines) else Text()
            cell.pad_right(width - cell.cell_len)
            line = Text.assemble(line, (GAP if column else "", "dim"), cell)
        yield line


def _head(view: RunView, width: int) -> Text:
    """The run's name and state."""
    told = view.status
    state = told["state"]
    if state == "running" and view.is_resuming:
        step = view.start.get("from_step", 0)
        state = f"resuming from step {step:,}" if step else "starting"
    if told["job"] and not view.is_finished:
        state += f" (job {told['job']})"
    name = _short(told["run_dir"], max(8, width - cell_len(state) - 2))
    return Text.assemble((name, "bold"), "  ", (state, COLOURS.get(told["state"].split(",")[0], "yellow")))


def _short(name: str, room: int) -> str:
    """The end of a name that is too long."""
    while cell_len(name) > room:
        name = "…" + name[2:]
    return name


def _progress(view: RunView, width: int) -> Text:
    step, last = view.status["step"], view.status["max_steps"]
    if not last:
        return Text(f"step {step:,}")
    share = min(1.0, step / last)
    text = f" {math.floor(share * 1000) / 10:.1f}%  {step:,}/{last:,}"
    bar = max(0, width - len(text))
    done = math.floor(share * bar)
    return Text.assemble(("█" * done, "green"), ("░" * (bar - done), "dim"), text)


def _ending(view: RunView, width: int) -> Iterator[Text]:
    """When the run will end, or why it ended."""
    told, summary = view.status, view.summary
    if told["state"] == "running":
        yield from _row("time left", _time_left(view), width)
    if summary:
        parts = [f"in {duration(summary['seconds_running'])}"]
        parts += [f"{summary['effective_training_time']:.0%} of it in steps that count"]
        yield from _row("finished", [*parts, f"{summary['lost_steps']:,} steps lost"], width)
    if told["state"] != "running" and told["last_stop"] not in (None, "finished"):
        lines = textwrap.wrap(told["last_stop"], max(8, width - LABEL), max_lines=REASON_LINES, placeholder=" …")
        for number, line in enumerate(lines):
            yield from _row("" if number else "last stop", [line], width)


def _time_left(view: RunView) -> list[str]:
    left = view.time_left
    if left is None:
        return ["not known yet"]
    if left.shortest is None or left.longest is None:
        return [f"about {duration(left.seconds)}"]
    clock = time.strftime("%a %H:%M", time.localtime(time.time() + left.seconds))
    return [duration(left.seconds), f"{duration(left.shortest)} to {duration(left.longest)}", f"done {clock}"]


def _figures(view: RunView, width: int) -> Iterator[Text]:
    newest = view.newest
    if not newest:
        return
    yield from _curve("loss", newest["loss"], view.losses, width)
    if view.validations:
        losses = [line["loss"] for line in view.validations]
        yield from _curve("validation", losses[-1], losses, width)
    if lowest := view.lowest_validation:
        yield from _row("", [f"lowest {lowest['loss']:.4f} at step {lowest['step']:,}"], width)
    device = "rank" if view.start.get("device") == "cpu" else "GPU"
    speed, ranks = newest["tokens_per_second"], view.start.get("world_size", 1)
    parts = [f"{speed:,.0f} tokens/s"]
    parts += [f"{newest.get('tokens_per_second_per_gpu', speed / ranks):,.0f} per {device}"] if ranks > 1 else []
    parts += [f"MFU {newest['mfu']:.0%}"] if newest.get("mfu") is not None else []
    yield from _row("speed", parts, width)
    parts = [f"peak {newest['memory_gb']:,.1f} GB of the first {device}"] if newest.get("memory_gb") is not None else []
    parts += [f"padding {newest['padding_share']:.1%}"] if newest.get("padding_share") is not None else []
    yield from _row("memory", parts, width)
    scale, skipped, restarts = newest.get("loss_scale"), newest["skipped_updates"], view.status["restarts"]
    parts = [f"{skipped:,} skipped"] + ([f"loss scale {scale:,.0f}"] if scale is not None else [])
    yield from _row("updates", [*parts, f"learning rate {newest['learning_rate']:.2e}"], width)
    yield from _row("restarts", [f"{restarts:,}"], width)
    yield from _row("time in", [f"{name} {share:.0%}" for name, share in view.shares.items() if share >= 0.005], width)


def _silence(view: RunView, width: int) -> Iterator[Text]:
    """How long the run has written nothing, where that is a sign of trouble."""
    age = time.time() - max(view.newest.get("time", 0.0), view.start.get("timestamp", 0.0))
    if view.status["state"] == "running" and age > max(FRESH_SECONDS, 5 * view.newest.get("seconds", 0.0)):
        yield from _row("", [f"no new figures for {duration(age)}"], width, "yellow")


def _curve(label: str, value: float | None, values: Sequence[float | None], width: int) -> Iterator[Text]:
    number = "NaN" if value is None else f"{value:.4f}"
    yield from _row(label, [f"{number} {sparkline(values, max(0, width - LABEL - len(number) - 1))}"], width)


def _row(label: str, parts: Sequence[str], width: int, style: str = "") -> Iterator[Text]:
    """A figure's name and its parts, in as many lines as they need."""
    lines: list[str] = []
    for part in parts:
        if lines and LABEL + cell_len(f"{lines[-1]} · {part}") <= width:
            lines[-1] += f" · {part}"
        else:
            lines.append(part)
    for number, line in enumerate(lines):
        yield Text.assemble((("" if number else label).ljust(LABEL), "dim"), (line, style))
