"""Shards without a patient equal those of notes without the patient, and tell nothing of the patient."""

import csv
import gzip
import json
import os
import random
import re

import pytest
from shard_folders import content, notes_table, shard_files
from tiny_tokenizer import word_level

from clinical_pretrain.cli import main
from tokenizer_tools.corpus.split_patients import SplitRule, default_key_path, load_patient_key, patient_hash
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import REPORT_NAMES, SPLITS, Manifest, Withdrawal
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.shards.summary import withdrawn_lines
from tokenizer_tools.shards.verify.verify import verify_shards
from tokenizer_tools.shards.withdraw import read_patients, withdraw

RULE = SplitRule(0.2, 0.2)
PATIENTS = [str(number) for number in range(7001, 7041)]
HELD_OUT, TRAINED = ([patient for patient in PATIENTS if RULE.split_of(f"patient {patient}") == SPLITS.index(name)]
                     for name in ("validation", "train"))  # fmt: skip


def write_csv(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["SUBJECT_ID", "HADM_ID", "CHARTDATE", "CATEGORY", "TEXT"])
        writer.writerows(rows)
    return path


def build(rows, tokenizer, out, split=RULE, **settings):
    settings = {"sequence_length": 16, "split": split} | settings
    notes = write_csv(out.with_suffix(".csv"), rows)
    before = os.umask(0o077)  # as the command sets it
    try:
        build_shards([notes], str(tokenizer), out, ShardSettings(**settings), BuildOptions(workers=1))
    finally:
        os.umask(before)
    return out


def without(shards, out, *patients):
    before = os.umask(0o077)
    try:
        return withdraw(shards, read_patients(patients), out)
    finally:
        os.umask(before)


def text(source):
    return " ".join(str(source.randrange(100)) for _ in range(source.randint(5, 60)))


@pytest.fixture(scope="module")
def rows():
    """Three notes of each patient, none like another, in an order that mixes the patients."""
    source = random.Random(1)
    found = [[patient, "", f"2150-01-{source.randint(1, 28):02d}", f"kind {source.randint(0, 2)}", text(source)]
             for patient in PATIENTS * 3]  # fmt: skip
    source.shuffle(found)
    return found


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return word_level(tmp_path_factory.mktemp("tokenizer") / "words")


@pytest.fixture(scope="module")
def shards(rows, tokenizer, tmp_path_factory):
    return build(rows, tokenizer, tmp_path_factory.mktemp("withdraw") / "shards")


