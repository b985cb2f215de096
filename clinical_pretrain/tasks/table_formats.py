"""A table of results as text: for the terminal, Markdown, LaTeX and CSV. All have the same numbers.

Models stand in rows and tasks in columns as long as that fits in a terminal; else tasks stand in rows.
"""

from __future__ import annotations

import csv
import io
import re
import string
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clinical_pretrain.tasks.table import Table
from clinical_pretrain.tasks.table_columns import SIGNIFICANT, Cell, percent
from tokenizer_tools.files import write_atomically

WIDTH = 100
"""Characters of a terminal's line."""
MEASURES = {"f1": "F1", "auc": "AUC", "exact_match": "exact match"}
"""How measures are called where it isn't their name."""
LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # at the beginning of a row it would be an argument of the line end before
        "*": "{*}",
    }
)
MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*|<"})


def _one_line(text: str) -> str:
    """A text without line ends and control characters."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _latex(text: str) -> str:
    """A text that LaTeX prints as it stands."""
    escaped = re.sub("-(?=-)", "-{}", _one_line(text).translate(LATEX))  # two hyphens would be joined to a dash
    return escaped.replace("—", "---")


@dataclass(frozen=True)
class Style:
    """How a format writes the parts of a table."""

    escape: Callable[[str], str]
    best: Callable[[str], str]
    """Of a score."""
    interval: Callable[[str], str]
    raised: Callable[[str], str]
    """Of marks."""
    differs: str
    same: str
    best_is: str
    """For the legend."""


TERMINAL = Style(_one_line, lambda score: f"{score}*", str, lambda marks: f" {marks}", "†", "≈", "*: best.")
MARKDOWN_STYLE = Style(
    lambda text: _one_line(text).translate(MARKDOWN),
    lambda score: f"**{score}**",
    str,
    lambda marks: f"<sup>{marks}</sup>",
    "†",
    "≈",
    "Bold: best.",
)
LATEX_STYLE = Style(
    _latex,
    lambda score: rf"\textbf{{{score}}}",
    lambda interval: rf"{{\scriptsize {interval}}}",
    lambda marks: f"$^{{{marks}}}$",
    r"\dagger",
    r"\approx",
    "Bold: best.",
)


def terminal(table: Table) -> str:
    """The table for a terminal, in blocks of at most WIDTH characters."""
    rows, head = _grid(table, TERMINAL)
    blocks = [_block(block, head) for block in _blocks(rows)]
    legend = [textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in _legend(table, TERMINAL)]
    return "\n\n".join([*blocks, "\n".join(legend)])


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown."""
    rows, _ = _grid(table, MARKDOWN_STYLE)
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"| --- |{' --- |' * (len(rows[0]) - 1)}")
    return "\n".join(lines) + "\n\n" + "\n\n".join(_legend(table, MARKDOWN_STYLE)) + "\n"


def latex(table: Table) -> str:
    """The table as a LaTeX float."""
    rows, head = _grid(table, LATEX_STYLE)
    lines = [" & ".join(row) + r" \\" for row in rows]
    lines.insert(head, r"\midrule")
    legend = _legend(table, LATEX_STYLE)
    return "\n".join(
        [
            r"% Needs \usepackage{booktabs}.",
            r"\begin{table}",
            r"\centering\small",
            rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{legend[0]}}}",
            r"\label{tab:results}",
            r"\par\smallskip\begin{minipage}{\linewidth}\footnotesize",
            *(rf"{line}\par" for line in legend[1:]),
            r"\end{minipage}",
            r"\end{table}",
            "",
        ]
    )


def comma_separated(table: Table) -> str:
    """One line per task and model, with unrounded fractions; lists with semicolons."""
    rows = table.rows()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {name: "; ".join(map(str, value)) if isinstance(value, list) else value for name, value in row.items()}
        )
    return text.getvalue()


FORMATS = {"table.md": markdown, "table.csv": comma_separated, "table.tex": latex}
"""By file name."""


def write_texts(table: Table, out: Path) -> list[Path]:
    """Write the table in all formats of text into a folder, which is made if needed; return the files."""
    out.mkdir(parents=True, exist_ok=True)
    for name, write in FORMATS.items():
        write_atomically(out / name, write(table))
    return [out / name for name in FORMATS]


