"""Curves against optimizer steps, as plots for a page, each with a text and a table for who can't see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizer_tools.pages.html import details, figure, table
from tokenizer_tools.pages.svg import INK, MUTED, PAPER, SERIES, page_svg, plot_style

MAX_POINTS = 300
"""Largest number of points of a line: each is the mean of as many neighbours as needed."""
MAX_ROWS = 20
"""Largest number of rows of the table behind a plot."""
DASHES = ("-", "--", ":", "-.")
Points = Sequence[tuple[int, float]]
"""Step and value."""


@dataclass(frozen=True)
class Curve:
    """A line of a plot."""

    label: str
    points: Points
    is_marked: bool = False
    """Whether each point has a dot."""
    colour: int = 0
    """Number in `SERIES`, which is begun again after the last."""
    dash: int = 0
    """Number in `DASHES`, likewise."""
    is_faint: bool = False


@dataclass(frozen=True)
class Plot:
    """What a plot shows."""

    name: str
    """Unique on the page."""
    caption: str
    value: str
    """What the vertical axis is, with its unit."""
    curves: Sequence[Curve]
    restarts: Sequence[int] = ()
    """Steps from which the run was started again."""
    rollbacks: Sequence[int] = ()
    """Steps that the run rolled back to."""


def draw(plot: Plot) -> str:
    """HTML of a plot, and of its values in a table that can be opened; empty if there are no points."""
    curves = [curve for curve in plot.curves if curve.points]
    if not curves:
        return ""
    caption = plot.caption
    if most := max(_per_point(curve.points) for curve in curves):
        caption += f" A point is the mean of up to {most:,} lines of metrics." if most > 1 else ""
    drawn = figure(_svg(plot, curves), caption)
    values = details(f"The values of the plot of {plot.name.replace('_', ' ')}", _table(plot, curves))
    return f"<div>{drawn}{values}</div>"


def _svg(plot: Plot, curves: Sequence[Curve]) -> str:
    with plot_style("none") as figure_class:
        drawing = figure_class(figsize=(4.2, 2.7), facecolor="none")
        axes = drawing.subplots()
        axes.set_facecolor("none")
        for curve in curves:
            steps, values = zip(*_thinned(curve.points), strict=True)
            axes.plot(
                steps,
                values,
                DASHES[curve.dash % len(DASHES)],
                color=SERIES[curve.colour % len(SERIES)],
                linewidth=0.9 if curve.is_faint else 1.4,
                alpha=0.5 if curve.is_faint else 1,
                marker="o" if curve.is_marked else None,
                markersize=3,
                markeredgecolor=PAPER,
                markeredgewidth=0.3,
                label=curve.label,
            )
        marks = [(step, "restart", "--") for step in plot.restarts] + [
            (step, "roll-back", ":") for step in plot.rollbacks
        ]
        for step, label, dash in marks:
            is_first = label not in axes.get_legend_handles_labels()[1]
            axes.axvline(step, color=MUTED, linewidth=1, linestyle=dash, label=label if is_first else None)
        axes.set(xlabel="optimizer step", ylabel=plot.value)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        if max(abs(value) for curve in curves for _, value in curve.points) >= 1000:
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="y")
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, labelcolor=INK)
        return page_svg(drawing, plot.name, _in_words(plot, curves))


def _in_words(plot: Plot, curves: Sequence[Curve]) -> str:
    """What a plot shows, for who can't see it."""
    found = [f"Line plot of {plot.value} against optimizer steps."]
    for curve in curves:
        (first, start), (last, end) = curve.points[0], curve.points[-1]
        low = min(value for _, value in curve.points)
        found.append(f"{curve.label}: {start:.4g} at step {first:,}, {end:.4g} at step {last:,}, lowest {low:.4g}.")
    for steps, what in ((plot.restarts, "Restarts from step"), (plot.rollbacks, "Roll-backs to step")):
        if steps:
            found.append(f"{what} {', '.join(f'{step:,}' for step in steps)}.")
    return " ".join(found)


def _table(plot: Plot, curves: Sequence[Curve]) -> str:
    """The values at up to `MAX_ROWS` steps, spread evenly, the first and the last among them."""
    steps = sorted({step for curve in curves for step, _ in _thinned(curve.points)})
    marked = sorted({step for curve in curves if curve.is_marked for step, _ in curve.points})
    steps = marked if len(marked) > 2 else steps
    if len(steps) > MAX_ROWS:
        steps = [steps[number * (len(steps) - 1) // (MAX_ROWS - 1)] for number in range(MAX_ROWS)]
    rows = [[f"{step:,}", *(_value_at(curve.points, step) for curve in curves)] for step in steps]
    return table(f"{plot.caption.rstrip('.')}: values", ["step", *(curve.label for curve in curves)], rows)


def _value_at(points: Points, step: int) -> str:
    """The value of the nearest step up to this one; empty before the first."""
    before = [value for at, value in points if at <= step]
    return f"{before[-1]:.4g}" if before else ""


def _per_point(points: Points) -> int:
    return -(-len(points) // MAX_POINTS)


def _thinned(points: Points) -> Points:
    """At most `MAX_POINTS` points: means of neighbours, at the last one's step."""
    size = _per_point(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
