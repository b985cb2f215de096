"""The error for what a user can cause."""

from __future__ import annotations


class UserError(ValueError):
    """Something that the user can correct. Commands print it in one line and exit with code 2."""
