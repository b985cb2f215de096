"""Reading i2b2 2012 and 2014: offsets of tags, and the known faults of the files."""

import pytest
from entity_files import clean, event, folder_2012, folder_2014, found, note_xml, only, phi, put

from clinical_pretrain.tasks.readers.i2b2_xml import read_i2b2_2012, read_i2b2_2014
from tokenizer_tools.errors import UserError


def test_2012_offsets_count_the_first_newline(tmp_path):
    tags = [event(1, 10, "Admission"), event(11, 15, "Fall", "PROBLEM"), event(11, 15, "DATE", "DATE", "TIMEX3")]
    data = read_i2b2_2012(folder_2012(tmp_path, note_xml("\nAdmission\nFall", *tags)))
    assert only(data).text == "\nAdmission\nFall" and clean(data.report)
    assert found(only(data)) == [("Admission", "OCCURRENCE"), ("Fall", "PROBLEM")]
    assert found(only(data, "test")) == [("Fall", "PROBLEM")]
    assert [only(data).id, only(data).patient, len(data.labels)] == ["143", "", 6]


def test_2012_a_literal_escape_counts_as_its_characters(tmp_path):
    text = "mother &apos;s fall"
    data = read_i2b2_2012(folder_2012(tmp_path, note_xml(text, event(0, 14, "mother &apos;s"), event(15, 19, "fall"))))
    assert found(only(data)) == [("mother &apos;s", "OCCURRENCE"), ("fall", "OCCURRENCE")] and clean(data.report)
    assert only(data).text == text


def test_2012_an_ampersand_in_a_tag_is_escaped_and_counted(tmp_path):
    data = read_i2b2_2012(folder_2012(tmp_path, note_xml("a D&C", event(0, 1, "a"), event(2, 5, "D&C", "TREATMENT"))))
    assert found(only(data)) == [("a", "OCCURRENCE"), ("D&C", "TREATMENT")]
    assert data.report.mended == {"ampersand escaped": 1} and not data.report.left_out
    assert data.report.places["ampersand escaped"][0].endswith("143.xml, line 6")


def test_2012_what_cannot_be_used_is_counted(tmp_path):
    tags = [
        event(0, 9, "Admission", ""),
        event(0, 9, "Admission", "OTHER"),
        event(1, 10, "Admission"),
        event(0, 99, "Admission"),
        event(-9, 9, "Admission"),
        event(9, 10, " "),
        event(10, 14, "Fall"),
        event(10, 14, "Fall"),
        event(10, 14, "Fall", "PROBLEM"),
    ]
    data = read_i2b2_2012(folder_2012(tmp_path, note_xml("Admission Fall", *tags)))
    assert found(only(data)) == [("Fall", "OCCURRENCE"), ("Fall", "PROBLEM")] and not data.report.mended
    assert data.report.left_out == {
        "entity without a type": 1,
        "entity of an unknown type": 1,
        "stated text isn't at the offset": 4,
        "repeated entity": 1,
    }
    places = data.report.places["stated text isn't at the offset"]
    assert [place.rpartition(" ")[2] for place in places] == ["7", "8", "9", "10"]


def test_2012_the_test_set_without_relations_is_preferred(tmp_path):
    folder_2012(tmp_path, note_xml("a"))
    other = tmp_path / "2012-08-08.test-data.event-timex-groundtruth" / "xml" / "7.xml"
    put(other, note_xml("a"))
    assert only(read_i2b2_2012(tmp_path), "test").id == "7"


def test_2014_names_hold_the_patient(tmp_path):
    data = read_i2b2_2014(folder_2014(tmp_path, note_xml("\n\nRecord date: 2067-05-03", phi(15, 25, "2067-05-03"))))
    assert [(d.id, d.patient) for d in data.splits["train"]] == [("220-01", "220"), ("301-02", "301")]
    assert found(data.splits["train"][0]) == [("2067-05-03", "DATE")] and only(data, "test").patient == "110"
    assert data.labels == ("DATE", "DOCTOR", "PATIENT") and clean(data.report)


def test_2014_an_ampersand_stated_as_and(tmp_path):
    """188-05."""
    content = note_xml("at Poe & Poe", phi(3, 12, "Poe and Poe", "ORGANIZATION"))
    data = read_i2b2_2014(folder_2014(tmp_path, content, "188-05"))
    assert found(data.splits["train"][0]) == [("Poe & Poe", "ORGANIZATION")]
    assert data.report.mended == {"ampersand stated as 'and'": 1} and not data.report.left_out


def test_2014_offsets_behind_other_characters_count_bytes(tmp_path):
    """180-03: two curly quotes, of three bytes each."""
    tags = [phi(0, 2, "at"), phi(3, 18, "9 O’ro’s Ct", "STREET"), phi(20, 23, "Ann", "PATIENT")]
    data = read_i2b2_2014(folder_2014(tmp_path, note_xml("at 9 O’ro’s Ct, Ann", *tags), "180-03"))
    assert found(data.splits["train"][0]) == [("at", "DATE"), ("9 O’ro’s Ct", "STREET"), ("Ann", "PATIENT")]
    assert data.report.mended == {"offset counts bytes": 2} and not data.report.left_out


def test_2014_an_offset_within_a_character_is_left_out(tmp_path):
    data = read_i2b2_2014(folder_2014(tmp_path, note_xml("’ Ann", phi(1, 6, "Ann"))))
    assert data.splits["train"][0].entities == () and data.report.left_out.total() == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (note_xml("secret", '<SMOKER id="S" status="past" />'), "line 5: tag without start and end and text and TYPE"),
        (note_xml("secret", phi("one", 2, "e")), "line 5: start or end isn't a whole number"),
        (note_xml("secret").replace("TAGS", "TAG"), "not one TEXT without tags in it and one TAGS"),
        (note_xml("secret").replace("<![CDATA[", "<b/>").replace("]]>", ""), "not one TEXT without tags in it"),
        (note_xml("secret")[:-9], "line 5: malformed XML"),
        (note_xml("secret").encode() + b"\xff", "malformed XML"),
    ],
)
def test_2014_what_is_not_of_the_format_is_refused(content, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        read_i2b2_2014(folder_2014(tmp_path, content))
    assert "220-01.xml" in str(error.value) and "secret" not in str(error.value)
