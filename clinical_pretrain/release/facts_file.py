"""`pretraining.json` in an exported model: counts, settings and losses of its run. No text of a note, no path."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tokenizer_tools.files import file_sha256, read_json, write_json

FACTS_NAME = "pretraining.json"
FORMAT_VERSION = 4


def read_facts(model_dir: Path, remedy: str = "export the model again") -> dict[str, Any]:
    """Read the facts of an exported model; see `facts.collect_facts` for their names.

    Raises:
        UserError: the file is missing, damaged, or of another format version; the message ends with the remedy.
    """
    return read_json(model_dir / FACTS_NAME, FORMAT_VERSION, remedy)


def write_facts(model_dir: Path, facts: dict[str, Any]) -> None:
    """Write the facts, with the hashes of all files of the finished export, this one's included."""
    facts = {"format_version": FORMAT_VERSION, **facts}
    facts["files"] = {path.name: file_sha256(path) for path in sorted(model_dir.iterdir())}
    facts["files"][FACTS_NAME] = _facts_sha256(facts)
    write_json(model_dir / FACTS_NAME, facts)


def exported_file_sha256(path: Path) -> str:
    """Hash of a file of an export, as `write_facts` stores it."""
    return _facts_sha256(json.loads(path.read_text())) if path.name == FACTS_NAME else file_sha256(path)


def _facts_sha256(facts: dict[str, Any]) -> str:
    """Hash of the facts without the hash itself."""
    files = {name: sha256 for name, sha256 in facts["files"].items() if name != FACTS_NAME}
    return hashlib.sha256(json.dumps({**facts, "files": files}, sort_keys=True).encode()).hexdigest()