def _grid(table: Table, style: Style) -> tuple[list[list[str]], int]:
    """Rows of cells, and the number of rows above the line."""
    columns = _columns(table, style)
    one_block = len(_blocks(_transposed(_columns(table, TERMINAL)))) == 1
    return (_transposed(columns), 2) if one_block else (columns, 1)


def _columns(table: Table, style: Style) -> list[list[str]]:
    """One list per task, after one of their headings."""
    footnotes = _footnotes(table)
    columns = [["", "measure", *map(style.escape, table.models), "seeds", "test documents"]]
    for column in table.columns:
        patients = f" ({column.units:,} patients)" if column.units < column.documents else ""
        columns.append(
            [
                style.escape(column.title) + _marks(column.notes, footnotes, style),
                style.escape(MEASURES.get(column.subject.metric, column.subject.metric)),
                *(_cell(cell, footnotes, style) for cell in column.cells.values()),
                str(len(column.seeds)),
                f"{column.documents:,}{patients}",
            ]
        )
    return columns


def _transposed(rows: list[list[str]]) -> list[list[str]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _cell(cell: Cell, footnotes: dict[str, str], style: Style) -> str:
    if cell.score is None:
        return style.escape("—") + _marks(cell.notes, footnotes, style)
    text = style.best(percent(cell.score)) if cell.best else percent(cell.score)
    if cell.low is not None and cell.high is not None:
        text += " " + style.interval(f"[{percent(cell.low)}, {percent(cell.high)}]")
    sign = {None: "", True: style.differs, False: style.same}[cell.significant]
    return text + _marks(cell.notes, footnotes, style, sign)


def _marks(notes: list[str], footnotes: dict[str, str], style: Style, sign: str = "") -> str:
    letters = ",".join(sorted(footnotes[note] for note in notes))
    marks = f"{sign} {letters}".strip()
    return style.raised(marks) if marks else ""


def _footnotes(table: Table) -> dict[str, str]:
    """A letter for each note, in the order of rows or columns."""
    notes = list[str]()
    for column in table.columns:
        notes += column.notes
        notes += [note for cell in column.cells.values() for note in cell.notes]
    letters = [*string.ascii_lowercase, *(a + b for a in string.ascii_lowercase for b in string.ascii_lowercase)]
    return dict(zip(dict.fromkeys(notes), letters, strict=False))


def _legend(table: Table, style: Style) -> list[str]:
    """Lines under a table: what the numbers and marks are, footnotes, and what holds for the whole table."""
    level, resamples = f"{100 * table.resampling.level:g} %", f"{table.resampling.resamples:,}"
    first = (
        f"Mean over fine-tuning seeds in %, with its {level} confidence interval: bootstrap over patients, or over "
        f"documents where the data names none, {resamples} resamples. {style.best_is}"
    )
    lines = [style.escape(first)]
    counts = (table.comparisons, ""), (table.trial_comparisons, " of trials")
    if made := [f"{count} comparison{'s' if count > 1 else ''}{which}" for count, which in counts if count]:
        reference = table.baseline or "the best of its column"
        how = f"paired bootstrap, p at most {SIGNIFICANT} after Holm's correction for {' and for '.join(made)}"
        differs, same = (style.raised(sign).strip() for sign in (style.differs, style.same))
        lines.append(f"{differs} {style.escape(f'differs significantly from {reference} ({how})')}; {same} doesn't.")
        if table.baseline is None:
            lines.append(
                "The best is chosen on the same documents, which makes it look better than it is; a baseline that is "
                "named beforehand doesn't have this fault."
            )
    lines += [f"{style.raised(letter).strip()} {style.escape(note)}" for note, letter in _footnotes(table).items()]
    return lines + [style.escape(note) for note in table.notes]


def _blocks(rows: list[list[str]]) -> list[list[list[str]]]:
    """Divide columns so that each block fits in a line; the first column is in all."""
    widths = _widths(rows)
    blocks: list[list[int]] = [[]]
    for number in range(1, len(widths)):
        if blocks[-1] and sum(2 + widths[other] for other in (0, *blocks[-1], number)) - 2 > WIDTH:
            blocks.append([])
        blocks[-1].append(number)
    return [[[row[number] for number in (0, *block)] for row in rows] for block in blocks]


def _block(rows: list[list[str]], head: int) -> str:
    widths = _widths(rows)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(head, "─" * (sum(widths) + 2 * len(widths) - 2))
    return "\n".join(lines)


def _widths(rows: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]
