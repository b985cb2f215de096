"""Which files are read, and how what programs write differently is read rightly or refused with what it is."""

import csv
import gzip
import json
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY
from packaging.version import Version

from clinical_pretrain.cli import main
from tokenizer_tools.corpus.clean_notes import CleaningRules, clean
from tokenizer_tools.corpus.columns import Columns
from tokenizer_tools.corpus.input_files import find_inputs
from tokenizer_tools.corpus.placeholders import Replacement
from tokenizer_tools.corpus.read_notes import InputOptions, read_notes
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings

BY_PATIENT = SplitRule()


def read(path, rule=None, **options):
    return [(note.text, note.patient, note.fault) for note in read_notes([path], InputOptions(**options), rule)]


def refusal(path, rule=None, **options):
    with pytest.raises(UserError) as caught:
        read(path, rule, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Folders that Spark and table formats write --------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "json", "json.gz", "jsonl", "snappy.parquet"])
def test_spark_folders(ending, tmp_path):
    """Parts of one table, with its marks, checksums, and a part without rows."""
    (tmp_path / "_SUCCESS").touch()
    for number, (patient, text) in enumerate([("1", "first"), ("2", "second")]):
        path = tmp_path / f"part-{number:05d}-c0ffee.{ending}"
        (tmp_path / f".{path.name}.crc").write_bytes(b"crc\x00")
        if ending.endswith("parquet"):
            pq.write_table(pa.table({"subject_id": [patient], "text": [text]}), path, compression="snappy")
            continue
        is_csv = ending.startswith("csv")
        rows = f"subject_id,text\n{patient},{text}\n" if is_csv else json.dumps({"subject_id": patient, "text": text})
        path.write_bytes(gzip.compress(rows.encode()) if ending.endswith("gz") else rows.encode())
    if not ending.endswith("parquet"):
        empty = gzip.compress(b"") if ending.endswith("gz") else b""
        (tmp_path / f"part-00002-c0ffee.{ending}").write_bytes(empty)
        assert "1 empty" in find_inputs([tmp_path])[0].describe()
    assert read(tmp_path, BY_PATIENT) == [("first", "1", None), ("second", "2", None)]


def test_a_folder_of_empty_parts_is_refused(tmp_path):
    (tmp_path / "part-00000.csv").touch()
    assert "all its csv files are empty" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "what"),
    [("_temporary", "a Spark job writes here"), ("_delta_log", "a Delta table"), (".hoodie", "a Hudi")],
)
def test_files_that_are_not_the_data_are_refused(name, what, tmp_path):
    """A job that was stopped leaves some of its parts; a table format keeps rows that were deleted."""
    (tmp_path / "notes" / name).mkdir(parents=True)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "notes" / "part-00000.parquet")
    assert f"holds {name}: {what}" in refusal(tmp_path / "notes")
    (tmp_path / "notes" / name / "0.json").write_text("{}")
    assert f"holds {name}: {what}" in refusal(tmp_path)


@pytest.mark.parametrize(
    "text", ['[\n{"text": "a"}\n]', '[{"text": "a"}]', '{\n  "text": "a"\n}', '\n [{"text": "a"},']
)
@pytest.mark.parametrize("options", [{}, {"on_bad_row": "skip"}])
def test_json_that_is_no_jsonl_is_refused(text, options, tmp_path):
    (tmp_path / "n.json").write_text(text)
    assert "n.json: JSON over several lines or in a list" in refusal(tmp_path / "n.json", **options)


def test_names_of_files_need_not_be_utf_8(corpus, tmp_path):
    notes = tmp_path / os.fsdecode(b"caf\xe9")
    file = notes / os.fsdecode(b"p\xe9") / os.fsdecode(b"n\xe9.txt")
    file.parent.mkdir(parents=True)
    file.write_text("a note")
    settings = ShardSettings(sequence_length=64, split=SplitRule(0, 0))
    manifest = build_shards([notes], str(corpus / "tokenizer"), tmp_path / "s", settings, BuildOptions(workers=1))
    assert manifest.counts["kept"] == 1 and manifest.settings["inputs"][0]["name"] == "caf\ufffd"
    assert "the folder's name is not valid UTF-8; rename it" in refusal(notes, BY_PATIENT, patient_folder=1)


