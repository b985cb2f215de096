"""docs/hooks.py: pages that are other files read well in the repository and on the site."""

import importlib.util
import re

import pytest
from conftest import REPOSITORY

from clinical_pretrain.cli import COMMANDS

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_links_that_leave_the_docs_resolve(page, hooks):
    """In the repository to a file, and to its section; on the site none is left."""
    text = page.read_text()
    for _, target, anchor in hooks.LINK.findall(text):
        file = (page.parent / target).resolve()
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in map(hooks.slug, headings), f"{target}#{anchor}"
    for _, target, _ in hooks.LINK.findall(hooks.resolve_links(text, page.parent)):
        assert (page.parent / target).resolve().is_relative_to(DOCS), target


def test_a_link_on_a_line_of_its_own_is_replaced_by_the_file(hooks):
    whole = "# A\n\n[slurm/README.md](../../slurm/README.md)\n\nSee [the tests](../../tests/conftest.py).\n"
    made = hooks.resolve_links(whole, DOCS / "how-to")
    assert "\n## What you see\n" in made and made.startswith("# A\n\nThere are two ways to submit")
    assert made.endswith("\n\nSee the tests.\n")
    section = hooks.resolve_links("# A\n\n[README](../../README.md#protected-data)\n", DOCS / "how-to")
    assert "the key is in `~/.config" in section and "## " not in section
    assert hooks.resolve_links("[a](install.md#b), [c](https://d.e/f)", DOCS / "how-to").count("](") == 2
    with pytest.raises(KeyError):
        hooks.resolve_links("# A\n\n[README](../../README.md#no-such-section)\n", DOCS / "how-to")


def test_commands_are_listed_in_their_own_words():
    listed = re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", (DOCS / "reference" / "commands.md").read_text(), re.MULTILINE)
    assert listed == [(name, command.__doc__.rstrip(".")) for name, command in COMMANDS.items()]
