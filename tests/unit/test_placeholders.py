"""What placeholders stand for, and the surrogates that replace them."""

import datetime
import doctest
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_tools.corpus import placeholder_kinds
from tokenizer_tools.corpus.clean_notes import CleaningRules, check_placeholder_choice, clean
from tokenizer_tools.corpus.clean_report import CleanSettings, describe_counts, report_cleaning
from tokenizer_tools.corpus.fidelity import protected_items
from tokenizer_tools.corpus.placeholder_kinds import label_of
from tokenizer_tools.corpus.placeholders import Replacement, replace_placeholders, sorted_counts, token_of
from tokenizer_tools.corpus.read_notes import read_notes
from tokenizer_tools.corpus.surrogates import offset_days, surrogate_of
from tokenizer_tools.errors import UserError

TYPED = Replacement("[DEID]", "typed")
SURROGATES = Replacement("<unk>", "surrogates")
KINDS = {
    "name": ["Known lastname 1234", "Known\nlastname", "Known firstname", "First Name8 (NamePattern2) 12",
             "Last Name (Titles) ", "Name (NI) 3", "Name13 (STitle)", "Initials (NamePattern4) 2", "Dictator Info 5",
             "Female First Name (un) 7", "Doctor Last Name (ambig)", "Patient Name", "Name [**1**] (NamePattern1)"],
    "date": ["2151-7-16", "2151-07-16", "7-16", "12/08", "3-/2101", "2101-3", "2151", "7/16/51", "Month (only) 3",
             "Month/Day (2) 44", "Year (4 digits) 2", "Day Month Year", "Date range (1) 9", "Holiday 1", "9999-12-31"],
    "place": ["Hospital1 18", "Hospital Unit Name 7", "Hospital Ward Name 7", "Location (un) 86", "Street Address(1)",
              "Apartment Address(1) 5", "PO Box 3", "State/Zipcode", "Country 1", "Company 12", "University/College"],
    "id": ["MD Number(1) 333", "Numeric Identifier 1", "Medical Record Number 3", "Clip Number (Radiology) 55",
           "Job Number 5", "Unit Number 1", "PT ID Number (Radiology) 1", "Social Security Number 5", "MRN"],
    "contact": ["Telephone/Fax (1) 22", "Pager number 3", "E-mail address 3", "URL 4", "CC Contact Info 9"],
    "age": ["Age over 90 ", "Age over 90 123"],
    "other": ["", " ", "12", "13-45", "2151-13-1", "0-0-", "Ethnicity 3", "9999", "Hospital " * 40, "x" * 100_000,
              "he was seen by name on the date"],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "content"), [(kind, content) for kind, found in KINDS.items() for content in found])
def test_kinds(kind, content):
    assert label_of(f"[**{content}**]").kind == kind
    counts = Counter()
    replaced = replace_placeholders(f"a [**{content}**] b", TYPED, counts=counts)
    assert replaced == f"a{'[DEID]' if kind == 'other' else f'[{kind.upper()}]'} b" and sorted_counts(counts) == {
        kind: 1
    }


def test_examples_in_docstrings():
    assert doctest.testmod(placeholder_kinds).failed == 0


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("on ___, ____", "on[DEID], ____"),
        ("[**Name [**Hospital1 3**] **]x", "[NAME]x"),
        ("[**Hospital1 3**][**2151-7-16**]", "[PLACE][DATE]"),
        ("[**Name saw her. [**2151**] 5 mg", "[**Name saw her.[DATE] 5 mg"),
        ("[**Name\n\n5 mg **] daily", "[**Name\n\n5 mg **] daily"),
        ("[****]", "[DEID]"),
    ],
)
def test_odd_placeholders(text, typed):
    assert replace_placeholders(text, TYPED) == typed
    assert replace_placeholders(text, Replacement(None, "keep"), counts=(counts := Counter())) == text
    assert counts.total() == len(re.findall(r"\[[A-Z]+\]", typed))


def surrogate(content, person="patient 1", seed=0):
    return surrogate_of(label_of(f"[**{content}**]"), person, seed)


@pytest.mark.parametrize("kind", ["name", "place", "id", "contact", "age", "date"])
def test_a_surrogate_is_the_same_in_all_notes_of_a_patient(kind):
    for content in KINDS[kind]:
        text = f"a [**{content}**] b"
        found = replace_placeholders(text, SURROGATES, "patient 1")
        assert "[" not in found and "<" not in found and "_" not in found
        later = replace_placeholders(f"___ [**Name 9**] {text}", SURROGATES, "patient 1")
        assert later.endswith(f" {found}")
        assert kind != "age" or re.fullmatch("a 9[0-9] b", found)


