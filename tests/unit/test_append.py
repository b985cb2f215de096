"""Appended notes make the shards of a build of all notes; a patient stays on its side; a kill costs nothing."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shard_folders import content, kill_when_there, notes_table, shard_files
from tiny_tokenizer import word_level

from clinical_pretrain.cli import main
from clinical_pretrain.data.shards import Split, note_categories
from tokenizer_tools.corpus.input_options import InputOptions
from tokenizer_tools.corpus.near_duplicates import DuplicateRules
from tokenizer_tools.corpus.split_lists import SplitLists
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import REPORT_NAMES, SPLITS, Manifest
from tokenizer_tools.shards.append import append as append_module
from tokenizer_tools.shards.append.append import append_notes
from tokenizer_tools.shards.append.settings import refuse_other_settings, settings_of
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.shards.verify.verify import verify_shards
from tokenizer_tools.shards.withdraw import read_patients, withdraw

RULE = SplitRule(0.2, 0.2)
PATIENTS = [str(number) for number in range(7001, 7041)]
PART = 20
"""Notes per part. The earlier notes fill whole parts, so that a build of all notes has the same ones."""


@pytest.fixture(autouse=True, scope="module")
def private():
    """The umask of the command."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def write_csv(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["SUBJECT_ID", "HADM_ID", "CHARTDATE", "CATEGORY", "TEXT"])
        writer.writerows(rows)
    return path


def text(source):
    return " ".join(str(source.randrange(100)) for _ in range(source.randint(5, 60)))


