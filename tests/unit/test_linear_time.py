"""No pattern of tokenizer_tools, and no reader of one cell, takes quadratic time on a hostile text."""

import ast
import importlib
import json
import re
import time

import pytest
from conftest import REPOSITORY

from tokenizer_tools.corpus.clean_notes import CleaningRules, clean_in_paragraphs
from tokenizer_tools.corpus.columns import describe_columns, likely_columns
from tokenizer_tools.corpus.identifiers import LostDigitsError, identifier_of, text_of
from tokenizer_tools.corpus.placeholders import Replacement, replace_placeholders
from tokenizer_tools.corpus.times import parse_time
from tokenizer_tools.files import unique_keys

SIZES = (20_000, 100_000)
"""Characters. The shorter text ends the test soon where time is cubic."""
SECONDS = 5
"""Of processor time. A linear pattern takes milliseconds, a quadratic one minutes."""
PIECES = [" ", "\t", "\u00a0", "\n", "\n ", "\r", "\x00", "_", "___ ", "-", "=", "*", "[**", "**]", "[** ", "[**a**] ",
          "[**[**a**]", "[**(", "[**Name ", "0", "1", "0.", "1.", "1e+", "1/", "1:", "01:", " 1", "a", "a ", "A-", "a.",
          "a, ", "a@", "dr ", "dr. a", "'s", "id",
          "patient_"]  # fmt: skip
FUNCTIONS = {"compile", "fullmatch", "match", "search", "sub", "findall", "finditer", "split", "subn"}


def patterns() -> dict[str, re.Pattern]:
    """Every pattern of tokenizer_tools, by its module: module-level ones, and constants given to functions of re."""
    found = {}
    for path in sorted((REPOSITORY / "tokenizer_tools").rglob("*.py")):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        module = importlib.import_module(name.removesuffix(".__init__"))
        values = [value for value in vars(module).values() if isinstance(value, re.Pattern | list | tuple | dict)]
        for value in values:
            items = (
                [value] if isinstance(value, re.Pattern) else list(value.values() if isinstance(value, dict) else value)
            )
            found |= {f"{path.stem}: {item.pattern}": item for item in items if isinstance(item, re.Pattern)}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FUNCTIONS:
                of_re = isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
                if of_re and isinstance(node.args[0], ast.Constant):
                    found.setdefault(f"{path.stem}: {node.args[0].value}", re.compile(node.args[0].value))
    return found


PATTERNS = patterns()


def hostile():
    """Runs of a piece, alone, and with characters around them that no pattern expects."""
    for size in SIZES:
        for piece in PIECES:
            run = piece * (size // len(piece))
            yield from (run, f"{run}!", f"!{run}!")


def seconds_of(function, *arguments) -> float:
    started = time.process_time()
    function(*arguments)
    return time.process_time() - started


def test_patterns_are_found():
    names = {name.split(":")[0] for name in PATTERNS}
    assert (
        len(PATTERNS) > 20
        and {"cleaning_rules", "fidelity", "placeholders", "placeholder_kinds", "columns", "identifiers", "times"}
        <= names
    )


@pytest.mark.parametrize("name", PATTERNS, ids=[f"{name.split(':')[0]}-{n}" for n, name in enumerate(PATTERNS)])
@pytest.mark.timeout(600)
def test_every_pattern_is_linear(name):
    for text in hostile():
        for search in (PATTERNS[name].fullmatch, lambda text, name=name: PATTERNS[name].sub("", text)):
            assert seconds_of(search, text) < SECONDS, repr(text[:20])


def identifier_or_refusal(text):
    try:
        return identifier_of(text)
    except LostDigitsError:
        return None


@pytest.mark.parametrize(
    "function",
    [identifier_or_refusal, text_of, parse_time, lambda text: describe_columns([text]),
     lambda text: likely_columns((text,)),
     lambda text: replace_placeholders(f"{text}**]", Replacement(None, "surrogates")),
     lambda text: clean_in_paragraphs(text, CleaningRules("minimal"), Replacement(None), "\n")],
    ids=["identifier", "text", "time", "columns", "likely columns", "placeholders", "paragraphs"],
)  # fmt: skip
@pytest.mark.timeout(600)
def test_every_reader_of_a_cell_is_linear(function):
    for text in hostile():
        assert seconds_of(function, text) < SECONDS, repr(text[:20])


@pytest.mark.timeout(600)
def test_keys_of_an_object_take_linear_time():
    text = json.dumps({f"key {number}": 0 for number in range(SIZES[-1])})
    assert seconds_of(lambda: json.loads(text, object_pairs_hook=unique_keys)) < SECONDS
