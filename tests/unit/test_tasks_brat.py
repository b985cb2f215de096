"""Reading brat's standoff format, with MACCROBAT."""

import pytest
from conftest import SHARED
from entity_files import clean, count_types, found, only, put

from clinical_pretrain.tasks.readers.brat import read_brat
from tokenizer_tools.errors import UserError


def read_annotations(folder, text, *lines):
    put(folder / "1.txt", text)
    put(folder / "1.ann", "".join(f"{line}\n" for line in lines))
    data = read_brat(folder)
    return only(data), data.report


def test_brat_entities_may_overlap(tmp_path):
    document, report = read_annotations(
        tmp_path,
        "A 28-year-old man\npresented",
        "T1\tAge 2 13\t28-year-old",
        "T2\tHistory 2 17\t28-year-old man",
        "E1\tClinical:T1 ",
        "R1\tMODIFY Arg1:T1 Arg2:T2",
        "*\tOVERLAP T1 T2",
        "#1\tAnnotatorNotes T1\tnote",
        "A1\tNegation E1",
        "T3\tAge 2 13\t28-year-old",
        "",
    )
    assert found(document) == [("28-year-old", "Age"), ("28-year-old man", "History")]
    assert not report.mended and report.left_out == {"repeated entity": 1}
    assert report.places["repeated entity"] == [f"{tmp_path / '1.ann'}, line 8"]


def test_brat_a_discontinuous_entity_covers_its_gaps(tmp_path):
    document, report = read_annotations(
        tmp_path,
        "left and right arm\nswollen",
        "T1\tBody 0 4;15 18\tleft arm",
        "T2\tSign 15 18;19 26\tarm swollen",
        "T3\tBody 0 4;9 14\tleft arm",
        "T4\tBody 0 4;15 99\tleft arm\nswollen".replace("\n", " "),
    )
    assert found(document) == [("left and right arm", "Body"), ("arm\nswollen", "Sign")]
    assert report.mended == {"gaps filled": 1, "white space filled": 1}
    assert report.left_out == {"stated text isn't at the offset": 2}


def test_brat_white_space_at_an_entitys_ends_is_left_out(tmp_path):
    """No model's prediction begins or ends with it."""
    text = "took aspirin daily"
    document, report = read_annotations(tmp_path, text, "T1\tDrug 5 13\taspirin ", "T2\tDrug 4 12\t aspirin")
    assert found(document) == [("aspirin", "Drug")] and report.mended == {"white space at an entity's ends": 2}
    assert report.left_out == {"repeated entity": 1}


@pytest.mark.parametrize(
    ("start", "end", "mended"), [(4, 7, {}), (3, 6, {"Windows line end read as one character": 1})]
)
def test_brat_windows_line_ends(start, end, mended, tmp_path):
    document, report = read_annotations(tmp_path, "hi\r\nman\r\n", f"T1\tSex {start} {end}\tman\r")
    assert found(document) == [("man", "Sex")] and report.mended == mended and not report.left_out
    assert document.text == ("hi\nman\n" if mended else "hi\r\nman\r\n")


def test_brat_offsets_count_characters_and_blanks_may_differ(tmp_path):
    document, report = read_annotations(tmp_path, "𝛽 8\u2005mg of", "T1\tDosage 2 6\t8\u2005mg\t\u2005")
    assert found(document) == [("8\u2005mg", "Dosage")] and clean(report)


def test_brat_another_text_is_left_out(tmp_path):
    document, report = read_annotations(tmp_path, "A man", "T1\tSex 2 5\twoman", "T2\tSex 2 9\tman", "T3\tSex 5 2\tman")
    assert document.entities == () and report.left_out == {"stated text isn't at the offset": 3}


@pytest.mark.parametrize("line", ["T1\tSex 2\tsecret", "T1 Sex 2 5 secret", "secret", "T1\tSex 2 5;\tsecret"])
def test_brat_another_line_is_refused(line, tmp_path):
    with pytest.raises(UserError, match=r"1\.ann, line 2: not a line of brat") as error:
        read_annotations(tmp_path, "A man", "T0\tSex 2 5\tman", line)
    assert "secret" not in str(error.value)


def test_brat_folders_of_splits(tmp_path):
    for number, name in enumerate(["test", "train", "dev", "other"]):
        put(tmp_path / name / f"{number}.txt", "man")
        put(tmp_path / name / f"{number}.ann", "T1\tSex 0 3\tman\n")
    data = read_brat(tmp_path)
    assert {split: only(data, split).id for split in data.splits} == {"train": "1", "development": "2", "test": "0"}
    assert list(data.splits) == ["train", "development", "test"] and data.labels == ("Sex",)
    (tmp_path / "valid").mkdir()
    with pytest.raises(UserError, match=r"valid: the split development, as is .*dev; keep one"):
        read_brat(tmp_path)


def test_brat_texts_must_be_there(tmp_path):
    with pytest.raises(UserError, match=r"no \.txt files"):
        read_brat(tmp_path / "nowhere")


@pytest.mark.shared
def test_the_whole_of_maccrobat():
    data = read_brat(SHARED / "tasks" / "maccrobat2020")
    counts = count_types(data.splits["train"])
    assert len(data.splits["train"]) == 200 and len(data.labels) == len(counts) == 41
    assert sum(counts.values()) == 25_189 and counts["Sign_symptom"] == 3_382
    mended = {"gaps filled": 39, "white space filled": 5, "white space at an entity's ends": 3}
    assert data.report.mended == mended and not data.report.left_out
