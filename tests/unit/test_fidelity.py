"""The proof that no cleaning rule changes a number, a unit, a date, a comparison sign or a negation, unless it is
declared lossy; and that the proof catches rules that do."""

import csv
import doctest
import gzip
import inspect
import itertools
import json
import re
import unicodedata

import hypothesis
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_tools.corpus import cleaning_rules, fidelity, placeholders
from tokenizer_tools.corpus.clean_notes import LOSSY, RULES, CleaningRules, clean, cleaning_steps
from tokenizer_tools.corpus.fidelity import compare_texts, protected_items
from tokenizer_tools.corpus.placeholders import Replacement, placeholder_spans

FAITHFUL = [name for name in RULES if name not in LOSSY]

WORDS = ["pH", "edema", "Continue", "PO", "BID", "Dr.", "M.D.", "Admission Date:", "seen by", "-->", ";", "(", ")"]
NUMBERS = ["5", "10", "0.125", ".5", "7.35", "1,234", "120/80", "98.", "1.", "12.", "½", "10²", "3-5", "-5", "+2",
           "4+/5", "x3"]  # fmt: skip
UNITS = ["mg", "MG", "mL/hr", "µg/kg/min", "mcg", "%", "°C", "mEq/L", "tabs"]
DATES = ["2151-07-16", "7/16/51", "July", "16", "Dec"]
SIGNS = ["<", ">", "≥", "≤", "=", "+/-", "±", "<0.01", ">= 5", "(-)", "(+)", "+", "-", "~5"]
NEGATIONS = ["no", "No", "not", "denies", "without", "negative for", "w/o", "didn't", "non-tender"]
BORDERS = [" ", "  ", "\t", "\n", "\n ", "\n\n\n", "\r\n", "\r", "\x00", "\x07\x08", "\ufeff", "\x7f", "\u00a0",
           "\u2003", "\x0b", "\x85", "____", "___", "\n====\n", "\n-----\n", "----", "--", "==", "[**Name 7**]",
           "\n***** \n", "[", "]", "~~~~", ""]  # fmt: skip


def joined(pieces) -> str:
    return "".join(part for piece in pieces for part in piece)


notes = st.lists(
    st.tuples(st.sampled_from(WORDS + NUMBERS + UNITS + DATES + SIGNS + NEGATIONS), st.sampled_from(BORDERS)),
    max_size=15,
).map(joined) | st.text(max_size=60)
"""Generated notes: fragments with anything between them, and any text at all."""


def only(*names: str) -> CleaningRules:
    return CleaningRules.named(names)


@pytest.mark.parametrize("name", FAITHFUL)
@given(note=notes)
def test_a_rule_that_is_not_lossy_is_faithful(name, note):
    change = compare_texts(note, clean(note, only(name), Replacement(None)))
    assert change.is_faithful, change


@settings(max_examples=200)
@given(notes, st.sets(st.sampled_from(FAITHFUL)), st.sampled_from(["", "\n\t", "\n\t\u2003"]))
def test_such_rules_are_faithful_together(note, names, unknown_whitespace):
    change = compare_texts(note, clean(note, only(*names), Replacement(None), unknown_whitespace))
    assert change.is_faithful, change


@settings(max_examples=200)
@given(notes, st.sampled_from(["default", "minimal", "mimic3", "mimic4"]))
def test_all_profiles_but_that_of_the_paper_are_faithful_outside_placeholders(note, profile):
    with_spaces = note
    for start, stop in reversed(placeholder_spans(note)):
        with_spaces = f"{with_spaces[:start]} {with_spaces[stop:]}"
    cleaned = clean(note, CleaningRules(profile), Replacement(None))
    assert compare_texts(with_spaces if profile != "minimal" else note, cleaned).is_faithful


