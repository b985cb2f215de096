"""The error that a user can cause."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user can put right. Commands print it in one line and exit with code 2."""