def make_rows(count, seed):
    source = random.Random(seed)
    return [[source.choice(PATIENTS), "", f"2150-01-{source.randint(1, 28):02d}", f"kind {source.randint(0, 2)}",
             text(source)] for _ in range(count)]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return word_level(tmp_path_factory.mktemp("tokenizer") / "words")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three files, of which the later ones repeat texts of the earlier ones, and of themselves."""
    folder, first, second, third = tmp_path_factory.mktemp("notes"), make_rows(80, 1), make_rows(50, 2), make_rows(9, 3)
    second[10][4], second[40][4], second[41][4] = first[3][4], first[70][4], second[5][4]
    third[0][4], third[1][4] = first[7][4], second[20][4]
    return [write_csv(folder / f"{name}.csv", rows) for name, rows in (("a", first), ("b", second), ("c", third))]


def build(notes, tokenizer, out, workers=1, **settings):
    settings = {"sequence_length": 16, "split": RULE, "notes_per_part": PART} | settings
    build_shards(notes, str(tokenizer), out, ShardSettings(**settings), BuildOptions(workers=workers))
    return out


def append(shards, *notes, workers=1, tokenizer=None, **reading):
    settings = settings_of(shards, InputOptions(**reading), None)
    return append_notes(notes, shards, settings, BuildOptions(workers=workers), tokenizer)


@pytest.fixture(scope="module")
def shards(files, tokenizer, tmp_path_factory):
    return build(files[:1], tokenizer, tmp_path_factory.mktemp("append") / "shards")


@pytest.fixture
def copy(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "shards")


def facts(folder):
    return json.loads((folder / "manifest.json").read_text())


def assert_sound(folder):
    found = verify_shards(folder)
    assert not found.failed, found.lines()


# What comes out -------------------------------------------------------------------------------------------------------


def test_equals_a_build_of_all_notes(copy, shards, files, tokenizer, tmp_path):
    manifest = append(copy, files[1])
    rebuilt = build(files[:2], tokenizer, tmp_path / "rebuilt")
    assert shard_files(copy) == shard_files(rebuilt)
    assert shard_files(copy).items() > shard_files(shards).items()
    found, expected = facts(copy), facts(rebuilt)
    (entry,) = found.pop("appended")
    assert found == expected
    assert manifest == Manifest.load(copy)
    assert (entry["read"], entry["notes"], entry["dropped"]) == (50, 47, {"dropped_duplicate": 3})
    assert entry["fingerprint"] == Manifest.load(shards).fingerprint
    table, of_rebuilt, earlier = (notes_table(folder) for folder in (copy, rebuilt, shards))
    order, _ = table.pop("time_order"), of_rebuilt.pop("time_order")
    assert table == of_rebuilt
    assert order[:80] == earlier["time_order"]
    assert set(REPORT_NAMES) <= content(copy).keys() and not (copy / "append").exists()
    assert_sound(copy)
    # The same notes as one command are these shards.
    assert build(files[:2], tokenizer, copy) == copy


def test_a_patients_appended_notes_stand_behind_the_earlier_ones(copy, files):
    append(copy, files[1])
    table = notes_table(copy)
    rows = list(csv.DictReader(files[1].open()))
    texts = {}
    kept = [row for number, row in enumerate(rows) if number not in (10, 40, 41)]
    for number, (patient, order) in enumerate(zip(table["patient"], table["time_order"], strict=True)):
        texts.setdefault(patient, []).append((order, number))
    for notes in texts.values():
        numbers = [number for _, number in sorted(notes)]
        assert numbers[: sum(number < 80 for number in numbers)] == [n for n in numbers if n < 80]
        dates = [kept[number - 80]["CHARTDATE"] for number in numbers if number >= 80]
        assert dates == sorted(dates)


def test_again_and_again(copy, files, tokenizer, tmp_path):
    append(copy, files[1])
    manifest = append(copy, files[2])
    assert [entry.notes for entry in manifest.appended] == [47, 7]
    assert manifest.counts["dropped_duplicate"] == 5
    assert [source.inputs for source in manifest.sources] == [[0], [1], [2]]
    rebuilt = Manifest.load(build(files, tokenizer, tmp_path / "rebuilt"))
    for name in ("counts", "sources", "settings", "placeholders"):
        assert getattr(manifest, name) == getattr(rebuilt, name), name
    for split in SPLITS:
        own, other = manifest.splits[split], rebuilt.splits[split]
        assert (own.notes, own.patients, own.tokens) == (other.notes, other.patients, other.tokens)
    assert_sound(copy)


@pytest.mark.slow
def test_any_number_of_workers(files, tokenizer, tmp_path):
    made = []
    for workers in (1, 2, 4):
        out = tmp_path / str(workers)
        build(files[:1], tokenizer, out, workers=1, duplicates=DuplicateRules("drop"))
        append(out, *files[1:], workers=workers)
        made.append(content(out))
    assert made[0] == made[1] == made[2]


def test_other_forms_of_notes(copy, files, tokenizer):
    """Columns, file kinds and reading may differ."""
    notes = files[1].with_name("d.jsonl")
    notes.write_text("".join(json.dumps({"who": patient, "note": f"{patient} 1 2 3"}) + "\n" for patient in PATIENTS))
    columns = type(InputOptions().columns)(patient="who", text="note")
    manifest = append(copy, notes, tokenizer=str(tokenizer), columns=columns)
    assert manifest.appended[0].reading["columns"]["patient"] == "who"
    assert manifest.appended[0].notes == len(PATIENTS)
    assert sum(split.patients for split in manifest.splits.values()) == len(PATIENTS)
    assert_sound(copy)


def test_a_patient_can_be_withdrawn(copy, files, tmp_path):
    append(copy, files[1])
    found = withdraw(copy, read_patients(PATIENTS[:1]), tmp_path / "without")
    rows = [row for file in files[:2] for row in csv.DictReader(file.open())]
    assert found.withdrawal.notes == sum(row["SUBJECT_ID"] == PATIENTS[0] for row in rows)
    assert_sound(tmp_path / "without")
    append(tmp_path / "without", files[2])
    assert_sound(tmp_path / "without")
    assert [bool(entry.sequences) for entry in Manifest.load(tmp_path / "without").appended] == [False, True]


def test_the_fingerprint_of_before_is_verified(copy, files):
    append(copy, files[1])
    changed = facts(copy)
    changed["appended"][0]["sequences"]["test"] -= 1
    changed["appended"][0]["fingerprint"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(changed))
    (failed,) = verify_shards(copy).failed
    assert failed.faults[0].what.startswith("fingerprint of the shards before an appending: ")


# Near-duplicates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("near", ["drop", "keep"])
def test_near_duplicates_of_earlier_notes(near, tokenizer, tmp_path):
    first, second = make_rows(60, 4), make_rows(40, 5)
    for number in range(20):  # near to an earlier note, of the same or of another patient
        words = first[number][4].split()
        first[number][4] = " ".join([*words, *map(str, range(60))])
        second[number][4] = " ".join([*words, *map(str, range(60)), "99"])
    files = [write_csv(tmp_path / f"{number}.csv", rows) for number, rows in enumerate((first, second))]
    split = [RULE.split_of(f"patient {row[0]}") for row in (*first, *second)]
    near_rows = [n for n in range(20) if near == "drop" or split[n] != split[60 + n]]
    shards = build(files[:1], tokenizer, tmp_path / "shards", duplicates=DuplicateRules(near))
    before = Manifest.load(shards).counts
    manifest = append(shards, files[1])
    assert before["dropped_near_duplicate"] == 0 and manifest.counts["dropped_near_duplicate"] == len(near_rows)
    assert manifest.appended[0].notes == 40 - len(near_rows)
    assert len(near_rows) > 0 and (near == "drop" or len(near_rows) < 20)
    assert_sound(shards)
    if near == "drop":  # the first stays, which is the earlier one
        assert shard_files(shards) == shard_files(
            build(files, tokenizer, tmp_path / "rebuilt", duplicates=DuplicateRules(near))
        )


# Own lists of patients ------------------------------------------------------------------------------------------------


def write_lists(folder, **patients):
    folder.mkdir(exist_ok=True)
    paths = {}
    for split, names in patients.items():
        (folder / split).write_text("".join(f"{name}\n" for name in names))
        paths[split] = str(folder / split)
    return SplitLists(**paths)


def append_listed(shards, lists, *notes):
    return append_notes(notes, shards, settings_of(shards, InputOptions(), None, lists), BuildOptions(workers=1))


@pytest.mark.parametrize("splits", [["test"], ["train", "validation", "test"]])
def test_lists_that_grow(files, tokenizer, splits, tmp_path):
    groups = [PATIENTS[:30], PATIENTS[30:35], PATIENTS[35:]]
    whose = {split: groups[SPLITS.index(split)] for split in splits}
    rows = [[patient, "", "", "", f"{patient} 4 5"] for patient in ("8001", "8002", "8003")]
    notes = [*files[:2], write_csv(tmp_path / "new.csv", rows)]
    lists = write_lists(tmp_path / "lists", **whose)
    shards = build(files[:1], tokenizer, tmp_path / "shards", split=SplitRule(0.2, 0.2, lists=lists))
    for patients, new in zip(whose.values(), rows, strict=False):
        patients.append(new[0])
    whose["test"].append("9999")
    grown = write_lists(tmp_path / "grown", **whose)
    append_listed(shards, grown, *notes[1:])
    rebuilt = build(notes, tokenizer, tmp_path / "rebuilt", split=SplitRule(0.2, 0.2, lists=grown))
    found, expected = facts(shards), facts(rebuilt)
    del found["appended"]
    assert found == expected and found["counts"]["listed_ids_without_notes"] >= 1
    assert shard_files(shards) == shard_files(rebuilt)
    assert_sound(shards)


def test_wrong_lists(files, tokenizer, tmp_path):
    lists = write_lists(tmp_path / "lists", test=PATIENTS[:5])
    shards = build(files[:1], tokenizer, tmp_path / "shards", split=SplitRule(0.2, 0.2, lists=lists))
    earlier = content(shards)
    for wrong, message in (
        (SplitLists(), r"split by your own lists \(--split.lists.test\), which shards don't hold; give these"),
        (write_lists(tmp_path / "two", test=PATIENTS[:5], train=PATIENTS[5:]), "give these, with the new patients"),
        (write_lists(tmp_path / "more", test=PATIENTS[:7]), "2 patients of --split.lists have notes in another split"),
        (write_lists(tmp_path / "less", test=PATIENTS[:1]), "of a patient whose earlier notes are in another split"),
        (SplitLists(test=lists.test, of="admission"), "lists of admissions, which shards don't keep"),
    ):
        with pytest.raises(UserError, match=message):
            append_listed(shards, wrong, files[1])
        assert content(shards) == earlier and not (shards / "append").exists()


# What is refused ------------------------------------------------------------------------------------------------------


def refused(copy, shards, message, *notes, **reading):
    earlier = content(copy)
    with pytest.raises(UserError, match=message) as caught:
        append(copy, *notes, **reading)
    assert "\n" not in str(caught.value)
    assert content(copy) == earlier and not (copy / "append").exists()


def test_the_same_notes_twice(copy, shards, files):
    refused(copy, shards, r"a.csv: already in .*, byte for byte; leave it out", files[0])
    manifest = append(copy, files[1])
    appended = content(copy)
    assert append(copy, files[1]) == manifest and content(copy) == appended  # as after a kill in the very end
    with pytest.raises(UserError, match=r"b\.csv: already in"):
        append(copy, files[2], files[1])


def test_files_that_are_lost_between_a_kill_and_the_next_start(copy, files, monkeypatch, tmp_path):
    earlier, save = content(copy), Manifest.save

    def killed(manifest, folder):
        if folder == copy:
            raise Killed
        save(manifest, folder)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Manifest, "save", killed)
        append(copy, files[1])
    faults = [fault for check in verify_shards(copy).failed for fault in check.faults]
    assert any(fault.what == "an unfinished appending" and "delete" not in fault.remedy for fault in faults)
    assert not any(fault.what == "not a file of these shards" for fault in faults)
    with pytest.raises(UserError, match=r"run the same build-shards --append command again$"):
        withdraw(copy, read_patients(PATIENTS[:1]), tmp_path / "without")
    new = next(path for path in sorted(copy.glob("*/part-*.arrow")) if str(path.relative_to(copy)) not in earlier)
    moved = new.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="made by this appending, but gone or changed since"):
        append(copy, files[1])
    moved.rename(new)
    append(copy, files[1])
    assert_sound(copy)


def test_another_unfinished_appending(copy, files, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(append_module, "_install", lambda build, shards, workers: None)
        append(copy, files[1])
    with pytest.raises(UserError, match=r"append/shards: holds an unfinished build with other settings \(inputs\)"):
        append(copy, files[2])
    assert append(copy, files[1]).appended[0].notes == 47
    assert_sound(copy)


def test_nothing_new(copy, shards, files, tmp_path):
    rows = list(csv.reader(files[0].open()))[1:]
    notes = write_csv(tmp_path / "again.csv", rows[::-1])
    refused(
        copy,
        shards,
        r"^nothing to append: none of the 80 notes is new \(80 duplicate\); .*shards are as they were$",
        notes,
    )
    nothing = write_csv(tmp_path / "nothing.csv", [[PATIENTS[0], "", "", "", " "]] * 3)
    refused(copy, shards, r"^nothing to append: none of the 3 notes can be used \(3 empty\)", nothing)


def test_no_column_of_patients(copy, shards, tmp_path):
    """The error doesn't offer a split that shards don't take."""
    notes = tmp_path / "x.csv"
    notes.write_text("TEXT\n1 2 3\n")
    with pytest.raises(UserError, match=r"no patient column; .*--columns\.patient") as caught:
        append(copy, notes)
    assert "by note" not in str(caught.value) and content(copy) == content(shards)


def test_another_key(copy, shards, files, tmp_path):
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    settings = settings_of(copy, InputOptions(), str(key))
    with pytest.raises(UserError, match="not the key that the patients"):
        append_notes(files[1:2], copy, settings)
    assert not (copy / "append").exists()


def test_another_tokenizer(copy, files, tmp_path):
    other = word_level(tmp_path / "other")
    vocabulary = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(vocabulary.replace('"50"', '"fifty"'))
    with pytest.raises(UserError, match=r"--tokenizer .*other: not the one of"):
        append(copy, files[1], tokenizer=str(other))
    assert not (copy / "append").exists()


@pytest.mark.parametrize("stage", ["prepare", "scan"])
def test_stages(copy, files, stage):
    with pytest.raises(UserError, match="--append: one machine appends notes"):
        append_notes(files[1:2], copy, settings_of(copy, InputOptions(), None), BuildOptions(stage=stage))


def test_timelines(files, tokenizer, tmp_path):
    shards = build([files[0]], tokenizer, tmp_path / "shards", pack="timeline")
    with pytest.raises(UserError, match="a patient's new notes would stand apart from the earlier ones; build them"):
        append(shards, files[1])


def test_an_admission_of_an_earlier_patient(tokenizer, tmp_path):
    """Shards don't know whose admission it is."""
    rows = [[patient, f"1{patient}", "", "", f"{patient} 1 2"] for patient in PATIENTS]
    shards = build([write_csv(tmp_path / "a.csv", rows)], tokenizer, tmp_path / "shards")
    alone = write_csv(tmp_path / "b.csv", [["", f"1{PATIENTS[0]}", "", "", "5 6 7"]])
    refused(shards, shards, r"b.csv, row 1: no patient, and no other of the new notes says whose admission", alone)
    named = [["", f"1{PATIENTS[0]}", "", "", "5 6 7"], [PATIENTS[0], f"1{PATIENTS[0]}", "", "", "8 9"]]
    manifest = append(shards, write_csv(tmp_path / "c.csv", named))
    assert sum(split.patients for split in manifest.splits.values()) == len(PATIENTS)
    with_skip = append(shards, write_csv(tmp_path / "d.csv", [["", "3", "", "", "5 1 7"], ["4", "", "", "", "5 7"]]),
                       on_bad_row="skip")  # fmt: skip
    assert with_skip.counts["dropped_no_patient"] == 1
    assert_sound(shards)


