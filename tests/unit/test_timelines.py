"""With pack timeline a sequence holds one patient's notes in time order, and nothing is lost."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_folders import content, kill_when_there, notes_table
from tiny_tokenizer import word_level

from clinical_pretrain.config.data import MaskingConfig
from clinical_pretrain.data.collator import Collator
from clinical_pretrain.data.masking import Vocabulary
from clinical_pretrain.data.shards import Split
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import file_sha256
from tokenizer_tools.manifest import SPLITS, Manifest, fingerprint
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.sequences import PackedSequence, pack_sequences
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.shards.summary import summarise, summary_lines
from tokenizer_tools.shards.verify.verify import verify_shards
from tokenizer_tools.shards.withdraw import read_patients, withdraw
from tokenizer_tools.shards.write import write_sequences

BEGIN, END = 0, 2
ONE = BuildOptions(workers=1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return word_level(tmp_path_factory.mktemp("tokenizer") / "words")


def write_csv(path, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["SUBJECT_ID", "HADM_ID", "CHARTDATE", "TEXT"], *rows])
    return path


def build(rows, tokenizer, out, by="patient", options=ONE, **values):
    notes = write_csv(out.with_name("notes.csv"), rows)
    values = {"sequence_length": 16, "split": SplitRule(0.2, 0.2, by=by), "pack": "timeline"} | values
    before = os.umask(0o077)  # as the command sets it
    try:
        return build_shards([notes], str(tokenizer), out, ShardSettings(**values), options)
    finally:
        os.umask(before)


def sequences_of(folder, name):
    split = Split(folder, Manifest.load(folder), name)
    return [split[i] for i in range(len(split))]


def text_of(source):
    return " ".join(str(source.randrange(100)) for _ in range(source.randint(5, 60)))


@pytest.fixture(scope="module")
def rows():
    """Notes of 40 patients in an order that mixes them. None is like another."""
    source = random.Random(1)
    found = [[7000 + i % 40, "", f"2150-01-{source.randint(1, 28):02d}", text_of(source)] for i in range(160)]
    source.shuffle(found)
    return found


@pytest.fixture(scope="module")
def shards(rows, tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("timelines") / "shards"
    build(rows, tokenizer, out, notes_per_part=20)
    return out


LENGTHS = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=6), max_size=6)


@given(LENGTHS, st.integers(1, 30))
def test_a_sequence_holds_one_patient(lengths, length):
    """Each patient's sequences are those that the patient's notes alone would give."""
    notes, patients, expected = [], [], []
    for patient, of_patient in enumerate(lengths):
        own = [np.full(n, len(notes) + i) for i, n in enumerate(of_patient)]
        expected += pack_sequences(own, range(len(notes), len(notes) + len(own)), length, np.int32)
        notes += own
        patients += [patient] * len(own)
    found = pack_sequences(notes, range(len(notes)), length, np.int32, np.array(patients, np.int64))
    assert [one.input_ids.tolist() for one in found] == [one.input_ids.tolist() for one in expected]
    assert [one.segment_notes.tolist() for one in found] == [one.segment_notes.tolist() for one in expected]
    assert [one.segment_starts.tolist() for one in found] == [one.segment_starts.tolist() for one in expected]


ROW = st.tuples(st.sampled_from(["", "1", "2", "3", "4"]), st.sampled_from(["", "", "81", "82"]), st.integers(0, 3),
                st.integers(0, 20))  # fmt: skip


@pytest.mark.slow
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROW, min_size=1, max_size=14), st.integers(1, 5), st.sampled_from(["note", "nobody held out"]))
def test_every_token_of_a_patient_in_time_order(tokenizer, tmp_path_factory, drawn, notes_per_part, by):
    rows = [[patient, admission, f"2150-01-0{day}" if day else "", " ".join([str(i), *["7"] * words, str(i)])]
            for i, (patient, admission, day, words) in enumerate(drawn)]  # fmt: skip
    rows[0][3] = "99"  # also where all others are held out, something must be left to train on
    split = SplitRule(0, 0) if by != "note" else SplitRule(0.01, 0.01, by="note")
    out = tmp_path_factory.mktemp("drawn") / "shards"
    manifest = build(rows, tokenizer, out, sequence_length=8, notes_per_part=notes_per_part, split=split)
    assert manifest.counts["kept"] == len(rows)
    table, found = notes_table(out), defaultdict(list)
    for name in SPLITS:
        seen = []
        for sequence in sequences_of(out, name):
            for note, ids in segments_of(sequence):
                found[note] += ids.tolist()
                seen += [note] if note not in seen else []
            assert len({table["patient"][note] for note in sequence.segment_notes}) == 1
        whose = [table["patient"][note] for note in seen]
        assert len(set(whose)) == sum(a != b for a, b in zip(["", *whose], whose, strict=False)), "a patient is torn"
        for patient in set(whose):
            order = [table["time_order"][note] for note in seen if table["patient"][note] == patient]
            assert order == sorted(order)
    expected = {i: [BEGIN, *(5 + int(word) for word in row[3].split()), END] for i, row in enumerate(rows)}
    assert dict(found) == expected
    assert sum(source.tokens for source in manifest.sources) == sum(map(len, expected.values()))
    assert not verify_shards(out).failed


def test_patients_come_in_the_order_of_their_first_notes(shards, rows):
    table = notes_table(shards)
    manifest = Manifest.load(shards)
    assert manifest.settings["pack"] == "timeline" and len(manifest.splits["train"].files) > 4
    for name in SPLITS:
        stories = [table["patient"][sequence.segment_notes[0]] for sequence in sequences_of(shards, name)]
        stories = list(dict.fromkeys(stories))
        assert stories == sorted(stories, key=table["patient"].index)
    sizes = [len({int(n) for i in range(len(one)) for n in one[i].segment_notes}) for one in files_of(shards)]
    assert max(sizes) < 20 + 4


def files_of(folder):
    """Each number's shard files as one list of sequences."""
    found = defaultdict(list)
    for name in SPLITS:
        split, before = Split(folder, Manifest.load(folder), name), 0
        for entry in Manifest.load(folder).splits[name].files:
            found[entry.path.split("-")[1]] += [split[before + i] for i in range(entry.sequences)]
            before += entry.sequences
    return list(found.values())


