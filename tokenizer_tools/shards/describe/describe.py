"""Write the report of a shard folder: `report.html`, `report.svg` and `report.json`.

It is made from the finished shards alone, so it can be made again anywhere, and the same shards give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa

from tokenizer_tools.command_line import typed
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import write_atomically, write_json
from tokenizer_tools.manifest import REPORT_NAMES, Manifest
from tokenizer_tools.pages.svg import load_plots
from tokenizer_tools.progress import say
from tokenizer_tools.shards.describe.content import ShardReport, make_report
from tokenizer_tools.shards.describe.page import make_page
from tokenizer_tools.shards.describe.picture import draw_picture
from tokenizer_tools.shards.workers import Job, Workers


def describe_shards(folder: Path, workers: Workers | None = None) -> ShardReport:
    """Write the report into a finished shard folder, in place of an earlier one.

    Args:
        folder: the shards.
        workers: of the build before. If their processes run, these draw, and load what they need for it meanwhile.

    Raises:
        UserError: the folder holds no finished shards, or damaged ones.
    """
    manifest, drawing = Manifest.load(folder), workers if workers and workers.are_started else None
    if drawing:
        drawing.start(load_plots)
    try:
        report = make_report(folder, manifest)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
        raise UserError(
            f"{folder}: damaged shards ({type(error).__name__}); '{typed()} verify {folder}' says what is wrong"
        ) from None
    page, picture, data = (folder / name for name in REPORT_NAMES)
    jobs: list[Job] = [partial(_draw, page, make_page, report), partial(_draw, picture, draw_picture, report)]
    if drawing:
        drawing.run(iter(jobs))
    else:
        for job in jobs:
            job()
    write_json(data, report.to_json())
    return report


def _draw(path: Path, draw: Callable[[ShardReport], str], report: ShardReport) -> None:
    write_atomically(path, draw(report))


def add_missing_report(folder: Path, workers: Workers | None = None) -> None:
    """Write the report after a build, unless it is there. Finished shards aren't lost for the sake of a report: if it
    fails, only a line is printed."""
    if all((folder / name).exists() for name in REPORT_NAMES):
        return
    try:
        describe_shards(folder, workers)
    except Exception as error:  # whatever it is, matplotlib's errors and a full disk included
        say(
            f"{folder}: the shards are finished, but not their report ({type(error).__name__}); "
            f"'{typed()} describe-shards {folder}' tries again"
        )
