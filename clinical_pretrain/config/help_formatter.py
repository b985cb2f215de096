"""How `--help` shows options."""

from __future__ import annotations

import argparse
from typing import Any, Literal, get_args, get_origin

import jsonargparse


class HelpFormatter(jsonargparse.DefaultHelpFormatter):
    """Shows an option's meaning, its choices where the metavar doesn't, and its default unless the meaning says it.

    jsonargparse's own adds Python types, "default: null", and for each section an option that reads a file, which is
    left out here: settings come from --config and from options of their own.
    """

    def add_usage(self, usage: str | None, actions: Any, *args: Any, **kwargs: Any) -> None:
        """The usage, without sections: their options are only listed below it."""
        shown = [action for action in actions if not (_reads_section(action) or _is_in_section(action))]
        super().add_usage(usage, shown, *args, **kwargs)

    def add_argument(self, action: argparse.Action) -> None:
        """One option, unless it reads a section's file."""
        if not _reads_section(action):
            super().add_argument(action)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if isinstance(action, argparse._HelpAction) or text.startswith("%("):
            return str(super()._get_help_string(action))
        notes = []
        choices = [value for part in get_args(getattr(action, "_typehint", None)) for value in _literals(part)]
        if choices and not any(choice in text for choice in choices):
            notes.append(f"one of {', '.join(choices)}")
        if action.required and action.option_strings:
            notes.append("required")
        default = str(action.default).lower() if isinstance(action.default, bool) else action.default
        has_default = default not in (None, "", [], {}, argparse.SUPPRESS) and action.nargs != 0
        if has_default and "default" not in text.lower():
            notes.append(f"default: {default}")
        return f"{text} ({', '.join(notes)})" if notes else text


def _reads_section(action: argparse.Action) -> bool:
    return type(action).__name__ == "_ActionConfigLoad"


def _is_in_section(action: argparse.Action) -> bool:
    return any("." in option for option in action.option_strings)


def _literals(hint: Any) -> list[str]:
    return [str(value) for value in get_args(hint)] if get_origin(hint) is Literal else []