@pytest.mark.slow
def test_sequences_depend_neither_on_parts_nor_on_workers(shards, rows, tokenizer, tmp_path):
    build(rows, tokenizer, tmp_path / "two", options=BuildOptions(workers=2), notes_per_part=20)
    assert content(tmp_path / "two") == content(shards)
    for options in ({"stage": "prepare"}, *({"stage": "scan", "share": f"{number}/2"} for number in (1, 0)), {}):
        build(rows, tokenizer, tmp_path / "array", options=BuildOptions(workers=1, **options), notes_per_part=20)
    assert content(tmp_path / "array") == content(shards)
    build(rows, tokenizer, tmp_path / "one", notes_per_part=7)
    for name in SPLITS:
        one, other = ([(each.input_ids.tolist(), each.segment_notes.tolist()) for each in sequences_of(folder, name)]
                      for folder in (tmp_path / "one", shards))  # fmt: skip
        assert one == other


@pytest.mark.slow
def test_the_counts_are_those_of_the_same_notes_packed_in_order(shards, rows, tokenizer, tmp_path):
    marked = [[*row[:3], f"{row[3]} Zoë [**Name**] {number}"] for number, row in enumerate(rows)]
    in_order = build(marked, tokenizer, tmp_path / "in_order", pack="notes", notes_per_part=20)
    by_patient = build(marked, tokenizer, tmp_path / "timeline", notes_per_part=20)
    for name in ("counts", "placeholders", "unknown", "sources", "patients_in_several_splits"):
        assert getattr(in_order, name) == getattr(by_patient, name), name
    for name in SPLITS:
        assert in_order.splits[name].tokens == by_patient.splits[name].tokens
        assert in_order.splits[name].patients == by_patient.splits[name].patients
    assert "pack" not in in_order.settings
    assert notes_table(tmp_path / "in_order") == notes_table(tmp_path / "timeline")


def test_withdrawn_patients_leave_a_build_without_their_text(rows, tokenizer, shards, tmp_path):
    """Shard files keep their borders, and the same patients stay in each."""
    gone = [str(rows[0][0]), str(rows[70][0]), str(rows[-1][0])]
    before = os.umask(0o077)
    withdrawn = withdraw(shards, read_patients(gone), tmp_path / "new")
    os.umask(before)
    build([[*row[:3], "" if str(row[0]) in gone else row[3]] for row in rows], tokenizer, tmp_path / "rebuilt",
          notes_per_part=20)  # fmt: skip
    new, rebuilt = content(tmp_path / "new"), content(tmp_path / "rebuilt")
    files = [name for name in rebuilt if name.startswith(SPLITS)]
    assert len(files) > 8 and [name for name in new if name.startswith(SPLITS)] == files
    assert all(new[name] == rebuilt[name] for name in files)
    assert notes_table(tmp_path / "new") == notes_table(tmp_path / "rebuilt")
    assert withdrawn.manifest.fingerprint == Manifest.load(tmp_path / "rebuilt").fingerprint
    found = verify_shards(tmp_path / "new")
    assert not found.failed and found.checks[-1].name == "timelines"
    traced = withdrawn.sequences["train"][:, 0].tolist()
    table = notes_table(shards)
    removed = set(table["patient"]) - set(notes_table(tmp_path / "new")["patient"])
    whose = [table["patient"][one.segment_notes[0]] for one in sequences_of(shards, "train")]
    assert len(removed) == 3 and traced == [i for i, patient in enumerate(whose) if patient in removed]


