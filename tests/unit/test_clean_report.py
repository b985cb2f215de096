"""What `clean` shows and counts, and that no text of a note leaves the terminal."""

import csv
import json
import os
import pty
import subprocess
import sys

import pytest

from clinical_pretrain.cli import main
from tokenizer_tools.corpus import clean_report
from tokenizer_tools.corpus.clean_notes import CleaningRules
from tokenizer_tools.corpus.clean_report import CleanSettings, report_cleaning
from tokenizer_tools.corpus.read_notes import read_notes
from tokenizer_tools.manifest import Manifest

NOTES = [
    "Dr. Kowalski\r\ngave 25 MG  of\x00metoprolol on [**2151-7-16**] 5 ___.",
    "no fever",
    "Dr. Who, Mg 2.0\x1b[31m, -- 1. x",
]
SECRETS = ("Kowalski", "metoprolol", "2151", "fever", "Who")


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "notes.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["TEXT"], *[[text] for text in NOTES]])
    return path


def counted(notes, show=0, **rules):
    settings = CleanSettings(cleaning=CleaningRules(**rules), show=show)
    return report_cleaning(read_notes([notes]), settings)


def test_what_rules_do_is_counted(notes):
    found = counted(notes).to_json()
    assert (found["notes"], found["notes_changed"]) == (3, 2)
    assert found["characters_before"] == sum(map(len, NOTES))
    rules = found["rules"]
    assert list(rules) == CleaningRules().names()
    assert [rule["notes_changed"] for rule in rules.values()] == [1, 2, 1, 0, 1]
    assert sum(rule["characters"] for rule in rules.values()) == found["characters_after"] - found["characters_before"]
    assert rules["placeholders"]["protected_lost"] == {"date": 1}  # that in the placeholder; not the 5 that it touches
    assert not any(rule["protected_lost"] for rule in rules.values() if not rule["lossy"])


def test_what_lossy_rules_change_is_counted(notes):
    rules = counted(notes, profile="paper").to_json()["rules"]
    assert rules["lower_case"]["protected_lost"] == rules["lower_case"]["protected_gained"] == {"dose": 1, "unit": 1}
    assert rules["brackets"]["protected_lost"] == {"date": 1}
    assert rules["titles"]["notes_changed"] == 2 and rules["titles"]["protected_lost"] == {}
    assert rules["double_marks"]["protected_lost"] == {"sign": 1}


def test_rows_that_cannot_be_used_are_counted(tmp_path):
    path = tmp_path / "notes.csv"
    path.write_bytes(b"TEXT,ISERROR\nno fever,1\ncaf\xe9,0\nstable,0\n")
    words = ["clean", "--notes", str(path), "--on-bad-row", "skip", "--json", str(tmp_path / "c.json")]
    assert main(words) == 0
    found = json.loads((tmp_path / "c.json").read_text())
    assert (found["notes"], found["notes_unusable"]) == (3, 2)
    assert main(words[:3]) == 2


def test_the_first_change_of_the_first_notes_is_shown(notes):
    rules = {rule.name: rule for rule in counted(notes, show=1, titles=True).rules}
    (example,) = rules["titles"].examples
    assert example.place.endswith("notes.csv, row 1")
    assert example.before.startswith("Dr. Kowalski\\ngave") and example.after.startswith("doctor Kowalski\\ngave")
    (example,) = rules["control_characters"].examples
    assert example.before.endswith("25 MG  of\\x00metoprolol on [**2151-7-16**] …")
    assert example.after.endswith("25 MG  of metoprolol on [**2151-7-16**] …")


def test_without_show_no_text_is_printed(notes, tmp_path, capsys):
    assert (
        main(["clean", "--notes", str(notes), "--cleaning.profile", "paper", "--json", str(tmp_path / "c.json")]) == 0
    )
    printed = capsys.readouterr().out
    assert "3 notes, 2 of them changed" in printed and "lower_case (lossy)" in printed
    for text in (printed, (tmp_path / "c.json").read_text()):
        assert not any(secret.lower() in text.lower() for secret in SECRETS)


def test_text_is_printed_where_it_is_allowed(notes, tmp_path, capsys):
    words = ["clean", "--notes", str(notes), "--show", "5", "--json", str(tmp_path / "c.json")]
    assert main(words) == 2
    said = capsys.readouterr()
    assert not any(secret in said.out + said.err for secret in SECRETS) and not (tmp_path / "c.json").exists()
    assert main([*words, "--allow-output"]) == 0
    assert "Kowalski" in capsys.readouterr().out
    assert not any(secret in (tmp_path / "c.json").read_text() for secret in SECRETS)


def test_text_is_printed_to_a_terminal_and_cannot_steer_it(notes):
    terminal, standard_output = pty.openpty()
    call = [sys.executable, "-m", "clinical_pretrain", "clean", "--notes", str(notes), "--show", "5"]
    done = subprocess.run(call, stdout=standard_output, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(standard_output)
    printed = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert done.returncode == 0, done.stderr
    assert "Kowalski" in printed and r"\x1b[31m" in printed
    assert "\x1b[31m" not in printed and "\x00" not in printed


def test_a_rule_that_breaks_its_promise_is_told(notes, capsys, monkeypatch):
    monkeypatch.setattr(clean_report, "LOSSY", frozenset())
    assert main(["clean", "--notes", str(notes), "--cleaning.lower_case", "true"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: rules that must change no number") and "lower_case (" in error
    assert f"{notes}, row 1" in error and not any(secret in error for secret in SECRETS)


def test_shards_say_which_ftfy_repaired_their_notes(corpus, tmp_path):
    words = ["build-shards", "--notes", str(corpus / "notes.csv"), "--tokenizer", str(corpus / "tokenizer"),
             "--workers", "1", "--sequence-length", "256"]  # fmt: skip
    for name, options in (("plain", []), ("repaired", ["--cleaning.mojibake", "true"])):
        assert main([*words, "--out", str(tmp_path / name), *options]) == 0
    plain, repaired = (Manifest.load(tmp_path / name) for name in ("plain", "repaired"))
    assert "ftfy" in repaired.versions and "ftfy" not in plain.versions
    assert repaired.cleaning_rules == ["mojibake", *plain.cleaning_rules]
    assert repaired.fingerprint == plain.fingerprint  # synthetic notes have no mojibake
    assert main(["verify", str(tmp_path / "repaired")]) == 0