def test_sides_of_admissions(tokenizer, tmp_path):
    """Split by admission: a note that names the patient may lead to an earlier one that names the admission alone."""
    rule = SplitRule(0.3, 0.3, by="admission")
    rows = [["", f"1{patient}", "", "", f"{patient} 1 2"] for patient in PATIENTS]
    shards = build([write_csv(tmp_path / "a.csv", rows)], tokenizer, tmp_path / "shards", split=rule)
    moved, stays = [], []
    for patient in PATIENTS:
        same = rule.split_of(f"patient {patient}") == rule.split_of(f"admission 1{patient}")
        (stays if same else moved).append([patient, f"1{patient}", "", "", f"{patient} 3"])
    refused(
        shards,
        shards,
        "row 1: of a patient whose earlier notes are in another split",
        write_csv(tmp_path / "b.csv", moved),
    )
    append(shards, write_csv(tmp_path / "c.csv", [*stays, ["", f"1{PATIENTS[3]}", "", "", "8 7 6"]]))
    assert_sound(shards)
    unknown = write_csv(tmp_path / "d.csv", [["", "999", "", "", "8 7 5"]])
    refused(shards, shards, "row 1: names an admission and no patient, and the shards may hold", unknown)


def test_split_by_note(files, tokenizer, tmp_path):
    rule = SplitRule(0.2, 0.2, by="note")
    shards = build(files[:1], tokenizer, tmp_path / "shards", split=rule)
    manifest = append(shards, files[1])
    rebuilt = Manifest.load(build(files[:2], tokenizer, tmp_path / "rebuilt", split=rule))
    assert manifest.patients_in_several_splits == rebuilt.patients_in_several_splits > 5
    assert manifest.splits == rebuilt.splits
    assert_sound(shards)


