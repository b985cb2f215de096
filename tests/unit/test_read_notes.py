import csv
import gzip
import json
import re
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenizer_tools.corpus.columns import Columns
from tokenizer_tools.corpus.input_files import find_inputs
from tokenizer_tools.corpus.read_notes import InputOptions, check_first_notes, read_notes
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError

HEADER = "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CATEGORY,TEXT\n"


def notes_of(path, **options):
    return list(read_notes([path], InputOptions(**options)))


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_mimic_iii_columns(tmp_path):
    path = write(tmp_path / "n.csv", HEADER + '1,22,333,2151-07-16,"Physician ","line one\nline ""two"""\n')
    (note,) = notes_of(path)
    assert (note.text, note.patient, note.admission, note.category, note.time) == (
        'line one\nline "two"',
        "22",
        "333",
        "Physician",
        "2151-07-16",
    )


def test_mimic_iv_columns_gzipped(tmp_path):
    path = tmp_path / "n.csv.gz"
    path.write_bytes(gzip.compress(b"note_id,subject_id,hadm_id,note_type,charttime,text\nx,7,8,DS,2180-01-01,hello\n"))
    (note,) = notes_of(path)
    assert (note.text, note.patient, note.category) == ("hello", "7", "DS")


def test_a_note_may_name_an_admission_alone_or_nobody(tmp_path):
    path = write(tmp_path / "n.csv", HEADER + "1,,333,,A,x\n2,,,,,y\n")
    found = [(n.patient, n.admission, n.category) for n in notes_of(path)]
    assert found == [("", "333", "A"), ("", "", "uncategorised")]


def test_a_patient_is_the_same_in_csv_parquet_and_jsonl(tmp_path):
    pq.write_table(pa.table({"subject_id": [22.0, None], "text": ["a", "b"]}), tmp_path / "n.parquet")
    write(tmp_path / "n.jsonl", json.dumps({"subject_id": 22, "text": "a"}) + "\n\n")
    write(tmp_path / "n.csv", HEADER + "1,22,,,,a\n")
    patients = {name: notes_of(tmp_path / name)[0].patient for name in ("n.parquet", "n.jsonl", "n.csv")}
    assert set(patients.values()) == {"22"}


CELLS = {
    "TEXT": st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(['a "b", c;\td\r\n|e', "NULL"]),
    "SUBJECT_ID": st.sampled_from(["7", "7.0", " 007", "", "nan", "Ab-1", "1E+11", "1.5e+01", "\u00a08"]),
    "HADM_ID": st.sampled_from(["", "12", "\\N"]),
    "CATEGORY": st.sampled_from(["Nursing ", "", "ECG"]),
    "CHARTTIME": st.sampled_from(["2101-03-04 05:06:07", "", "03/04/2101", "4-MAR-2101", "\x00"]),
    "CHARTDATE": st.sampled_from(["2101-03-04", "", "soon"]),
    "ISERROR": st.sampled_from(["", "1", "0", "?", "2"]),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=6))
def test_all_formats_say_the_same_of_the_same_cells(tmp_path, rows):
    found = {}
    for suffix, separator in ((".csv", ","), (".tsv", "\t"), (".jsonl", ""), (".parquet", "")):
        path = tmp_path / f"n{suffix}"
        if suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            with path.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, list(CELLS), delimiter=separator)
                writer.writeheader()
                writer.writerows(rows)
        notes = read_notes([path], InputOptions(on_bad_row="skip"), SplitRule())
        found[suffix] = [replace(note, place="") for note in notes]
    assert len(found[".csv"]) == len(rows)
    assert found[".csv"] == found[".tsv"] == found[".jsonl"] == found[".parquet"]


def test_a_folder_of_text_files_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    write(tmp_path / "b" / "2.txt", "second")
    write(tmp_path / "a.txt", "first")
    assert [n.text for n in notes_of(tmp_path)] == ["first", "second"]


def test_other_column_names(tmp_path):
    path = write(tmp_path / "n.jsonl", json.dumps({"body": "x", "mrn": "9", "text": "not this"}))
    (note,) = notes_of(path, columns=Columns(text="body", patient="mrn"))
    assert (note.text, note.patient) == ("x", "9")


