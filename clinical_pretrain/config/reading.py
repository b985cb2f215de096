"""Read settings from text, as YAML files and command lines hold it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from clinical_pretrain.config.fields import PathText, unwrap
from tokenizer_tools.errors import UserError

T = TypeVar("T")


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


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file, all of them text or null.

    Raises:
        UserError: it can't be read, holds something else, or a key twice.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), TextLoader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except RepeatedKeyError as error:
        assert error.problem_mark is not None
        raise UserError(f"{path}, line {error.problem_mark.line + 1}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError, KeyError, AttributeError) as error:  # a tag's, as in !!int abc
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not text, too deep, or a value that isn't of its tag"
        raise UserError(f"{path}{where}: not YAML ({problem})") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a config file holds keys and values, such as 'max_steps: 1000'")
    return raw
