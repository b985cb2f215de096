"""Pages that are made from other files: included Markdown, and the help of every command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, **page: Any) -> str:
    """Replace `<!-- include: FILE#Heading -->` and `<!-- commands -->`; MkDocs calls it for each page."""
    markdown = re.sub(r"<!-- include: ([^#\s]+)(?:#(.+?))? -->", lambda found: include(found[1], found[2]), markdown)
    return markdown.replace("<!-- commands -->", commands()) if "<!-- commands -->" in markdown else markdown


def include(name: str, heading: str | None) -> str:
    """A file without its title, or one of its sections. Links to files that aren't pages become the files' names."""
    text = (REPOSITORY / name).read_text(encoding="utf-8").partition("\n")[2]
    if heading:
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.sub(r"\[([^]]+)\]\((?!https?:)[^)]+\)", r"\1", text)


def commands() -> str:
    """The help of every command."""
    from clinical_pretrain.cli import COMMANDS

    pages = []
    for name in COMMANDS:
        call = [sys.executable, "-m", "clinical_pretrain", name, "--help"]
        done = subprocess.run(call, env=os.environ | {"COLUMNS": "100"}, capture_output=True, text=True, check=True)
        text = done.stdout.partition("\nOne training run:")[0].strip()  # the settings have a page of their own
        more = "\n\nand every [setting](../settings.md) of the config." if text != done.stdout.strip() else ""
        pages.append(f"## {name}\n\n```text\n{text}\n```{more}")
    return "\n\n".join(pages)
