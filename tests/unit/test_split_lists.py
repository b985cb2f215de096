"""A user's own split: who is on which list, and what becomes of the others."""

import csv
import itertools
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_folders import content
from tokenizers import Tokenizer

from clinical_pretrain.cli import main
from tokenizer_tools.corpus.read_notes import InputOptions
from tokenizer_tools.corpus.split_lists import SplitLists
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS
from tokenizer_tools.shard_reading import record_batches
from tokenizer_tools.shards import apply_lists, summary
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.shards.verify.verify import verify_shards
from tokenizer_tools.tokenizer.training_notes import TrainingNotes, find_notes

TRAIN, VALIDATION, TEST = range(3)
PEOPLE = [("1", "11"), ("1", "12"), ("2", "21"), ("3", "31"), ("4", "41"), ("", "31"), ("5", "51"), ("5", "52")]
"""Patient and admission of each note. The sixth leads to patient 3."""


def lists(folder, of="patient", **identifiers):
    """Lists with these identifiers, in files."""
    paths = {}
    for split, text in identifiers.items():
        path = folder / f"{split}.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        paths[split] = str(path)
    return SplitLists(**paths, of=of)


# Files ---------------------------------------------------------------------------------------------------------------


def test_identifiers_are_spelt_as_in_notes(tmp_path):
    read = lists(tmp_path, train="\ufeff123.0\r\n\n 00124 \n", test="+125\nAb-1\nab-1\n").read()
    assert read == {"123": TRAIN, "124": TRAIN, "125": TEST, "ab-1": TEST}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "test.txt: holds no identifier (--split.lists.test)"),
        ("\n \n", "test.txt: holds no identifier"),
        ("1\n2,3\n", "test.txt, line 2: more than an identifier"),
        ("1\tx\n", "test.txt, line 1: more than an identifier"),
        ("SUBJECT_ID\n1\n", "test.txt, line 1: the name of a column; delete this line"),
        ("1\nNULL\n", "test.txt, line 2: stands for a missing identifier"),
        ("1\n1.2E+11\n", "test.txt, line 2: a number that has lost digits"),
        (b"caf\xe9\n", "test.txt: not UTF-8"),
        ("1\n07\n", "test.txt, line 2 and {}, line 1: the same patient on two lists (1 such lines)"),
    ],
)
def test_wrong_lists(text, message, tmp_path):
    with pytest.raises(UserError) as caught:
        lists(tmp_path, train="7\n8\n", test=text).read()
    assert message.format(tmp_path / "train.txt") in str(caught.value) and "\n" not in str(caught.value)


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: No such file or directory \(--split.lists.test\)"):
        SplitLists(test=str(tmp_path / "nowhere")).read()


# Notes ---------------------------------------------------------------------------------------------------------------