def test_a_patient_taken_off_a_list(files, tokenizer, tmp_path):
    """Split by note, and this patient's notes were held out by the list alone."""
    lists = write_lists(tmp_path / "lists", test=PATIENTS[:5])
    shards = build(files[:1], tokenizer, tmp_path / "shards", split=SplitRule(0.2, 0.2, by="note", lists=lists))
    with pytest.raises(UserError, match="of a patient whose earlier notes are in another split"):
        append_listed(shards, write_lists(tmp_path / "less", test=PATIENTS[:1]), files[1])
    append_listed(shards, lists, files[1])
    assert_sound(shards)


def test_damaged_shards(copy, files):
    name = next(iter(shard_files(copy)))
    (copy / name).write_bytes((copy / name).read_bytes()[:-8] + b"12345678")
    with pytest.raises(UserError, match="missing, or not the bytes that the manifest tells of"):
        append(copy, files[1])
    assert not (copy / "append").exists()


@pytest.mark.parametrize(
    ("given", "settings", "names"),
    [
        ({"split.seed"}, {"split": SplitRule(0.2, 0.2, seed=1)}, "--split.seed: not"),
        ({"split.seed", "split.test"}, {"split": SplitRule(0.1, 0.1)}, "--split.test: not"),
        ({"sequence_length"}, {"sequence_length": 32}, "--sequence-length: not"),
        ({"placeholder"}, {"placeholder": "drop"}, "--placeholder: not"),
        ({"placeholder", "notes_per_part"}, {"placeholder": "<unk>"}, "--notes-per-part: not"),
        ({"duplicates.near"}, {"duplicates": DuplicateRules("drop")}, "--duplicates.near: not"),
        ({"placeholder", "duplicates.near", "split.validation"}, {"split": SplitRule(0.2, 0)}, ""),
    ],
)
def test_other_settings(shards, given, settings, names):
    if names:
        with pytest.raises(UserError, match=f"^{names}"):
            refuse_other_settings(shards, ShardSettings(**settings), given)
    else:
        refuse_other_settings(shards, ShardSettings(**settings), given)


