"""Identifying patients: one spelling, no guessing, no patient in two splits."""

import csv
import gzip
import json
import re
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY

from clinical_pretrain.cli import main
from tokenizer_tools.corpus.columns import Columns
from tokenizer_tools.corpus.identifiers import (
    MISSING_IDENTIFIERS,
    MISSING_TEXTS,
    LostDigitsError,
    identifier_of,
    text_of,
)
from tokenizer_tools.corpus.read_notes import InputOptions, read_notes
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.corpus.times import parse_time
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.tokenizer.train import TokenizerSettings, train_tokenizer

HALF = SplitRule(0.3, 0.2)


@pytest.mark.parametrize(
    "spelling",
    [
        "123",
        "123.0",
        " 123",
        "00123",
        123,
        123.0,
        Decimal("123.00"),
        b"123",
        "１２３",
        "1.23e+02",
        "+123",
        "\u200b123\ufeff",
    ],
)
def test_one_patient_in_all_spellings(spelling):
    assert identifier_of(spelling) == "123"


@pytest.mark.parametrize(
    "value", ["NULL", "nan", "None", "NA", "\\N", "<NA>", "", "  ", None, float("nan"), b"null", "?"]
)
def test_a_missing_patient_is_empty(value):
    assert identifier_of(value) == ""


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_all_formats_know_one_patient_and_a_missing_one(suffix, tmp_path):
    same = ["123", "123.0", " 123", "00123", "1.23e+02", "+123"]
    missing = ["NULL", "nan", "None", "NA", "\\N", "<NA>", "", "unknown"]
    columns = {"strings": same + missing}
    if suffix in (".jsonl", ".parquet"):
        columns |= {"integers": [123, None], "floats": [123.0, None]}
    if suffix == ".parquet":
        columns |= {"decimals": [Decimal("123.00"), None], "nan": [123.0, float("nan")], "bytes": [b"123", b"NULL"]}
    for name, values in columns.items():
        path = write(tmp_path / f"{name}{suffix}", [{"subject_id": value, "text": "a"} for value in values])
        expected = ["123"] * (len(same) if name == "strings" else 1)
        found = [note.patient for note in read_notes([path])]
        assert found == expected + [""] * (len(values) - len(expected)), name


def test_the_table_in_the_docs_is_true():
    table = (REPOSITORY / "docs" / "how-to" / "build-shards.md").read_text()

    def cells(meaning):
        (row,) = [line for line in table.splitlines() if f"| {meaning}" in line]
        return re.findall("`([^`]+)`", row.split(" | ")[0])

    assert {identifier_of(cell) for cell in cells("one patient")} == {"123"}
    for cell in cells("a bad row"):
        with pytest.raises(LostDigitsError):
            identifier_of(cell)
    assert {cell.lower() for cell in cells("missing, in every column")} | {""} == MISSING_TEXTS
    assert {cell.lower() for cell in cells("missing as an identifier")} == MISSING_IDENTIFIERS - MISSING_TEXTS
    assert all(map(parse_time, cells("a time; one with a zone")))
    assert {parse_time(cell) for cell in cells("a date; it stands")} == {"2101-03-04"}
    assert {parse_time(cell) for cell in cells("unreadable") if cell[0] != "-"} == {None}


def test_decimals_of_an_identifier():
    assert {identifier_of(value) for value in ("12.5", "12.50", 12.5, Decimal("12.500"), "012.5")} == {"12.5"}


def test_other_patients_stay_others():
    values = ["123", "1230", "12.3", "-123", "a123", "4E12", "12e3", "123-1", "0"]
    assert len({identifier_of(value) for value in values}) == len(values)
    assert identifier_of("Ab12") == identifier_of("aB12")


@pytest.mark.parametrize("value", [2.0**53, 1.2e18, float("inf"), "1.23457E+11", "1E+11"])
def test_identifiers_that_have_lost_digits_are_refused(value, tmp_path):
    with pytest.raises(LostDigitsError):
        identifier_of(value)
    (tmp_path / "n.jsonl").write_text(json.dumps({"subject_id": value, "text": "a"}))
    with pytest.raises(UserError, match=r"row 1: 'subject_id' was stored as a number that has lost digits"):
        list(read_notes([tmp_path / "n.jsonl"]))