# Tables --------------------------------------------------------------------------------------------------------------


def test_a_header_that_joined_files_repeat(tmp_path):
    parts = ["subject_id,text\n1,a\n", "\ufeffsubject_id,text\n2,b\n", "SUBJECT_ID, text\n3,c\n"]
    (tmp_path / "n.csv").write_text("".join(parts))
    assert "row 2: repeats the header" in refusal(tmp_path / "n.csv")
    rows = read(tmp_path / "n.csv", on_bad_row="skip")
    assert [row for row in rows if row[2] is None] == [("a", "1", None), ("b", "2", None), ("c", "3", None)]
    assert [row[2] for row in rows].count("malformed") == 2


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_blanks_around_a_columns_name(kind, tmp_path):
    path, names = tmp_path / f"n.{kind}", [" MRN ", "TEXT "]
    if kind == "parquet":
        pq.write_table(pa.table({names[0]: ["7"], names[1]: ["a"]}), path)
    elif kind == "jsonl":
        path.write_text(json.dumps(dict(zip(names, ["7", "a"], strict=True))))
    else:
        separator = "\t" if kind == "tsv" else ","
        path.write_text(f"{separator.join(names)}\n7{separator}a\n")
    for asked in (" MRN ", "MRN"):
        assert read(path, BY_PATIENT, columns=Columns(patient=asked)) == [("a", "7", None)]
        assert read(path, BY_PATIENT, columns=Columns(patient=asked, text="TEXT")) == [("a", "7", None)]


def test_duplicate_columns(tmp_path):
    """Of a column that is read they are refused; of others they don't matter."""
    columns = [pa.array(["a"]), pa.array(["7"]), pa.array(["8"])]
    cases = {"pat": "repeated", "x": "read"}
    for name, outcome in cases.items():
        pq.write_table(pa.table(columns, names=["text", name, name]), tmp_path / "n.parquet")
        (tmp_path / "n.csv").write_text(f"text,{name},{name}\na,7,8\n")
        for path in (tmp_path / "n.parquet", tmp_path / "n.csv"):
            if outcome == "read":
                assert read(path) == [("a", "", None)]
            else:
                assert "column 'pat' occurs more than once" in refusal(path, columns=Columns(patient="pat"))
    (tmp_path / "n.jsonl").write_text('{"text": "a", "x": 1, "x": 2}\n')
    assert "row 1: not a JSON object with each key once" in refusal(tmp_path / "n.jsonl")
    (tmp_path / "n.jsonl").write_text('{"text": "a", "mrn": 1, "mrn ": 2}\n')
    assert "column 'mrn' occurs more than once" in refusal(tmp_path / "n.jsonl", columns=Columns(patient="mrn"))


