"""Files: hashed, copied, and written so that a power cut leaves the old one or the whole new one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def copy_files(source: Path, out: Path) -> None:
    """Copy a folder's files into a new one: contents alone, so that the umask decides who may read the copies."""
    out.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        shutil.copyfile(path, out / path.name)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is either the old one or the whole new one, also after a power cut."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(object_pairs_hook=)`: of a key that is given twice nobody knows which value holds.

    Raises:
        ValueError: there is one.
    """
    keys = [key for key, _ in pairs]
    if twice := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise ValueError(f"{', '.join(twice)} stands twice in an object")
    return dict(pairs)


def write_report(path: str, value: Any) -> None:
    """What `--json` asks for: JSON in a file whose folder is made if need be."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(path), value)


def write_atomically(path: Path, text: str) -> None:
    """Write text to a temporary name beside `path`, flush it to disk, rename it."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk: a file's own flush doesn't."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network disks can't
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
