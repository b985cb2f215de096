"""The proof that cleaning does no harm: what must survive in a note, and whether it did.

Numbers, decimals, doses, units, dates, comparison signs, negations and signs are taken from a text in order, each with
the letters that it is attached to. A faithful change of a text leaves this sequence as it is: nothing is lost, added,
changed, moved, or joined to its neighbour. White space, control characters and lines of dashes all count as one border
between words.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["number", "decimal", "dose", "unit", "date", "comparison", "negation", "sign"]

_PIECE = re.compile(r'\([+-]\)|[^\s\x00-\x1f\x7f\ufeff\ufffe\uffff()\[\]{}"“”|_]+')
_RULER = re.compile("-{4,}|={4,}|~{4,}")
_NUMERIC = re.compile(r"[\d²³¹¼½¾⁰-⁹₀-₉⅐-↋①-⓿]")
_DECIMAL = re.compile(r"\d[.,]\d|(?<![\w.])\.\d")
_DATE = re.compile(r"(?<!\d)\d{1,4}([-/.])\d{1,2}\1\d{1,4}(?!\d)")
_DAY_AND_MONTH = re.compile(r"\d[-/]?(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)", re.IGNORECASE)
_COMPARISON = re.compile(r"[<>≤≥≠≈±≪≫⩽⩾]|(?<!=)={1,2}(?!=)|(?<!~)~{1,2}(?!~)")
_SIGN = re.compile(r"[+-]{1,3}|\([+-]\)|\+/-|[+-]ve", re.IGNORECASE)
_ONE_UNIT = (
    "mcg|µg|μg|ug|mg|kg|ng|pg|gm|g|µl|μl|ul|ml|dl|cc|l|mmol|µmol|μmol|umol|nmol|mol|meq|mosm|mm ?hg|cmh2o|mm|cm|km|nm|"
    "µm|μm|m2|m²|m|in|ft|lbs?|oz|miu|iu|units?|u|bpm|kcal|cal|kpa|pa|hz|hours?|hrs?|hr|h|minutes?|min|seconds?|secs?|"
    "sec|s|days?|d|weeks?|wks?|months?|years?|yrs?|yo|%|‰|°c|°f|°|c|f|hpf|lpf|kv|mv|v|w|gy|mci|fr|gauge|tabs?|tablets?|"
    "caps?|capsules?|puffs?|drops?|gtts?|kcl|k"
)
_UNIT = re.compile(rf"(?:{_ONE_UNIT})(?:/(?:{_ONE_UNIT}))*+", re.IGNORECASE)
# Those that are units without a number before them, too.
_CLEAR_UNIT = re.compile("mcg|µg|μg|ug|mg|kg|ng|pg|ml|dl|mmol|meq|mosm|mmhg|%|°c|°f", re.IGNORECASE)
_MONTH = re.compile(
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|"
    "nov(?:ember)?|dec(?:ember)?",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    "no|not|none|nor|never|neither|without|w/o|cannot|den(?:y|ies|ied|ying)|neg|negatives?|absent|"
    "absence|nonreactive|unremarkable|free",
    re.IGNORECASE,
)
_BEFORE_A_UNIT = "0123456789.,/-+<>≤≥=~±×x^½¼¾"


class Item(NamedTuple):
    """Something that must survive, as it is written. Negations are in lower case."""

    kind: Kind
    value: str


@dataclass(frozen=True)
class Change:
    """What a change of a text did to its protected items."""

    lost: Counter[str]
    """By kind: items of the earlier text that the later one lacks, or has in another form."""
    gained: Counter[str]
    """By kind: items of the later text alone."""
    is_reordered: bool = False
    """Whether the same items stand in another order."""

    @property
    def is_faithful(self) -> bool:
        """Whether the items are the same, in the same order."""
        return not (self.lost or self.gained or self.is_reordered)


def protected_items(text: str) -> list[Item]:
    """What must survive in a note, in order.

    >>> [item.value for item in protected_items("No fever. pH 7.35, digoxin 0.125 mg, WBC <5, seen 2151-07-16, (-) edema")]
    ['no', '7.35', '0.125', '0.125 mg', '<5', '2151-07-16', '(-)']
    """  # noqa: E501
    items: list[Item] = []
    number = month = ""  # the number, or the name of a month, that stands right before
    for raw in _PIECE.findall(text):
        piece = raw.lstrip(",;:'*#!?").rstrip(".,;:'*#!?")
        if not piece or _RULER.fullmatch(piece):
            continue
        if _NUMERIC.search(piece):
            if month:
                items.append(Item("date", month))
            items.append(Item(_kind_of_number(piece), piece))
            number, month = piece if raw.endswith(piece) else "", ""
            continue
        is_month = _MONTH.fullmatch(piece)
        if kind := _kind_of_word(piece):
            items.append(Item(kind, piece.lower() if kind == "negation" else piece))
        elif number and is_month:
            items.append(Item("date", piece))
        elif number and _UNIT.fullmatch(piece):
            items.append(Item("dose", f"{number} {piece}"))
        elif _CLEAR_UNIT.fullmatch(piece) or ("/" in piece and _UNIT.fullmatch(piece)):
            items.append(Item("unit", piece))
        month = piece if is_month and not number else ""
        number = ""
    return items


def _kind_of_number(piece: str) -> Kind:
    if _DATE.search(piece) or _DAY_AND_MONTH.search(piece):
        return "date"
    if _COMPARISON.search(piece):
        return "comparison"
    if _UNIT.fullmatch(piece.lstrip(_BEFORE_A_UNIT)):
        return "dose"
    return "decimal" if _DECIMAL.search(piece) else "number"


def _kind_of_word(piece: str) -> Kind | None:
    """The kind of a word without a number, if that alone tells."""
    if _SIGN.fullmatch(piece):
        return "sign"
    if _COMPARISON.search(piece):
        return "comparison"
    folded = piece.lower()
    is_negation = _NEGATION.fullmatch(folded) or folded.endswith(("n't", "n’t")) or folded.startswith("non-")
    return "negation" if is_negation else None


def compare_texts(before: str, after: str) -> Change:
    """Compare the protected items of a text before and after a change of it.

    >>> compare_texts("digoxin 0.125 mg", "digoxin 125 mg").lost
    Counter({'decimal': 1, 'dose': 1})
    >>> compare_texts("no  fever, \\n5 mg", "no fever, 5 mg").is_faithful
    True
    """
    if before.split() == after.split():  # white space is a border, whatever its form
        return Change(Counter(), Counter())
    old, new = protected_items(before), protected_items(after)
    lost = Counter(old)
    lost.subtract(new)
    change = Change(Counter(), Counter(), is_reordered=old != new and not any(lost.values()))
    for item, count in lost.items():
        if count:
            (change.lost if count > 0 else change.gained)[item.kind] += abs(count)
    return change
