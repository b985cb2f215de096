"""Limits that keep the code easy to find one's way in; see CONTRIBUTING.md."""

import ast
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY

MODULES = [
    path for package in ("clinical_pretrain", "tokenizer_tools") for path in (REPOSITORY / package).rglob("*.py")
]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_modules_and_functions_are_short(path: Path):
    """At most 400 lines in a module, 60 in a function, and six parameters."""
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            assert len([name for name in names if name not in ("self", "cls")]) <= 6, node.name


def test_contributing_names_files_that_exist():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    tokenizer_part, training_part = text.split("## The place of a change")[1].split("In `clinical_pretrain/`")
    for folder, part in (("tokenizer_tools", tokenizer_part), ("clinical_pretrain", training_part)):
        names = re.findall(r"`([a-z_/]+\.py)`", part)
        assert len(names) >= 5
        homes = [(REPOSITORY / folder / name).is_file() or name == "bigbird.py" for name in names]
        assert all(homes), names
