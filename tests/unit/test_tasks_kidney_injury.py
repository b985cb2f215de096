"""Acute kidney injury in MIMIC-III: the definition, and that no note from after the prediction is input."""

import csv
import gzip
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from clinical_pretrain.tasks.readers.kidney_injury import (
    Creatinine,
    has_injury,
    mean_by_time,
    reaches_stage_1,
    read_kidney_injury,
    years_between,
)
from tokenizer_tools.errors import UserError

START = datetime(2101, 10, 20, 19, 8)
HEADERS = {
    "ICUSTAYS": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,DBSOURCE,FIRST_CAREUNIT,LAST_CAREUNIT,FIRST_WARDID,LAST_WARDID,"
    "INTIME,OUTTIME,LOS",
    "PATIENTS": "ROW_ID,SUBJECT_ID,GENDER,DOB,DOD,DOD_HOSP,DOD_SSN,EXPIRE_FLAG",
    "LABEVENTS": "ROW_ID,SUBJECT_ID,HADM_ID,ITEMID,CHARTTIME,VALUE,VALUENUM,VALUEUOM,FLAG",
    "NOTEEVENTS": "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CHARTTIME,STORETIME,CATEGORY,DESCRIPTION,CGID,ISERROR,TEXT",
}


def at(hours):
    """The time that many hours after the stay's beginning, as MIMIC-III writes it."""
    return (START + timedelta(hours=hours)).isoformat(" ")


def stay(patient=1, admission=10, icustay=100, hours=0):
    return {"SUBJECT_ID": patient, "HADM_ID": admission, "ICUSTAY_ID": icustay, "INTIME": at(hours)}


def lab(hours, value, patient=1, **more):
    return {"SUBJECT_ID": patient, "ITEMID": 50912, "CHARTTIME": at(hours), "VALUE": value, "VALUENUM": value,
            "VALUEUOM": "mg/dL"} | more  # fmt: skip


def note(hours, text, patient=1, admission=10, **more):
    return {
        "SUBJECT_ID": patient,
        "HADM_ID": admission,
        "CHARTTIME": at(hours),
        "CATEGORY": "Nursing",
        "TEXT": text,
    } | more


PATIENT = {"SUBJECT_ID": 1, "DOB": "2060-01-01 00:00:00"}
STAYS = [stay()]
LABS = [lab(1, "1.0"), lab(40, "1.3")]
NOTES = [note(3, "second"), note(1, "first")]


def tables(folder, stays=STAYS, patients=(PATIENT,), labs=LABS, notes=NOTES, ending=".csv"):
    for name, rows in (("ICUSTAYS", stays), ("PATIENTS", patients), ("LABEVENTS", labs), ("NOTEEVENTS", notes)):
        with (gzip.open if ending.endswith(".gz") else open)(folder / (name + ending), "wt", newline="") as stream:
            writer = csv.DictWriter(stream, HEADERS[name].split(","), quoting=csv.QUOTE_NONNUMERIC)
            writer.writeheader()
            writer.writerows(rows)
    return folder


def read(folder, **rows):
    """Identifier, text and label of each document, and what was left out."""
    data = read_kidney_injury(tables(folder, **rows))
    return [(d.id, d.text, d.labels) for d in data.splits["train"]], data.report.left_out


# The definition -----------------------------------------------------------------------------------------------------


def values(*pairs):
    return [Creatinine(START + timedelta(hours=hours), Decimal(value)) for hours, value in pairs]


@pytest.mark.parametrize(
    ("earlier", "value", "expected"),
    [
        ([], "9.9", False),
        ([(-48, "1.1")], "1.4", True),  # with floats, 1.1 + 0.3 is more than 1.4
        ([(-48, "1.1")], "1.39", False),
        ([(-48.1, "1.1")], "1.4", False),
        ([(-48.1, "1.1")], "1.65", True),
        ([(-48.1, "1.1")], "1.64", False),
        ([(-168, "1.0")], "1.5", True),
        ([(-168.1, "1.0")], "1.5", False),
        ([(-10, "2.0"), (-5, "1.2")], "1.5", True),  # the lowest counts
        ([(0, "1.0")], "1.5", False),  # earlier only
        ([(5, "1.0")], "1.5", False),
    ],
)
def test_stage_1(earlier, value, expected):
    assert reaches_stage_1(values((0, value))[0], values(*earlier)) is expected


def test_a_window_includes_its_beginning_and_excludes_its_end():
    series = values((0, "1.0"), (24, "1.3"), (72, "2.0"))
    day = timedelta(hours=24)
    assert has_injury(series, START, START + day) is False
    assert has_injury(series, START + day, START + 3 * day) is True
    assert has_injury(series[:1] + series[2:], START + day, START + 3 * day) is None


def test_values_of_one_time_are_averaged():
    assert mean_by_time(values((5, "2.0"), (0, "1.0"), (5, "1.0"))) == values((0, "1.0"), (5, "1.5"))


@pytest.mark.parametrize(("birth", "age"), [("2083-10-20", 18), ("2083-10-21", 17), ("1801-10-20", 300)])
def test_age(birth, age):
    assert years_between(datetime.fromisoformat(birth), START) == age


# The tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_a_stay_is_a_document(ending, tmp_path):
    data = read_kidney_injury(tables(tmp_path, ending=ending))
    (document,) = data.splits["train"]
    assert (document.id, document.patient, document.text) == ("100", "1", "first\n\nsecond")
    assert document.labels == ("injury",) and (data.kind, data.labels) == ("labels", ("injury",))


def test_a_patient_of_18_years_is_adult(tmp_path):
    assert len(read(tmp_path, patients=[PATIENT | {"DOB": "2083-10-20 00:00:00"}])[0]) == 1


