"""How figures and names are written, on the page and in the picture."""

from __future__ import annotations

from tokenizer_tools.shards.describe.content import Row
from tokenizer_tools.shards.describe.hide import Shown

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


def shown(count: Shown | None) -> str:
    """A count with commas; a dash if there is none."""
    if count is None:
        return "–"
    if isinstance(count, str):
        return f"more than {int(count[1:]):,}" if count.startswith(">") else count
    return f"{count:,}"


def percent(share: float | None) -> str:
    """A share in percent, with a digit more where it is small; a dash if there is none."""
    if share is None:
        return "–"
    digits = ".0f" if share in (0, 1) else ".1f" if share >= 0.01 else ".2g"
    return f"{100 * share:{digits}} %"


def decimal(value: float | None, digits: int) -> str:
    """A number with so many digits after the point; a dash if there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


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
