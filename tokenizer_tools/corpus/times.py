"""Read the dates and times that programs write, so that notes are ordered by time and not by spelling.

What could mean two things isn't guessed: 03/04/2101 is read only if the user says which of the two is the day.
"""

from __future__ import annotations

import datetime
import re
from typing import Literal

import numpy as np
import numpy.typing as npt

DateOrder = Literal["year_first", "day_first", "month_first"]
FIRST_YEAR, LAST_YEAR = 1800, 2300
"""MIMIC shifts dates as far as the year 2211. Years outside, such as 9999, stand for an unknown date."""
_DAY = 24 * 60 * 60 * 10**6
"""In microseconds."""
_LONGEST = 48
_MONTHS = {
    month: number
    for number, months in enumerate(
        ("jan january", "feb february", "mar march", "apr april", "may", "jun june", "jul july", "aug august",
         "sep sept september", "oct october", "nov november", "dec december"), start=1)
    for month in months.split()
}  # fmt: skip
_CLOCK = (
    r"(?:(?:T|[ ,:] ?)(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?: ?(?P<half>[AP])\.?M\.?)?(?: ?(?P<zone>Z|UTC|GMT|[+-]\d\d(?::?\d\d)?))?)?"
)
_YEAR_FIRST = r"(?P<year>\d{4})(?P<separator>[-/.])(?P<month>\d{1,2})(?P=separator)(?P<day>\d{1,2})"
_DIGITS = r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)"
_DIGITS_CLOCK = r"(?:[T ]?(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)?)?"
_DAY_NAME_YEAR = r"(?P<day>\d{1,2})[- ]?(?P<month>[A-Z]{3,9})\.?(?:[- ]|, ?)?(?P<year>\d{4})"
_NAME_DAY_YEAR = r"(?P<month>[A-Z]{3,9})\.? ?(?P<day>\d{1,2})(?:, ?| )(?P<year>\d{4})"
_FORMS = [
    re.compile(form, re.IGNORECASE | re.ASCII)
    for form in (
        _YEAR_FIRST + _CLOCK,
        _DIGITS + _DIGITS_CLOCK,
        _DIGITS + _CLOCK,
        _DAY_NAME_YEAR + _CLOCK,
        _NAME_DAY_YEAR + _CLOCK,
    )
]
_YEAR_LAST = {
    order: re.compile(date + _CLOCK, re.IGNORECASE | re.ASCII)
    for order, date in {
        "day_first": r"(?P<day>\d{1,2})(?P<separator>[-/.])(?P<month>\d{1,2})(?P=separator)(?P<year>\d{4})",
        "month_first": r"(?P<month>\d{1,2})(?P<separator>[-/.])(?P<day>\d{1,2})(?P=separator)(?P<year>\d{4})",
    }.items()
}


def parse_time(text: str, order: DateOrder = "year_first") -> str | None:
    """Read a date or a time.

    A zone's offset is applied, so that times are compared in UTC; a time without one is taken as it stands. Midnight to
    the second, without a zone, is a date: MIMIC-IV-Note and many databases write dates in this way.

    Args:
        text: what a cell holds.
        order: which of the first two numbers in 03/04/2101 is the day.

    Returns:
        `YYYY-MM-DD`, or `YYYY-MM-DD HH:MM:SS` with a fraction if there is one; None if it can't be read, or only by
        guessing.
    """
    text = " ".join(text.split()) if len(text) <= 2 * _LONGEST else text
    if len(text) > _LONGEST:
        return None
    forms = _FORMS if order == "year_first" else [*_FORMS, _YEAR_LAST[order]]
    found = next((match for form in forms if (match := form.fullmatch(text))), None)
    try:
        return _normalized(found.groupdict(default="")) if found else None
    except (ValueError, OverflowError):  # no such day, month or hour
        return None


def _normalized(parts: dict[str, str]) -> str | None:
    """The time that the parts of a match mean.

    Raises:
        ValueError, OverflowError: there is no such time.
    """
    month = parts["month"].lower()
    if month not in _MONTHS and not month.isdigit():
        return None
    date = datetime.date(int(parts["year"]), _MONTHS.get(month) or int(month), int(parts["day"]))
    if not FIRST_YEAR <= date.year <= LAST_YEAR:
        return None
    if not parts["hour"]:
        return date.isoformat()
    hour, zone = int(parts["hour"]), parts.get("zone", "")
    if half := parts.get("half"):
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (half.upper() == "P")
    microsecond = int(parts.get("fraction", "").ljust(6, "0")[:6])
    clock = datetime.time(hour, int(parts["minute"]), int(parts["second"] or 0), microsecond)
    if clock == datetime.time.min and not zone:
        return date.isoformat()
    moment = datetime.datetime.combine(date, clock)
    if zone[:1] in ("+", "-"):
        digits = zone[1:].replace(":", "").ljust(4, "0")
        offset = datetime.timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
        moment += offset if zone[0] == "-" else -offset
    return moment.isoformat(" ")


def sort_key(time: str) -> bytes:
    """A key that orders what `parse_time` returns: a date after the times of its day, because a note without a time of
    day, such as a discharge summary, may speak of the whole day; a note without a date, empty, last."""
    return (time if len(time) > 10 else f"{time}~").encode()


def sort_numbers(keys: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
    """(n,): numbers in the order of keys from `sort_key`, which are quicker to sort."""
    characters = keys.astype("S26").view(np.uint8).reshape(len(keys), 26)

    def number(first: int, last: int) -> npt.NDArray[np.int64]:
        value = np.zeros(len(keys), np.int64)
        for place in range(first, last):
            value = 10 * value + (characters[:, place] & 15)  # a digit's last four bits
        return value

    time = ((number(11, 13) * 60 + number(14, 16)) * 60 + number(17, 19)) * 10**6
    if characters[:, 19].any():
        time += number(20, 26)  # microseconds
    time[characters[:, 10] != ord(" ")] = _DAY
    result = ((number(0, 4) * 13 + number(5, 7)) * 32 + number(8, 10)) * (_DAY + 1) + time
    result[characters[:, 0] == ord("~")] = np.iinfo(np.int64).max
    return result
