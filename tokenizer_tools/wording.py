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