@pytest.mark.parametrize(
    ("labs", "labels"),
    [
        ([lab(1, "1.0"), lab(40, "1.29")], ()),
        ([lab(1, "1.0"), lab(24, "1.0"), lab(71.9, "1.3")], ("injury",)),
        ([lab(-130, "0.8"), lab(1, "1.1"), lab(30, "1.2")], ("injury",)),  # 1.5 times a value from before the stay
        ([lab(-169, "0.5"), lab(1, "1.1"), lab(30, "1.2")], ()),
        ([lab(1, "1.0"), lab(30, "1.2"), lab(30, "1.4")], ("injury",)),  # their mean is 1.3
        ([lab(1, "1.0"), lab(30, "1.2"), lab(30, "1.3")], ()),
        ([lab(1, "1.0"), lab(30, "1.2"), lab(30, "9.0", patient=2), lab(31, "9.0", ITEMID=50971)], ()),
    ],
)
def test_the_label(labs, labels, tmp_path):
    assert read(tmp_path, labs=labs)[0] == [("100", "first\n\nsecond", labels)]


@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        ({"patients": [PATIENT | {"DOB": "2083-10-21 00:00:00"}]}, "patient under 18"),
        ({"labs": [lab(-5, "1.0"), lab(24, "1.3")]}, "no creatinine in hours 0 to 24"),
        ({"labs": [lab(1, "1.0"), lab(72, "1.3")]}, "no creatinine in hours 24 to 72"),
        ({"labs": [lab(-5, "1.0"), lab(23.9, "1.3"), lab(30, "1.0")]}, "injury in hours 0 to 24"),
        ({"notes": [note(-0.1, "a"), note(24, "b"), note(5, " ")]}, "stay without a note in hours 0 to 24"),
    ],
)
def test_stays_that_the_task_leaves_out(rows, rule, tmp_path):
    assert read(tmp_path, **rows) == ([], {rule: 1})


def test_only_the_first_stay_of_a_patient(tmp_path):
    stays = [stay(icustay=101, admission=11, hours=99), stay(), stay(icustay=102, admission=12, hours=500)]
    found, left_out = read(tmp_path, stays=stays, notes=[*NOTES, note(100, "later", admission=11)])
    assert found == [("100", "first\n\nsecond", ("injury",))] and left_out == {"not the patient's first stay": 2}


def test_values_that_are_no_creatinine_are_counted(tmp_path):
    labs = [*LABS, lab(30, "", VALUE="ERROR"), lab(30, "0"), lab(30, "151"), lab(30, "88", VALUEUOM="umol/L"),
            lab(30, "NaN"), lab(31, "1.1", VALUEUOM="")]  # fmt: skip
    found, left_out = read(tmp_path, labs=labs)
    assert found[0][2] == ("injury",)
    assert left_out == {"creatinine without a number": 2, "creatinine not between 0 and 150 mg/dl": 2,
                        "creatinine in another unit than mg/dl": 1}  # fmt: skip


# No note from after the prediction ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("planted", "rule"),
    [
        (note(24, "ARF"), None),
        (note(30, "ARF"), None),
        (note(-1, "ARF"), None),
        (note(5, "ARF", admission=11), None),
        (note(5, "ARF", admission=""), None),
        (note(5, "ARF", CHARTTIME="", CHARTDATE="2101-10-20"), "note without CHARTTIME"),
        (note(5, "ARF", CHARTTIME="", CHARTDATE="2101-10-30", CATEGORY="Discharge summary"), "note without CHARTTIME"),
        (note(23, "ARF", STORETIME=at(24)), "note stored after hour 24"),
        (note(23, "ARF", ISERROR=1), "note marked as an error"),
    ],
)
def test_a_planted_note_changes_nothing(planted, rule, tmp_path):
    (tmp_path / "without").mkdir()
    (tmp_path / "with").mkdir()
    without, _ = read(tmp_path / "without")
    found, left_out = read(tmp_path / "with", notes=[planted, *NOTES, planted])
    assert found == without == [("100", "first\n\nsecond", ("injury",))]
    assert left_out == ({rule: 2} if rule else {})


def test_notes_up_to_the_prediction_are_input(tmp_path):
    """Otherwise, the test above could not fail. Notes of one time keep the table's order."""
    notes = [note(0, "b", STORETIME=at(23.9)), note(23.9, "c"), note(0, "a", ISERROR=0)]
    assert read(tmp_path, notes=notes)[0][0][1] == "b\n\na\n\nc"


# Faults -------------------------------------------------------------------------------------------------------------


def test_missing_and_broken_tables_are_named(tmp_path):
    with pytest.raises(UserError, match=r"holds neither ICUSTAYS\.csv nor ICUSTAYS\.csv\.gz"):
        read_kidney_injury(tmp_path)
    with pytest.raises(UserError, match="PATIENTS lacks the patient of ICUSTAY_ID 100"):
        read(tmp_path, patients=[])
    with pytest.raises(UserError, match=r"NOTEEVENTS\.csv, row 1: CHARTTIME isn't a time"):
        read(tmp_path, notes=[note(5, "Janeroe", CHARTTIME="Janeroe")])
    tables(tmp_path)
    (tmp_path / "LABEVENTS.csv").write_text('"ROW_ID","SUBJECT_ID"\n1,2\n')
    with pytest.raises(UserError, match=r"LABEVENTS\.csv: its header doesn't have exactly one column ITEMID"):
        read_kidney_injury(tmp_path)


def test_the_lower_case_tables_of_the_demo(tmp_path):
    for path in list(tables(tmp_path).glob("*.csv")):
        header, rest = path.read_text().split("\n", 1)
        path.unlink()
        path.with_name(path.name.lower()).write_text(header.lower() + "\n" + rest)
    assert len(read_kidney_injury(tmp_path).splits["train"]) == 1