def test_a_missing_text_is_no_note(tmp_path):
    (tmp_path / "n.jsonl").write_text('{"text": NaN}\n{"text": null}\n{"text": "NULL"}\n{"text": "nan given"}\n')
    (tmp_path / "n.csv").write_text("id,text\n1,nan\n2,\n3,NULL\n4,nan given\n")
    pq.write_table(pa.table({"text": ["nan", None, "NULL", "nan given"]}), tmp_path / "n.parquet")
    for kind in ("jsonl", "csv", "parquet"):
        assert [note.text for note in read_notes([tmp_path / f"n.{kind}"])] == ["", "", "", "nan given"]
    pq.write_table(pa.table({"text": [float("nan"), None]}), tmp_path / "n.parquet")
    assert [note.text for note in read_notes([tmp_path / "n.parquet"])] == ["", ""]
    assert text_of("\\N") == "" and text_of("None of these") == "None of these"


# A corpus under many names -----------------------------------------------------------------------------------------

NAMES = ["MRN", "PatientID", "pat_id", "patient", "pid", "empi", "Patient Number"]


def rows(patient_column):
    return [
        {patient_column: f"{patient}", "text": f"note {number} of {patient}"}
        for patient in range(40)
        for number in range(3)
    ]


def write(path, records):
    """Write records as CSV, JSONL or Parquet, depending on the path's suffix."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(records[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(records)
    return path


def command(corpus, notes, out, *options):
    """Arguments of the command build-shards."""
    return ["build-shards", "--notes", str(notes), "--tokenizer", str(corpus / "tokenizer"), "--out", str(out),
            "--sequence-length", "64", "--workers", "1", "--split.validation", "0.3", *options]  # fmt: skip


def splits_of_patients(out):
    """Map each patient's hash to the splits with the patient's notes."""
    from clinical_pretrain.data.shards import Split

    table = pa.ipc.open_stream(pa.memory_map(str(out / "notes.arrow"))).read_all()
    patients, found = table.column("patient").to_pylist(), {}
    manifest = Manifest.load(out)
    for name in manifest.splits:
        split = Split(out, manifest, name)
        for i in range(len(split)):
            for note in split[i].segment_notes:
                found.setdefault(patients[note], set()).add(name)
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_patient_under_any_name_is_asked_for(name, suffix, corpus, tmp_path, capsys):
    path = write(tmp_path / f"n{suffix}", rows(name))
    call = command(corpus, path, tmp_path / "s")
    assert main(call) == 2
    error = capsys.readouterr().err
    quoted = f"'{name}'" if " " in name else name
    assert error.count("\n") == 1 and f"name it with --columns.patient {quoted}" in error, error
    assert "--split.by note" in error and not (tmp_path / "s").exists()
    if suffix in (".csv", ".parquet") and name in ("MRN", "Patient Number"):
        assert main([*call, "--columns.patient", name]) == 0
        found = splits_of_patients(tmp_path / "s")
        assert len(found) == 40 and all(len(splits) == 1 for splits in found.values())


@pytest.mark.parametrize("name", ["encounter_id", "stay_id", "csn"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_an_admission_is_not_taken_for_a_patient(name, suffix, tmp_path):
    path = write(tmp_path / f"n{suffix}", rows(name))
    with pytest.raises(UserError, match=f"if there is none, --columns.admission {name} --split.by admission"):
        list(read_notes([path], rule=SplitRule()))


def test_splitting_by_note_must_be_said_and_is_said(corpus, tmp_path, capsys):
    path = write(tmp_path / "n.csv", rows("subject_id"))
    call = command(corpus, path, tmp_path / "s", "--split.by", "note")
    assert main(call) == 0
    manifest = Manifest.load(tmp_path / "s")
    several = sum(len(splits) > 1 for splits in splits_of_patients(tmp_path / "s").values())
    assert manifest.split_by == "note" and manifest.patients_in_several_splits == several > 0
    assert f"split by note: {several} patients are in several splits" in capsys.readouterr().out


def test_a_column_that_numbers_the_notes_is_noticed(corpus, tmp_path, capsys):
    path = write(tmp_path / "n.csv", [{"id": number, "text": f"note {number}"} for number in range(40)])
    assert main(command(corpus, path, tmp_path / "s", "--columns.patient", "id")) == 0
    assert "each note has its own patient" in capsys.readouterr().out


@pytest.mark.parametrize(("first", "second"), [("csv", "jsonl"), ("parquet", "csv"), ("jsonl", "parquet")])
def test_an_admission_leads_to_its_patient_over_all_inputs(first, second, corpus, tmp_path):
    """Some rows name only the admission; rows of a later file name its patient."""
    alone = [
        {"hadm_id": f"{p}{k}.0", "text": f"alone {p} {k} {n}"} for p in range(100, 160) for k in (1, 2) for n in (1, 2)
    ]
    both = [
        {"subject_id": p, "hadm_id": int(f"{p}{k}"), "text": f"both {p} {k}"} for p in range(100, 160) for k in (1, 2)
    ]
    paths = [write(tmp_path / f"alone.{first}", alone), write(tmp_path / f"both.{second}", both)]
    manifest = build_shards(
        paths,
        str(corpus / "tokenizer"),
        tmp_path / "s",
        ShardSettings(sequence_length=64, split=HALF, notes_per_part=50),
        BuildOptions(workers=1),
    )
    found = splits_of_patients(tmp_path / "s")
    assert len(found) == 60 and all(len(splits) == 1 for splits in found.values())
    assert sum(split.patients for split in manifest.splits.values()) == 60
    assert [split.admissions for split in manifest.splits.values()] == [0, 0, 0]


def test_an_admission_that_leads_nowhere(corpus, tmp_path):
    records = [{"subject_id": p, "hadm_id": p, "text": f"a {p}"} for p in range(20)]
    records += [
        {"subject_id": "", "hadm_id": "99", "text": "whose?"},
        {"subject_id": None, "hadm_id": "7", "text": "of 7"},
    ]
    records += [{"subject_id": 8, "hadm_id": 7, "text": "another patient's 7"}]
    path = write(tmp_path / "n.csv", records)

    def build(out, split=HALF, **reading):
        settings = ShardSettings(sequence_length=64, split=split, reading=InputOptions(**reading))
        return build_shards([path], str(corpus / "tokenizer"), tmp_path / out, settings)

    for _ in range(2):  # a second start must not trust what the first one marked as dropped
        with pytest.raises(UserError, match=r"n.csv, row 21: no patient, and no other note says .*\(2 such notes\)"):
            build("s")
    assert build("s", on_bad_row="skip").counts["dropped_no_patient"] == 2
    by_admission = build("t", split=SplitRule(0.3, 0.2, by="admission"))
    assert by_admission.counts["kept"] == 23 and sum(s.admissions for s in by_admission.splits.values()) == 2


def test_folders_of_texts(corpus, tmp_path, capsys):
    root = tmp_path / "files"
    for patient in range(30):
        folder = root / f"p{patient % 3}" / f"p{patient}"
        folder.mkdir(parents=True)
        for note in range(3):
            (folder / f"s{note}.txt").write_text(f"report {note} of {patient}")
    call = command(corpus, root, tmp_path / "s")
    assert main(call) == 2
    error = capsys.readouterr().err
    assert "--patient-folder (level 1: 3, level 2: 30 folders); if files are named by patients" in error
    assert "--patient-from, such as '{patient}-*.txt'; or split by --split.by note" in error
    for name in ("._s0.txt", "scan.pdf"):
        (root / "p0" / name).write_bytes(b"\x00")
    assert main([*call, "--patient-folder", "2", "--files", "txt"]) == 0
    said = capsys.readouterr().err
    assert f"reading {root}: 90 txt files (1.2 kB); not read: 1 hidden, 1 other (.pdf)\n" in said, said
    found = splits_of_patients(tmp_path / "s")
    assert len(found) == 30 and all(len(splits) == 1 for splits in found.values())
    (root / "p0" / "stray.txt").write_text("whose?")
    with pytest.raises(UserError, match=r"stray.txt: lies above the folders of level 2"):
        list(read_notes([root], InputOptions(patient_folder=2, files="txt"), SplitRule()))


def test_two_columns_that_could_be_meant_are_refused(tmp_path):
    (tmp_path / "n.csv").write_text("subject_id,person_id,text\n1,2,a\n")
    with pytest.raises(UserError, match="both 'subject_id' and 'person_id' could be the patient"):
        list(read_notes([tmp_path / "n.csv"]))
    (tmp_path / "m.csv").write_text("subject_id,text,TEXT\n1,2,a\n")
    with pytest.raises(UserError, match="column 'text' occurs more than once"):
        list(read_notes([tmp_path / "m.csv"]))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(("known", "other"), [
    ("subject_id", "MRN"), ("person_id", "MRN"), ("patient_id", "Patient Number"), ("SUBJECT_ID", "PAT_MRN_ID"),
])  # fmt: skip
def test_a_known_patient_column_next_to_another_is_asked_about(known, other, suffix, corpus, tmp_path, capsys):
    """If the known one numbers the notes, a split by it would put most patients into two splits."""
    records = [{known: f"{n}", other: f"{n % 40}", "text": f"note {n}"} for n in range(120)]
    path = write(tmp_path / f"n{suffix}", records)
    call = command(corpus, path, tmp_path / "s")
    assert main(call) == 2
    error = capsys.readouterr().err
    asked = f"both '{known}' and '{other}' could be the patient; choose one with --columns.patient NAME"
    assert error.count("\n") == 1 and asked in error and not (tmp_path / "s").exists()
    if suffix == ".csv" and known == "subject_id":
        assert main([*call, "--columns.patient", other]) == 0
        found = splits_of_patients(tmp_path / "s")
        assert len(found) == 40 and all(len(splits) == 1 for splits in found.values())
        (note, *_) = read_notes([path], InputOptions(Columns(patient=known)), SplitRule())
        assert note.patient == "0"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("by", ["patient", "admission"])
def test_an_admission_next_to_a_patient_column_of_another_name_is_asked_about(by, suffix, corpus, tmp_path, capsys):
    """Split by the admissions alone, a patient's would be in several splits."""
    records = [{"MRN": f"{n % 30}", "HADM_ID": f"{n}", "text": f"note {n}"} for n in range(120)]
    path = write(tmp_path / f"n{suffix}", records)
    call = [*command(corpus, path, tmp_path / "s"), "--split.by", by]
    assert main(call) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not (tmp_path / "s").exists()
    assert "no patient column, but 'MRN' may be one; name it with --columns.patient MRN, or rename it" in error
    assert main([*call, "--columns.patient", "MRN"]) == 0
    found = splits_of_patients(tmp_path / "s")
    assert len(found) == 30 and all(len(splits) == 1 for splits in found.values())
    assert len(list(read_notes([path], rule=SplitRule(by="note")))) == 120


