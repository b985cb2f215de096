"""How messages write a number of things."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what it counts: 1 note, 1,200 notes.

    Args:
        number: of things.
        one: what follows 1, such as "note has".
        many: what follows other numbers, such as "notes have". Default: `one` with an s.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def short_count(number: int) -> str:
    """A number with about three digits and a letter for thousands, millions and so on: 512, 14.7 G."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{float(f'{number / size:.3g}'):,g} {letter}"
    return f"{number:,}"


def byte_count(number: float) -> str:
    """A number of bytes, in units of powers of 1,000: 640 bytes, 1.9 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def as_unicode(text: str) -> str:
    """A text that any encoding of Unicode can write: a question mark for each byte of a name that isn't UTF-8."""
    return text.encode("utf-8", "replace").decode()
