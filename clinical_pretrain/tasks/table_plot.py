"""A plot of a table of results: a dot with its interval for each task and model."""

from __future__ import annotations

from pathlib import Path

from clinical_pretrain.tasks.table import Table
from clinical_pretrain.tasks.table_formats import MEASURES

FORMATS = ("png", "pdf")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Of models, in their order; distinct for the colour-blind (Okabe and Ito, 2008)."""
MARKERS = "osD^vP"
"""Of models: the next one when all colours are used."""


def plot_table(table: Table, out: Path) -> list[Path]:
    """Draw a table into table.png and table.pdf of a folder, and return the files.

    An open dot is a score that lacks seeds, and isn't compared.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    inches = 1.2 + len(table.columns) * max(0.4, 0.16 * (len(table.models) + 1))
    figure, axes = pyplot.subplots(figsize=(8, inches), dpi=120)
    for number, model in enumerate(table.models):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]
        axes.plot([], [], marker, color=colour, label=model)
        for place, column in enumerate(table.columns):
            cell = column.cells[model]
            if cell.score is None:
                continue
            height = place + 0.7 * ((number + 0.5) / len(table.models) - 0.5)
            if cell.low is not None and cell.high is not None:
                axes.hlines(height, 100 * cell.low, 100 * cell.high, color=colour, linewidth=1.5)
            axes.plot(
                100 * cell.score,
                height,
                marker,
                color=colour,
                fillstyle="full" if cell.complete else "none",
                markersize=5,
            )
    if not all(cell.complete for column in table.columns for cell in column.cells.values() if cell.results):
        axes.plot([], [], "o", color="grey", fillstyle="none", label="lacks seeds")
    names = [
        "\n".join(
            filter(None, (column.title, MEASURES.get(column.subject.metric, column.subject.metric), column.too_few))
        )
        for column in table.columns
    ]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for place in range(1, len(names)):
        axes.axhline(place - 0.5, color="lightgrey", linewidth=0.8)
    axes.set_xlabel(f"mean over seeds, with {100 * table.resampling.level:g} % interval, in %")
    axes.grid(alpha=0.3, axis="x")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    paths = []
    for kind in FORMATS:
        path = out / f"table.{kind}"
        temporary = path.with_name(path.name + ".tmp")
        figure.savefig(temporary, format=kind, bbox_inches="tight")
        temporary.replace(path)
        paths.append(path)
    pyplot.close(figure)
    return paths
