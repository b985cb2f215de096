"""Commands that follow a run: on the screen, and to an experiment tracker. The work is done in observe/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinical_pretrain.commands.options import make_parser, parse, report


def watch(argv: Sequence[str]) -> dict[str, Any]:
    """Watch runs in the terminal: progress, losses, speed, time left, events; one picture where that isn't possible."""
    parser = make_parser("watch", watch.__doc__)
    parser.add_argument("runs", nargs="+", help="run folders, such as runs/NAME, or folders of them")
    args = parse(parser, argv)
    from clinical_pretrain.observe import watch as terminal

    views = terminal.watch(terminal.find_runs([Path(path) for path in args.runs]))
    return report(args, {"runs": [view.as_json() for view in views]})
