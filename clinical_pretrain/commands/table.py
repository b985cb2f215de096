"""The command that makes a table of an evaluation's results. The numbers come from tasks/table.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinical_pretrain.commands.options import data_root, make_parser, parse, report
from clinical_pretrain.console import console


def table(argv: Sequence[str]) -> dict[str, Any]:
    """Compare the evaluated models: means, intervals, significance; as Markdown, CSV, LaTeX and a plot."""
    parser = make_parser("table", table.__doc__)
    parser.add_argument("results", help="the folder that evaluate wrote, such as results/")
    parser.add_argument("--data-root", help="folder with the data of each task (default: where it was evaluated)")
    parser.add_argument(
        "--baseline", help="the model that all others are compared with (default: the best of each task)"
    )
    parser.add_argument("--out", help="folder for table.md, .csv, .tex, .png and .pdf (default: the results folder)")
    args = parse(parser, argv)
    from clinical_pretrain.tasks.table import make_table
    from clinical_pretrain.tasks.table_formats import terminal, write_texts
    from clinical_pretrain.tasks.table_plot import plot_table

    results = Path(args.results)
    made = make_table(results, data_root(args.data_root) if args.data_root else None, args.baseline)
    out = Path(args.out) if args.out else results
    files = [str(path) for path in (*write_texts(made, out), *plot_table(made, out))]
    console.say(terminal(made))
    console.say(f"\n{out}: {', '.join(Path(name).name for name in files)}")
    result = {
        "rows": made.rows(),
        "baseline": made.baseline,
        "comparisons": made.comparisons,
        "trial_comparisons": made.trial_comparisons,
        "level": made.resampling.level,
        "resamples": made.resampling.resamples,
        "notes": made.notes,
        "files": files,
    }
    return report(args, result)