@settings(max_examples=200)
@given(notes)
def test_the_profile_of_the_paper_changes_no_number_but_those_it_drops_as_a_whole(note):
    """It drops the numbers of lists and what stands in brackets; all others are there, with their signs, in order."""
    dropped = clean(
        note.lower(), only("line_endings", "control_characters", "brackets", "list_numbers"), Replacement(None)
    )
    cleaned = clean(note, CleaningRules("paper"), Replacement(None))
    number = r"[+-]?\d+(?:[.,/:-]\d+)*"
    assert re.findall(number, cleaned) == re.findall(number, dropped)
    without_brackets = clean(note.lower(), only("line_endings", "control_characters", "brackets"), Replacement(None))
    decimal = r"\d+[.,]\d+"
    assert re.findall(decimal, cleaned) == re.findall(decimal, without_brackets)


FAULTS = {
    "control characters are dropped": lambda text: re.sub(r"[\x00-\x08\x0e-\x1f\x7f\ufeff]", "", text),
    "the script's rule on lists": lambda text: re.sub(r"[0-9]+\.", "", text),
    "the script's rule on dashes": lambda text: re.sub("--|__|==", "", text),
    "the script's rule on brackets": lambda text: re.sub(r"\[(.*?)\]", "", text),
    "newlines are dropped": lambda text: text.replace("\n", ""),
    "no space is left": lambda text: re.sub(r"[ \t]+", "", text),
    "numbers are parted from units": lambda text: re.sub(r"(\d)([a-zµ%])", r"\1 \2", text),
    "NFKC": lambda text: unicodedata.normalize("NFKC", text),
    "ASCII alone": lambda text: re.sub(r"[^\x00-\x7f]", " ", text),
    "comparison signs are dropped": lambda text: re.sub("[<>=≥≤]", " ", text),
    "dashes become spaces": lambda text: text.replace("-", " "),
    "decimal commas": lambda text: re.sub(r"(\d)\.(\d)", r"\1,\2", text),
    "short words are dropped": lambda text: re.sub(r"\b(no|not)\b", " ", text),
    "parentheses are emptied": lambda text: re.sub(r"\([^)]*\)", " ", text),
    "the order of words": lambda text: " ".join(reversed(text.split())),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_the_proof_catches(fault):
    """Among generated notes there is one that shows the fault."""
    rule = FAULTS[fault]
    thorough = settings(max_examples=3000, database=None, derandomize=True)
    hypothesis.find(notes, lambda note: not compare_texts(note, rule(note)).is_faithful, settings=thorough)


@pytest.mark.parametrize(("before", "after", "lost"), [
    ("WBC 5\x0010 K", "WBC 510 K", {"dose": 1, "number": 2}),
    ("ph 7.35", "ph 35", {"decimal": 1}),
    ("digoxin 0.125 mg", "digoxin 125 mg", {"decimal": 1, "dose": 1}),
    ("25 mg", "25mg", {"number": 1, "dose": 1}),
    ("25 MG", "25 mg", {"dose": 1}),
    ("25 mg", "25", {"dose": 1}),
    ("troponin < 0.01", "troponin 0.01", {"comparison": 1}),
    ("no fever", "nofever", {"negation": 1}),
    ("(-) edema", "edema", {"sign": 1}),
    ("2151-07-16", "2151 07 16", {"date": 1}),
    ("16 July", "16", {"date": 1}),
    ("July 16", "16", {"date": 1}),
    ("mg/dL", "mg dL", {"unit": 1}),
    ("K 4.2, Na 140", "Na 140, K 4.2", {}),
])  # fmt: skip
def test_what_is_lost_is_named(before, after, lost):
    change = compare_texts(before, after)
    assert change.lost == lost and not change.is_faithful
    assert change.is_reordered is (not lost)


@pytest.mark.parametrize(("before", "after"), [
    ("No fever", "no fever"),
    ("5  mg\r\n\x00PO", "5 mg PO"),
    ("a\n______\nb 5", "a b 5"),
    ("seen (5 mg)", "seen ( 5 mg )"),
    ("stable", "gone"),
])  # fmt: skip
def test_what_is_not_protected_may_change(before, after):
    assert compare_texts(before, after).is_faithful


@pytest.mark.parametrize("module", [cleaning_rules, placeholders, fidelity], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0


def test_every_rule_has_examples():
    functions = dict(inspect.getmembers(cleaning_rules, inspect.isfunction))
    functions |= dict(inspect.getmembers(placeholders, inspect.isfunction))
    for name, function in cleaning_steps(only(*RULES), Replacement("<unk>")):
        documented = placeholders.replace_placeholders if name == "placeholders" else functions[function.__name__]
        assert ">>> " in documented.__doc__, name


SENTENCE = "Temp 37.5 °C, SpO2 ≥ 92 %, 5 µg/kg/min, ½ tablet, 10² cells, ± 2, 3–5 days, Sjögren’s, naïve"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_mojibake_is_repaired(encoding):
    broken = SENTENCE.encode().decode(encoding)
    assert broken != SENTENCE
    assert clean(f"ok ≤ 5\n{broken}\n½", only("mojibake"), Replacement(None)) == f"ok ≤ 5\n{SENTENCE}\n½"


RIGHT = [*"≥≤≠≈±°²³½¼×÷µμ‰Ω\u2126\u212aÅ–…”’éﬁ５", "&lt;", "&gt;5"]


@given(st.lists(st.tuples(st.sampled_from(RIGHT), st.sampled_from([" ", "5", "mg ", "\n", "a", "/"])), max_size=20))
def test_right_text_has_no_mojibake_to_repair(pieces):
    """Not a quote, an entity, a ligature, a wide digit, or another form of the same sign."""
    text = joined(pieces)
    assert clean(text, only("mojibake"), Replacement(None)) == text


@given(st.text(alphabet=[*"Âµâ‰¥Ã³½€°²±×÷≈Å¶©Îº 5m<-\n", "\x80", "\x93", "\x96", "\xa0", "\u2003"], max_size=30))
def test_mojibake_repair_changes_nothing_in_ascii(text):
    repaired = clean(text, only("mojibake"), Replacement(None))
    assert [c for c in repaired if c.isascii()] == [c for c in text if c.isascii()]


@pytest.mark.parametrize("sign", ["≈", "×", "÷", "±", "°", "½", "≥"])
@pytest.mark.parametrize("other", [*"²³•©°éèüäñçßÅÄº½‰", "–"])
def test_mojibake_repair_takes_no_sign_for_half_of_a_letter(sign, other):
    for text in (f"{sign}{other}", f"5 {sign}{other} mg"):
        assert sign in clean(text, only("mojibake"), Replacement(None))


def real_notes() -> list[str]:
    with gzip.open(SHARED / "notes" / "mtsamples_unique.jsonl.gz", "rt") as stream:
        texts = [json.loads(line)["text"] for line in stream]
    for path in sorted((SHARED / "notes" / "mts_dialog").glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as stream:
            texts += [cell for row in csv.reader(stream) for cell in row]
    return texts


@pytest.mark.slow
@pytest.mark.shared
def test_rules_are_faithful_to_real_notes():
    """Each rule that isn't lossy, alone; in every eighth note also with hostile borders in place of spaces."""
    hostile = ["\n", "\t", "  ", " \r\n", "\x00", "\n\n\n\n", "\n-----\n", "\ufeff ", "\u00a0", "\x1f"]
    texts = real_notes()
    borders = itertools.cycle(hostile)
    texts += [re.sub(" ", lambda _: next(borders), text[:2000]) for text in texts[::8]]
    for number, text in enumerate(texts):
        for name in FAITHFUL:
            cleaned = clean(text, only(name), Replacement(None))
            assert cleaned == text or compare_texts(text, cleaned).is_faithful, (name, number)


@pytest.mark.shared
def test_the_profile_of_the_paper_keeps_the_decimals_of_real_notes():
    """The script that it follows loses most of them."""
    rules, by_script, of_all = CleaningRules("paper"), 0, 0
    for text in real_notes()[::8]:
        lowered = text.lower()
        decimals = [item for item in protected_items(lowered) if item.kind == "decimal"]
        assert [
            item for item in protected_items(clean(text, rules, Replacement(None))) if item.kind == "decimal"
        ] == decimals
        of_all += len(decimals)
        by_script += compare_texts(lowered, re.sub(r"[0-9]+\.", "", lowered)).lost["decimal"]
    assert of_all > 200 and by_script > 0.9 * of_all
