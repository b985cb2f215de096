"""Commands that follow a run: on the screen, and to an experiment tracker. The work is done in observe/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from clinical_pretrain.commands.options import make_parser, parse, report
from clinical_pretrain.console import console


def watch(argv: Sequence[str]) -> dict[str, Any]:
    """Watch runs in the terminal: progress, losses, speed, time left, events; one picture where that isn't possible."""
    parser = make_parser("watch", watch.__doc__)
    parser.add_argument("runs", nargs="+", help="run folders, such as runs/NAME, or folders of them")
    args = parse(parser, argv)
    from clinical_pretrain.observe import watch as terminal

    views = terminal.watch(terminal.find_runs([Path(path) for path in args.runs]))
    return report(args, {"runs": [view.as_json() for view in views]})


def sync(argv: Sequence[str]) -> dict[str, Any]:
    """Send a run's metrics and settings to Weights & Biases or MLflow; again, only what is new; never text or paths."""
    parser = make_parser("sync", sync.__doc__)
    parser.add_argument("run", help="run folder, such as runs/NAME")
    parser.add_argument("--to", type=Literal["wandb", "mlflow"], required=True, help="the tracker")
    parser.add_argument("--project", default="clinical-pretrain", help="project of W&B, experiment of MLflow")
    parser.add_argument("--names", action="store_true", help="send names of note categories, sections and words, too")
    parser.add_argument("--again", action="store_true", help="send everything, to a new run of the tracker")
    args = parse(parser, argv)
    from clinical_pretrain.observe.sync import prepare, send
    from clinical_pretrain.run_folder.metrics import warn_of_damaged_lines

    plan = prepare(Path(args.run), args.to, args.project, args.names, args.again)
    warn_of_damaged_lines(plan.folder)
    console.say(plan.describe())
    result = send(plan)
    console.say(f"sent {result['lines']:,} lines: {result['where']}")
    return report(args, result)
