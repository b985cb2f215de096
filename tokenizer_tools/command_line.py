"""How commands are typed on this machine, for messages that say what to type next."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def typed(program: str = "clinical-pretrain") -> str:
    """How to type a program of this Python environment: its name if PATH leads to it, else its path."""
    beside = Path(sys.executable).with_name(program)
    if not beside.exists():
        module = {"clinical-pretrain": "clinical_pretrain", "deepspeed": "deepspeed.launcher.runner"}.get(
            program, program
        )
        return f"{shlex.quote(sys.executable)} -m {module}"
    found = shutil.which(program)
    if found and Path(found).samefile(beside):
        return program
    here = Path.cwd()
    return shlex.quote(str(beside.relative_to(here) if beside.is_relative_to(here) else beside))
