"""Commands look for garbage seldom, and not when they end."""

import subprocess
import sys

SCRIPT = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_threshold()[0], gc.get_freeze_count() > 10_000))  # the first one registered runs last
from clinical_pretrain.cli import main
{call}
"""


def last_line(call):
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(call=call)], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_a_command_looks_for_garbage_seldom():
    assert last_line("sys.argv = ['clinical-pretrain', '--version']; main()") == "50000 True"


def test_a_call_from_python_changes_nothing():
    threshold, is_frozen = last_line("main(['--version'])").split()
    assert int(threshold) < 50_000 and is_frozen == "False"
