"""Options of commands: how they are declared, parsed, and refused."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse

from clinical_pretrain.config.command_line import one_line
from clinical_pretrain.config.fields import describe_type
from clinical_pretrain.config.help_formatter import HelpFormatter
from clinical_pretrain.config.other_names import refuse_unknown
from clinical_pretrain.slurm_environment import rank_variables
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import check_output_file, write_report
from tokenizer_tools.ranges import Range, out_of_range

T = TypeVar("T")


class CommandParser(jsonargparse.ArgumentParser):
    """Makes options of settings dataclasses: a field is an option, and its docstring the option's help.

    Options of one word are spelt with dashes, as in `--sequence-length`. Dotted ones keep their field's name.
    """

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """As in argparse, with dashes for underscores."""
        keep = [name for name in names if "." in name or name.startswith("--print_")]  # jsonargparse's own
        return super().add_argument(*(name if name in keep else name.replace("_", "-") for name in names), **options)

    def add_settings(self, settings: type, skip: set[str] | None = None) -> None:
        """Add an option for each field. Fields that are settings themselves become groups of dotted options."""
        self.add_class_arguments(settings, as_group=False, skip=skip)

    def settings(self, cls: type[T], args: jsonargparse.Namespace, **given: Any) -> T:
        """Make a settings dataclass of parsed options, and of the values that aren't options.

        Raises:
            UserError: an option is out of range, or the settings contradict each other.
        """
        ready = self.instantiate(args)
        names = [entry.name for entry in fields(cls) if entry.name not in given]  # type: ignore[arg-type]
        values = {name: getattr(ready, name) for name in names}
        if faults := out_of_range(cls, values):
            option = {name: f"--{name.replace('_', '-')}" for name in faults}
            raise UserError("; ".join(f"{option[name]} is {values[name]}, {fault}" for name, fault in faults.items()))
        return cls(**values, **given)


def make_parser(command: str, description: str | None) -> CommandParser:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = CommandParser(
        prog=f"clinical-pretrain {command}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--json", help="also write what is reported to this JSON file")
    return parser


def add_notes_options(parser: CommandParser) -> None:
    """Add the options of all commands that read notes, but --split."""
    from tokenizer_tools.corpus.input_options import InputOptions

    parser.add_argument(
        "--notes",
        nargs="+",
        help="CSV, JSONL or Parquet files, also as .gz or .zst, or folders of files of one kind (.txt, .xml: a note in "
        "each); --sources describes inputs that differ from each other",
    )
    parser.add_settings(InputOptions)


def notes_settings(parser: CommandParser, settings: type[T], args: jsonargparse.Namespace) -> T:
    """Settings among parsed options, of a class that says in `reading` how notes are read."""
    from tokenizer_tools.corpus.input_options import InputOptions

    return parser.settings(settings, args, reading=parser.settings(InputOptions, args))


def notes_paths(args: jsonargparse.Namespace) -> list[Path]:
    notes = args.notes or []
    if not all(path.strip() for path in notes):
        raise UserError("--notes: an empty name; name a file or a folder")
    return [Path(path) for path in notes]


def divide(argv: Sequence[str], parser: CommandParser) -> tuple[list[str], list[str], list[str]]:
    """Divide arguments into the parser's own, those of --slurm, and all others, which belong to another command."""
    options = [option for action in parser._actions for option in action.option_strings]
    own: list[str] = []
    slurm: list[str] = []
    others: list[str] = []
    target = others
    for argument in argv:
        if argument.startswith("-") and not re.fullmatch(r"-\d[\d.e+-]*", argument):  # an option, no negative number
            name = argument.split("=")[0]
            target = slurm if name.startswith("--slurm.") else own if name in options else others
        target.append(argument)
    return own, slurm, others


def parse(parser: CommandParser, argv: Sequence[str], **ranges: Range) -> jsonargparse.Namespace:
    """Parse options. `ranges` gives the valid range of numbers by their name; None is no number.

    Raises:
        UserError: an option is unknown, missing, empty or invalid, or the file of --json can't be written.
    """
    given = [argument.split("=")[0] for argument in argv if argument.startswith("--")]
    valid = [option for action in parser._actions for option in action.option_strings]
    for name in given:
        column = re.fullmatch(r"--(\w+?)(?:[-_]col(?:umn)?)?", name)
        if name not in valid and column and f"--columns.{column[1]}" in valid:
            raise UserError(f"unknown {name} (did you mean --columns.{column[1]}?)")
    refuse_unknown(given, valid)
    groups = {option.rpartition(".")[0] for option in valid}
    for name in given:
        if members := [option for option in valid if option.startswith(f"{name}.") and option not in groups]:
            raise UserError(f"{name} sets nothing by itself; write one of {', '.join(members)}")
    names = {action.dest: (action.option_strings or [action.dest])[-1] for action in parser._actions}
    try:
        args = parser.parse_args(list(argv))
    except jsonargparse.ArgumentError as error:
        raise UserError(f"{_plain(one_line(str(error)), names)} (see {parser.prog} --help)") from None
    if empty := [names[name] for name, value in vars(args).items() if value == ""]:
        raise UserError(f"{', '.join(empty)}: empty; is a variable of the shell unset?")
    wrong = {name: ranges[name].fault(value) for name in ranges if (value := getattr(args, name)) is not None}
    if faults := [f"{names[name]} is {getattr(args, name)}, {fault}" for name, fault in wrong.items() if fault]:
        raise UserError("; ".join(faults))
    rank = (rank_variables() | dict(os.environ)).get("RANK", "0")
    if args.json and rank == "0":  # the others, maybe on other nodes, don't write it
        check_output_file(Path(args.json), "--json")
    return args


def _plain(message: str, names: dict[str, str]) -> str:
    """Rewrite a message of jsonargparse in terms of the command line. `names` maps keys to options."""
    extra = re.fullmatch(r"unrecognized arguments: (.*)", message, re.IGNORECASE)
    if extra and "notes" in names:
        return f"unexpected argument {extra[1]} (notes are named by --notes)"
    if extra and "patient" in names:
        return "an unexpected argument, not repeated here, as it may be a patient's; see --patient"
    if missing := re.fullmatch(r"the following arguments are required: (.*)", message):
        return f"missing: {', '.join(names.get(key, key) for key in missing[1].split(', '))}"
    key = re.search(r'^Parser key "([^"]+)"', message)
    value = re.search(r"(?:Got|Given) value: ?(.*)$", message)
    if key is None or value is None:
        return message
    if choices := re.search(r"Literal\[(.*?)\]", message):
        wanted = "one of " + choices[1].replace("'", "")
    elif kind := re.search(r"<class '(int|float|bool|str)'>", message):
        wanted = describe_type({"int": int, "float": float, "bool": bool, "str": str}[kind[1]])
    else:
        return message
    return f"{names.get(key[1], key[1])} is {value[1] or 'empty'}, must be {wanted}"


def report(args: jsonargparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    if args.json:
        write_report(args.json, result)
    return result


def data_root(path: str) -> Path:
    """The folder of --data-root.

    Raises:
        UserError: there is none.
    """
    if not Path(path).is_dir():
        raise UserError(f"--data-root {path}: no such folder; name the one that has a folder of data for each task")
    return Path(path)