# The command ----------------------------------------------------------------------------------------------------------


def run(*words):
    return main(["build-shards", *map(str, words)])


def test_the_command(copy, files, tmp_path, capfd):
    assert run("--notes", files[1], "--out", copy, "--append", "--json", tmp_path / "x.json", "--split.seed", 0) == 0
    manifest = Manifest.load(copy)
    assert capfd.readouterr().out.splitlines()[0] == (
        f"{copy}: 47 of 50 new notes appended, {manifest.appended[0].tokens:,} tokens (dropped: 3 duplicate); "
        "127 notes in all"
    )
    assert json.loads((tmp_path / "x.json").read_text())["appended"][0]["dropped"] == {"dropped_duplicate": 3}
    assert run("--notes", files[1], "--out", copy, "--append") == 0
    printed = capfd.readouterr()
    assert "these notes were appended before; nothing is left to do" in printed.err
    assert f"{copy}: 47 of 50 new notes already appended" in printed.out
    assert run("--notes", files[2], files[1], "--out", copy, "--append") == 2
    assert "already in" in capfd.readouterr().err
    assert main(["describe-shards", str(copy)]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split.seed", "1", "--sequence-length=32"], "error: --sequence-length, --split.seed: not the setting that"),
        (["--cleaning.lower_case", "true"], "error: --cleaning.lower_case: not the setting that"),
        (["--split.lists.test", "x.txt"], "error: --split.lists.test: not the setting"),
        (["--stage", "scan", "--share", "0/2"], "error: --append: one machine appends notes; leave out --stage"),
    ],
)
def test_wrong_commands(copy, files, words, message, capfd):
    assert run("--notes", files[1], "--out", copy, "--append", *words) == 2
    assert capfd.readouterr().err.startswith(message)


