"""Settings dataclasses: what a field may be (type, range, choice)."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class PathText:
    """Marks a text field that is a path: `shards: Annotated[str, PathText()] = "shards"`."""

    may_be_empty: bool = False

    def fault(self, value: str) -> str | None:
        """What a path must be and isn't."""
        fits = value.isprintable() and (value.strip() or self.may_be_empty)
        return None if fits else "must be a path in printable characters"


@dataclass(frozen=True)
class Pattern:
    """The form of a text field, and what it is called."""

    pattern: str
    name: str

    def fault(self, value: str) -> str | None:
        """What the text must be and isn't."""
        return None if re.fullmatch(self.pattern, value) else f"must be {self.name}"


def type_faults(settings: Any, prefix: str = "") -> list[str]:
    """Values of the wrong type in a dataclass and those within it, with their dotted keys."""
    return list(_faults(settings, prefix, _type_fault))


def range_faults(settings: Any, prefix: str = "") -> list[str]:
    """Values outside their field's range. Types must be right."""
    return list(_faults(settings, prefix, _range_fault))


def _faults(settings: Any, prefix: str, check: Any) -> Iterator[str]:
    hints = get_type_hints(type(settings), include_extras=True)
    for entry in fields(settings):
        value, hint = getattr(settings, entry.name), hints[entry.name]
        if is_dataclass(value) and type(value) is hint:
            yield from _faults(value, f"{prefix}{entry.name}.", check)
        elif fault := check(value, hint):
            yield f"{prefix}{entry.name} is {_shown(value)}, {fault}"


def _type_fault(value: Any, hint: Any) -> str | None:
    """What type a value must have and doesn't."""
    base, optional, _ = unwrap(hint)
    if value is None:
        return None if optional else f"must be {described(base)}"
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
    return None if fits else f"must be {described(base)}{' or null' if optional else ''}"


def _range_fault(value: Any, hint: Any) -> str | None:
    _, _, constraints = unwrap(hint)
    found = (constraint.fault(value) for constraint in constraints if value is not None)
    return next((fault for fault in found if fault), None)


def unwrap(hint: Any) -> tuple[Any, bool, tuple[Any, ...]]:
    """A field's plain type, whether it may be None, and its constraints."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = next(part for part in get_args(hint) if part is not type(None))
        base, _, constraints = unwrap(inner)
        return base, True, constraints
    if get_origin(hint) is Annotated:
        return hint.__origin__, False, hint.__metadata__
    return hint, False, ()


def described(base: Any) -> str:
    """A type in plain words."""
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
    except ValueError:  # an integer of more digits than Python writes
        return "a huge number"
    return text if 0 < len(text) <= 60 and text.isprintable() else ascii(text[:60])


def keys_of(cls: type, prefix: str = "") -> list[str]:
    """Every dotted key of a config class: `optim.learning_rate`, and groups such as `optim`."""
    keys = []
    hints = get_type_hints(cls)
    for entry in fields(cls):
        keys.append(prefix + entry.name)
        if is_dataclass(hints[entry.name]):
            keys += keys_of(hints[entry.name], f"{prefix}{entry.name}.")
    return keys
