import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_tools.corpus import cleaning_rules, placeholders
from tokenizer_tools.corpus.clean_notes import PROFILES, RULES, CleaningRules, clean
from tokenizer_tools.corpus.placeholders import Replacement, placeholder_spans
from tokenizer_tools.errors import UserError
from tokenizer_tools.shards.settings import ShardSettings


def cleaned(text: str, placeholder: str | None = "<unk>", **rules: bool | str) -> str:
    return clean(text, CleaningRules(**rules), Replacement(placeholder))


@pytest.mark.parametrize(
    "text",
    [
        "ph 7.35, pCO2 41, digoxin 0.125 mg",  # the seed's script makes these ph 35 and digoxin 125 mg
        "1. Metoprolol 25 mg PO BID 2. Lasix",
        "no fever, denies chest pain, troponin < 0.01, (-) edema, 4+/5 strength",
        "Temp 98.6 F, 37.0 °C, 5 µg/kg/min, K+ 4.2 mEq/L, ½ tablet, 10² cells, +2 -3",
        "BP 120/80 -- stable == unchanged",
        "M.D. and Dr. keep their case; admission date: 2151-07-16",
    ],
)
def test_numbers_units_and_negations_stay_as_they_are(text):
    assert cleaned(text) == text


def test_placeholders_become_one_token():
    assert cleaned("seen by [**First Name8 (NamePattern2) **] [**Known\nlastname 123**], on [**2151-7-16**].") == (
        "seen by<unk><unk>, on<unk>."
    )
    assert cleaned("Dr. ___ saw ___, age ___") == "Dr.<unk> saw<unk>, age<unk>"


def test_placeholders_can_go_or_stay():
    assert cleaned("Dr. [**Name**] came", placeholder=None) == "Dr. came"
    assert cleaned("Dr. [**Name**] came", placeholders=False) == "Dr. [**Name**] came"


def test_a_line_of_underscores_is_no_placeholder():
    assert cleaned("a\n______________\nb ____ c") == "a\n\nb ____ c"


def test_an_unclosed_placeholder_swallows_nothing():
    text = "[**Name saw the patient. " + "Stable. " * 80 + "[**2151**] end"
    assert cleaned(text).endswith("end") and "Stable" in cleaned(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seen by [**Name [**1**] (NamePattern1) **] today", "seen by<unk> today"),
        ("[**A [**B [**C**] **] **][**D**] end", "<unk><unk> end"),
        ("on [**" + "Hospital " * 200 + "**] 5 mg", "on<unk> 5 mg"),
        ("[**Hospital [1] **] 5", "<unk> 5"),
        ("[**Name\n1**] and [** ___ **]", "<unk> and<unk>"),
        ("[**Name saw her. [**2151**] 5 mg", "[**Name saw her.<unk> 5 mg"),
        ("[**Name saw her.\n\n5 mg **] daily", "[**Name saw her.\n\n5 mg **] daily"),
        ("5 mg **] [**Name**] **]", "5 mg **]<unk> **]"),
        ("[**] [****]", "[**]<unk>"),
    ],
)
def test_nested_and_long_placeholders(text, expected):
    assert cleaned(text) == expected


def test_where_placeholders_stand():
    text = "[**Name [**1**] **] saw ___, ____ [**2**]___"
    spans = placeholder_spans(text)
    assert [text[start:stop] for start, stop in spans] == ["[**Name [**1**] **]", "___", "[**2**]", "___"]


def test_each_rule_can_be_switched_off():
    raw = "a\r\nb\x07  c\n====\n\n\n\nd "
    assert cleaned(raw) == "a\nb c\n\nd"
    assert "\r" in cleaned(raw, line_endings=False)
    assert "\x07" in cleaned(raw, control_characters=False)
    assert "====" in cleaned(raw, separator_lines=False)
    assert "  " in cleaned(raw, whitespace=False)
    assert cleaned(raw, join_lines=True) == "a b c d"


@given(st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="_=-*~#[]\ufeff")))
def test_no_visible_character_is_lost(text):
    assert re.sub(r"\s+", "", cleaned(text)) == re.sub(r"\s+", "", text)


def numbers(text: str) -> list[str]:
    """Numbers with their signs, in order."""
    return re.findall(r"[+-]?\d+(?:[.,/:]\d+)*%?", text)


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x1f", "\x7f", "\ufeff", "\x00\x01"])
def test_a_control_character_joins_no_numbers(character):
    assert cleaned(f"WBC 5{character}10 g") == "WBC 5 10 g"
    assert numbers(cleaned(f"-{character}5")) == ["5"]


NUMBERS = ["5", "10", "0.125", "7.35", "120/80", "½"]
BETWEEN = ["-", "+", "\x00", "\x07\x08", "\ufeff", "\x7f", " ", "\t", "\u00a0", "\x0b", "\r", "\n", "____", "----",
           "[**X**]", "___", "mg", "%"]  # fmt: skip


