"""Options of commands, made of settings dataclasses: a field is an option, and its docstring the option's help."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

import jsonargparse

from tokenizer_tools.errors import UserError
from tokenizer_tools.ranges import out_of_range

T = TypeVar("T")


class CommandParser(jsonargparse.ArgumentParser):
    """Spells options of one word with dashes, as in `--sequence-length`. Dotted ones keep their field's name."""

    def add_argument(self, *names: str, **options: Any) -> Any:
        """As in argparse, with dashes for underscores."""
        keep = [name for name in names if "." in name or name.startswith("--print_")]  # jsonargparse's own
        return super().add_argument(*(name if name in keep else name.replace("_", "-") for name in names), **options)

    def add_settings(self, settings: type, skip: set[str] | None = None) -> None:
        """Add an option for each field. Fields that are settings themselves become groups of dotted options."""
        self.add_class_arguments(settings, as_group=False, skip=skip)

    def settings(self, cls: type[T], args: Any, **given: Any) -> T:
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
