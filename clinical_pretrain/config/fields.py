"""The rules that stand at the fields of a settings dataclass: type, range, form, and what a resume may change.

A field's annotation carries them: `max_grad_norm: Annotated[float, Range(0, 10), Resume.ACCEPTED] = 1.0`. A docstring
below the field says what it means.
"""

from __future__ import annotations

import enum
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class PathText:
    """Constraint of a text field that holds a path."""

    may_be_empty: bool = False

    def fault(self, value: str) -> str | None:
        """Say what the path must be; None if it is allowed."""
        fits = value.isprintable() and (value.strip() or self.may_be_empty)
        return None if fits else "must be a path in printable characters"


@dataclass(frozen=True)
class Pattern:
    """Constraint of a text field by a regular expression, with a name for what it matches."""

    pattern: str
    name: str

    def fault(self, value: str) -> str | None:
        """Say what the text must be; None if it is allowed."""
        return None if re.fullmatch(self.pattern, value) else f"must be {self.name}"


@dataclass(frozen=True)
class Auto:
    """Mark of a number that may be given as `auto`, which is read as 0."""

    def fault(self, value: int) -> str | None:
        """None: its Range allows 0."""
        return None


class Resume(enum.Enum):
    """Whether a run can be resumed with another value of a setting."""

    FREE = "yes"
    """Changes neither the weights nor the data."""
    ACCEPTED = "if accepted"
    """Changes the training from here on: only with checkpoint.accept_changes."""
    FIXED = "no"
    """Makes another model, or trains it in another precision."""
    BY_STEPS = "by the steps done"
    """The length of the run: run_folder/ compares it with the steps done."""


@dataclass(frozen=True)
class Setting:
    """One field of a settings dataclass or of a section in it, with its annotation taken apart."""

    key: str
    """Dotted key, such as optim.learning_rate."""
    owner: type
    """The dataclass that has the field."""
    name: str
    base: Any
    """Type without None and rules."""
    optional: bool
    """Whether None is allowed."""
    constraints: tuple[Any, ...]
    """Rules with a method `fault(value)`."""
    resume: Resume | None
    """None for settings that are not part of a run."""


def settings_of(cls: type, prefix: str = "") -> Iterator[Setting]:
    """All settings of a dataclass, those of its sections included, in the order of the fields."""
    hints = get_type_hints(cls, include_extras=True)
    for entry in fields(cls):
        key, hint = prefix + entry.name, hints[entry.name]
        if is_dataclass(hint):
            yield from settings_of(hint, f"{key}.")  # type: ignore[arg-type]
        else:
            base, optional, rules = unwrap(hint)
            constraints = tuple(rule for rule in rules if not isinstance(rule, Resume))
            resume = next((rule for rule in rules if isinstance(rule, Resume)), None)
            yield Setting(key, cls, entry.name, base, optional, constraints, resume)


def keys_of(cls: type, prefix: str = "") -> list[str]:
    """Every dotted key of a settings dataclass: `optim.learning_rate`, and sections such as `optim`."""
    keys = []
    hints = get_type_hints(cls)
    for entry in fields(cls):
        keys.append(prefix + entry.name)
        if is_dataclass(hints[entry.name]):
            keys += keys_of(hints[entry.name], f"{prefix}{entry.name}.")
    return keys


def unwrap(hint: Any) -> tuple[Any, bool, tuple[Any, ...]]:
    """A field's plain type, whether it may be None, and its rules."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = next(part for part in get_args(hint) if part is not type(None))
        base, _, rules = unwrap(inner)
        return base, True, rules
    if get_origin(hint) is Annotated:
        return hint.__origin__, False, hint.__metadata__
    return hint, False, ()


def type_faults(settings: Any, prefix: str = "") -> list[str]:
    """Values of the wrong type in a dataclass and in its sections, with their dotted keys."""
    return list(_faults(settings, prefix, _type_fault))


def range_faults(settings: Any, prefix: str = "") -> list[str]:
    """Values that violate their field's constraints. All types must be right."""
    return list(_faults(settings, prefix, _range_fault))


def _faults(settings: Any, prefix: str, check: Callable[[Any, Any], str | None]) -> Iterator[str]:
    hints = get_type_hints(type(settings), include_extras=True)
    for entry in fields(settings):
        value, hint = getattr(settings, entry.name), hints[entry.name]
        if is_dataclass(value) and type(value) is hint:
            yield from _faults(value, f"{prefix}{entry.name}.", check)
        elif fault := check(value, hint):
            yield f"{prefix}{entry.name} is {_shown(value)}, {fault}"


def _type_fault(value: Any, hint: Any) -> str | None:
    """Say what type a value must have; None if it has it."""
    base, optional, _ = unwrap(hint)
    if value is None:
        return None if optional else f"must be {describe_type(base)}"
    right = {
        int: type(value) is int,
        float: type(value) in (int, float),
        bool: type(value) is bool,
        str: isinstance(value, str),
    }
    if get_origin(base) is Literal:
        fits = value in get_args(base)
    elif get_origin(base) is dict:
        fits = isinstance(value, dict) and all(isinstance(word, str) for pair in value.items() for word in pair)
    else:
        fits = right.get(base, False)
    return None if fits else f"must be {describe_type(base)}{' or null' if optional else ''}"


def _range_fault(value: Any, hint: Any) -> str | None:
    rules = unwrap(hint)[2] if value is not None else ()
    found = (rule.fault(value) for rule in rules if not isinstance(rule, Resume))
    return next((fault for fault in found if fault), None)


def describe_type(base: Any) -> str:
    """A type in plain words, for messages."""
    if is_dataclass(base):
        return f"a section with keys such as {fields(base)[0].name}; leave it out for its defaults"
    if get_origin(base) is Literal:
        return f"one of {', '.join(map(str, get_args(base)))}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(base, "keys and values that are text")


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        text = " ".join(str(value).split())
    except ValueError:  # an integer with more digits than Python writes
        return "a huge number"
    return text if 0 < len(text) <= 60 and text.isprintable() else ascii(text[:60])
