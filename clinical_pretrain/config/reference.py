"""The reference of all settings as Markdown, from their fields.

python -m clinical_pretrain.config.reference > docs/settings.md
"""

from __future__ import annotations

import ast
import inspect
import json
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal, get_args, get_origin

from clinical_pretrain.config.fields import Auto, Pattern, Setting, settings_of
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.config.slurm import SlurmConfig
from tokenizer_tools.ranges import Range

_TYPES = {int: "integer", float: "number", bool: "true or false", str: "text"}
_HEAD = """\
# Settings

<!-- Generated: python -m clinical_pretrain.config.reference > docs/settings.md -->

A run reads its settings from the YAML file of `--config`. An option such as `--optim.learning_rate 1e-5` overrides the
file; `--print_config` prints all settings and exits. The column "resume" says whether a run can be resumed with another
value; "if accepted" means only with `--checkpoint.accept_changes true`.
"""
_SLURM = """\
## slurm

What is the same for all jobs of a cluster is in `slurm/site.yaml`. `clinical-pretrain submit` takes each setting as an
option, too, such as `--slurm.nodes 2`.
"""


def reference() -> str:
    """The page `docs/settings.md`."""
    return "\n".join([_HEAD, *_sections(RunConfig, with_resume=True), _SLURM, *_sections(SlurmConfig)])


def _sections(cls: type, with_resume: bool = False) -> Iterator[str]:
    """A heading and a table for the dataclass and for each section in it."""
    by_section: dict[str, list[Setting]] = {}
    for setting in settings_of(cls):
        by_section.setdefault(setting.key.rpartition(".")[0], []).append(setting)
    for section, settings in by_section.items():
        columns = ["setting", "type", "default", "allowed", *(["resume"] if with_resume else []), "meaning"]
        if section:
            yield f"## {section}\n\n{_one_line(inspect.getdoc(settings[0].owner) or '')}\n"
        yield _row(columns)
        yield _row(["---"] * len(columns))
        meanings = field_meanings(settings[0].owner)
        for setting in settings:
            cells = [f"`{setting.key}`", _type(setting), _default(setting), _allowed(setting)]
            cells += [setting.resume.value if setting.resume else ""] if with_resume else []
            yield _row([*cells, meanings[setting.name]])
        yield ""


def field_meanings(cls: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, in one line, by the field's name."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: _one_line(str(below.value.value))
        for field, below in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }


def _type(setting: Setting) -> str:
    kind = "choice" if get_origin(setting.base) is Literal else _TYPES.get(setting.base, "keys and values")
    return f"{kind} or null" if setting.optional else kind


def _default(setting: Setting) -> str:
    value = getattr(setting.owner(), setting.name)
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def _allowed(setting: Setting) -> str:
    """What the field's type and constraints allow."""
    if get_origin(setting.base) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(setting.base))
    found = [rule.name for rule in setting.constraints if isinstance(rule, Pattern)]
    found += ["`auto`" for rule in setting.constraints if isinstance(rule, Auto)]
    return "; ".join([*found, *(_interval(rule) for rule in setting.constraints if isinstance(rule, Range))])


def _interval(allowed: Range) -> str:
    """A range such as `1 to 1,000, even` or `above 0, below 1`."""
    if math.isfinite(allowed.minimum) and math.isfinite(allowed.maximum):
        found = [f"{_number(allowed.minimum)} to {_number(allowed.maximum)}"]
    else:
        ends = {"at least": allowed.minimum, "above": allowed.above, "at most": allowed.maximum, "below": allowed.below}
        found = [f"{word} {_number(end)}" for word, end in ends.items() if math.isfinite(end)]
    return ", ".join([*found, *(["even"] if allowed.even else [])])


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    print(reference(), end="")