def test_an_admission_of_two_patients_is_no_ones(corpus, tmp_path, capsys):
    records = [{"subject_id": p, "hadm_id": h, "text": f"note {p} {h}"} for p, h in ((1, 10), (2, 10), (3, 11))]
    path = write(tmp_path / "n.csv", [*records, {"subject_id": "", "hadm_id": 10, "text": "whose?"}])
    call = command(corpus, path, tmp_path / "s")
    assert main(call) == 2
    asked = "row 4: no patient, and other notes give its admission to several patients (1 such note); correct these"
    assert asked in capsys.readouterr().err
    with pytest.raises(UserError, match="row 4: no patient, and other notes give its admission to several patients; "):
        train_tokenizer([path], tmp_path / "t", TokenizerSettings(vocab_size=300))
    assert main([*call, "--on-bad-row", "skip"]) == 0
    assert "3 of 4 notes kept (dropped: 1 no patient)" in capsys.readouterr().out


def test_many_notes_that_are_not_utf8_are_warned_of(corpus, tmp_path, capsys):
    rows = [b"%d,caf%s" % (n, b"\xe9" if n % 3 == 0 else b"e") for n in range(30)]
    (tmp_path / "n.csv").write_bytes(b"subject_id,text\n" + b"\n".join(rows) + b"\n")
    assert main([*command(corpus, tmp_path / "n.csv", tmp_path / "s"), "--on-bad-row", "skip"]) == 0
    said = capsys.readouterr().out
    assert "WARNING: 33% of the notes aren't UTF-8, and were skipped; convert the files (iconv -f WINDOWS-1252" in said


