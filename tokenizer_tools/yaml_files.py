"""Read YAML files that a user wrote: every value as text, and no key twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tokenizer_tools.errors import UserError

_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


class RepeatedKeyError(yaml.MarkedYAMLError):
    """A YAML mapping has a key twice."""


class TextLoader(yaml.SafeLoader):
    """Loads every value but null as text, and refuses duplicate keys. A value is converted later, to its field's type:
    YAML 1.1 would read `on` as true, 1e-5 as text and 24:00:00 as a number."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  # as in yaml's own classes

    def compose_mapping_node(self, anchor: Any) -> Any:
        """As in yaml's own class, but refuse a duplicate key."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in lines:
                    problem = f"duplicate key, first in line {lines[key.value]}; delete one of them"
                    raise RepeatedKeyError(problem=problem, problem_mark=key.start_mark)
                lines[key.value] = key.start_mark.line + 1
        return node


TextLoader.add_implicit_resolver(_NULL, re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
TextLoader.add_implicit_resolver(_MERGE, re.compile(r"^(?:<<)$"), ["<"])


def read_yaml(path: Path, example: str = "max_steps: 1000") -> dict[str, Any]:
    """Read a YAML file with keys and values. All values are text, null, or lists and sections of such values.

    Args:
        path: the file.
        example: a key and a value that such a file holds, for the message.

    Raises:
        UserError: the file can't be read, is not YAML, or has a duplicate key.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), TextLoader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except RepeatedKeyError as error:
        assert error.problem_mark is not None
        raise UserError(f"{path}, line {error.problem_mark.line + 1}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError, KeyError, AttributeError) as error:  # of tags such as !!int abc
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not text, nested too deeply, or a value doesn't match its tag"
        raise UserError(f"{path}{where}: not YAML ({problem})") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must hold keys and values, such as '{example}'")
    return raw
