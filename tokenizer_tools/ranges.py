"""Ranges of settings, written at their fields."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from tokenizer_tools.errors import UserError

MANY = 1_000_000_000
"""Largest count of steps, sequences or notes."""


@dataclass(frozen=True)
class Range:
    """The numbers that a field allows, written at the field: `layers: Annotated[int, Range(1, 1000)] = 2`."""

    minimum: float = -math.inf
    maximum: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    even: bool = False

    def fault(self, value: float) -> str | None:
        """Say what the number must be; None if it is allowed."""
        if isinstance(value, float) and not math.isfinite(value):
            return "must be a finite number"
        for is_wrong, end in (
            (value < self.minimum, f"at least {_number(self.minimum)}"),
            (value > self.maximum, f"at most {_number(self.maximum)}"),
            (value <= self.above, f"above {_number(self.above)}"),
            (value >= self.below, f"below {_number(self.below)}"),
            (self.even and value % 2 != 0, "even"),
        ):
            if is_wrong:
                return f"must be {end}"
        return None


def check_ranges(settings: Any) -> None:
    """Check the numbers of a settings dataclass against the ranges at its fields. None is always allowed.

    Raises:
        UserError: some are outside; the message names all of them.
    """
    hints = get_type_hints(type(settings), include_extras=True)
    values = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    faults = [
        f"{name} is {value}, {fault}"
        for name, value in values.items()
        for allowed in _ranges(hints[name])
        if value is not None and (fault := allowed.fault(value))
    ]
    if faults:
        raise UserError("; ".join(faults))


def _ranges(hint: Any) -> Iterator[Range]:
    """The ranges in a type such as `Annotated[int, Range(1, 9)] | None`."""
    if get_origin(hint) is Annotated:
        yield from (constraint for constraint in hint.__metadata__ if isinstance(constraint, Range))
        return
    for inner in get_args(hint):
        yield from _ranges(inner)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
