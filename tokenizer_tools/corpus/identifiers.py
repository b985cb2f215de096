"""Read identifiers and missing values in the same way from all input formats.

The same patient is written `123`, `123.0`, ` 123`, `00123` or `1.23e+02`, depending on the program that wrote the file.
Two spellings of one patient must not end up in two splits, so spellings that could be the same are merged.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np

MISSING_TEXTS = frozenset({"", "null", "(null)", "nan", "nat", "none", "na", "n/a", "#n/a", "<na>", "\\n"})
"""What programs write for a missing value, in lower case."""
MISSING_IDENTIFIERS = MISSING_TEXTS | {"unknown", "unk", "undefined", "missing", "n.a.", "nil", "#ref!", ".", "-", "--",
                                       "–", "—", "?"}  # fmt: skip
"""Also what people write for an unknown patient."""
LARGEST_DIGITS = 11
"""Excel shows numbers with more digits as 1E+11, with or without decimals."""
_NUMBER = re.compile(r"([+-]?)(\d+)(?:\.(\d*))?")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_SCIENTIFIC = re.compile(r"\d(?:\.(\d+))?e\+(\d{1,3})")


class LostDigitsError(ValueError):
    """An identifier was stored as a number that can't hold all its digits."""


def text_of(value: Any) -> str:
    """Convert a cell to text, empty if it is missing (None, NaN, or only a word such as NULL). Bytes that aren't UTF-8
    become lone surrogates."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="surrogateescape")
    if isinstance(value, str) and len(value) > 8:
        return value
    if value is None or (value.is_nan() if isinstance(value, Decimal) else value != value):  # NaN differs from itself
        return ""
    text = str(value)
    return "" if len(text) <= 8 and text.strip().lower() in MISSING_TEXTS else text


def identifier_of(value: Any) -> str:
    """Normalize the spelling of an identifier; empty if it is missing.

    Numbers lose leading zeros and zeros after the decimal point; letters become lower case; surrounding spaces and
    invisible characters are removed.

    Raises:
        LostDigitsError: a float too large for whole numbers (2^53, in 32 bits 2^24) or infinite, or scientific
            notation with fewer digits than the number has.
    """
    if isinstance(value, float | np.floating) and abs(value) >= 2 ** (np.finfo(type(value)).nmant + 1):
        raise LostDigitsError
    return _normalized(value if isinstance(value, str) else text_of(value))


@lru_cache(maxsize=10_000)  # a patient's notes often stand together
def _normalized(text: str) -> str:
    text = _folded(text)
    if text in MISSING_IDENTIFIERS:
        return ""
    if number := _SCIENTIFIC.fullmatch(text):
        decimals, exponent = number.group(1) or "", int(number.group(2))
        if exponent > len(decimals) and (decimals or exponent >= LARGEST_DIGITS):
            raise LostDigitsError
        text = format(Decimal(text), "f")
    return _plain_number(text)


def spelling_of(value: Any) -> str:
    """Normalize the spelling of a cell, to compare it: as `identifier_of`, but only what is missing in every column is
    empty."""
    return _plain_number(_folded(value))


def _folded(value: Any) -> str:
    """A cell's text in lower case, without surrounding spaces and invisible characters."""
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", text_of(value))).strip().casefold()


def _plain_number(text: str) -> str:
    """A number without leading zeros, and without zeros after the decimal point; any other text as it is."""
    if number := _NUMBER.fullmatch(text):
        sign, digits, decimals = number[1], number[2].lstrip("0") or "0", (number[3] or "").rstrip("0")
        digits += f".{decimals}" * bool(decimals)
        return digits if sign != "-" or digits == "0" else f"-{digits}"
    return text
