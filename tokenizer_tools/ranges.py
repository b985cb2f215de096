"""Ranges of settings, written at their fields."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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


SequenceLength = Annotated[int, Range(8, 1_000_000)]
"""Tokens per sequence."""


def check_ranges(settings: Any, section: str = "") -> None:
    """Check the numbers of a settings dataclass against the ranges at its fields.

    Args:
        settings: the dataclass.
        section: what stands before the names of its options, such as `--duplicates.`, for messages.

    Raises:
        UserError: some are outside; the message names all of them.
    """
    values = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    if faults := out_of_range(type(settings), values):
        raise UserError("; ".join(f"{section}{name} is {values[name]}, {fault}" for name, fault in faults.items()))


def out_of_range(cls: type, values: Mapping[str, Any]) -> dict[str, str]:
    """Which values of a settings dataclass are out of range, and what each must be. None is in every range."""
    hints = get_type_hints(cls, include_extras=True)
    return {
        name: fault
        for name, value in values.items()
        for allowed in _ranges(hints[name])
        if value is not None and (fault := allowed.fault(value))
    }


def _ranges(hint: Any) -> Iterator[Range]:
    """The ranges in a type such as `Annotated[int, Range(1, 9)] | None`."""
    if get_origin(hint) is Annotated:
        yield from (constraint for constraint in hint.__metadata__ if isinstance(constraint, Range))
        return
    for inner in get_args(hint):
        yield from _ranges(inner)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