@pytest.mark.parametrize("columns", [
    "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CHARTTIME,STORETIME,CATEGORY,DESCRIPTION,CGID,ISERROR,TEXT",  # MIMIC-III
    "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text",  # MIMIC-IV-Note
    "subject_id,hadm_id,stay_id,text",
    "note_id,person_id,note_event_id,note_date,note_datetime,note_type_concept_id,note_class_concept_id,note_title,"
    "note_text,encoding_concept_id,language_concept_id,provider_id,visit_occurrence_id,visit_detail_id,"
    "note_source_value",  # OMOP
    "patient_id,pat_enc_csn_id,hsp_account_id,encounter_id,csn,note_id,note_csn_id,note_text",  # Epic
])  # fmt: skip
def test_usual_columns_are_not_asked_about(columns, tmp_path):
    """No other column looks like a patient's: they are admissions, stays, encounters, notes and clinicians."""
    write(
        tmp_path / "n.csv", [dict.fromkeys(columns.split(","), 7) | ({"ISERROR": ""} if "ISERROR" in columns else {})]
    )
    (note,) = read_notes([tmp_path / "n.csv"], rule=SplitRule())
    assert note.patient == "7" and note.text == "7"


def test_a_column_with_another_role_is_not_asked_about(tmp_path):
    """In PMC-Patients, `patient` is the text."""
    write(tmp_path / "n.csv", [{"patient_id": 7, "patient": "a"}])
    (note,) = read_notes([tmp_path / "n.csv"], InputOptions(Columns(text="patient")), SplitRule())
    assert (note.patient, note.text) == ("7", "a")


