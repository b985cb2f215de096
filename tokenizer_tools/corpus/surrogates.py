"""Realistic stand-ins for de-identification placeholders: a name for a name, a shifted date for a date.

A surrogate is a function of a seed, of the person whose note it is, and of the placeholder's text. So it is the same in
all notes of a person, in whatever order they are read. All names of people, towns and hospitals are made up, here, of
syllables; telephone numbers are of ranges that nobody has.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence

from tokenizer_tools.corpus.placeholder_kinds import Label

_WOMEN = ("Adela", "Beatrix", "Cecily", "Della", "Edwina", "Fenella", "Greta", "Hester", "Imogen", "Jocasta",
          "Katrin", "Linnea", "Marit", "Nerys", "Odette", "Philippa", "Rosalind", "Sidonie", "Thea", "Ursula",
          "Viola", "Wilma", "Xenia", "Zelda")  # fmt: skip
_MEN = ("Alaric", "Barnaby", "Caspar", "Dorian", "Edmund", "Fergus", "Gideon", "Hector", "Ivor", "Jasper", "Konrad",
        "Leopold", "Magnus", "Nestor", "Osric", "Percival", "Quentin", "Roderick", "Silas", "Tobias", "Ulric",
        "Valentin", "Wendell", "Yorick")  # fmt: skip
_STEMS = ("Alder", "Ash", "Bex", "Birch", "Black", "Brook", "Cald", "Crom", "Dun", "Elder", "Fair", "Fern", "Gar",
          "Hawk", "Holm", "Lang", "Lind", "Mar", "Nether", "Oak", "Pem", "Quill", "Raven", "Red", "Rush", "Sel",
          "Stan", "Thorn", "Under", "Wake", "Wend", "Wind")  # fmt: skip
_ENDINGS = ("bourne", "bury", "by", "combe", "dale", "ford", "gate", "ham", "hurst", "leigh", "low", "mere", "stead",
            "thorpe", "ton", "well", "wick", "worth")  # fmt: skip
_HOSPITALS = ("General Hospital", "Memorial Hospital", "Medical Center", "Community Hospital")
_WARDS = ("Birch Unit", "Cedar Ward", "East Wing", "Garden Ward", "Maple Unit", "North Pavilion", "South Wing")
_STATES = ("Colorado", "Georgia", "Iowa", "Kansas", "Kentucky", "Maine", "Minnesota", "Montana", "Nebraska", "Nevada",
           "Ohio", "Oregon", "Utah", "Vermont")  # fmt: skip
_COUNTRIES = ("Austria", "Belgium", "Brazil", "Canada", "Chile", "Denmark", "Egypt", "Finland", "Ghana", "Greece",
              "Japan", "Kenya", "Norway", "Peru")  # fmt: skip
_STREETS = ("Street", "Avenue", "Road", "Lane")
_COMPANIES = ("& Sons", "Industries", "Supply Company", "Works")
_COLLEGES = ("College", "University")
_PREFIXES = ("de", "la", "van", "von")
_HOLIDAYS = ("Christmas", "Easter", "Independence Day", "Labor Day", "New Year", "Thanksgiving")
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December")  # fmt: skip
_CENTURY = 2000
"""Of years of two digits."""
_YEARS = (2001, 2000)
"""In which a date without a year is shifted: in the second if the first hasn't its day, February 29."""
_FIRST_YEAR = 1000
"""Earlier ones can't be shifted back and keep four digits."""
_DIGITS = {"md": 5, "job": 5, "provider": 6, "clip": 6}
"""Of numbers by a word of their label; others have 7."""


class _Draw:
    """Numbers drawn from a hash."""

    def __init__(self, *key: object) -> None:
        text = "\0".join(map(str, key))
        self._rest = int.from_bytes(hashlib.blake2b(text.encode()).digest(), "big")

    def below(self, count: int) -> int:
        self._rest, number = divmod(self._rest, count)
        return number

    def among(self, values: Sequence[str]) -> str:
        return values[self.below(len(values))]

    def digits(self, count: int) -> str:
        return f"{self.below(10**count):0{count}d}"

    def composed(self) -> str:
        """A surname, which is also that of a town."""
        return self.among(_STEMS) + self.among(_ENDINGS)


def surrogate_of(label: Label, person: str, seed: int) -> str | None:
    """Make up what a placeholder stands for.

    Args:
        label: of the placeholder.
        person: whose note it is in.
        seed: another seed gives other surrogates.

    Returns:
        The surrogate; None if the kind isn't known, or a date isn't in the calendar.
    """
    if label.date:
        return _shift(label, offset_days(person, seed))
    # The same age in all of a person's notes.
    draw = _Draw(seed, person, "age" if label.kind == "age" else label.content.lower())
    make = {"name": _name, "date": _date, "place": _place, "id": _id, "contact": _contact, "age": _age}.get(label.kind)
    made = make(label, draw) if make else None
    return made.lower() if made and label.content.islower() else made  # as in a text in lower case


