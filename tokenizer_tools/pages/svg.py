"""Plots as SVG by matplotlib, which is imported when something is drawn.

The same plot gives the same bytes: builtin style, no date, fixed ids.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

INK, MUTED, GRID, PAPER = "#1f2328", "#5b6570", "#d8dde3", "#ffffff"
"""Text, lesser text, lines, background."""
MAIN, SECOND = "#0072b2", "#b84e00"
"""Two colours that the colour-blind can tell apart (Okabe and Ito, 2008)."""
SERIES = (MAIN, SECOND, "#00785a", "#a0357a", "#7a5c00", "#4b5563")
"""Colours of lines; with other dashes where there are more."""
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    **dict(zip(SERIES, ("main", "second", "third", "fourth", "fifth", "sixth"), strict=True)),
}
"""The CSS variables that stand for them on a page."""
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.size": 8,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "svg.hashsalt": "clinical-pretrain",
    "text.color": INK,
    "text.parse_math": False,  # a category may have dollar signs
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}


def load_plots() -> None:
    """Import what drawing needs, ahead of time."""
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401


@contextmanager
def plot_style(text: str) -> Iterator[Any]:
    """Yield matplotlib's Figure, with the same style whatever the user has configured.

    Args:
        text: `path` to draw text as paths, which look the same anywhere; `none` to leave it text.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a character that the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "svg.fonttype": text})
        yield Figure


def svg(figure: Any, metadata: Mapping[str, str]) -> str:
    """A figure as a whole SVG file."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, **metadata})
    return "\n".join(line.rstrip(" \t") for line in stream.getvalue().split("\n"))


def page_svg(figure: Any, name: str, alternative: str = "") -> str:
    """A figure as an SVG element for a page, whose style gives the colours: `--ink` and the others.

    Args:
        figure: matplotlib's, drawn in the style `none`.
        name: what the ids in it begin with.
        alternative: text for who can't see it; empty: screen readers skip the plot.
    """
    text = svg(figure, {})
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r" font-family: [^;]+;", "", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)  # ids are of the whole page
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    attributes = f'role="img" aria-label="{escape(alternative)}"' if alternative else 'aria-hidden="true"'
    return text.replace("<svg ", f"<svg {attributes} ", 1)


def bars(
    axes: Any, names: Sequence[str], values: Sequence[float], labels: Sequence[str], colours: Sequence[str]
) -> None:
    """Horizontal bars from the top down, each with a label at its end."""
    places = range(len(names))
    axes.barh(places, values, 0.7, color=colours[: len(names)])
    axes.set_yticks(places, names)
    axes.set_ylim(max(len(names), 2) - 0.4, -0.6)
    axes.set_xlim(0, 1.35 * max([*values, 0]) or 1)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(lambda value, _: _rounded(value))
    axes.grid(axis="x")
    for place, value, label in zip(places, values, labels, strict=True):
        axes.annotate(label, (value, place), (3, 0), textcoords="offset points", va="center", color=INK)


def _rounded(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"
