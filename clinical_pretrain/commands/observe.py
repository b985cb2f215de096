"""Commands that show runs: their options, and what they print. The facts come from observe/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinical_pretrain.commands.options import make_parser, parse, report


def plot(argv: Sequence[str]) -> dict[str, Any]:
    """Draw a run's training and validation loss."""
    parser = make_parser("plot", plot.__doc__)
    parser.add_argument("run", help="run folder, such as runs/NAME")
    parser.add_argument("--out", help="PNG, PDF or SVG file (default: loss.png in the run folder)")
    args = parse(parser, argv)
    from clinical_pretrain.observe.plot import plot_loss
    from clinical_pretrain.run_folder.metrics import warn_of_damaged_lines
    from clinical_pretrain.run_folder.paths import RunFolder

    result = plot_loss(Path(args.run), Path(args.out) if args.out else None)
    print(f"{result['picture']}: {result['train_points']} training and {result['validation_points']} validation losses")
    warn_of_damaged_lines(RunFolder(Path(args.run)))
    return report(args, result)


def status(argv: Sequence[str]) -> dict[str, Any]:
    """Show the status of runs: state, step, loss, time left, restarts, why they last stopped."""
    parser = make_parser("status", status.__doc__)
    parser.add_argument("runs", nargs="*", default=["runs"], help="run folders, or folders of them (default: runs)")
    args = parse(parser, argv)
    from clinical_pretrain.observe import status as standing
    from clinical_pretrain.run_folder.metrics import warn_of_damaged_lines
    from clinical_pretrain.run_folder.paths import RunFolder

    runs = standing.runs_in([Path(path) for path in args.runs])
    found = [standing.status(run) for run in runs]
    print("\n".join(standing.table(found)))
    for run, state in zip(runs, found, strict=True):
        if state["state"] != "unreadable":
            warn_of_damaged_lines(RunFolder(run))
    return report(args, {"runs": found})
