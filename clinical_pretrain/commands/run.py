"""`clinical-pretrain run`: a training on this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clinical_pretrain.commands import completion
from clinical_pretrain.config.command_line import config_parser, load_config, without_dry_run
from clinical_pretrain.engine.launcher import OPTIONS, launch
from clinical_pretrain.training.preflight import check_files
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    import jsonargparse

PROGRAM = "clinical-pretrain run"


def run(argv: Sequence[str]) -> dict[str, Any]:
    """Train on this machine, one rank per GPU, through DeepSpeed's launcher; the same command again resumes."""
    if completion.is_asked():
        parser().parse_args([])
    if {"-h", "--help"} & set(argv):
        parser().print_help()
        sys.exit(0)
    launcher_arguments, arguments = divide(argv)
    config, _ = load_config(without_dry_run(arguments)[0], needs_file=True)
    check_files(config)
    launch("clinical_pretrain.run", launcher_arguments, arguments)
    return {}


def divide(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide arguments into the launcher's options and the training's.

    Raises:
        UserError: an option of the launcher has no value, or --num_gpus isn't a number of ranks.
    """
    launcher: list[str] = []
    training: list[str] = []
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if name not in OPTIONS:
            training.append(argument)
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{name}: its value is missing")
            value = rest.pop(0)
        if name == "--num_gpus" and not (value.isdecimal() and int(value)):
            raise UserError(
                f"{name} is {value or 'empty'}, must be a whole number of ranks, at least 1; without it there is one "
                "per GPU"
            )
        launcher += [name, value]
    return launcher, training


def parser() -> jsonargparse.ArgumentParser:
    """All options, for the help and for completion."""
    found = config_parser(PROGRAM)
    group = found.add_argument_group("options of the launcher")
    for name, meaning in OPTIONS.items():
        group.add_argument(name, help=meaning)
    return found
