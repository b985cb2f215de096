"""The command line of a run: `--config FILE` and dotted overrides."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from clinical_pretrain.config.fields import keys_of
from clinical_pretrain.config.other_names import refuse_unknown
from clinical_pretrain.config.reading import TextLoader, build, expand_home, flatten, read_yaml
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.resources import CONFIGS, find_config, resource_names
from tokenizer_tools.errors import UserError


def load_config(argv: Sequence[str], needs_file: bool = False) -> tuple[RunConfig, str | None]:
    """One config from `--config FILE` and dotted overrides; later ones win.

    Args:
        argv: the options.
        needs_file: refuse options without a `--config`.

    Returns:
        The config, and the file that `--json` names. `--print_config`, `--help` and `--version` print and exit with 0.

    Raises:
        UserError: a key is unknown, a value is of the wrong kind, or the settings contradict each other.
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
            of_file = flatten(read_yaml(find_config(value)))
            refuse_unknown(of_file, valid, file=value)
            flat |= of_file
        elif name in valid:
            flat |= read_option(name, value, RunConfig)
    refuse_unknown(flat, valid, "--")
    config = build(RunConfig, flat)
    if "print_config" in names:
        print(config.to_yaml(), end="")
        sys.exit(0)
    if needs_file and "config" not in names:
        there = ", ".join(resource_names(CONFIGS, ".yaml"))
        raise UserError(f"no --config: name the file with the run's settings; there are {there}")
    json_file = dict(given).get("json")
    if json_file is not None and (not json_file or Path(json_file).is_dir()):
        raise UserError(f"--json {json_file}: a file is wanted, not a folder")
    return config, json_file


def split_options(argv: Sequence[str], flags: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Names and values of `--name value` and `--name=value`, in order; `flags` take no value.

    Raises:
        UserError: a value is missing, or belongs to no option.
    """
    given, words = [], list(map(expand_home, argv))
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if word == "-h":
            name, word = "help", "--help"
        if not word.startswith("--"):
            hint = f"--config {word}" if word.endswith((".yaml", ".yml")) else "an option begins with --"
            raise UserError(f"{word}: belongs to no option ({hint})")
        if not equals and name not in flags:
            if not words or (words[0].startswith("--") and " " not in words[0]):
                raise UserError(f"--{name}: no value follows it")
            value = words.pop(0)
        given.append((name, value))
    return given


def read_option(key: str, value: str, cls: type) -> dict[str, Any]:
    """What an option sets, by dotted keys: itself, or what a section such as `--optim '{warmup_steps: 10}'` holds."""
    if any(name.startswith(f"{key}.") for name in keys_of(cls)):
        try:
            return flatten({key: yaml.load(value, TextLoader)})
        except (yaml.YAMLError, RecursionError):
            pass
    return {key: value}


def config_parser(program: str = "deepspeed -q clinical_pretrain/run.py") -> Any:
    """A jsonargparse parser over RunConfig, for its help and for completion."""
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=program,
        usage=f"{program} --config FILE [--key value ...] [--print_config] [--json FILE]",
        description="Continue masked-LM pretraining of Longformer or BigBird on a shard folder. DeepSpeed says only "
        "warnings: DEEPSPEED_LOG_LEVEL=info brings its other messages back, deepspeed -q leaves out its launcher's.",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file; dotted options after it override it")
    parser.add_argument("--print_config", action="store_true", help="print the whole config, checked, and exit")
    parser.add_argument("--json", metavar="FILE", help="also write the run's summary to this file")
    parser.add_argument("--version", action="store_true", help="print the version, and exit")
    parser.add_class_arguments(RunConfig)
    return parser


def version() -> str:
    """The installed package's."""
    return f"clinical-pretrain {importlib.metadata.version('clinical-pretrain')}"


def one_line(message: str) -> str:
    """jsonargparse's explanation without its indented lines of nested parsers."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    return " ".join(lines)[:400]