def write_notes(path, people=PEOPLE):
    rows = [{"subject_id": p, "hadm_id": a, "text": f"note {i} of it"} for i, (p, a) in enumerate(people)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([{k: v or None for k, v in row.items()} for row in rows]), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({k: v or None for k, v in row.items()}) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def build(corpus, notes, out, rule, workers=1, **more):
    settings = ShardSettings(split=rule, sequence_length=512, notes_per_part=3, **more)
    return build_shards([notes], str(corpus / "tokenizer"), out, settings, BuildOptions(workers=workers))


def faults(out):
    """What verify finds. Who may enter the folder is the command's matter."""
    return [check.name for check in verify_shards(out).failed if check.name != "modes"]


def splits_of(out):
    """The split of each note of PEOPLE, as an index into SPLITS; None if it was dropped."""
    tokenizer = Tokenizer.from_file(str(out / "tokenizer" / "tokenizer.json"))
    found = dict.fromkeys(range(len(PEOPLE)))
    for split, name in enumerate(SPLITS):
        for path in sorted(out.glob(f"{name}/*.arrow")):
            for row in (row for batch in record_batches(path) for row in batch.to_pylist()):
                starts = [*row["segment_starts"], len(row["input_ids"])]
                for first, last in itertools.pairwise(starts):
                    found[int(tokenizer.decode(row["input_ids"][first:last]).split()[1])] = split
    return list(found.values())


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_all_lists_decide_alone(suffix, corpus, tmp_path):
    """Patient 4 is on none. The note that names an admission alone is where its patient is."""
    notes = write_notes(tmp_path / f"n{suffix}")
    rule = SplitRule(lists=lists(tmp_path, train="1\n5\n77\n", validation="2", test="3.0"))
    manifest = build(corpus, notes, tmp_path / "s", rule)
    assert splits_of(tmp_path / "s") == [TRAIN, TRAIN, VALIDATION, TEST, None, TEST, TRAIN, TRAIN]
    table = {name: split.notes for name, split in manifest.splits.items()}
    assert table == {"train": 4, "validation": 1, "test": 2}
    counts = manifest.counts
    assert counts["dropped_unlisted"] == 1 and counts["listed_ids"] == 5 and counts["listed_ids_without_notes"] == 1
    assert not faults(tmp_path / "s")


def test_without_a_list_for_train_the_others_are_divided_by_the_shares(corpus, tmp_path):
    people = [(str(patient), "") for patient in range(200)]
    notes = write_notes(tmp_path / "n.csv", people)
    rule = SplitRule(0.2, 0.2, lists=lists(tmp_path, test="3\n4\n5"))
    manifest = build(corpus, notes, tmp_path / "s", rule)
    assert manifest.splits["test"].patients == 3 and manifest.counts["dropped_unlisted"] == 0
    drawn = [SplitRule(0.2, 0.2).split_of(f"patient {patient}") for patient in range(200)]
    listed = [TEST if patient in (3, 4, 5) else drawn[patient] % 2 for patient in range(200)]
    assert [manifest.splits[name].patients for name in SPLITS] == [listed.count(split) for split in range(3)]


def test_lists_of_admissions_take_their_patients_along(corpus, tmp_path):
    notes = write_notes(tmp_path / "n.csv")
    rule = SplitRule(0, 0, lists=lists(tmp_path, of="admission", test="12\n31"))
    manifest = build(corpus, notes, tmp_path / "s", rule)
    assert manifest.splits["test"].patients == 2 and manifest.splits["test"].notes == 4
    assert manifest.patients_in_several_splits == 0 and not faults(tmp_path / "s")


def test_a_patient_with_admissions_on_two_lists(corpus, tmp_path):
    """Is refused, but where each note is split by itself: then it is said."""
    notes, options = write_notes(tmp_path / "n.csv"), lists(tmp_path, of="admission", train="11\n51", test="52\n12")
    with pytest.raises(UserError, match=r"n.csv, row 2: this patient has admissions on two lists \(2 such notes\)"):
        build(corpus, notes, tmp_path / "s", SplitRule(lists=options))
    with pytest.raises(UserError, match="row 2: this patient has admissions on two lists"):
        list(training(notes, SplitRule(lists=options)))
    manifest = build(corpus, notes, tmp_path / "s", SplitRule(by="note", lists=options))
    assert manifest.patients_in_several_splits == 2 and manifest.counts["dropped_unlisted"] == 4
    assert [manifest.splits[name].notes for name in SPLITS] == [2, 0, 2]
    assert not faults(tmp_path / "s")


def test_an_admission_of_two_patients_on_two_lists_is_said(corpus, tmp_path):
    notes = write_notes(tmp_path / "n.csv", [("1", "11"), ("2", "11"), ("2", "12"), ("3", "11"), ("4", "41")])
    given = lists(tmp_path, train="1\n3", test="2")
    manifest = build(corpus, notes, tmp_path / "s", SplitRule(lists=given))
    assert manifest.counts["listed_elsewhere_by_admission"] == 2
    line = next(line for line in summary.summary_lines(manifest, tmp_path / "s", False) if "split by lists" in line)
    assert "2 notes have an admission that a held-out patient of another list has, too" in line


def test_admissions_without_patients(corpus, tmp_path):
    notes = write_notes(tmp_path / "n.csv", [("", "11"), ("", "12"), ("", "13")])
    rule = SplitRule(by="admission", lists=lists(tmp_path, of="admission", train="11", test="12"))
    manifest = build(corpus, notes, tmp_path / "s", rule)
    assert [manifest.splits[name].admissions for name in SPLITS] == [1, 0, 1]
    assert manifest.counts["dropped_unlisted"] == 1 and not faults(tmp_path / "s")


def test_lists_need_patients_also_where_no_share_is_held_out(corpus, tmp_path):
    (tmp_path / "n.csv").write_text("text\na\n")
    with pytest.raises(UserError, match="no patient column"):
        build(corpus, tmp_path / "n.csv", tmp_path / "s", SplitRule(0, 0, lists=lists(tmp_path, test="1")))


def test_a_list_of_something_else(corpus, tmp_path):
    notes = write_notes(tmp_path / "n.csv")
    with pytest.raises(UserError, match=r"test.txt: no note has one of these patients.*--split.lists.of"):
        build(corpus, notes, tmp_path / "s", SplitRule(lists=lists(tmp_path, train="1", test="11\n12")))


def test_the_manifest_holds_no_identifier(corpus, tmp_path):
    notes = write_notes(tmp_path / "n.csv", [("1234567", "7654321"), ("2345678", "")])
    rule = SplitRule(lists=lists(tmp_path, train="1234567", test="2345678"))
    build(corpus, notes, tmp_path / "s", rule)
    content = b"".join(path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file())
    assert b"1234567" not in content and b"2345678" not in content


def test_other_lists_are_other_shards(corpus, tmp_path):
    notes = write_notes(tmp_path / "n.csv")
    first = build(corpus, notes, tmp_path / "s", SplitRule(lists=lists(tmp_path, test="1\n2")))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    assert build(corpus, notes, tmp_path / "s", SplitRule(lists=lists(moved, test="2.0\n1\n"))) == first
    with pytest.raises(UserError, match=r"finished shards with other settings \(split\)"):
        build(corpus, notes, tmp_path / "s", SplitRule(lists=lists(moved, test="1\n3")))
    with pytest.raises(UserError, match=r"finished shards with other settings \(split\)"):
        build(corpus, notes, tmp_path / "s", SplitRule())


@pytest.mark.parametrize("of", ["patient", "admission"])
def test_workers_and_kills_change_nothing(of, corpus, tmp_path, monkeypatch):
    notes = write_notes(tmp_path / "n.csv", PEOPLE * 3)
    rule = SplitRule(0.3, 0, lists=lists(tmp_path, of=of, test="1\n2\n3\n" if of == "patient" else "12\n21\n31\n"))
    build(corpus, notes, tmp_path / "whole", rule)
    build(corpus, notes, tmp_path / "two", rule, workers=2)

    class KilledError(Exception):
        pass

    replace, calls = apply_lists.ScannedNotes.replace, []

    def killed(self, number, **columns):
        if len(calls) == 4:
            raise KilledError
        calls.append(number)
        replace(self, number, **columns)

    monkeypatch.setattr(apply_lists.ScannedNotes, "replace", killed)
    with pytest.raises(KilledError):
        build(corpus, notes, tmp_path / "killed", rule)
    monkeypatch.undo()
    build(corpus, notes, tmp_path / "killed", rule)
    assert content(tmp_path / "whole") == content(tmp_path / "two") == content(tmp_path / "killed")


# Tokenizers ----------------------------------------------------------------------------------------------------------


def training(notes, rule):
    reading = InputOptions()
    settings = ShardSettings(split=rule)
    return TrainingNotes(find_notes([notes], reading, rule), reading, rule, settings.cleaning, "<unk>")


@pytest.mark.parametrize("of", ["patient", "admission"])
def test_tokenizers_learn_from_those_who_are_trained_on(of, corpus, tmp_path):
    notes = write_notes(tmp_path / "n.csv")
    for given in ({"test": "3\n5" if of == "patient" else "31\n52"}, {"train": "1" if of == "patient" else "11"}):
        rule = SplitRule(0, 0, lists=lists(tmp_path, of=of, **given))
        build(corpus, notes, tmp_path / next(iter(given)), rule)
        trained_on = [i for i, split in enumerate(splits_of(tmp_path / next(iter(given)))) if split == TRAIN]
        assert [int(note.text.split()[1]) for note in training(notes, rule)] == trained_on
        assert trained_on == ([0, 1, 2, 4] if "test" in given else [0, 1])


def test_commands_take_lists(corpus, tmp_path, capsys):
    notes = write_notes(tmp_path / "n.csv")
    given = lists(tmp_path, train="1\n4", test="3")
    options = ["--notes", str(notes), "--split.lists.train", given.train, "--split.lists.test", given.test]
    call = ["build-shards", *options, "--tokenizer", str(corpus / "tokenizer"), "--out", str(tmp_path / "s")]
    assert main([*call, "--sequence-length", "64", "--workers", "1", "--json", str(tmp_path / "r.json")]) == 0
    assert "split by lists of 3 patients (train, test); notes of others are dropped" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["notes_dropped_unlisted"] == 3
    assert main(["train-tokenizer", *options, "--out", str(tmp_path / "t"), "--vocab-size", "300"]) == 0
    assert "from 3 notes of the training split" in capsys.readouterr().out
