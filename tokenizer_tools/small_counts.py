"""Hide small counts, as agreements on the use of patient data ask, so that the other counts don't give them away."""

from __future__ import annotations

from collections.abc import Sequence

Shown = int | str
"""A count, or what stands for a hidden one: "<10", "≥10" or ">N"."""

SMALLEST = 10
"""The smallest count of patients or notes that is shown. 0 is shown, too."""
SMALL = f"<{SMALLEST}"
NOT_SMALL = f"≥{SMALLEST}"


def show(count: int) -> Shown:
    """A count that stands alone."""
    return SMALL if 0 < count < SMALLEST else count


def show_parts(counts: Sequence[int]) -> list[Shown]:
    """The parts of a total that is shown. Parts are hidden, beginning with the smallest, until the hidden ones together
    aren't a small count, nor a single part, nor as small or as large as what stands for them can be: else the total
    would give them away."""
    shown: list[Shown] = [show(count) for count in counts]
    hidden = [count for count in counts if show(count) == SMALL]
    others = sorted((count, i) for i, count in enumerate(counts) if count >= SMALLEST)
    while others and _can_be_solved(hidden):
        count, i = others.pop(0)
        shown[i] = NOT_SMALL
        hidden.append(count)
    return shown


def _can_be_solved(hidden: Sequence[int]) -> bool:
    """Whether the sum of hidden parts gives them away."""
    if not hidden:
        return False
    least = sum(1 if count < SMALLEST else SMALLEST for count in hidden)
    is_most = max(hidden) < SMALLEST and sum(hidden) == (SMALLEST - 1) * len(hidden)
    return len(hidden) < 2 or sum(hidden) < SMALLEST or sum(hidden) == least or is_most


def show_total(parts: Sequence[int]) -> Shown:
    """The total of parts that are shown one by one: the sum of those that aren't hidden, and ">" if one is."""
    visible, total = sum(count for count in parts if show(count) != SMALL), sum(parts)
    return show(total) if total in (visible, *range(SMALLEST)) else f">{visible}"
