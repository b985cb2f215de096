"""Several sources at once, each read in its own way; and the ready ones."""

import csv
import gzip
import io
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY

from clinical_pretrain.cli import main
from tokenizer_tools.corpus.columns import Columns
from tokenizer_tools.corpus.input_options import InputOptions, find_sources
from tokenizer_tools.corpus.presets import PRESETS
from tokenizer_tools.corpus.read_notes import read_notes
from tokenizer_tools.corpus.source_file import read_source_file
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError

BY_PATIENT = SplitRule()


def write_table(path, rows):
    """Rows as a file of the kind that its name says."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ".csv" in path.name:
        stream = io.StringIO(newline="")
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        content = stream.getvalue().encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    else:
        path.write_text(text)
    return path


def describe(folder, text, name="sources.yaml"):
    (folder / name).write_text(text)
    return InputOptions(sources=str(folder / name))


def read(options, rule=BY_PATIENT):
    return list(read_notes(find_sources([], options), options, rule))


def kept(options, rule=BY_PATIENT):
    return [(note.text, note.patient, note.category) for note in read(options, rule) if note.fault is None]


def refusal(options, rule=BY_PATIENT):
    with pytest.raises(UserError) as caught:
        read(options, rule)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Records -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "jsonl", "parquet"])
def test_each_source_has_its_own_columns_dates_and_category(ending, tmp_path):
    write_table(tmp_path / f"a.{ending}", [{"MRN": "1", "body": "first", "day": "03/04/2101", "kind": "Progress"}])
    write_table(tmp_path / f"b.{ending}", [{"pat": "01", "note": "second", "day": "03/04/2101"}])
    options = describe(
        tmp_path,
        f"""
sources:
  - name: a
    path: a.{ending}
    columns: {{text: body, patient: MRN, time: day, category: kind}}
    date_order: day_first
  - name: b
    path: [b.{ending}]
    columns: {{text: note, patient: pat, time: day}}
    date_order: month_first
    category: Letter
