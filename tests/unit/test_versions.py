"""What pyproject.toml claims to work with is what is tested."""

import re
import tomllib

from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.version import Version


def pins(name):
    lines = [line for line in (REPOSITORY / name).read_text().splitlines() if line and not line.startswith("#")]
    return {package.lower().replace("_", "-"): Version(version) for package, version in (x.split("==") for x in lines)}


def claimed():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    found = [Requirement(text) for text in sum(extras.values(), project["dependencies"])]
    return {each.name.lower().replace("_", "-"): each.specifier for each in found if each.name != project["name"]}


def test_the_oldest_versions_tested_are_the_oldest_claimed():
    oldest = pins("constraints-oldest.txt")
    lowest = {name: bound for name, bounds in claimed().items() for bound in bounds if bound.operator == ">="}
    assert oldest.keys() == lowest.keys()
    for name, bound in lowest.items():
        assert Version(bound.version) == oldest[name] and oldest[name] in claimed()[name], name


def test_the_newest_versions_tested_are_the_newest_claimed():
    newest = pins("constraints.txt")
    assert all(newest[name] in bounds for name, bounds in claimed().items())
    for name in ("torch", "deepspeed", "transformers"):  # whose private parts are used
        (bound,) = (bound for bound in claimed()[name] if bound.operator == "<")
        assert Version(bound.version).release[:2] == (newest[name].major, newest[name].minor + 1), name


def test_one_version_is_released():
    """Of the package, the citation, and the newest release in the changelog."""
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (REPOSITORY / "CITATION.cff").read_text()
    assert re.search(r"^## \[(\d\S*)\]", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version
