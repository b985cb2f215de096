"""Pages that are made from other files: included Markdown, and the help of every command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
LINK = re.compile(r"(?<!!)\[([^]]+)\]\((?!https?:)([^)#]+)(?:#([^)]+))?\)")


def on_page_markdown(markdown: str, page: Any, **more: Any) -> str:
    """Resolve links that leave docs/, and `<!-- commands -->`; MkDocs calls it for each page."""
    markdown = resolve_links(markdown, (DOCS / page.file.src_uri).parent)
    return markdown.replace("<!-- commands -->", commands()) if "<!-- commands -->" in markdown else markdown


def resolve_links(markdown: str, folder: Path) -> str:
    """Links of a page in `folder` that leave docs/, which the site can't follow: one on a line of its own becomes what
    it links to, a file or a section of it; any other becomes its text."""

    def resolve(found: re.Match[str]) -> str:
        text, target, anchor = found.groups()
        file = (folder / target).resolve()
        if file.is_relative_to(DOCS):
            return found[0]
        alone = markdown[: found.start()].endswith("\n\n") and markdown[found.end() :].startswith("\n")
        return include(file, anchor) if alone else text

    return LINK.sub(resolve, markdown)


def include(file: Path, anchor: str | None) -> str:
    """A Markdown file without its title, or one of its sections; its links become their texts."""
    text = file.read_text(encoding="utf-8").partition("\n")[2]
    if anchor:
        sections = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)[1:]
        text = dict(zip(map(slug, sections[::2]), sections[1::2], strict=True))[anchor]
    return LINK.sub(r"\1", text).strip()


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-")


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
