"""What TAB completes: the names of commands, then the options of the command that was typed.

Active where argcomplete is installed and the shell was told: eval "$(register-python-argcomplete clinical-pretrain)".
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin


def is_asked() -> bool:
    """Whether the shell asks for completions, rather than a user for a command."""
    return "_ARGCOMPLETE" in os.environ


def complete(commands: Mapping[str, Callable[[Sequence[str]], Any]]) -> None:
    """Print the completions and end the process."""
    import argcomplete

    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    typed = argcomplete.lexers.split_line(line, point)[3]
    answer = argcomplete.autocomplete
    if len(typed) > 1 and typed[1] in commands:
        os.environ["_ARGCOMPLETE"] = "2"  # the parser of a command doesn't know the command's own name
        argcomplete.autocomplete = lambda parser: answer(_with_choices(parser))
        commands[typed[1]]([])  # jsonargparse calls autocomplete when it parses
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=list(commands))
    answer(parser)


def _with_choices(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Let options offer the values of their Literal type, which jsonargparse only describes."""
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        literals = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
        if literals:
            action.choices = [str(value) for part in literals for value in get_args(part)]
    return parser