def test_where_no_shards_are(files, tmp_path, capfd):
    assert run("--notes", files[1], "--out", tmp_path / "none", "--append") == 2
    assert "none: no such folder; shards are made with" in capfd.readouterr().err
    assert run("--notes", files[1], "--out", tmp_path / "none") == 2
    assert capfd.readouterr().err.endswith("missing: --tokenizer (see clinical-pretrain build-shards --help)\n")
    assert main(["submit-shards", "--append", "--notes", str(files[1]), "--out", "x"]) == 2
    assert "--append" in capfd.readouterr().err


def test_append_is_forgotten(copy, shards, files, tokenizer, tmp_path, capfd):
    assert run("--notes", files[1], "--out", copy) == 2
    assert f"; to append to the finished shards in {copy}, add --append\n" in capfd.readouterr().err
    with pytest.raises(UserError, match="shards: holds finished shards of other notes; --append adds these to them"):
        build(files[1:2], tokenizer, copy)
    with pytest.raises(UserError, match=r"holds finished shards with other settings \(inputs, pack\)"):
        build(files[1:2], tokenizer, copy, pack="timeline")
    assert content(copy) == content(shards)
    timelines = build(files[:1], tokenizer, tmp_path / "timelines", pack="timeline")
    with pytest.raises(UserError, match=r"holds finished shards with other settings \(inputs\); choose another"):
        build(files[1:2], tokenizer, timelines, pack="timeline")


