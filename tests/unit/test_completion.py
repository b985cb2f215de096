"""TAB in a shell, as argcomplete's shell function asks for completions."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("argcomplete")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("clinical-pretrain build", {"build-shards"}),
        ("clinical-pretrain su", {"submit", "submit-shards"}),
        ("clinical-pretrain export --st", {"--step"}),
        ("clinical-pretrain push model/ --re", {"--repo-id", "--revision"}),
        ("clinical-pretrain run --optim.beta", {"--optim.beta1", "--optim.beta2"}),
        ("clinical-pretrain build-shards --notes x --files c", {"csv"}),
        ("clinical-pretrain run --precision b", {"bf16"}),
        ("clinical-pretrain submit --slurm.par", {"--slurm.partition"}),
    ],
)
def test_tab(line, expected, tmp_path):
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "bash", "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
             "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "answer"), "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line,
             "COMP_POINT": str(len(line)), "COMP_TYPE": "63"}  # fmt: skip
    subprocess.run([sys.executable, "-m", "clinical_pretrain"], env=os.environ | asked, timeout=60, check=True)
    assert {word.strip() for word in (tmp_path / "answer").read_text().split("\n")} - {""} >= expected
    assert not list(tmp_path.glob("*/"))