def offset_days(person: str, seed: int) -> int:
    """By how many days a person's dates are shifted: 1 to 51 whole weeks back, so that days of the week stay."""
    return -7 * (1 + _Draw(seed, person, "offset").below(51))


def _shift(label: Label, days: int) -> str | None:
    """Shift a date and write it as it was. One without a day or month is taken from the middle of its month or year."""
    match = label.date
    assert match is not None
    found = {name: text for name, text in match.groupdict().items() if text}
    values = {name: int(text) for name, text in found.items()}
    century = _CENTURY if len(found.get("year", "")) == 2 else 0
    years = (century + values["year"],) if "year" in found else _YEARS
    dates = [
        _date_of(year, values.get("month", 7), values.get("day", 15 if "month" in values else 2)) for year in years
    ]
    date = next(filter(None, dates), None)
    if date is None or date.year < _FIRST_YEAR:
        return None
    date += datetime.timedelta(days)
    has_zeros = any(text[0] == "0" for name, text in found.items() if name != "year")
    new = {name: f"{getattr(date, name):0{2 if has_zeros else 1}d}" for name in found}
    if "year" in found:
        new["year"] = f"{date.year:04d}"[-len(found["year"]) :]
    text = match.string
    for name in sorted(found, key=match.start, reverse=True):
        text = text[: match.start(name)] + new[name] + text[match.end(name) :]
    return text


def _date_of(year: int, month: int, day: int) -> datetime.date | None:
    try:
        return datetime.date(year, month, day)
    except ValueError:  # February 30
        return None


def _name(label: Label, draw: _Draw) -> str:
    words = label.words
    if "initials" in words:
        return draw.among(_STEMS)[0] + draw.among(_STEMS)[0]
    if "initial" in words:
        return draw.among(_STEMS)[0]
    if "prefix" in words:
        return draw.among(_PREFIXES)
    first = draw.among(_WOMEN if "female" in words else _MEN if "male" in words else _WOMEN + _MEN)
    if words & {"first", "firstname"}:
        return first
    is_piece = "(" in label.content or words & {"last", "lastname", "surname"}  # Name (STitle): after a title
    return draw.composed() if is_piece else f"{first} {draw.composed()}"


def _date(label: Label, draw: _Draw) -> str | None:
    """A date for words such as Month/Day, which say nothing of the date that was there."""
    words = label.words
    year, month, day = 2100 + draw.below(100), 1 + draw.below(12), 1 + draw.below(28)
    if "holiday" in words:
        return draw.among(_HOLIDAYS)
    if "range" in words:
        return f"{month}/{1 + day // 2} to {month}/{1 + day // 2 + 1 + draw.below(14)}"
    parts = words & {"year", "month", "day"}
    forms = {
        frozenset(): f"{month}/{day}/{year}" if "date" in words else None,
        frozenset(["year"]): f"{year % 100:02d}" if "2 digits" in label.content else str(year),
        frozenset(["month"]): _MONTHS[month - 1],
        frozenset(["year", "month"]): f"{month}/{year}",
        frozenset(["month", "day"]): f"{month}/{day}",
        frozenset(["year", "month", "day"]): f"{month}/{day}/{year}",
    }
    return forms.get(parts)


def _place(label: Label, draw: _Draw) -> str:
    words = label.words
    if words & {"ward", "wardname", "unit"}:
        return draw.among(_WARDS)
    town = draw.composed()
    if "hospital" in words:
        return f"{town} {draw.among(_HOSPITALS)}"
    if words & {"street", "address"} and "apartment" not in words:
        return f"{1 + draw.below(99)} {town} {draw.among(_STREETS)}"
    if "apartment" in words:
        return f"Apt. {1 + draw.below(99)}"
    if "po" in words:
        return f"PO Box {1 + draw.below(999)}"
    if words & {"state", "zip", "zipcode"}:
        state = [draw.among(_STATES)] if "state" in words else []
        return " ".join([*state, *([f"000{draw.digits(2)}"] if words & {"zip", "zipcode"} else [])])
    if "country" in words:
        return draw.among(_COUNTRIES)
    if "company" in words:
        return f"{town} {draw.among(_COMPANIES)}"
    return f"{town} {draw.among(_COLLEGES)}" if words & {"university", "college"} else town


def _id(label: Label, draw: _Draw) -> str:
    if label.words & {"social", "ssn"}:
        return f"000-{draw.digits(2)}-{draw.digits(4)}"
    return draw.digits(next((count for word, count in _DIGITS.items() if word in label.words), 7))


def _contact(label: Label, draw: _Draw) -> str:
    words = label.words
    if words & {"mail", "email"}:
        return f"{draw.among(_WOMEN + _MEN)}.{draw.composed()}@example.org".lower()
    if words & {"url", "website"}:
        return f"www.{draw.composed()}.example.org".lower()
    if "pager" in words:
        return f"0{draw.digits(4)}"
    # No area code has a 9 in the middle; 555-0100 to 555-0199 are kept for fiction.
    return f"{2 + draw.below(7)}9{draw.below(10)}-555-01{draw.digits(2)}"


def _age(label: Label, draw: _Draw) -> str:
    return str(90 + draw.below(10))