def segments_of(sequence):
    pieces = np.split(sequence.input_ids, sequence.segment_starts[1:])
    return list(zip(sequence.segment_notes.tolist(), pieces, strict=True))


def change_files(folder, change):
    """Change the train sequences of all shard files, [[(note, ids), …]] per file, and let the manifest follow."""
    path = folder / "manifest.json"
    raw = json.loads(path.read_text())
    sequences, entries = iter(sequences_of(folder, "train")), raw["splits"]["train"]["files"]
    files = [[segments_of(next(sequences)) for _ in range(entry["sequences"])] for entry in entries]
    change(files, notes_table(folder)["patient"])
    for entry, sequences in zip(entries, files, strict=True):
        packed = [
            PackedSequence(
                np.concatenate([ids for _, ids in segments]),
                np.cumsum([0, *(len(ids) for _, ids in segments[:-1])]).astype(np.int32),
                np.array([note for note, _ in segments], np.int64),
            )
            for segments in sequences
        ]
        write_sequences(folder / entry["path"], packed, np.dtype(np.uint16))
        entry |= {"sequences": len(sequences), "sha256": file_sha256(folder / entry["path"])}
    raw["splits"]["train"]["sequences"] = sum(map(len, files))
    path.write_text(json.dumps(raw))
    manifest = Manifest.load(folder)
    all_files = [entry for each in manifest.splits.values() for entry in each.files]
    raw["fingerprint"] = fingerprint(manifest.tokenizer.sha256, 16, all_files)
    path.write_text(json.dumps(raw))


def join_patients(files, patient_of):
    """The next patient's first sequence goes on where the last one's ends."""
    for file in files:
        for i, (one, other) in enumerate(pairwise(file)):
            length = sum(len(ids) for _, ids in one)
            if patient_of[one[0][0]] != patient_of[other[0][0]] and length + len(other[0][1]) <= 16:
                one.append(other.pop(0))
                file[i + 1 : i + 2] = [other] if other else []
                return
    raise AssertionError


def end_early(files, patient_of):
    """A sequence ends with a note, though there is room for the patient's next one."""
    for file in files:
        for i, one in enumerate(file):
            if len(one) > 1:
                file[i : i + 1] = [one[:1], one[1:]]
                return


def cut_note(files, patient_of):
    (note, ids), *others = files[0][0]
    files[0][:1] = [[(note, ids[:3])], [(note, ids[3:]), *others]]


def swap_notes(files, patient_of):
    """Two notes of one patient change their numbers."""
    notes = list(dict.fromkeys(note for sequence in files[0] for note, _ in sequence))
    one, other = next((a, b) for a, b in pairwise(notes) if patient_of[a] == patient_of[b])
    names = {one: other, other: one}
    files[0][:] = [[(names.get(note, note), ids) for note, ids in sequence] for sequence in files[0]]


def tear_patient(files, patient_of):
    """A patient's last note stands in the last shard file."""
    last_of = {patient_of[sequence[0][0]]: sequence for sequence in files[0]}
    sequence = next(sequence for sequence in last_of.values() if len(sequence) > 1)
    files[-1].append([sequence.pop()])


@pytest.mark.parametrize(
    ("change", "check", "what"),
    [
        (join_patients, "timelines", "in a sequence with the note of another patient"),
        (end_early, "timelines", "in another sequence than the patient's note before, which isn't full"),
        (swap_notes, "timelines", "not in time order among the patient's notes"),
        (tear_patient, "timelines", "apart from the patient's other notes of the split"),
        (cut_note, "sequences", "begins with the rest of a note, after a sequence that isn't full"),
    ],
)
def test_verify_finds_what_is_out_of_place(shards, tmp_path, change, check, what):
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    change_files(folder, change)
    found = next(each for each in verify_shards(folder).checks if each.name == check)
    assert what in [fault.what for fault in found.faults], "\n".join(verify_shards(folder).lines())


