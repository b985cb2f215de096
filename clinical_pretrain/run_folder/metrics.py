"""Read the metrics log: `metrics.jsonl`, one JSON object per line. training/metrics_writer.py writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import write_atomically

FORMAT_VERSION = 2
"""Of each line."""


def read_metrics(folder: RunFolder, kind: str | None = None) -> list[dict[str, Any]]:
    """Read the lines of one kind, such as `train` or `validation`, or all, in order.

    Raises:
        UserError: a line is of another format version.
    """
    return [line for _, line in _complete_lines(folder) if kind in (None, line["kind"])]


def cut_metrics(folder: RunFolder, step: int) -> None:
    """Delete lines of later steps, which will be trained again."""
    if folder.metrics_file.exists():
        lines = "".join(f"{text}\n" for text, line in _complete_lines(folder) if line["step"] <= step)
        write_atomically(folder.metrics_file, lines)


def _complete_lines(folder: RunFolder) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines and their content, without those that a full disk or a kill has left incomplete."""
    path = folder.metrics_file
    if not path.exists():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # a category may hold U+2028
        line = None
        with suppress(ValueError):
            line = json.loads(text)
        if line is None:
            continue
        if line.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"{path}: format_version {line.get('format_version')}, but this reads {FORMAT_VERSION}; choose another "
                "--run_dir"
            )
        yield text, line


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