@pytest.mark.parametrize("where", ["text", "subject_id", "category", "charttime"])
def test_a_lone_surrogate_is_named(where, tmp_path):
    rows = [{"text": "ok", "subject_id": "1"}, {"text": "a", "subject_id": "2"} | {where: "a\ud83d"}]
    (tmp_path / "n.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert r"row 2: holds half a character, a lone surrogate such as \ud800" in refusal(tmp_path / "n.jsonl")
    assert [row[2] for row in read(tmp_path / "n.jsonl", on_bad_row="skip")] == [None, "invalid_utf8"]
    (tmp_path / "n.jsonl").write_text('{"text": "a \\ud83d\\ude00"}\n')
    assert read(tmp_path / "n.jsonl") == [("a \U0001f600", "", None)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_half_a_character_in_bytes_is_named(kind, tmp_path):
    """As Java and Oracle write half of a surrogate pair (CESU-8)."""
    path, half = tmp_path / f"n.{kind}", b"a\xed\xa0\xbd"
    if kind == "csv":
        path.write_bytes(b"text\nok\n" + half + b"\n")
    else:
        pq.write_table(pa.table({"text": pa.array([b"ok", half]).view(pa.string())}), path)
    assert "row 2: not valid UTF-8" in refusal(path)
    assert [row[2] for row in read(path, on_bad_row="skip")] == [None, "invalid_utf8"]


def test_a_lone_surrogate_in_a_key_is_not_shown(tmp_path):
    (tmp_path / "n.jsonl").write_text('{"text": "a", "m\\ud800rn": "x"}\n')
    assert refusal(tmp_path / "n.jsonl", BY_PATIENT).isascii()


@pytest.mark.parametrize("form", ["string", "large_string", "string_view", "binary"])
def test_parquet_strings_with_bad_bytes(form, tmp_path):
    bad = pa.array([b"ok", b"caf\xe9", None])
    views = {"string": pa.string(), "large_string": pa.large_string(), "binary": pa.binary()}
    if form == "string_view" and Version(pa.__version__) < Version("20"):
        pytest.skip("this Arrow doesn't convert to views, and gives none out when it reads")
    if form == "string_view":
        column = bad.cast(pa.binary_view()).view(pa.string_view())
    else:
        column = (bad.cast(pa.large_binary()) if form == "large_string" else bad).view(views[form])
    pq.write_table(pa.table({"text": column}), tmp_path / "n.parquet")
    assert "row 2: not valid UTF-8" in refusal(tmp_path / "n.parquet")
    assert [row[::2] for row in read(tmp_path / "n.parquet", on_bad_row="skip")] == [
        ("ok", None), ("", "invalid_utf8"), ("", None)
    ]  # fmt: skip


@pytest.mark.skipif(not hasattr(pa, "uuid"), reason="this Arrow has no such types")
def test_extension_types_of_parquet(tmp_path):
    identifier = "0123abcd-0000-4000-8000-00000000000a"
    patients = pa.array([bytes.fromhex(identifier.replace("-", ""))] * 2, pa.binary(16)).cast(pa.uuid())
    texts = pa.ExtensionArray.from_storage(pa.json_(), pa.array([b"ok", b"caf\xe9"]).view(pa.string()))
    pq.write_table(pa.table({"subject_id": patients, "text": texts}), tmp_path / "n.parquet")
    rows = read(tmp_path / "n.parquet", BY_PATIENT, on_bad_row="skip")
    assert rows == [("ok", identifier, None), ("", "", "invalid_utf8")]


def test_categorical_columns_of_parquet(tmp_path):
    """Arrow checks the bytes of a dictionary before it gives out a row, so they can't be refused by row."""
    values = pa.array([b"ok", b"caf\xe9"])
    for column, is_good in ((values.slice(0, 1), True), (values, False)):
        dictionary = pa.DictionaryArray.from_arrays(pa.array([0] * 3), column.view(pa.string()))
        table = pa.table({"text": ["a", "b", "c"], "category": dictionary})
        pq.write_table(table, tmp_path / "n.parquet")
        if is_good:
            (note, *_) = read_notes([tmp_path / "n.parquet"])
            assert note.category == "ok"
        else:
            assert "not valid UTF-8 in 'category', a categorical column; write it as strings" in refusal(
                tmp_path / "n.parquet"
            )


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_cells_text_is_cleaned_alike(kind, tmp_path):
    """Line breaks, a control character between digits, signs, and nested and long placeholders, from any format."""
    text = (
        'Meds:\nmetoprolol 25 mg,\t"held"\r\nHR 5\x0010; pO2 \u2265 90 [**Known [**Last**] Name**] ___ '
        f"[**{'x' * 300}**]{' ' * 500}end"
    )
    path = tmp_path / f"n.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"text": [text]}), path)
    elif kind == "jsonl":
        path.write_text(json.dumps({"text": text}))
    else:
        with path.open("w", newline="") as stream:
            csv.writer(stream, delimiter="," if kind == "csv" else "\t").writerows([["text", "id"], [text, "1"]])
    ((found, _, fault),) = read(path)
    assert (found, fault) == (text, None)
    cleaned = clean(found, CleaningRules(), Replacement("<unk>"))
    assert cleaned == ('Meds:\nmetoprolol 25 mg, "held"\nHR 5 10; pO2 \u2265 90<unk><unk><unk> end')


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_notes_entered_in_error(kind, tmp_path):
    """MIMIC-III's ISERROR, as programs write it. What is neither yes nor no is refused."""

    def write(marks):
        path = tmp_path / f"n.{kind}"
        if kind == "parquet":
            pq.write_table(pa.table({"TEXT": ["a"] * len(marks), "ISERROR": marks}), path)
        elif kind == "jsonl":
            path.write_text("".join(json.dumps({"TEXT": "a", "ISERROR": mark}) + "\n" for mark in marks))
        else:
            path.write_text("TEXT,ISERROR\n" + "".join(f"a,{'' if mark is None else mark}\n" for mark in marks))
        return path

    for marks in ([1, 0, None], [1.0, 0.0, None], [True, False, None], ["1", "0", ""], ["Y", "n", "NULL"]):
        assert [row[2] for row in read(write(marks))] == ["marked_error", None, None]
    assert "row 1: 'ISERROR' must be 1 or true for an error, else 0, false or empty" in refusal(write(["In Error"]))
    assert [row[2] for row in read(write(["2"]), on_bad_row="skip")] == ["malformed"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_row_without_a_patient_can_be_skipped(kind, tmp_path):
    path, patients = tmp_path / f"n.{kind}", ["1", None, "NULL", "2"]
    if kind == "parquet":
        pq.write_table(pa.table({"subject_id": patients, "text": list("abcd")}), path)
    elif kind == "jsonl":
        rows = zip(patients, "abcd", strict=True)
        path.write_text("".join(json.dumps({"subject_id": p, "text": text}) + "\n" for p, text in rows))
    else:
        path.write_text("subject_id,text\n1,a\n,b\nNULL,c\n2,d\n")
    assert "row 2: no patient in subject_id" in refusal(path, BY_PATIENT)
    assert [row[2] for row in read(path, BY_PATIENT, on_bad_row="skip")] == [None, "no_patient", "no_patient", None]


@pytest.mark.parametrize("name", ["n.csv", "n.jsonl", "n.json", "n.tsv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_of_any_kind(name, encoding, tmp_path):
    text = '{"text": "a"}\n' if "json" in name else "text\na\n"
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert f"{name}: UTF-16, not UTF-8; convert it" in refusal(tmp_path / name)


# Commands ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["build-shards", "train-tokenizer", "demo", "submit-shards"])
def test_no_command_takes_an_empty_name(command, tmp_path, capsys):
    out = ["--out", str(tmp_path / "o")]
    tokenizer = ["--tokenizer", str(tmp_path)] if "shards" in command else []
    assert main([command, "--notes", "", *out, *tokenizer]) == 2
    assert "--notes: an empty name" in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_all_commands_that_read_notes_have_all_their_options(capsys):
    """Whatever their messages recommend: names of options in the code that reads and splits notes."""
    folder = REPOSITORY / "tokenizer_tools" / "corpus"
    recommended = {
        option
        for path in folder.glob("*.py")
        for option in re.findall(r"--[a-z][\w.-]*\w", path.read_text())
        if not path.name.startswith("synthetic")
    } - {"--placeholder", "--patient-key", "--columns", "--split.lists", "--duplicates"}  # of build-shards; prefixes
    # Named to those alone who gave it, another of them, or --placeholder.
    recommended -= {"--cleaning.mojibake", "--cleaning.profile", "--cleaning.placeholders", "--cleaning.brackets"}
    assert {"--split.by", "--columns.patient", "--on-bad-row", "--patient-folder"} <= recommended
    for command in ("build-shards", "train-tokenizer", "demo"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known = set(re.findall(r"--[a-z][\w.-]*\w", capsys.readouterr().out))
        assert recommended <= known, (command, recommended - known)