def test_a_tokenizer_never_sees_held_out_patients(tmp_path):
    """Words of held-out patients, and of notes that name only their admissions, do not enter the vocabulary."""
    word = {patient: f"zq{chr(97 + patient % 26)}{chr(97 + patient // 26)}xv" for patient in range(60)}
    records = [
        {"subject_id": p if n % 2 else "", "hadm_id": p, "text": f"{word[p]} " * 30 + str(n)}
        for p in word
        for n in range(4)
    ]
    path = write(tmp_path / "n.csv", records)
    train_tokenizer([path], tmp_path / "t", TokenizerSettings(split=HALF, vocab_size=2000))
    vocabulary = json.loads((tmp_path / "t" / "tokenizer.json").read_text())["model"]["vocab"]
    learned = {patient for patient in word if any(word[patient] in token for token in vocabulary)}
    assert learned == {patient for patient in word if HALF.split_of(f"patient {patient}") == 0}


def test_a_tokenizer_refuses_what_build_shards_refuses(tmp_path):
    records = [{"subject_id": p, "hadm_id": p, "text": f"a note of {p}"} for p in range(20)]
    path = write(tmp_path / "n.csv", [*records, {"subject_id": "", "hadm_id": "99", "text": "whose?"}])

    def train(out, **reading):
        settings = TokenizerSettings(reading=InputOptions(**reading), vocab_size=300, split=SplitRule(0.01, 0))
        return train_tokenizer([path], tmp_path / out, settings)

    with pytest.raises(
        UserError, match=r"n.csv, row 21: no patient, and no other note says whose admission it is; name"
    ):
        train("t")
    assert not (tmp_path / "t").exists()
    made = train("t", on_bad_row="skip")
    assert (made["notes"], made["rows_skipped"]) == (20, 1)


# Rows that can't be used -------------------------------------------------------------------------------------------


