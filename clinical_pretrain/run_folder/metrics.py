"""Read the metrics log: `metrics.jsonl`, one JSON object per line. training/metrics_writer.py writes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from clinical_pretrain.console import console
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import write_atomically
from tokenizer_tools.wording import counted

FORMAT_VERSION = 2
"""Of each line."""


def read_metrics(folder: RunFolder, kind: str | None = None) -> list[dict[str, Any]]:
    """Read the lines of one kind, such as `train` or `validation`, or all, in order.

    Raises:
        UserError: a line is of another format version.
    """
    return [line for _, line in _complete_lines(folder) if kind in (None, line["kind"])]


def warn_of_damaged_lines(folder: RunFolder) -> None:
    """Say which lines can't be read, which everything that reads the log leaves out."""
    if numbers := damaged_lines(folder):
        lines = f"{counted(len(numbers), 'line')} that can't be read (first: line {numbers[0]})"
        console.say(f"warning: {folder.metrics_file}: left out {lines}", error=True)


def damaged_lines(folder: RunFolder) -> list[int]:
    """Numbers, from 1, of the lines that can't be read. A last line that isn't whole doesn't count until the run is
    finished: it may still be written."""
    if not folder.metrics_file.exists():
        return []
    texts = _texts(folder.metrics_file)
    if not folder.summary_file.exists():
        texts.pop()
    return [number for number, text in enumerate(texts, 1) if text and _parse(folder.metrics_file, text) is None]


def cut_metrics(folder: RunFolder, step: int) -> None:
    """Delete lines of later steps, which will be trained again."""
    if folder.metrics_file.exists():
        lines = "".join(f"{text}\n" for text, line in _complete_lines(folder) if line["step"] <= step)
        write_atomically(folder.metrics_file, lines)


class MetricsReader:
    """Reads a metrics log while it grows: only what is new, and never a line that isn't whole yet.

    A start or a roll-back replaces the log by one without the lines of later steps (`cut_metrics`). The last line read,
    which has the time in it, then stands elsewhere or nowhere, and the log is read again from its beginning.

    Args:
        folder: the run folder, which need not have a log yet.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.metrics_file
        self._position = 0
        """In bytes: where the next line begins."""
        self._last = b""
        """The line before that position."""
        self.damaged = 0
        """How many lines up to there can't be read."""

    def new_lines(self, forget: Callable[[], None] = lambda: None) -> Iterator[dict[str, Any]]:
        """Yield the lines that have been added since the call before, one by one, as the log may be large.

        Args:
            forget: called before the first line if the log was replaced: what was read before is void.

        Raises:
            UserError: a line is of another format version.
            OSError: the log can't be read.
        """
        try:
            stream = self._path.open("rb")
        except FileNotFoundError:
            if self._position:
                self._restart(forget)
            return
        with stream:
            stream.seek(self._position - len(self._last))
            if stream.read(len(self._last)) != self._last:
                self._restart(forget)
                stream.seek(0)
            for text in stream:
                if not text.endswith(b"\n"):
                    break
                line = _parse(self._path, text.decode(errors="replace"))
                self._position, self._last = self._position + len(text), text
                if line:
                    yield line
                elif text.strip():
                    self.damaged += 1

    def _restart(self, forget: Callable[[], None]) -> None:
        self._position, self._last, self.damaged = 0, b"", 0
        forget()


def _complete_lines(folder: RunFolder) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines and their content, without those that a full disk or a kill has left incomplete."""
    path = folder.metrics_file
    if not path.exists():
        return
    for text in _texts(path):
        if line := _parse(path, text):
            yield text, line


def _texts(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").split("\n")  # a category may hold U+2028


def _parse(path: Path, text: str) -> dict[str, Any] | None:
    """The content of a line; None for one that is incomplete or damaged, or has no numbers where they belong.

    Raises:
        UserError: it is of another format version.
    """
    line = None
    with suppress(ValueError):
        line = json.loads(text, parse_constant=_refuse)
    if not isinstance(line, dict) or "format_version" not in line:
        return None
    if line["format_version"] != FORMAT_VERSION:
        raise UserError(
            f"{path}: format_version {line['format_version']}, but this version of clinical-pretrain reads "
            f"{FORMAT_VERSION}; read the run with the one that wrote it, and train in another --run_dir"
        )
    return line if _has_numbers(line) else None


def _has_numbers(line: dict[str, Any]) -> bool:
    """Whether a line has what each needs. A loss is null where it isn't finite."""
    loss, time = line.get("loss"), line.get("time", 0)
    return (
        "kind" in line
        and isinstance(line.get("step"), int)
        and isinstance(time, int | float)
        and (loss is None or isinstance(loss, int | float))
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
