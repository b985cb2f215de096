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


ANY = {
    "clinical_pretrain/checkpoint/": "DeepSpeed's engine, which has no types",
    "clinical_pretrain/engine/": "DeepSpeed's engine, which has no types",
    "clinical_pretrain/training/": "DeepSpeed's engine, which has no types",
    "clinical_pretrain/models/attention/": "autograd's contexts, transformers' attention modules",
    "clinical_pretrain/models/accelerate.py": "as the functions of transformers that are overridden",
    "clinical_pretrain/models/base_model.py": "what any from_pretrained of transformers gives",
    "clinical_pretrain/tasks/": "outputs and callbacks of transformers, values of JSON",
    "clinical_pretrain/distributed.py": "whatever ranks send each other",
    "clinical_pretrain/config/": "values of settings, type annotations, hooks of argparse and yaml",
    "tokenizer_tools/": "values of JSON, of settings and of a table's cells",
}
"""Where a public signature may have a bare Any, and for what. `dict[str, Any]` is a JSON object: anywhere."""


def public_functions(node: ast.AST) -> list[ast.FunctionDef]:
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            found += public_functions(child)
        elif isinstance(child, ast.FunctionDef) and (child.name == "__init__" or not child.name.startswith("_")):
            found.append(child)
    return found


def test_any_stands_where_a_library_gives_no_type():
    places = set()
    for path in MODULES:
        for function in public_functions(ast.parse(path.read_text())):
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            annotations = [argument.annotation for argument in arguments] + [function.returns]
            if any(isinstance(each, ast.Name) and each.id == "Any" for each in annotations):
                name = str(path.relative_to(REPOSITORY))
                places.add(next((place for place in ANY if name.startswith(place)), f"{name}: {function.name}"))
    assert places == set(ANY)