def assert_same_shards(found, rebuilt):
    assert shard_files(found) == shard_files(rebuilt)
    assert notes_table(found) == notes_table(rebuilt)
    one, other = Manifest.load(found), Manifest.load(rebuilt)
    for name in ("splits", "fingerprint", "tokenizer", "unknown", "patients_in_several_splits", "patient_key_id"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.counts["kept"] == other.counts["kept"]
    assert not verify_shards(found).failed


@pytest.mark.parametrize("patients", [TRAINED[:1], HELD_OUT[:1], [TRAINED[3], HELD_OUT[1], TRAINED[-1]]])
def test_equals_a_build_without_the_patients(shards, rows, tokenizer, tmp_path, patients):
    earlier = content(shards)
    found = without(shards, tmp_path / "new", *patients)
    rebuilt = build([row for row in rows if row[0] not in patients], tokenizer, tmp_path / "rebuilt")
    assert_same_shards(tmp_path / "new", rebuilt)
    assert found.manifest == Manifest.load(tmp_path / "new") and found.before == Manifest.load(shards)
    assert content(shards) == earlier
    tokens = sum(len(row[4].split()) + 2 for row in rows if row[0] in patients)
    assert found.withdrawal == Withdrawal(len(patients), 3 * len(patients), tokens, found.before.fingerprint)
    counts = found.manifest.counts
    assert (counts["read"], counts["dropped_withdrawn"]) == (len(rows), 3 * len(patients))


def test_parts_keep_their_borders(rows, tokenizer, tmp_path):
    """As in a build where the patients' notes have no text. Other notes may be empty, or duplicates of others."""
    source, patients = random.Random(2), [TRAINED[0], HELD_OUT[0], TRAINED[5]]
    others = [row for row in rows if row[0] not in patients]
    rows = [*rows, *source.sample(others, 30), *([row[0], "", "", "", " "] for row in others[:9])]
    source.shuffle(rows)
    shards = build(rows, tokenizer, tmp_path / "shards", notes_per_part=20)
    emptied = [[*row[:4], "" if row[0] in patients else row[4]] for row in rows]
    rebuilt = build(emptied, tokenizer, tmp_path / "rebuilt", notes_per_part=20)
    without(shards, tmp_path / "new", *patients)
    assert_same_shards(tmp_path / "new", rebuilt)
    assert len(shard_files(rebuilt)) > 12
    without(shards, tmp_path / "first", *patients[:2])
    second = without(tmp_path / "first", tmp_path / "second", patients[2])
    assert shard_files(tmp_path / "second") == shard_files(rebuilt)
    assert [entry.patients for entry in second.manifest.withdrawn] == [2, 1]
    assert second.manifest.counts["dropped_withdrawn"] == 9
    assert not verify_shards(tmp_path / "second").failed
    manifest = json.loads((tmp_path / "second" / "manifest.json").read_text())
    manifest["withdrawn"].pop()
    (tmp_path / "second" / "manifest.json").write_text(json.dumps(manifest))
    (failed,) = verify_shards(tmp_path / "second").failed
    assert failed.faults[0].what == "notes withdrawn, together: 6, but the manifest says 9"


def test_building_again_does_not_bring_the_notes_back(shards, tokenizer, tmp_path):
    without(shards, tmp_path / "new", TRAINED[0])
    earlier, settings = content(tmp_path / "new"), ShardSettings(sequence_length=16, split=RULE)
    manifest = build_shards([shards.with_suffix(".csv")], str(tokenizer), tmp_path / "new", settings)
    assert manifest.counts["dropped_withdrawn"] == 3
    assert {name: data for name, data in content(tmp_path / "new").items() if name not in REPORT_NAMES} == earlier


def test_unknown_tokens_and_times_become_upper_bounds(rows, tokenizer, tmp_path):
    for number, row in enumerate(rows := [list(row) for row in rows]):
        row[4] += " Zoë [**Name**] 5" if number % 3 else ""
        row[2] = "" if number % 4 else row[2]
    shards = build(rows, tokenizer, tmp_path / "shards")
    found = without(shards, tmp_path / "new", TRAINED[2])
    assert 0 < found.manifest.unknown.tokens <= found.before.unknown.tokens
    assert found.before.unknown.characters and not found.manifest.unknown.characters, "whose they were isn't known"
    assert 0 < found.manifest.counts["kept_without_time"] <= found.before.counts["kept_without_time"]
    assert not verify_shards(tmp_path / "new").failed


def test_placeholders_become_an_upper_bound(rows, tokenizer, tmp_path):
    rows = [[*row[:4], row[4] + " [**Name**] 7" * (4 if row[0] == TRAINED[2] else 1)] for row in rows]
    shards = build(rows, tokenizer, tmp_path / "shards")
    found = without(shards, tmp_path / "new", TRAINED[2])
    assert found.manifest.placeholders == found.before.placeholders == {"name": len(rows) + 9}
    line = f"  placeholders: at most {len(rows) + 9} name (counted before the withdrawal)"
    assert line in withdrawn_lines(found.manifest, tmp_path / "new")
    assert not verify_shards(shards).failed and not verify_shards(tmp_path / "new").failed


def test_a_patient_is_found_in_any_spelling_and_in_all_splits(rows, tokenizer, tmp_path):
    """Split by note, a patient may be in several."""
    shards = build(rows, tokenizer, tmp_path / "shards", split=SplitRule(0.3, 0.3, by="note"))
    before = Manifest.load(shards)
    found = without(shards, tmp_path / "new", f" 00{PATIENTS[4]}.0", PATIENTS[4], PATIENTS[8])
    assert (found.withdrawal.patients, found.withdrawal.notes) == (2, 6)
    rebuilt = build([row for row in rows if row[0] not in (PATIENTS[4], PATIENTS[8])], tokenizer,
                    tmp_path / "rebuilt", split=SplitRule(0.3, 0.3, by="note"))  # fmt: skip
    assert_same_shards(tmp_path / "new", rebuilt)
    assert before.patients_in_several_splits > found.manifest.patients_in_several_splits


def test_the_command_tells_nothing_of_the_patient(shards, tmp_path, capsys):
    patient, new = TRAINED[1], tmp_path / "new"
    (tmp_path / "patients.txt").write_text(f"\ufeff{patient}\r\n\n")
    call = ["withdraw", str(shards), "--patients-file", str(tmp_path / "patients.txt"), "--out", str(new)]
    assert main([*call, "--json", str(tmp_path / "report.json")]) == 0
    output = "".join(capsys.readouterr())
    kept = Manifest.load(new).counts["kept"]
    assert f"{new}: {kept} notes, without 1 patient who withdrew\n" in output and "of 1 patient; " in output
    assert f"{shards} still holds them: delete it" in output and "no runs were checked" in output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["withdrawn"]["notes"] == report["notes_dropped_withdrawn"] == 3 and report["runs"] is None
    hashed = patient_hash(load_patient_key(default_key_path()), f"patient {patient}")
    assert hashed in notes_table(shards)["patient"]
    for told in (output, json.dumps(report), (new / "manifest.json").read_text(), str(notes_table(new))):
        assert hashed not in told
        assert patient not in re.sub("[0-9a-f]{32,}", "", told)  # which other hashes may have by chance
    assert main(["verify", str(new)]) == 0


def test_it_says_what_it_cannot_do(rows, tokenizer, tmp_path, capsys):
    admissions = [["", "77", "", "", "1 2 3"], ["", "78", "", "", "4 5 6"]]
    shards = build([*rows, *admissions, rows[0]], tokenizer, tmp_path / "shards", split=SplitRule(0, 0))
    assert main(["withdraw", str(shards), "--patient", PATIENTS[0], "--out", str(tmp_path / "new")]) == 0
    output = capsys.readouterr().out
    assert "  1 notes were dropped as duplicates earlier; if the note that one of them repeats is withdrawn" in output
    assert "notes that name no patient, or only" in output


def test_a_list_with_strangers(shards, tmp_path, capsys):
    """Patients of a whole hospital, most of whom have no note here."""
    file, new, strangers = tmp_path / "many.txt", tmp_path / "new", [str(number) for number in range(990001, 990032)]
    call = ["withdraw", str(shards), "--patients-file", str(file), "--out", str(new)]
    patients = [TRAINED[1], HELD_OUT[0]]
    file.write_text("\n".join([*strangers[:5], *patients, *strangers[5:]]))
    assert main(call) == 2
    error = capsys.readouterr().err
    assert f"{file}, lines 1, 2, 3, 4, 5 and 26 more: no note in {shards} is of these patients; check the" in error
    assert "leave them out (--ignore-unknown does)" in error and not new.exists()
    assert main([*call, "--ignore-unknown", "--json", str(tmp_path / "x.json")]) == 0
    output = capsys.readouterr()
    assert "notes, without 2 patients who withdrew\n" in output.out
    assert f"31 of 33 patients that were named have no note in {shards}: left out" in output.out
    assert json.loads((tmp_path / "x.json").read_text())["unknown_patients"] == 31
    found = without(shards, tmp_path / "exact", *patients)
    assert content(new) == content(tmp_path / "exact") and found.unknown == 0
    file.write_text("\n".join(strangers[:2]))
    assert main([*call[:-1], str(tmp_path / "none"), "--ignore-unknown"]) == 2
    error = capsys.readouterr().err
    assert f"{file}, lines 1, 2: no note" in error and "--ignore-unknown" not in error
    assert not any(stranger in f"{output}{error}" for stranger in strangers)


def test_a_killed_withdrawal_starts_again(shards, tmp_path):
    left = tmp_path / ".new.tmp" / "train"
    left.mkdir(parents=True)
    (left / "part-00007.arrow").write_bytes(b"half")
    without(shards, tmp_path / "new", TRAINED[0])
    assert not verify_shards(tmp_path / "new").failed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]


