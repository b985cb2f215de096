"""Identifiers and missing values: one meaning for all input formats.

The same patient is written `123`, `123.0`, ` 123`, `00123` or `1.23e+02`, depending on the program that wrote the file.
Two spellings of one patient must not end up in two splits, so spellings are merged wherever they could be the same.
"""

from __future__ import annotations

import math
import re
import unicodedata
from decimal import Decimal
from typing import Any

MISSING_TEXTS = frozenset({"", "null", "(null)", "nan", "nat", "none", "na", "n/a", "#n/a", "<na>", "\\n"})
"""What programs write for a missing value, in lower case."""
MISSING_IDENTIFIERS = MISSING_TEXTS | {"unknown", "missing", "nil", ".", "-", "--", "?"}
"""Also what people write for an unknown patient."""
LARGEST_EXACT_FLOAT = 2**53
_INTEGER = re.compile(r"([+-]?)0*(\d+)(?:\.0*)?")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_SCIENTIFIC = re.compile(r"\d(?:\.(\d+))?e\+(\d{1,3})")


class LostDigitsError(ValueError):
    """An identifier was stored as a number that can't hold all its digits."""


def text_of(value: Any) -> str:
    """A cell as text, empty where it is missing: None, NaN, or a word such as NULL alone. Bytes that aren't UTF-8
    become lone surrogates."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="surrogateescape")
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return ""
    text = str(value)
    return "" if len(text) <= 8 and text.strip().lower() in MISSING_TEXTS else text


def identifier_of(value: Any) -> str:
    """The one spelling of an identifier, empty where it is missing.

    Numbers lose leading zeros and zeros behind the point; letters are folded to lower case; blanks around and
    invisible characters are dropped.

    Raises:
        LostDigitsError: a float of 2^53 or more, or scientific notation with fewer digits than the number has.
    """
    if isinstance(value, float) and abs(value) >= LARGEST_EXACT_FLOAT and math.isfinite(value):
        raise LostDigitsError
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text_of(value))).strip().casefold()
    if text in MISSING_IDENTIFIERS:
        return ""
    if number := _SCIENTIFIC.fullmatch(text):
        decimals, exponent = number.group(1) or "", int(number.group(2))
        if decimals and exponent > len(decimals):
            raise LostDigitsError
        text = format(Decimal(text), "f")
    if number := _INTEGER.fullmatch(text):
        sign, digits = number.groups()
        return digits if sign != "-" or digits == "0" else f"-{digits}"
    return text