def test_patients_who_were_withdrawn(copy, files, tmp_path, capfd):
    withdraw(copy, read_patients(PATIENTS[:1]), tmp_path / "without")
    capfd.readouterr()
    assert run("--notes", files[1], "--out", tmp_path / "without", "--append") == 0
    out, err = capfd.readouterr()
    assert err.startswith("1 patient was withdrawn from these shards, which don't say who: keep their notes out of")
    assert f"  1 patient was withdrawn from these shards: if {files[1]} has notes of theirs, they are in again: " in out


# Kills ----------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What no code catches, as a kill."""


@pytest.mark.slow
def test_killed_before_any_rename_or_deletion(copy, shards, files, tokenizer, monkeypatch, tmp_path):
    """The first start before its first rename, the second one before its second, and so on."""
    undisturbed = shutil.copytree(copy, tmp_path / "undisturbed")
    append(undisturbed, *files[1:])
    earlier, before, left = shard_files(shards), Manifest.load(shards), [0]

    def counted(function):
        def call(*args, **options):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return function(*args, **options)

        return call

    for owner, name in ((Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    states = []
    for start in range(1, 100):
        left[0] = start
        try:
            append(copy, *files[1:])
            break
        except Killed:
            left[0] = -1
            assert shard_files(copy).items() >= earlier.items()
            manifest = Manifest.load(copy)
            states.append(manifest == before)
            assert [len(Split(copy, manifest, name)) for name in SPLITS] == [
                manifest.splits[name].sequences for name in SPLITS
            ]
            assert len(note_categories(copy)[0]) >= manifest.counts["kept"]
    left[0] = -1
    assert 8 < start < 60 and states[0] and states == sorted(states, reverse=True)
    assert content(copy) == content(undisturbed)
    assert_sound(copy)


@pytest.mark.slow
def test_killed_while_files_are_moved(copy, files, monkeypatch, tmp_path):
    """Before each rename and deletion from the moment on when everything is made."""
    left, count = [-1], [0]

    def counted(function):
        def call(*args, **options):
            left[0] -= 1
            count[0] += 1
            if left[0] == 0:
                raise Killed
            return function(*args, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(append_module, "_install", counted(lambda build, shards, workers: None))
        left[0] = 1
        with pytest.raises(Killed):
            append(copy, files[1])
    undisturbed = shutil.copytree(copy, tmp_path / "undisturbed")
    for owner, name in ((Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    left[0] = count[0] = 0
    before, after = Manifest.load(copy), append(undisturbed, files[1])
    total, found = count[0], set()
    for number in range(1, total + 1):
        disturbed = shutil.copytree(copy, tmp_path / str(number))
        left[0] = number
        with pytest.raises(Killed):
            append(disturbed, files[1])
        left[0] = 0
        found.add(is_new := Manifest.load(disturbed) == after)
        assert is_new or Manifest.load(disturbed) == before
        append(disturbed, files[1])
        assert content(disturbed) == content(undisturbed)
    assert total > 15 and found == {True, False}


@pytest.mark.slow
def test_killed_at_any_moment(copy, files, tmp_path):
    undisturbed = shutil.copytree(copy, tmp_path / "undisturbed")
    append(undisturbed, *files[1:])
    call = [sys.executable, "-m", "clinical_pretrain", "build-shards", "--append", "--notes", *map(str, files[1:]),
            "--out", str(copy), "--workers", "1"]  # fmt: skip
    made = copy / "append" / "shards"
    for wait_for in ("work/plan.json", "work/earlier/file-00003.npy", "train/part-00004.arrow", "work/manifest.json"):
        kill_when_there(call, made / wait_for)
    subprocess.run(call, capture_output=True)
    assert content(copy) == content(undisturbed)