def damage(shards):
    file = max((shards / "test").iterdir())
    file.write_bytes(file.read_bytes()[:-9] + b"123456789")


def lose(shards):
    next((shards / "test").iterdir()).unlink()


def cut_notes(shards):
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["counts"]["kept"] += 1
    (shards / "manifest.json").write_text(json.dumps(manifest))


def test_the_file_of_patients_is_read_as_lists_of_splits_are(tmp_path):
    file = tmp_path / "patients.txt.gz"
    file.write_bytes(gzip.compress(b"\xef\xbb\xbf0123\r\n\n 124.0\n123\n"))
    assert [(each.identifier, each.place) for each in read_patients(["7"], file)] == [
        ("7", "--patient, number 1"),
        ("123", f"{file}, line 1"),
        ("124", f"{file}, line 3"),
    ]
    file.write_bytes(gzip.compress(b"SUBJECT_ID\n123\n"))
    with pytest.raises(UserError, match="line 1: the name of a column; delete this line"):
        read_patients([], file)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, ["--patient", "7999"], "--patient, number 1: no note in "),
        (None, ["--patient", TRAINED[0], "7998", "--patient", "7999"], "--patient, numbers 2, 3: no note"),
        (None, ["--patient", "unknown"], "--patient, number 1: stands for a missing"),
        (None, ["--patient", "7.9E+11"], "--patient, number 1: a number that has lost digits"),
        (None, [], "no patient is named; give --patient ID, or --patients-file FILE"),
        (None, ["--patients-file", "missing.txt"], "missing.txt: No such file"),
        (None, ["--patient", *PATIENTS], "no other note is in the training split"),
        (None, ["--patient", TRAINED[0], "--out", "shards"], "shards: the folder of the shards themselves"),
        (
            None,
            ["--patient", TRAINED[0], "--out", "shards/new"],
            "shards/new: the folder of the shards themselves, or in it",
        ),
        (None, ["--patient", TRAINED[0], "--runs", "nowhere"], "nowhere: no run and no exported model"),
        (None, ["--patient", TRAINED[0], "--patient-key", "nowhere"], "nowhere: no such file; name the key"),
        (damage, ["--patient", TRAINED[0]], "missing, or not the bytes that the manifest tells of; copy it"),
        (lose, ["--patient", TRAINED[0]], "part-00000.arrow: missing, or not the bytes"),
        (cut_notes, ["--patient", TRAINED[0]], "notes.arrow: not the number of notes in the manifest"),
    ],
)
def test_mistakes_leave_nothing_behind(shards, tmp_path, monkeypatch, capsys, change, arguments, message):
    for name, data in content(shards).items():
        (tmp_path / "shards" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shards" / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    if change:
        change(tmp_path / "shards")
    earlier = content(tmp_path)
    assert main(["withdraw", "shards", "--out", "new", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and not any(word in error for word in ("7998", "7999", "7.9E", *PATIENTS))
    assert content(tmp_path) == earlier and not (tmp_path / "new").exists()


def test_notes_without_patients_are_refused(tokenizer, tmp_path):
    rows = [["", "", "", "", f"{i} {i + 1} 7"] for i in range(60)]
    shards = build(rows, tokenizer, tmp_path / "shards", split=SplitRule(0.2, 0.2, by="note"))
    with pytest.raises(UserError, match=r"name no patient \(split by note\), so nobody's can be found; build"):
        without(shards, tmp_path / "new", "1")


def test_another_key_is_refused(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with pytest.raises(UserError, match="there is no patient key; name the one that the shards were built with"):
        without(shards, tmp_path / "new", TRAINED[0])
    assert not (tmp_path / "config").exists()  # none was made
    load_patient_key(default_key_path())
    with pytest.raises(UserError, match="built with another patient key; name it as --patient-key"):
        without(shards, tmp_path / "new", TRAINED[0])