@settings(max_examples=500)
@given(
    st.lists(st.tuples(st.sampled_from(NUMBERS), st.lists(st.sampled_from(BETWEEN), max_size=3)), max_size=8),
    st.sampled_from(["", "\n\t", "\n\t\u2003"]),
    st.sampled_from(["<unk>", None]),
    st.builds(CleaningRules, **{name: st.booleans() for name in RULES}),
)  # fmt: skip
def test_no_rule_joins_or_changes_a_number(pieces, unseen, placeholder, rules):
    """Whatever is removed or written anew lies between numbers, never within one, and never joins two: by any of the
    rules, alone and together."""
    text = "".join(number + "".join(between) for number, between in pieces)
    assert numbers(clean(text, rules, Replacement(placeholder), unseen)) == numbers(text)


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"whitespace": False, "join_lines": True},
        {"join_lines": True},
        {"profile": "paper"},
        {"profile": "mimic3", "mojibake": True},
    ],
)
@pytest.mark.parametrize("run", [" ", "\t", " \t", "\u00a0", "\n", "\n ", "_", "-", "=", "[**", "**]",
                                 "[** ", "[**\n\n", "[**a**] ", "[**[**a**]", "___ ", "\x00", "\r"])  # fmt: skip
@pytest.mark.timeout(120)
def test_every_rule_takes_linear_time(rules, run):
    """A run of a million characters, which takes an hour where a pattern is quadratic."""
    assert len(cleaned("a" + run * (1_000_000 // len(run)) + "x", None, **rules)) <= 1_000_003


@given(
    st.lists(st.sampled_from(["no", "7.35", "-", "+", "mg", "0.125", "___", "[**X**]", "\n", "  ", "--"]), max_size=30)
)
def test_words_keep_their_order(words):
    expected = [w for w in words if w.strip()]
    found = cleaned(" ".join(words)).replace("<unk>", " <unk> ").split()
    assert found == ["<unk>" if w in ("___", "[**X**]") else w for w in expected]


def test_profiles():
    default = ["line_endings", "control_characters", "placeholders", "separator_lines", "whitespace"]
    assert CleaningRules().names() == CleaningRules("mimic4").names() == default
    assert CleaningRules("minimal").names() == default[:2]
    assert CleaningRules("mimic3").names() == [*default[:2], "form_fields", *default[2:]]
    assert "mojibake" not in {name for profile in PROFILES for name in CleaningRules(profile).names()}
    assert cleaned("Signed: ___ [**Name**]") == "Signed:<unk><unk>"
    assert cleaned("Signed: ___ [**Name**]", profile="mimic3") == "Signed:<unk>"
    assert cleaned(" a\r\nb\x00 ___", profile="minimal") == " a\nb  ___"


def test_the_profile_of_the_paper():
    raw = ("Admission Date:  [**2151-7-16**]\n\nSeen by Dr. A, M.D. -- stable.\n1. Digoxin 0.125 mg\n2. Mg 2.0\n"
           "pH 7.35, WBC 5. ___ [see note]\n=====\nK 3.1 --> 4.2")  # fmt: skip
    expected = "seen by doctor a, md stable. digoxin 0.125 mg mg 2.0 ph 7.35, wbc 5. k 3.1 --> 4.2"
    assert cleaned(raw, profile="paper") == expected


@pytest.mark.parametrize("profile", PROFILES)
def test_rules_are_switched_on_and_off_on_top_of_a_profile(profile):
    rules = CleaningRules(profile, titles=True, line_endings=False)
    assert set(rules.names()) == {*PROFILES[profile], "titles"} - {"line_endings"}


def test_shards_depend_on_the_rules_however_they_were_chosen():
    by_hand = CleaningRules("minimal", placeholders=True, separator_lines=True, whitespace=True)
    settings = [ShardSettings(cleaning=rules) for rules in (by_hand, CleaningRules(), CleaningRules("mimic4"))]
    assert settings[0].compared() == settings[1].compared() == settings[2].compared()
    assert settings[0].compared()["cleaning"] == CleaningRules().names()
    for rules in (by_hand, CleaningRules("paper")):
        assert CleaningRules.named(rules.names()).names() == rules.names()


def test_a_missing_ftfy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(UserError, match=r"ftfy is missing.*pip install 'clinical-pretrain\[cleaning\]'"):
        CleaningRules(mojibake=True)
    CleaningRules("paper")


@settings(max_examples=500, deadline=None)
@given(st.text(st.sampled_from("a1_=-*~#[] \t\r\n\v\f\u00a0\x00\x0e\x1f\x7f\ufeff\u2003é"), max_size=40))
def test_fast_forms_of_rules_are_their_definitions(text):
    """As one regular expression says each rule, which takes several times as long."""
    control = re.sub("[\x00-\x08\x0e-\x1f\x7f\ufeff\ufffe\uffff]+", " ", text)
    assert cleaning_rules.replace_control_characters(text) == control
    squeezed = re.sub(r"(?<! ) +$", "", re.sub("[ \t\v\f\u00a0]+", " ", text), flags=re.MULTILINE)
    assert cleaning_rules.squeeze_whitespace(text) == re.sub("\n{3,}", "\n\n", squeezed).strip()
    line = r"^[ \t]*(?:_{4,}|={4,}|-{4,}|\*{4,}|~{4,}|#{4,})[ \t]*$"
    assert cleaning_rules.empty_separator_lines(text) == re.sub(line, "", text, flags=re.MULTILINE)
    assert placeholders.blank_form_fields(text) == re.sub("(?<!_)___(?!_)", " ", text)