def test_surrogates_depend_on_seed_patient_and_text():
    numbers = [f"Known lastname {number}" for number in range(200)]
    names = {(person, seed): [surrogate(text, person, seed) for text in numbers]
             for person in ("patient 1", "patient 2", "admission 1") for seed in (0, 1)}  # fmt: skip
    assert len({tuple(found) for found in names.values()}) == 6
    same = [a == b for a, b in zip(names["patient 1", 0], names["patient 2", 0], strict=True)]
    assert sum(same) < 5 and len(set(names["patient 1", 0])) > 120
    assert surrogate("Known\n lastname 7") == surrogate("Known lastname 7")
    assert surrogate("known lastname 7") == surrogate("Known lastname 7").lower()  # after the rule lower_case
    assert len({surrogate(f"Age over 90 {number}") for number in range(50)}) == 1
    assert {offset_days(f"patient {i}", 0) for i in range(1000)} == {-7 * weeks for weeks in range(1, 52)}


def test_made_up_numbers_are_nobodys():
    for number in range(300):
        assert re.fullmatch(r"[2-8]9\d-555-01\d\d", surrogate(f"Telephone/Fax (1) {number}"))
        assert surrogate(f"Social Security Number {number}").startswith("000-")
        assert surrogate(f"State/Zipcode {number}")[-5:-2] == "000"
        assert surrogate(f"E-mail address {number}").endswith("@example.org")


dates = st.dates(datetime.date(1000, 1, 1), datetime.date(9999, 12, 31))


@given(dates, dates, st.integers(0, 50))
def test_dates_of_a_patient_are_shifted_by_one_offset(first, second, patient):
    person = f"patient {patient}"
    offset = datetime.timedelta(offset_days(person, 0))
    for date in (first, second):
        shifted = date + offset
        forms = ("{0.year}-{0.month}-{0.day}", "{0.month}/{0.day}/{0.year}", "{0.year}-{0.month:02}-{0.day:02}")
        year = f"{shifted.year:04}"
        assert surrogate(forms[0].format(date), person) == f"{year}-{shifted.month}-{shifted.day}"
        assert surrogate(forms[1].format(date), person) == f"{shifted.month}/{shifted.day}/{year}"
        padded = surrogate(forms[2].format(date), person)
        assert [int(part) for part in padded.split("-")] == [shifted.year, shifted.month, shifted.day]
        assert shifted.weekday() == date.weekday()


@given(st.integers(1000, 9998), st.integers(1, 12), st.integers(0, 50))
def test_dates_without_a_day_keep_their_order(year, month, patient):
    person = f"patient {patient}"

    def months(content):
        month, year = surrogate(content, person).split("-/")
        return int(year) * 12 + int(month)

    later = f"{month + 1}-/{year}" if month < 12 else f"1-/{year + 1}"
    assert months(f"{month}-/{year}") <= months(later)
    if year < 2999:
        assert 0 <= int(surrogate(f"{year + 1}", person)) - int(surrogate(f"{year}", person)) <= 1


@given(dates, st.integers(0, 50))
def test_a_date_without_its_year_is_shifted_as_the_whole_date_is_but_for_a_leap_day(date, patient):
    person = f"patient {patient}"
    whole = date + datetime.timedelta(offset_days(person, 0))
    month, day = map(int, surrogate(f"{date.month}-{date.day}", person).split("-"))
    apart = (datetime.date(2000, month, day) - datetime.date(2000, whole.month, whole.day)).days
    assert min(abs(apart), 366 - abs(apart)) <= 1


@pytest.mark.parametrize("content", ["2152-2-29", "2-29", "12-31", "1/1/2101", "9999-12-31", "1000-1-1", "02/29/52"])
def test_days_at_the_edges_of_the_calendar_are_shifted(content):
    assert surrogate(content) not in (None, content)


@pytest.mark.parametrize("content", ["2151-2-29", "2151-2-30", "0005-1-1", "4-31"])
def test_what_is_no_day_has_no_surrogate(content):
    counts = Counter()
    assert replace_placeholders(f"on [**{content}**] 5", SURROGATES, "patient 1", counts) == "on<unk> 5"
    assert sorted_counts(counts) == {"date": 1, "without_surrogate": 1}


def test_what_has_no_known_kind_has_no_surrogate():
    counts = Counter()
    found = replace_placeholders("on ___ at [**Xyzzy 3**] 5", SURROGATES, "patient 1", counts)
    assert found == "on<unk> at<unk> 5"
    assert sorted_counts(counts) == {"other": 1, "underscores": 1, "without_surrogate": 2}


