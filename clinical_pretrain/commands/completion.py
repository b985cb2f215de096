"""What TAB completes: the names of commands, then the options of the command that was typed.

Active where argcomplete is installed and the shell was told: eval "$(register-python-argcomplete clinical-pretrain)".
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def is_asked() -> bool:
    """Whether the shell asks for completions, rather than a user for a command."""
    return "_ARGCOMPLETE" in os.environ


def complete(commands: Mapping[str, Callable[[Sequence[str]], Any]]) -> None:
    """Print the completions and end the process."""
    import argcomplete

    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    typed = argcomplete.lexers.split_line(line, point)[3]
    if len(typed) > 1 and typed[1] in commands:
        os.environ["_ARGCOMPLETE"] = "2"  # the parser of a command doesn't know the command's own name
        commands[typed[1]]([])  # jsonargparse answers when it parses
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=list(commands))
    argcomplete.autocomplete(parser)