def test_the_build_says_how_much_is_padding(shards, tokenizer, tmp_path, capsys):
    manifest = Manifest.load(shards)
    padding = 1 - sum(split.tokens for split in manifest.splits.values()) / (
        16 * sum(split.sequences for split in manifest.splits.values())
    )
    line = f"one patient in each sequence, notes in time order: padding is {padding:.1%} of all positions"
    assert any(line in each for each in summary_lines(manifest, shards, already_built=False))
    report = json.loads((shards / "report.json").read_text())
    assert report["rows"]["padding_share"] == summarise(manifest)["padding_share"] == round(padding, 6)
    assert report["settings"]["pack"] == "timeline"
    nobody = build([["", "", "", "5 6 7"], ["", "", "", "8 9"]], tokenizer, tmp_path / "nobody", split=SplitRule(0, 0))
    said = summary_lines(nobody, shards, already_built=False)
    assert any("no note names a patient, so each stands alone" in each for each in said)
    assert "  no note has a time" in said


@pytest.mark.parametrize("patients", [["7001", "7002"], ["", ""]])
def test_the_build_warns_where_no_time_can_be_read(patients, tokenizer, tmp_path):
    rows = [[patient, "", "03/04/2101", f"{number} 6 7"] for number, patient in enumerate(patients)]
    said = summary_lines(build(rows, tokenizer, tmp_path / "shards", split=SplitRule(0, 0)), tmp_path, False)
    (warning,) = (line for line in said if "WARNING" in line)
    order = ", so notes stand in input order" if patients[0] else ""
    assert warning == (
        f"  WARNING: none of the 2 notes has a time that can be read{order}; for dates such as 03/04/2101 say "
        "--date-order day_first or month_first"
    )
    assert any("notes in input order: padding is" in line for line in said) and "time order" not in "".join(said)


@pytest.mark.parametrize("isolate", [False, True])
def test_training_attends_across_a_patients_notes_unless_asked_not_to(shards, isolate):
    """Short sequences are padded, and padding belongs to no document."""
    manifest, sequences = Manifest.load(shards), sequences_of(shards, "train")
    vocabulary = Vocabulary.load(shards / "tokenizer" / "tokenizer.json", manifest.tokenizer)
    collator = Collator(16, MaskingConfig(), vocabulary, max_documents=9 if isolate else 0)
    batch = collator(sequences, [np.random.default_rng(i) for i in range(len(sequences))])
    assert min(len(sequence.input_ids) for sequence in sequences) < 16
    for documents, ids, sequence in zip(batch.documents.numpy(), batch.input_ids.numpy(), sequences, strict=True):
        tokens, notes = len(sequence.input_ids), len(sequence.segment_notes)
        assert documents[:tokens].max() == (notes if isolate else 1) and documents[:tokens].min() == 1
        assert not documents[tokens:].any() and (ids[tokens:] == manifest.tokenizer.pad_id).all()
    assert (batch.documents.ravel()[batch.positions] > 0).all()


def test_a_build_that_ends_after_packing_can_start_again(tokenizer, tmp_path):
    """Token ids are gone then, and nothing needs them."""
    held_out = next(number for number in range(1000) if SplitRule(0.2, 0.2).split_of(f"patient {number}"))
    for _ in range(2):
        with pytest.raises(UserError, match="no note is in the training split"):
            build([[held_out, "", "", "5 6"], [held_out, "", "", "7"]], tokenizer, tmp_path / "shards")
        assert (tmp_path / "shards" / "work" / "packed").exists()
        assert not (tmp_path / "shards" / "work" / "ids").exists()


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again(shards, rows, tokenizer, tmp_path):
    out, notes = tmp_path / "shards", write_csv(tmp_path / "notes.csv", rows)
    call = [sys.executable, "-m", "clinical_pretrain", "build-shards", "--notes", str(notes), "--tokenizer",
            str(tokenizer), "--out", str(out), "--sequence-length", "16", "--split.validation", "0.2", "--split.test",
            "0.2", "--pack", "timeline", "--notes-per-part", "20", "--workers", "1"]  # fmt: skip
    for wait_for in ("work/packed/part-00001.json", "train/part-00002.arrow", "work/packed/timelines-00004.json"):
        kill_when_there(call, out / wait_for)
        assert not (out / "manifest.json").exists()
    assert subprocess.run(call, capture_output=True).returncode == 0
    assert content(out) == content(shards)