def test_several_inputs_are_told_apart(tmp_path):
    paths = [write(tmp_path / f"{i}.jsonl", json.dumps({"text": str(i)})) for i in range(2)]
    assert [(n.text, n.source) for n in read_notes(paths)] == [("0", 0), ("1", 1)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("n.csv", "id,body\n1,x\n", "columns found: id, body; name it with --columns.text"),
        ("n.csv", "", "empty file"),
        ("n.csv", HEADER + "1,2\n", "row 1: 2 fields where the header has 6"),
        ("n.csv", HEADER + "1,2,3,4,5,ok\n1,2,3,4,5,caf\xe9\n".encode("latin-1").decode("latin-1"), None),
        ("n.jsonl", '{"text": "a"}\nnot json\n', "row 2: not a JSON object"),
        ("n.jsonl", '{"text": "a", "text": "b"}\n', "row 1: not a JSON object with each key once"),
        ("n.jsonl", '{"body": "a"}\n', "columns found: body"),
        ("n.parquet", "not parquet", "cannot be read as Parquet"),
        ("n.docx", "x", "unknown kind of file"),
        ("n.csv", 'text\n"never closed\nmore\n', "look for an unclosed quote"),
        ("n.csv", "MRN;NOTE_DATE;BODY\n1;2;x\n", "no text column; columns found: MRN, NOTE_DATE, BODY; name it"),
        ("n.tsv", "MRN\tNOTE_DATE\tBODY\n1\t2\tx\n", "columns found: MRN, NOTE_DATE, BODY; name it"),
        ("n.csv", "Smith_J;note_of, May\n", "look like a header"),
        ("n.csv", "id:text\n1:hello\n", "separated by commas, tabs or semicolons"),
        (
            "n.jsonl",
            '{"text": "a"}\n{"body": "a"}\n',
            "row 2: no text column; columns found: body; name it "
            "with --columns.text NAME; or drop and count such rows with --on-bad-row skip",
        ),
        ("n.jsonl", '{"text": ["a"]}\n', "row 1: 'text' holds a list"),
        ("n.csv.gz", "not gzip", "broken or cut-off gzip"),
    ],
)
def test_bad_input_names_the_place(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    if message is None:
        assert len(notes_of(path)) == 2
        return
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as caught:
        notes_of(path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_skipping_rows_is_offered_where_it_helps(tmp_path):
    """Not for a column that the first row lacks, nor where the lines after a row could be of the same note."""
    lacking, wanted = write(tmp_path / "n.jsonl", '{"body": "a"}\n'), Columns(text="body", patient="who")
    for options in ({}, {"columns": wanted}):
        with pytest.raises(UserError, match=r"row 1: no (text|column)") as caught:
            notes_of(lacking, **options)
        assert "--on-bad-row" not in str(caught.value)
        (note,) = notes_of(lacking, on_bad_row="skip", **options)
        assert note.fault == "malformed"
    with pytest.raises(UserError, match=r"complete the row; --on-bad-row skip can't skip it, as the lines after it"):
        notes_of(write(tmp_path / "n.csv", HEADER + "1,2\n"), on_bad_row="skip")


@pytest.mark.parametrize("first", ["csv", "jsonl"])
def test_several_inputs_with_other_columns_are_told_of_sources(first, tmp_path):
    known = write(tmp_path / "a.csv", "text\na\n")
    other = write(tmp_path / f"b.{first}", "note_id,body\n1,b\n" if first == "csv" else '{"body": "b"}\n')
    for paths in ([known, other], [other, known]):
        inputs = find_inputs(paths)
        with pytest.raises(
            UserError, match=rf"NAME; if the inputs have different .* with --sources .* sources {first}"
        ):
            check_first_notes(inputs, InputOptions())
    with pytest.raises(UserError, match=r"--columns.text NAME$"):
        check_first_notes(find_inputs([other]), InputOptions())


def test_a_cut_off_gzip_file(tmp_path):
    whole = gzip.compress((HEADER + "1,2,3,4,5,text\n" * 5000).encode())
    with pytest.raises(UserError, match="cut-off gzip"):
        notes_of(write(tmp_path / "n.csv.gz", whole[: len(whole) // 2]))


def test_a_first_row_that_is_data_is_not_quoted(tmp_path):
    path = write(
        tmp_path / "n.csv", "17,Jane Doe,she has a fever and was admitted on the third of May with a cough\n" * 2
    )
    with pytest.raises(UserError) as caught:
        notes_of(path)
    assert "Jane" not in str(caught.value) and "fever" not in str(caught.value)
    assert "doesn't look like a header" in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"columns": Columns(text="note")}])
def test_a_name_and_a_diagnosis_are_no_header(tmp_path, options):
    for name, content in (("n.csv", "Smith John,Chest pain resolved\n"), ("n.jsonl", '{"John Smith": "chest pain"}')):
        with pytest.raises(UserError) as caught:
            notes_of(write(tmp_path / name, content), **options)
        assert not re.search("smith|john|chest", str(caught.value).replace(str(tmp_path), ""), re.IGNORECASE)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "txt"])
def test_invalid_utf8_fails_with_its_row_or_is_counted(tmp_path, kind):
    bad = "caf\xe9".encode("latin-1")
    if kind == "csv":
        path = write(tmp_path / "n.csv", HEADER.encode() + b"1,2,3,4,5,ok\n1,2,3,4,5," + bad + b"\n1,2,3,4,5,ok\n")
    elif kind == "jsonl":
        path = write(tmp_path / "n.jsonl", b'{"text": "ok"}\n{"text": "' + bad + b'"}\n{"text": "ok"}\n')
    elif kind == "parquet":
        column = pa.array([b"ok", bad, b"ok"]).view(pa.string())
        path = tmp_path / "n.parquet"
        pq.write_table(pa.table({"text": column}), path)
    else:
        path = tmp_path / "folder"
        path.mkdir()
        for name, content in (("1.txt", b"ok"), ("2.txt", bad), ("3.txt", b"ok")):
            write(path / name, content)
    with pytest.raises(UserError, match=r"(row 2|2\.txt): not valid UTF-8.*--on-bad-row skip"):
        notes_of(path)
    assert [n.fault for n in notes_of(path, on_bad_row="skip")] == [None, "invalid_utf8", None]
