"""How names are written, on the page and in the picture."""

from __future__ import annotations

from tokenizer_tools.shards.describe.content import Row

_REASONS = {
    "empty": "no text left",
    "duplicate": "duplicate",
    "near_duplicate": "near-duplicate",
    "invalid_utf8": "not UTF-8",
    "malformed": "malformed row",
    "no_patient": "no patient",
    "marked_error": "marked as an error",
    "copied": "nothing left without copied paragraphs",
    "filtered": "left out by a source's filters",
    "unlisted": "on none of the split lists",
    "withdrawn": "of a patient who withdrew",
}


def reason(name: str) -> str:
    """Why a note was dropped."""
    return _REASONS.get(name, name.replace("_", " "))


def placeholders(choice: str | None) -> str:
    """What de-identification placeholders become, by `--placeholder` or its token."""
    words = {"keep": "itself, as text", "typed": "a token for each kind", "surrogates": "surrogates", None: "a space"}
    return words.get(choice) or str(choice)


def group_name(row: Row) -> str:
    """A group's name, or what it is made of."""
    return f"other ({row.merged:,} more)" if row.merged else row.name