def test_bad_rows_are_counted_by_reason(corpus, tmp_path):
    lines = [b"subject_id,iserror,text", b"1,,fine", b"2,1,entered in error", b"3,,two,many", b"4,,caf\xe9", b",,whose",
             b"subject_id,iserror,text", b"6,,last"]  # fmt: skip
    (tmp_path / "n.csv").write_bytes(b"\n".join(lines) + b"\n")

    def build(**reading):
        tokenizer, reading = str(corpus / "tokenizer"), InputOptions(**reading)
        settings = ShardSettings(sequence_length=64, reading=reading, split=SplitRule(0.01, 0))
        return build_shards([tmp_path / "n.csv"], tokenizer, tmp_path / "s", settings)

    with pytest.raises(UserError, match=r"row 3: 4 fields where the header has 3.*--on-bad-row skip"):
        build()
    counts = {name: count for name, count in build(on_bad_row="skip").counts.items() if count}
    assert counts == {"read": 7, "kept": 2, "dropped_malformed": 2, "dropped_invalid_utf8": 1, "dropped_no_patient": 1,
                      "dropped_marked_error": 1, "kept_without_time": 2}  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_bad_rows_of_other_formats_are_counted_by_reason(suffix, corpus, tmp_path):
    values = [("1", "", b"fine"), ("2", "1", b"entered in error"), ("4", "", b"caf\xe9"), ("", "", b"whose"),
              ("1.2E+11", "", b"lost digits"), ("6", "In Error", b"or not"),
              ("7", "", b"nan"), ("8", "", b"last")]  # fmt: skip
    path = tmp_path / f"n{suffix}"
    if suffix == ".parquet":
        patients, marks, texts = map(pa.array, zip(*values, strict=True))
        pq.write_table(pa.table({"subject_id": patients, "iserror": marks, "text": texts.view(pa.string())}), path)
    else:
        path.write_bytes(
            b"".join(
                b'{"subject_id": "%s", "iserror": "%s", "text": "%s"}\n' % (patient.encode(), mark.encode(), text)
                for patient, mark, text in values
            )
        )
    settings = ShardSettings(sequence_length=64, reading=InputOptions(on_bad_row="skip"), split=SplitRule(0.01, 0))
    manifest = build_shards([path], str(corpus / "tokenizer"), tmp_path / "s", settings)
    counts = {name: count for name, count in manifest.counts.items() if count}
    assert counts == {"read": 8, "kept": 2, "dropped_empty": 1, "dropped_malformed": 1, "dropped_invalid_utf8": 1,
                      "dropped_no_patient": 2, "dropped_marked_error": 1, "kept_without_time": 2}  # fmt: skip


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ('17,"Patient says "ok" today.\nFamily17: wife, secret kids"', "look for an unclosed quote, or a stray one"),
        ("17\nFamily17: wife, kids", "1 fields where the header has 2"),
    ],
)
def test_no_line_of_a_broken_row_becomes_a_note(note, message, tmp_path):
    """Its beginning would pass for a patient, and a held-out patient's text would be trained on."""
    (tmp_path / "n.csv").write_text(f"subject_id,text\n1,fine\n{note}\n")
    with pytest.raises(UserError, match=message):
        list(read_notes([tmp_path / "n.csv"], InputOptions(on_bad_row="skip")))


