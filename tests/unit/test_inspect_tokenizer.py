"""What inspect-tokenizer counts, and that it shows no word."""

import json
import re

import pytest
from conftest import SHARED

from clinical_pretrain.cli import main
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.tokenizer.extend import extend_tokenizer
from tokenizer_tools.tokenizer.inspect import inspect_tokenizer
from tokenizer_tools.tokenizer.load import load_tokenizer
from tokenizer_tools.tokenizer.settings import ExtensionSettings, InspectSettings
from tokenizer_tools.tokenizer.training_notes import find_notes

ALL = SplitRule(0, 0)


def inspected(corpus, path, notes, **options):
    path.write_text("\n".join(json.dumps({"subject_id": i, **note}) for i, note in enumerate(notes)))
    return inspect_tokenizer([path], str(corpus / "tokenizer"), InspectSettings(**{"split": ALL} | options))


def test_words_tokens_and_categories(corpus, tmp_path):
    """Against the tokenizer's own division of each word."""
    texts = ["The patient denies qzxqzxqzx.\nDigoxin 0.125 mg, the patient's x7", "pain [**Name**] pain\n\npain"]
    notes = [{"text": texts[0], "category": "Nursing"}, {"text": texts[1], "category": "Echo"}]
    found = inspected(corpus, tmp_path / "n.jsonl", [*notes, notes[1]])  # a duplicate, which counts once
    tokenizer = load_tokenizer(str(corpus / "tokenizer"))
    words = ["The", " patient", " denies", " qzxqzxqzx", "Digoxin", " mg", " the", " patient", " x"]
    pieces = [len(tokenizer(word, add_special_tokens=False).input_ids) for word in words]
    nursing, echo = found.categories["Nursing"], found.categories["Echo"]
    assert list(found.categories) == ["Nursing", "Echo"] and found.total.notes == 2
    assert (nursing.words, nursing.word_tokens) == (9, sum(pieces))
    assert nursing.broken_words == sum(count >= 4 for count in pieces) > 0
    assert nursing.tokens == len(tokenizer(texts[0], add_special_tokens=False).input_ids)
    assert echo.words == 3 and found.total.words == 12
    assert found.total.tokens_per_word == found.total.word_tokens / 12


def test_what_is_foretold_is_saved(corpus):
    """The table's figure is what the extension then measures on the same notes."""
    options = {"split": SplitRule(0.1, 0.1), "min_patients": 5}
    found = inspect_tokenizer(
        [corpus / "notes.csv"], str(corpus / "tokenizer"), InspectSettings(sizes="70,10", **options)
    )
    assert list(found.saved) == [10, 70] and 0 < found.saved[10] < found.saved[70]
    settings = ExtensionSettings(size=70, **options)
    inputs = find_notes([corpus / "notes.csv"], settings.reading, settings.split)
    extension = extend_tokenizer(inputs, load_tokenizer(str(corpus / "tokenizer")), settings, "t")
    assert extension.tokens_before == found.total.tokens and extension.notes == found.total.notes
    assert extension.tokens_before - extension.tokens_after == found.saved[70]
    assert extension.choice.left_out == found.left_out


def test_no_word_of_the_notes_is_shown(corpus, tmp_path, capsys):
    """Digits, signs and the fixed words of the report alone: the same notes in other letters give the same report."""
    rot = str.maketrans("abcdefghijklmnopqrstuvwxyz", "bcdefghijklmnopqrstuvwxyza")
    secret = "seen by Kowalczyk with sigmoidoscopy and Weissenfels"
    for name, text in (("a", secret), ("b", secret.translate(rot))):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": f"{text} {i}"}) for i in range(30)))
        call = ["inspect-tokenizer", "--notes", str(tmp_path / f"{name}.jsonl"), "--split.by", "note", "--tokenizer"]
        assert main([*call, str(corpus / "tokenizer"), "--json", str(tmp_path / f"{name}.json")]) == 0
    both = capsys.readouterr().out
    shown = both + (tmp_path / "a.json").read_text() + (tmp_path / "b.json").read_text()
    letters = set(re.findall(r"[a-z]{4,}", shown.lower()))
    assert not letters & set(re.findall(r"[a-z]{4,}", f"{secret} {secret.translate(rot)}".lower())) - {"with"}
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["total"]["notes"] > 20 and result["tokens_per_word"] > 1 and set(result["saved_share"]) == {
        "500", "1000", "2000", "5000"}  # fmt: skip


@pytest.mark.shared
@pytest.mark.slow
def test_what_bigbird_does_not_know(corpus, tmp_path):
    (tmp_path / "n.jsonl").write_text(json.dumps({"text": "INR ≥ 2\nmetoprolol\n 25 mg\n\n≤3 Seen by Smith\tfor"}))
    found = inspect_tokenizer(
        [tmp_path / "n.jsonl"], str(SHARED / "tokenizers" / "bigbird"), InspectSettings(split=ALL)
    )
    assert found.kind == "Unigram" and found.lost_word_starts == 2
    assert found.unknown.tokens == 2 and found.unknown.characters == {"≤": 1, "≥": 1}
    assert found.total.words == 7


def test_bad_calls(corpus, tmp_path):
    for options, message in (({"sizes": "500,x"}, "--sizes 500,x: must be numbers"), ({"sizes": "0"}, "--sizes 0")):
        with pytest.raises(UserError, match=message):
            InspectSettings(**options)
    with pytest.raises(UserError, match="no note with text"):
        inspected(corpus, tmp_path / "n.jsonl", [{"text": ""}])