""",
    )
    notes = [(note.text, note.patient, note.time, note.category, note.source) for note in read(options)]
    assert notes == [("first", "1", "2101-04-03", "Progress", 0), ("second", "1", "2101-03-04", "Letter", 1)]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_filters(ending, tmp_path):
    rows = [
        {"subject_id": "1", "text": "a", "status": "1", "site": "North"},
        {"subject_id": "2", "text": "b", "status": "1.0", "site": " south "},
        {"subject_id": "3", "text": "c", "status": "0", "site": "NORTH"},
        {"subject_id": "4", "text": "x", "status": "", "site": "NULL"},
        {"subject_id": "", "text": "e", "status": "7", "site": "East"},
    ]
    if ending != "csv":
        rows[3] |= {"status": None, "site": None}
    write_table(tmp_path / f"n.{ending}", rows)
    for filters, expected in {
        "{status: 1}": "ab",
        "{status: not 1, site: {not: East}}": "cx",
        "{status: not 7}": "abcx",
        "{site: [north, South]}": "abc",
        "{site: {not: [north, east]}}": "bx",
        "{site: {is: north}, status: 0}": "c",
        "{site: null}": "x",
        "{STATUS: [1, null]}": "abx",
        "{site: [north, null], status: not 1}": "cx",
    }.items():
        options = describe(tmp_path, f"sources: [{{name: n, path: n.{ending}, filters: {filters}}}]")
        assert "".join(text for text, _, _ in kept(options)) == expected, filters
        assert {note.fault for note in read(options) if note.text == ""} == {"filtered"}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_filter_by_a_column_that_is_not_there(ending, tmp_path):
    write_table(tmp_path / f"n.{ending}", [{"subject_id": "1", "text": "a"}])
    options = describe(tmp_path, f"sources: [{{name: north, path: n.{ending}, filters: {{ISEROR: not 1}}}}]")
    message = refusal(options)
    assert "no column 'ISEROR' (filters); columns found: subject_id, text" in message
    assert message.endswith("(source north of --sources)")


def test_a_filtered_row_need_not_be_usable_otherwise(tmp_path):
    rows = ["subject_id,text,kind", "1,ok,a", ",nobody's,b", "2,caf\udce9,b"]
    (tmp_path / "n.csv").write_bytes("\n".join(rows).encode(errors="surrogateescape"))
    assert kept(describe(tmp_path, "sources: [{name: n, path: n.csv, filters: {kind: a}}]")) == [
        ("ok", "1", "uncategorised")
    ]
    write_table(tmp_path / "n.jsonl", [{"subject_id": "1", "text": ["a"], "kind": "b"}])
    assert kept(describe(tmp_path, "sources: [{name: n, path: n.jsonl, filters: {kind: a}}]")) == []
    write_table(tmp_path / "n.jsonl", [{"subject_id": "1", "text": "a", "kind": ["a"]}])
    options = describe(tmp_path, "sources: [{name: n, path: n.jsonl, filters: {kind: a}}]")
    assert "row 1: 'kind' holds a list or an object" in refusal(options)


def test_messages_speak_of_the_file(tmp_path):
    """What a message recommends is a key of the source, not an option that a command would refuse."""
    write_table(tmp_path / "n.csv", [{"mrn": "1", "text": "a"}])
    message = refusal(describe(tmp_path, "sources: [{name: north, path: n.csv}]"))
    assert "name it with columns.patient mrn" in message and message.endswith("(source north of --sources)")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.csv").touch()
    (tmp_path / "mixed" / "a.txt").touch()
    message = refusal(describe(tmp_path, "sources: [{name: north, path: mixed}]"))
    assert "choose with format csv or format txt" in message


RECORD = "sources: [{name: a, path: n.csv"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: []", "unknown key 'source' (did you mean sources?)"),
        ("sources: []", "sources must be a list of records"),
        ("sources: {name: a}", "sources must be a list of records"),
        ("sources: [a]", "source 1: must be a record with keys"),
        ("[1]", "must hold keys and values, such as 'sources: [{name: mimic3"),
        ("sources: [{path: n.csv}]", "source 1: name must be"),
        ("sources: [{name: a b, path: n.csv}]", "source 1 (a b): name must be"),
        ("sources: [{name: a}]", "source 1 (a): path must be a file or a folder"),
        ("sources: [{name: a, path: []}]", "path must be a file or a folder"),
        (RECORD + ", column: {text: t}}]", "source 1 (a): unknown key 'column' (did you mean columns?)"),
        (RECORD + ", columns: {txt: t}}]", "source 1 (a), columns: unknown key 'txt' (did you mean text?)"),
        (RECORD + ", columns: {text: [a, b]}}]", "columns.text must be the name of a column"),
        (RECORD + ", columns: {text: }}]", "columns.text must be the name of a column"),
        (RECORD + ", columns: text}]", "columns must hold names and values"),
        (RECORD + ", weight: 2}]", "weight: sources have no weights: every note that stays is read once"),
        (RECORD + ", on_bad_row: skip}]", "on_bad_row: it holds for all sources"),
        (RECORD + ", format: xlsx}]", "format is xlsx, must be one of csv, jsonl, parquet, txt, xml"),
        (RECORD + ", format: jsonl}]", "a csv file by its name, not jsonl (format) (source a of --sources)"),
        (RECORD + ", date_order: us}]", "date_order is us, must be one of year_first"),
        (RECORD + ", patient_folder: one}]", "patient_folder is one, must be a level of folders"),
        (RECORD + ", patient_from: '*.csv'}]", "patient_from *.csv: has neither {patient} nor {admission}"),
        (RECORD + ", patient_from: path, columns: {patient: p}}]", "both say who the patient is"),
        (RECORD + ", category: x, columns: {category: c}}]", "both say what kind of note it is"),
        (RECORD + ", category: }]", "category must be text"),
        (RECORD + ", filters: }]", "filters must hold names and values"),
        (RECORD + ", filters: {a: []}}]", "filters.a must hold texts or numbers"),
        (RECORD + ", filters: {a: [not 1, not 2]}}]", "filters.a: 'not' within a list; write {not: [values]}"),
        (RECORD + ", filters: {a: {no: 1}}}]", "filters.a must be a value, a list of values"),
        (RECORD + "}, {name: a, path: n.csv}]", "two sources are called a"),
        (RECORD + ", name: b}]", "duplicate key"),
        ("sources: [{name: a, path: nowhere.csv}]", "nowhere.csv: no such file or folder; check path"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(text, message, tmp_path):
    write_table(tmp_path / "n.csv", [{"subject_id": "1", "text": "a"}])
    found = refusal(describe(tmp_path, text))
    assert found.startswith(str(tmp_path)) and message in found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns.text": "t"}, "--columns, --patient-folder, --patient-from and --date-order: with --sources"),
        ({"patient-from": "path"}, "--columns, --patient-folder, --patient-from and --date-order: with --sources"),
        ({"files": "csv"}, "--files: with --sources each source says its format"),
        ({"notes": "n.csv"}, "--notes and --sources: give one of them"),
    ],
)
def test_options_that_a_source_says_itself(options, message, tmp_path, capsys):
    describe(tmp_path, "sources: [{name: a, path: n.csv}]")
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    assert main(["clean", "--sources", str(tmp_path / "sources.yaml"), *given]) == 2
    assert message in capsys.readouterr().err


def test_neither_notes_nor_sources(capsys):
    assert main(["clean"]) == 2
    assert "no notes given; name a file or a folder with --notes, or describe sources" in capsys.readouterr().err


def test_the_example_in_the_docs_is_right(tmp_path):
    page = (REPOSITORY / "docs" / "how-to" / "sources.md").read_text()
    (tmp_path / "s.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    records = read_source_file(tmp_path / "s.yaml")
    assert [record.source.name for record in records] == ["discharge", "chest-xray", "hospital"]
    table = page.split("| filter | rows that stay |")[1].split("\n\n")[0]
    for example in re.findall("`([^`]*: [^`]*)`", table):
        (tmp_path / "s.yaml").write_text(f"sources:\n  - name: a\n    path: n.csv\n    filters:\n      {example}\n")
        assert len(read_source_file(tmp_path / "s.yaml")[0].source.filters) == 1


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_named_columns_in_another_case_and_several_times(ending, tmp_path):
    row = {"TEXT": "a", "Mrn": "1", "CHARTTIME": "soon", "CHARTDATE": "2101-03-04"}
    write_table(tmp_path / f"n.{ending}", [row, row | {"CHARTTIME": "2101-03-05 06:07:08"}])
    columns = Columns(text="text", patient="MRN", time="charttime, chartdate")
    notes = list(read_notes([tmp_path / f"n.{ending}"], InputOptions(columns), BY_PATIENT))
    assert [(note.patient, note.time) for note in notes] == [("1", "2101-03-04"), ("1", "2101-03-05 06:07:08")]
    assert notes[0].has_unreadable_time
    with pytest.raises(UserError, match=r"no column ' day' \(--columns.time\)"):
        list(read_notes([tmp_path / f"n.{ending}"], InputOptions(Columns(time="charttime, day"))))


# Ready ones ----------------------------------------------------------------------------------------------------------

NOTEEVENTS = {"ROW_ID": 1, "SUBJECT_ID": 22, "HADM_ID": 333, "CHARTDATE": "2151-07-16", "CHARTTIME": "",
              "STORETIME": "", "CATEGORY": "Discharge summary", "DESCRIPTION": "Report", "CGID": "", "ISERROR": "",
              "TEXT": "a"}  # fmt: skip
DISCHARGE = {"note_id": "22-DS-1", "subject_id": 22, "hadm_id": 333, "note_type": "DS", "note_seq": 1,
             "charttime": "2180-05-07 00:00:00", "storetime": "2180-05-09 15:26:00", "text": "a"}  # fmt: skip
OMOP = {"note_id": 1, "person_id": 22, "note_date": "2101-03-04", "note_datetime": "", "note_type_concept_id": 32817,
        "note_class_concept_id": 44814637, "note_title": "t", "note_text": "a", "encoding_concept_id": 32678,
        "language_concept_id": 4180186, "provider_id": "", "visit_occurrence_id": 333, "visit_detail_id": "",
        "note_source_value": "", "note_event_id": "", "note_event_field_concept_id": ""}  # fmt: skip
EICU = {"noteid": 1, "patientunitstayid": 333, "noteoffset": 5, "noteenteredoffset": 6, "notetype": "Admission",
        "notepath": "notes/x", "notevalue": "v", "notetext": "a", "uniquepid": "002-33"}  # fmt: skip
PLAIN = {
    "patient_id": 22,
    "admission_id": 333,
    "note_type": "Progress",
    "note_datetime": "2101-03-04",
    "note_text": "a",
}
I2B2 = """<?xml version="1.0" encoding="UTF-8" ?>
<deIdi2b2>
<TEXT><![CDATA[a]]></TEXT>
<TAGS><NAME id="P0" start="0" end="1" text="a" TYPE="DOCTOR" comment="" /></TAGS>
</deIdi2b2>
"""


def lay_out(name, folder):
    """Files in the layout of a preset; returns patient, admission, category and time of its notes."""
    if name == "mimic3":
        write_table(folder / "NOTEEVENTS.csv.gz", [NOTEEVENTS, NOTEEVENTS | {"ISERROR": "1"}])
        return [("22", "333", "Discharge summary", "2151-07-16"), "marked_error"]
    if name == "mimic4":
        (folder / "note").mkdir()
        write_table(folder / "note" / "discharge.csv.gz", [DISCHARGE])
        write_table(folder / "note" / "radiology.csv.gz", [DISCHARGE | {"hadm_id": "", "note_type": "RR"}])
        return [("22", "333", "Discharge summary", "2180-05-07"), ("22", "", "Radiology", "2180-05-07")]
    if name == "mimic-cxr":
        (folder / "files" / "p10" / "p10000032").mkdir(parents=True)
        (folder / "files" / "p10" / "p10000032" / "s50414267.txt").write_text("a")
        return [("10000032", "", "Chest X-ray", "")]
    if name == "i2b2":
        for number, split in enumerate(["training-PHI-Gold-Set1", "training-PHI-Gold-Set2", "testing-PHI-Gold-fixed"]):
            (folder / split).mkdir()
            (folder / split / f"22{number}-01.xml").write_text(I2B2)
        return [(f"22{number}", "", "i2b2", "") for number in range(3)]
    if name == "omop":
        write_table(folder / "note.csv.gz", [OMOP])
        return [("22", "333", "44814637", "2101-03-04")]
    if name == "eicu":
        write_table(folder / "note_with_patient.csv.gz", [EICU])
        return [("002-33", "333", "Admission", "")]
    if name == "patient-folders":
        (folder / "notes" / "007").mkdir(parents=True)
        (folder / "notes" / "007" / "x.txt").write_text("a")
        return [("7", "", "uncategorised", "")]
    write_table(folder / f"notes.{name}", [PLAIN])
    return [("22", "333", "Progress", "2101-03-04")]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_reads_its_table(name, tmp_path, capsys):
    expected = lay_out(name, tmp_path)
    assert main(["sources", name]) == 0
    printed = capsys.readouterr().out
    assert printed == PRESETS[name].text
    notes = read(describe(tmp_path, printed))
    assert [note.fault or (note.patient, note.admission, note.category, note.time) for note in notes] == expected
    assert {note.text for note in notes if not note.fault} == {"a"}


@pytest.mark.parametrize("name", PRESETS)
def test_every_line_of_a_preset_that_is_out_can_be_put_in(name, tmp_path):
    """Lines such as `# filters: …` are written so that the mark alone has to go."""
    lines = PRESETS[name].text.split("sources:\n")[1].splitlines()
    (tmp_path / "s.yaml").write_text("sources:\n" + "\n".join(line.replace("    # ", "    ", 1) for line in lines))
    assert read_source_file(tmp_path / "s.yaml")


def test_presets_are_listed(capsys):
    assert main(["sources"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(PRESETS)
    assert main(["sources", "mimc3"]) == 2
    assert "did you mean mimic3?" in capsys.readouterr().err