def test_jsonl_rows_without_their_keys_can_be_skipped(tmp_path):
    (tmp_path / "n.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n[1]\n{"text": "c"}\n')
    found = [note.fault for note in read_notes([tmp_path / "n.jsonl"], InputOptions(on_bad_row="skip"))]
    assert found == [None, "malformed", "malformed", None]


def test_the_date_stands_in_where_the_time_is_empty(tmp_path):
    path = tmp_path / "n.csv"
    path.write_text("SUBJECT_ID,CHARTDATE,CHARTTIME,TEXT\n1,2101-01-02,,a\n1,2101-01-01,2101-01-01T10:00:00,b\n")
    assert [note.time for note in read_notes([path])] == ["2101-01-02", "2101-01-01 10:00:00"]


@pytest.mark.parametrize("separator", ["\t", ";", "|", ","])
def test_other_separators(separator, tmp_path):
    (tmp_path / "n.csv").write_text(f'subject_id{separator}text\n1{separator}"a, b; c\td"\n')
    (note,) = read_notes([tmp_path / "n.csv"])
    assert (note.patient, note.text) == ("1", "a, b; c\td")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named(encoding, tmp_path):
    (tmp_path / "n.csv").write_bytes("subject_id,text\n1,a\n".encode(encoding))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_bytes("some note's text".encode(encoding))
    with pytest.raises(UserError, match=r"n.csv: UTF-16.*iconv -f UTF-16"):
        list(read_notes([tmp_path / "n.csv"]))
    with pytest.raises(UserError, match=r"a.txt: not valid UTF-8.*iconv -f UTF-16"):
        list(read_notes([tmp_path / "folder"]))


def test_parquet_reads_only_what_it_needs(tmp_path):
    """Dates that Python can't represent, in an unused column and as the note's time; dictionaries; decimals."""
    table = pa.table(
        {
            "text": pa.array(["a", "b"]).dictionary_encode(),
            "subject_id": pa.array([Decimal("7.00"), None], pa.decimal128(10, 2)),
            "other": pa.array([10_000_000, 0], pa.int32()).cast(pa.date32()),
            "charttime": pa.array([10_000_000, 0], pa.int32()).cast(pa.date32()),
        }
    )
    pq.write_table(table, tmp_path / "n.parquet")
    found = [(n.text, n.patient, n.time, n.has_unreadable_time) for n in read_notes([tmp_path / "n.parquet"])]
    assert found == [("a", "7", "", True), ("b", "", "1970-01-01", False)]


def test_short_floats_tell_when_they_cannot_hold_an_identifier(tmp_path):
    for number, lost in ((16_777_215, False), (16_777_217, True)):
        table = pa.table({"text": ["a", "b"], "subject_id": pa.array(np.array([number, np.nan], np.float32))})
        pq.write_table(table, tmp_path / "n.parquet")
        if lost:
            with pytest.raises(UserError, match="lost digits"):
                list(read_notes([tmp_path / "n.parquet"]))
        else:
            assert [note.patient for note in read_notes([tmp_path / "n.parquet"])] == [str(number), ""]


# Folders -----------------------------------------------------------------------------------------------------------


def test_a_folder_of_several_kinds_is_refused(tmp_path):
    with gzip.open(tmp_path / "discharge.csv.gz", "wt") as stream:
        stream.write("subject_id,text\n1,a\n")
    (tmp_path / "LICENSE.txt").write_text("licence")
    (tmp_path / "README.md").write_text("readme")
    with pytest.raises(
        UserError, match=r"several kinds \(1 csv, 1 other \(.md\), 1 txt\); choose with --files csv or --fil"
    ):
        list(read_notes([tmp_path]))
    assert [note.text for note in read_notes([tmp_path], InputOptions(files="csv"))] == ["a"]
    with pytest.raises(UserError, match="holds no parquet file"):
        list(read_notes([tmp_path], InputOptions(files="parquet")))


def test_texts_of_any_case_and_no_hidden_file(tmp_path):
    from tokenizer_tools.corpus.input_files import find_inputs

    for name in ("b.TXT", "a.txt", "._a.txt", "_SUCCESS"):
        (tmp_path / name).write_bytes(b"\x00\x05" if name.startswith(".") else name.encode())
    assert [note.text for note in read_notes([tmp_path])] == ["a.txt", "b.TXT"]
    (found,) = find_inputs([tmp_path])
    assert re.search(r"reading .*: 2 txt files \(10 bytes\); not read: 2 hidden", found.describe())


def test_a_source_tree_is_no_corpus(tmp_path, capsys):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "a.txt").write_text("x")
    (tmp_path / "constraints.txt").write_text("torch")
    (tmp_path / "setup.py").write_text("pass")
    with pytest.raises(UserError, match=r"several kinds \(1 other \(.py\), 1 txt\)"):
        list(read_notes([tmp_path]))
    assert main(["train-tokenizer", "--notes", "", "--out", str(tmp_path / "t")]) == 2
    assert "an empty name" in capsys.readouterr().err


def test_the_patients_folder_and_column_are_not_both_taken():
    with pytest.raises(UserError, match="give one of them"):
        InputOptions(Columns(patient="mrn"), patient_folder=1)
