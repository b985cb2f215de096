"""Make settings of texts: of values in YAML files and of options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from clinical_pretrain.config.fields import Auto, PathText, unwrap
from tokenizer_tools.errors import UserError

T = TypeVar("T")
_ON_OFF = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def flatten(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested values to a dict by dotted keys.

    Raises:
        UserError: a key is given both dotted and nested.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        is_section = isinstance(value, dict) and prefix.count(".") < 9  # a YAML mapping can contain itself
        more = flatten(value, f"{prefix}{key}.") if is_section else {f"{prefix}{key}": value}
        if twice := sorted(flat.keys() & more.keys()):
            raise UserError(f"{', '.join(twice)}: given twice; delete one of them")
        flat |= more
    return flat


def build(cls: type[T], flat: Mapping[str, Any], prefix: str = "") -> T:
    """Make a settings dataclass of values by dotted keys. A text that can't be converted to its field's type is passed
    on as it is, and refused by the dataclass."""
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
    """Convert text to a field's type if possible."""
    base, optional, rules = unwrap(hint)
    if not isinstance(value, str):
        return value
    if optional and value.lower() in ("null", "none", ""):
        return None
    if value.lower() == "auto" and any(isinstance(rule, Auto) for rule in rules):
        return 0
    if base is bool:
        return _ON_OFF.get(value.lower(), value)
    if base in (int, float):
        return _read_number(value, base)
    if get_origin(base) is Literal:
        choices = {str(choice): choice for choice in get_args(base)}
        choice = value.lower()
        if choice not in choices and choice in _ON_OFF:
            choice = "on" if _ON_OFF[choice] else "off"
        return choices.get(choice, value)
    if any(isinstance(rule, PathText) for rule in rules):
        return expand_home(value)
    return value


def _read_number(text: str, kind: type) -> Any:
    try:
        return int(text) if kind is int else float(text)
    except ValueError:
        pass
    try:  # an integer such as 2e5
        return int(float(text)) if float(text).is_integer() else text
    except ValueError:
        return text


def expand_home(argument: str) -> str:
    """Replace a leading `~` of a path, or of the path in `--name=PATH`, by the home folder."""
    option, equals, path = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    if not path.startswith("~"):
        return argument
    try:
        return f"{option}{equals}{Path(path).expanduser()}"
    except RuntimeError:  # no such user, or a user without a home folder
        return argument
