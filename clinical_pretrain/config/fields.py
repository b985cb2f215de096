"""Settings dataclasses: what a field may be (type, range, choice), and making one of text, as YAML files and command
lines hold it."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from tokenizer_tools.errors import UserError

T = TypeVar("T")


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


# From text ------------------------------------------------------------------------------------------------------------

_ON_OFF = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


class RepeatedKeyError(yaml.MarkedYAMLError):
    """A YAML mapping has a key twice."""


class TextLoader(yaml.SafeLoader):
    """Leaves every value but null as the text that stands there: its field knows the type. So `on` is a word where a
    word is asked for, 1e-5 a number, and 24:00:00 no number of seconds. A repeated key is refused."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  # as in yaml's own classes

    def compose_mapping_node(self, anchor: Any) -> Any:
        """As yaml's own, and sees that no key stands twice."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in lines:
                    problem = f"this key stands in line {lines[key.value]}, too; delete one of them"
                    raise RepeatedKeyError(problem=problem, problem_mark=key.start_mark)
                lines[key.value] = key.start_mark.line + 1
        return node


TextLoader.add_implicit_resolver(_NULL, re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
TextLoader.add_implicit_resolver(_MERGE, re.compile(r"^(?:<<)$"), ["<"])


def flatten(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted keys.

    Raises:
        UserError: a key is there both dotted and nested.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        is_section = isinstance(value, dict) and prefix.count(".") < 9  # in YAML a mapping may hold itself
        more = flatten(value, f"{prefix}{key}.") if is_section else {f"{prefix}{key}": value}
        if twice := sorted(flat.keys() & more.keys()):
            raise UserError(f"{', '.join(twice)}: given twice; delete one of them")
        flat |= more
    return flat


def build(cls: type[T], flat: Mapping[str, Any], prefix: str = "") -> T:
    """A settings dataclass of values by their dotted keys. What can't be read as its field's type stays as it is, for
    the class itself to refuse."""
    hints, given = get_type_hints(cls, include_extras=True), {}
    for entry in fields(cls):  # type: ignore[arg-type]
        key, hint = prefix + entry.name, hints[entry.name]
        below = {name: value for name, value in flat.items() if name.startswith(f"{key}.")}
        if key in flat:
            given[entry.name] = _read(flat[key], hint)
        elif below and is_dataclass(hint):
            given[entry.name] = build(hint, below, f"{key}.")  # type: ignore[arg-type]
        elif below:
            given[entry.name] = {name.removeprefix(f"{key}."): value for name, value in below.items()}
    return cls(**given)


def _read(value: Any, hint: Any) -> Any:
    """Text as a field's type, where it can be read so."""
    base, optional, constraints = unwrap(hint)
    if not isinstance(value, str):
        return value
    if optional and value.lower() in ("null", "none", ""):
        return None
    if base is bool:
        return _ON_OFF.get(value.lower(), value)
    if base in (int, float):
        return _read_number(value, base)
    if get_origin(base) is Literal:
        choices = {str(choice): choice for choice in get_args(base)}
        word = value.lower()
        if word not in choices and word in _ON_OFF:
            word = "on" if _ON_OFF[word] else "off"
        return choices.get(word, value)
    if any(isinstance(constraint, PathText) for constraint in constraints):
        return expand_home(value)
    return value


def _read_number(text: str, kind: type) -> Any:
    try:
        return int(text) if kind is int else float(text)
    except ValueError:
        pass
    try:  # 2e5 steps
        return int(float(text)) if float(text).is_integer() else text
    except ValueError:
        return text


def expand_home(word: str) -> str:
    """A path, or an option `--name=PATH`, with the home folder for a `~` at the path's beginning."""
    option, equals, path = word.partition("=") if word.startswith("--") else ("", "", word)
    if not path.startswith("~"):
        return word
    try:
        return f"{option}{equals}{Path(path).expanduser()}"
    except RuntimeError:  # no such user, or one without a home
        return word
