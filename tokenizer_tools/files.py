"""Hash, copy and read files, and write them so that a power cut leaves the old file or the whole new one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tokenizer_tools.errors import UserError


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def copy_files(source: Path, out: Path) -> None:
    """Copy the files of a folder into a new one. The umask decides who may read the copies."""
    out.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        shutil.copyfile(path, out / path.name)


def refuse_used_folder(out: Path) -> None:
    """Check that `--out` may be made: it doesn't exist, or is an empty folder.

    Raises:
        UserError: it is a file, or holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and isn't empty; choose another --out, or delete it")


def check_output_file(path: Path, option: str) -> None:
    """Check, before the work, that a file can be written.

    Args:
        path: the file.
        option: by which the user names it, for the message.

    Raises:
        UserError: it is a folder, or its own folder isn't there or can't be written.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        raise UserError(f"{path}: the folder {path.parent} can't be written; name a file in another by {option}")
    if path.is_dir():
        raise UserError(f"{path}: a folder; name a file by {option}")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Make a folder that is there whole or not at all: yields the path of a temporary one, still to be created, which
    takes the place of `out` in the end.

    Raises:
        UserError: see `refuse_used_folder`.
    """
    refuse_used_folder(out)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        refuse_used_folder(out)  # minutes may have passed
        if out.exists():
            out.rmdir()
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is either the old one or the whole new one, also after a power cut."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, format_version: int, remedy: str) -> dict[str, Any]:
    """Read a JSON object that this project wrote, and check its `format_version`.

    Args:
        path: the file.
        format_version: the only version that the caller understands.
        remedy: what the user can do if the file can't be read, as the end of a sentence: "build the shards again".

    Raises:
        UserError: the file is missing, unreadable, damaged, or of another format version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {remedy}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, RecursionError):
        content = None
    return check_format(path, content, format_version, remedy)


def check_format(path: Path, content: object, format_version: int, remedy: str) -> dict[str, Any]:
    """Check the `format_version` of what a file holds: its JSON, or the first line of JSONL.

    Args:
        path, format_version, remedy: as for `read_json`.
        content: what was parsed; None if it couldn't be.

    Raises:
        UserError: it is no JSON object, or of another format version.
    """
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged, not a JSON object; {remedy}")
    if content.get("format_version") != format_version:
        raise UserError(
            f"{path}: format_version {content.get('format_version')}, but this version of clinical-pretrain reads "
            f"{format_version}; {remedy}"
        )
    return content


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` for `json.loads` that refuses repeated keys, of which the last would win silently.

    Raises:
        ValueError: a key is repeated.
    """
    unique = dict(pairs)
    if len(unique) < len(pairs):
        repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueError(f"{', '.join(repeated)} occurs twice in an object")
    return unique


def write_report(path: str, value: Any) -> None:
    """Write the JSON file that `--json` asks for, and create its folder if needed."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(path), value)


def write_atomically(path: Path, text: str) -> None:
    """Write text to a temporary file next to `path`, flush it to disk, rename it. What is no Unicode, a byte of a name
    that isn't UTF-8, is written as JSON does: \\udce4."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk, which flushing a file doesn't do."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems can't
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
