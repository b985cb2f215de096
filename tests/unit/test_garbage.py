"""Garbage is looked for seldom in a build, and not when a command ends."""

import gc
import subprocess
import sys

import pytest

from tokenizer_tools.garbage import collected_seldom

SCRIPT = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count() > 10_000))  # what is registered first runs last
from clinical_pretrain.cli import main
{call}
"""


@pytest.mark.parametrize(
    ("call", "is_left"),
    [("sys.argv = ['clinical-pretrain', '--version']; main()", "True"), ("main(['--version'])", "False")],
)
def test_a_command_leaves_garbage_when_it_ends(call, is_left):
    """But a call from Python changes nothing."""
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(call=call)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == is_left


def test_thresholds_are_as_before_after_a_build():
    before = gc.get_threshold()
    with pytest.raises(KeyError), collected_seldom():
        assert gc.get_threshold()[0] == 50_000
        raise KeyError
    assert gc.get_threshold() == before
