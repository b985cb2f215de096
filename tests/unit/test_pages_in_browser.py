"""Pages in a real Chromium, at the widths of a desktop and of a phone, light and dark: see tests/browser.py."""

import shutil
from pathlib import Path

import pytest
from stored_runs import restore_run

from clinical_pretrain.cli import main

pytest.importorskip("axe_playwright_python", reason="needs tests/install_browser.sh")
if shutil.which("chromium") is None:
    pytest.skip("needs tests/install_browser.sh", allow_module_level=True)

from browser import check

pytestmark = pytest.mark.slow


@pytest.fixture
def runs(tmp_path):
    names = ["rate-0.0005-seed-1", "rate-0.002-seed-1", "rate-0.002-seed-2"]
    found = [restore_run(name, tmp_path / name) for name in names]
    facts = (found[0] / "run.json").read_text()
    (found[0] / "run.json").write_text(facts.replace('"git_commit": null', f'"git_commit": "{"0" * 40}+changes"'))
    return found


def test_no_fault_is_found(runs, shards, tmp_path):
    report, comparison = tmp_path / "report.html", tmp_path / "compare.html"
    assert main(["report", str(runs[0]), "--out", str(report)]) == 0
    assert main(["compare", *map(str, runs), "--out", str(comparison)]) == 0
    pages = [report, comparison, shards / "report.html"]
    assert [fault for page in pages for fault in check(page)] == []


@pytest.mark.parametrize(("old", "new", "fault"), [
    ("--muted: #5b6570", "--muted: #c0c0c0", "axe: color-contrast"),
    ("<th scope=\"col\">loss</th>", "<th scope=\"wrong\">loss</th>", "axe: scope-attr-valid"),
    (' lang="en"', "", "axe: html-has-lang"),
    ("<main>", "<main><script>alert(1)</script>", "Content Security Policy"),
    ("<main>", '<main><img alt="a" src="https://example.org/a.png">', "Content Security Policy"),
    (".scroll { overflow-x: auto;", ".scroll {", "sideways"),
    ("outline: 2px solid", "outline: 0px solid", "can't be seen"),
    ("--paper: #ffffff; --panel: #f5f7f9; --ink: #000000", "--ink: #000000", "the background isn't white"),
])  # fmt: skip
def test_planted_faults_are_found(old, new, fault, runs, tmp_path):
    page: Path = tmp_path / "report.html"
    assert main(["compare", *map(str, runs), "--out", str(page)]) == 0
    text = page.read_text()
    assert old in text
    page.write_text(text.replace(old, new))
    assert any(fault in found for found in check(page))
