"""Commands that write about runs: a page on one, and a comparison of several. The facts come from observe/report/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinical_pretrain.commands.options import make_parser, parse
from clinical_pretrain.commands.options import report as write_json


def report(argv: Sequence[str]) -> dict[str, Any]:
    """Write a run's report, one HTML page: data as counts, recipe, curves, losses, time, how to repeat it."""
    parser = make_parser("report", report.__doc__)
    parser.add_argument("run", help="run folder, such as runs/NAME")
    parser.add_argument("--out", help="HTML file (default: report.html in the run folder)")
    args = parse(parser, argv)
    from clinical_pretrain.observe.report.page import write_report
    from clinical_pretrain.run_folder.metrics import warn_of_damaged_lines
    from clinical_pretrain.run_folder.paths import RunFolder

    result = write_report(Path(args.run), Path(args.out) if args.out else None)
    print(result["page"])
    warn_of_damaged_lines(RunFolder(Path(args.run)))
    return write_json(args, result)


def compare(argv: Sequence[str]) -> dict[str, Any]:
    """Compare runs on held-out sequences: settings that differ, and which is better or within the noise."""
    parser = make_parser("compare", compare.__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        help="run folders; the first one is what others are compared with. Runs that differ by the seed alone are "
        "taken together: their spread tells what a seed makes",
    )
    parser.add_argument("--out", help="also write an HTML page with the curves to this file")
    parser.add_argument("--step", type=int, help="compare the validations of this step (default: each run's last)")
    args = parse(parser, argv)
    from clinical_pretrain.observe.report.compare import compare_runs
    from clinical_pretrain.observe.report.compare_page import lines, make_page
    from clinical_pretrain.observe.report.page import html_file
    from clinical_pretrain.run_folder.metrics import warn_of_damaged_lines
    from tokenizer_tools.files import write_atomically

    out = html_file(Path(args.out)) if args.out else None
    compared = compare_runs([Path(run) for run in args.runs], args.step)
    if out:
        write_atomically(out, make_page(compared))
    print("\n".join(lines(compared) + (["", str(out)] if out else [])))
    for run in compared.recorded:
        warn_of_damaged_lines(run.folder)
    return write_json(args, {"page": args.out, "settings": compared.settings, **compared.findings.to_json()})
