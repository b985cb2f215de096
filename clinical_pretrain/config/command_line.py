"""The command line of a run: `--config FILE` and dotted overrides."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from clinical_pretrain.config.fields import describe_type, keys_of, settings_of
from clinical_pretrain.config.other_names import refuse_unknown
from clinical_pretrain.config.reading import build, expand_home, flatten
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.resources import config_names, find_config
from tokenizer_tools.errors import UserError
from tokenizer_tools.yaml_files import TextLoader, read_yaml

if TYPE_CHECKING:
    import jsonargparse

DRY_RUN = "--dry_run"
"""Flag of a training, which is no setting of it: see training/dry_run.py."""


def without_dry_run(argv: Sequence[str]) -> tuple[list[str], bool]:
    """Arguments without DRY_RUN, which may be spelt with a dash, and whether it was there."""
    others = [argument for argument in argv if argument.replace("-", "_") != DRY_RUN.replace("-", "_")]
    return others, len(others) < len(argv)


def load_config(argv: Sequence[str], needs_file: bool = False) -> tuple[RunConfig, str | None]:
    """Read the settings of a run from `--config FILE` and dotted overrides. A later value overrides an earlier one.

    Args:
        argv: the arguments. `--print_config`, `--help` and `--version` print, and exit with code 0.
        needs_file: whether `--config` is required.

    Returns:
        The config, and the file of `--json`.

    Raises:
        UserError: a key is unknown, a value has the wrong type or is out of range, or settings contradict each other.
    """
    valid = keys_of(RunConfig)
    given = split_options(argv, ("print_config", "help", "version"))
    names = [name for name, _ in given]
    refuse_unknown(names, [*valid, "config", "print_config", "help", "version", "json"], "--")
    if "help" in names:
        config_parser().print_help()
        sys.exit(0)
    if "version" in names:
        print(version())
        sys.exit(0)
    flat: dict[str, Any] = {}
    for name, value in given:
        if name == "config":
            in_file = flatten(read_yaml(find_config(value)))
            refuse_unknown(in_file, valid, file=value)
            flat |= in_file
        elif name in valid:
            flat |= read_option(name, value, RunConfig)
    refuse_unknown(flat, valid, "--")
    config = build(RunConfig, flat)
    if "print_config" in names:
        print(config.to_yaml(), end="")
        sys.exit(0)
    if needs_file and "config" not in names:
        raise UserError(f"--config is missing; give a YAML file with the run's settings, such as {config_names()}")
    json_file = dict(given).get("json")
    if json_file is not None and (not json_file or Path(json_file).is_dir()):
        raise UserError(f"--json {json_file}: a folder; give a file")
    return config, json_file


def split_options(argv: Sequence[str], flags: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Split `--name value` and `--name=value` into names and values, in order. An option in `flags` has no value.

    Raises:
        UserError: an option has no value, or a value no option.
    """
    given, arguments = [], list(map(expand_home, argv))
    while arguments:
        argument = arguments.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument == "-h":
            name, argument = "help", "--help"
        if not argument.startswith("--"):
            is_file = argument.endswith((".yaml", ".yml"))
            hint = f"did you mean --config {argument}?" if is_file else "options begin with --"
            raise UserError(f"unexpected argument {argument} ({hint})")
        if not equals and name not in flags:
            if not arguments or (arguments[0].startswith("--") and " " not in arguments[0]):
                raise UserError(f"--{name}: its value is missing{_kind(name)}")
            value = arguments.pop(0)
        given.append((name, value))
    return given


def _kind(key: str) -> str:
    """What a setting's value is, in brackets; empty for text and for other options."""
    bases = {setting.key: setting.base for setting in settings_of(RunConfig)}
    return f" ({describe_type(bases[key])})" if bases.get(key, str) is not str else ""


def read_option(key: str, value: str, cls: type) -> dict[str, Any]:
    """Settings of an option by dotted keys; a section such as `--optim '{warmup_steps: 10}'` sets several."""
    if any(name.startswith(f"{key}.") for name in keys_of(cls)):
        try:
            return flatten({key: yaml.load(value, TextLoader)})
        except (yaml.YAMLError, RecursionError):
            pass
    return {key: value}


def config_parser(program: str = "deepspeed -q clinical_pretrain/run.py") -> jsonargparse.ArgumentParser:
    """A jsonargparse parser of RunConfig, for the help and for shell completion."""
    import jsonargparse

    from clinical_pretrain.config.help_formatter import HelpFormatter

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=program,
        usage=f"{program} --config FILE [--key value ...] [--print_config] [--dry_run] [--json FILE]",
        description="Continue masked-LM pretraining of Longformer or BigBird on a shard folder. DeepSpeed prints "
        "only warnings: DEEPSPEED_LOG_LEVEL=info shows its other messages, deepspeed -q hides its launcher's.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with settings; options after it override it")
    parser.add_argument("--print_config", action="store_true", help="check the config, print all of it, and exit")
    parser.add_argument(
        DRY_RUN,
        action="store_true",
        help="only try whether the memory is enough: a step on made-up tokens, nothing is written",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the run's summary to this file")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_class_arguments(RunConfig)
    return parser


def version() -> str:
    """Name and version of the installed package."""
    return f"clinical-pretrain {importlib.metadata.version('clinical-pretrain')}"


def one_line(message: str) -> str:
    """A message of jsonargparse in one line."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    return " ".join(lines)[:400]
