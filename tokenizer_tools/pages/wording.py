"""How figures are written on pages."""

from __future__ import annotations

from tokenizer_tools.small_counts import Shown


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


def four_digits(value: float) -> str:
    """A number with about four digits, such as 5.69, 297.0 or 12,345; 1.254e+77 where it is beyond all measure."""
    if abs(value) >= 1e9:
        return f"{value:.4g}"
    return f"{value:,.{2 if abs(value) < 10 else 1 if abs(value) < 1000 else 0}f}"