def test_without_a_patient_a_note_stands_alone():
    first, second = "[**Name 5**] is well", "[**Name 5**] is ill"
    counts = Counter()
    found = [replace_placeholders(text, SURROGATES, "", counts) for text in (first, first, second)]
    assert found[0] == found[1] and found[0].split(" is ")[0] != found[2].split(" is ")[0]
    replace_placeholders("no placeholder", SURROGATES, "", counts)
    assert counts["notes_without_patient"] == 3


NUMBERS = ["5", "0.125", "120/80", "<5", "2151-07-16", "5mg", "-5", "1,234", "½"]
WORDS = ["no", "denies", "(-)", "+/-", "edema", "Dr.", "'s", "n't"]
HOLDERS = ["[**2151-7-16**]", "[**7-16**]", "[**Known lastname 3**]", "[**Hospital1 1**]", "[**Age over 90 **]", "___",
           "[**Telephone/Fax (1) 3**]", "[**Xyzzy**]", "[**Month (only) 1**]"]  # fmt: skip


@settings(max_examples=500)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(NUMBERS + WORDS + HOLDERS + HOLDERS),
            st.sampled_from([" ", "", "", "\n", ".", ",", ":", "("]),
        ),
        max_size=12,
    )
)
def test_a_surrogate_joins_and_changes_no_number_sign_or_negation(pieces):
    """Whatever stands outside placeholders is there afterwards, in order. Not looked at is what takes its meaning from
    its neighbour: a unit or the name of a month after a number."""
    text = "".join(part for piece in pieces for part in piece)

    def items(text):
        return [item for item in protected_items(text) if " " not in item.value and item.kind not in ("unit",)]

    found = iter(items(replace_placeholders(text, Replacement(None, "surrogates"), "patient 1")))
    dropped = items(replace_placeholders(text, Replacement(None)))
    assert all(any(other.value == item.value for other in found) for item in dropped)


@pytest.mark.parametrize("choice", ["typed", "surrogates"])
@pytest.mark.parametrize(
    ("rules", "remedy"),
    [
        (CleaningRules("minimal"), "--cleaning.placeholders true"),
        (CleaningRules("paper"), "--cleaning.placeholders true"),
        (CleaningRules("paper", placeholders=True), "--cleaning.brackets false"),
    ],
)
def test_a_choice_that_rules_would_make_void_is_refused(choice, rules, remedy):
    with pytest.raises(UserError, match=f"--placeholder {choice}: .*add {remedy}$"):
        CleanSettings(cleaning=rules, placeholder=choice)
    check_placeholder_choice("unk", rules)
    CleanSettings(cleaning=CleaningRules("paper", placeholders=True, brackets=False), placeholder=choice)


def test_choices():
    choices = ("unk", "drop", "keep", "typed", "surrogates", "[X]")
    assert [token_of(choice, "<unk>") for choice in choices] == ["<unk>", None, None, "[DEID]", "<unk>", "[X]"]
    text = "seen ___ [**2151-7-16**]"
    found = [clean(text, CleaningRules(), Replacement.chosen(choice, token_of(choice, "<unk>"), 0), person="patient 1")
             for choice in choices]  # fmt: skip
    assert found == ["seen<unk><unk>", "seen", text, "seen[DEID][DATE]", "seen<unk> 2151-2-19", "seen[X][X]"]


def test_clean_counts_kinds_and_what_surrogates_change(tmp_path):
    path = tmp_path / "notes.csv"
    rows = "1,on [**2151-7-16**] Dr. [**Last Name 3**] 5 mg ___\n,[**Hospital1 3**] no fever\n"
    path.write_text(f"subject_id,TEXT\n{rows}")
    report = report_cleaning(read_notes([path]), CleanSettings(placeholder="surrogates", show=1))
    found = report.to_json()
    assert found["placeholders"] == {"name": 1, "date": 1, "place": 1, "underscores": 1, "without_surrogate": 1,
                                     "notes_without_patient": 1}  # fmt: skip
    rule = found["rules"]["placeholders"]
    assert rule["protected_gained"] == {"date": 1}  # and the numbers of labels are gone
    assert rule["protected_lost"] == {"date": 1, "number": 3}
    lines = "\n".join(describe_counts(report))
    assert "placeholders: 1 name, 1 date, 1 place, 1 ___" in lines and "1 placeholders have no surrogate" in lines
    assert "1 notes with surrogates name no patient" in lines
    example = next(rule for rule in report.rules if rule.name == "placeholders").examples[0]
    assert "2151-2-19" in example.after
