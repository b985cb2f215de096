"""Plots of the report: four panels, alone for the page and together as `report.svg`. The same report gives the same
bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizer_tools.pages.svg import MAIN, MUTED, PAPER, SECOND, bars, page_svg, plot_style, svg
from tokenizer_tools.pages.wording import percent, shown
from tokenizer_tools.shards.describe.content import Row, ShardReport
from tokenizer_tools.shards.describe.wording import group_name, reason

_BARS = 12
"""Largest number of categories in a plot; the table has all."""

Panel = Callable[[Any, ShardReport], None]
"""Draws on matplotlib's axes."""


def draw_picture(report: ShardReport) -> str:
    """All panels as one SVG, 7.2 inches wide. Its text is drawn as paths, so it looks the same anywhere."""
    with plot_style("path") as figure_class:
        drawn = [draw for draw, _ in PANELS.values()]
        rows = max(len(_categories(report)), 6)
        figure = figure_class(figsize=(7.2, 2.9 + 0.17 * rows), facecolor=PAPER)
        grid = figure.subplots(2, 2, gridspec_kw={"height_ratios": [2.2, 0.6 + 0.17 * rows]})
        for letter, axes, draw in zip("abcd", grid.flat, drawn, strict=True):
            draw(axes, report)
            axes.set_title(f"{letter}  {axes.get_title(loc='left')}")
        return svg(figure, {"Title": "What the shards hold", "Description": _fingerprint(report)})


def draw_panel(name: str, report: ShardReport) -> str:
    """One of `PANELS` as an SVG element for a page, whose style gives the colours: `--ink` and the others."""
    draw, height = PANELS[name]
    with plot_style("none") as figure_class:
        figure = figure_class(figsize=(4.2, height(report)), facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        draw(axes, report)
        axes.set_title("")
        return page_svg(figure, name)


def _fingerprint(report: ShardReport) -> str:
    return f"Shards of fingerprint {report.fingerprint}"


def _categories(report: ShardReport) -> list[Row]:
    return report.categories[:_BARS]


def _draw_removed(axes: Any, report: ShardReport) -> None:
    rows = [("kept", report.total.notes), *((reason(name), n) for name, n in report.removed.items() if n)]
    values = [n if isinstance(n, int) else 0 for _, n in rows]
    bars(axes, [name for name, _ in rows], values, [shown(n) for _, n in rows], [MAIN] + [SECOND] * len(rows))
    axes.set(title="Notes kept and removed", xlabel="notes")


def _draw_lengths(axes: Any, report: ShardReport) -> None:
    bins = [each for each in report.lengths.bins if isinstance(each.notes, int)]
    heights = [each.notes / each.half_octaves for each in bins if isinstance(each.notes, int)]
    widths = [each.last + 1 - each.first for each in bins]
    axes.bar([each.first for each in bins], heights, widths, align="edge", color=MAIN, edgecolor=PAPER, linewidth=0.4)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    median = report.lengths.percentiles.get("50")
    if median:
        axes.axvline(median, color=SECOND, linewidth=1.2)
        place = {"xycoords": ("data", "axes fraction"), "xytext": (4, 0), "textcoords": "offset points"}
        axes.annotate(f"median {median:,}", (median, 1), va="top", color=SECOND, **place)
        axes.margins(y=0.15)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y")
    axes.set(title="Length of notes", xlabel="tokens per note (log scale)", ylabel="notes per half octave")


def _draw_tokens(axes: Any, report: ShardReport) -> None:
    rows, total = _categories(report), max(report.total.tokens, 1)
    labels = [percent(row.tokens / total) for row in rows]
    bars(axes, [_short(row) for row in rows], [row.tokens for row in rows], labels, [MAIN] * len(rows))
    axes.set(title="Tokens by category", xlabel="tokens")


def _draw_words(axes: Any, report: ShardReport) -> None:
    rows = [row for row in _categories(report) if row.tokens_per_word is not None]
    axes.set(title="Tokens per word")
    if not rows:
        axes.set_axis_off()
        axes.text(0, 0.9, "not computed for this tokenizer", transform=axes.transAxes, color=MUTED, va="top")
        return
    values = [row.tokens_per_word or 0.0 for row in rows]
    labels = [f"{value:.2f} · {percent(row.broken_share or 0)}" for value, row in zip(values, rows, strict=True)]
    bars(axes, [_short(row) for row in rows], values, labels, [MAIN] * len(rows))
    axes.set(xlabel="tokens per word · words in four or more pieces")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _short(row: Row) -> str:
    name = group_name(row)
    return name if len(name) <= 24 else f"{name[:23]}…"


PANELS: dict[str, tuple[Panel, Callable[[ShardReport], float]]] = {
    "removed": (_draw_removed, lambda report: 0.6 + 0.19 * (1 + sum(n != 0 for n in report.removed.values()))),
    "lengths": (_draw_lengths, lambda _: 2.3),
    "tokens": (_draw_tokens, lambda report: 0.6 + 0.19 * len(_categories(report))),
    "words": (_draw_words, lambda report: 0.6 + 0.19 * len(_categories(report))),
}
"""What draws a panel, and its height on the page in inches."""
