"""Reading tasks of entities: offsets fit, what doesn't fit is counted, and no message holds a text."""

import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from clinical_pretrain.tasks.readers.brat import read_brat
from clinical_pretrain.tasks.readers.i2b2_2006 import FILES, read_i2b2_2006
from clinical_pretrain.tasks.readers.i2b2_2010 import read_i2b2_2010
from clinical_pretrain.tasks.readers.i2b2_xml import read_i2b2_2012, read_i2b2_2014
from clinical_pretrain.tasks.readers.iob import read_iob
from clinical_pretrain.tasks.records import ReadingReport, TaskData
from tokenizer_tools.errors import UserError


def put(path, content):
    """Write a file, given as text or bytes, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def found(document):
    """A document's entities with their texts."""
    return [(document.text[entity.start : entity.end], entity.type) for entity in document.entities]


def only(data: TaskData, split="train"):
    (document,) = data.splits[split]
    return document


def clean(report: ReadingReport):
    return not report.mended and not report.left_out and not report.places


# i2b2 2006 -----------------------------------------------------------------------------------------------------------


def records_2006(*texts, first=1):
    body = "".join(f'<RECORD ID="{first + i}">\n<TEXT>{text}</TEXT>\n</RECORD>\n' for i, text in enumerate(texts))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<ROOT>\n{body}</ROOT>\n'


DOCTOR = 'Dr. <PHI TYPE="DOCTOR">Jane Roe</PHI> on <PHI TYPE="DATE">03/04</PHI>/1999 &amp; later\n[ report_end ]\n'


def folder_2006(root, train, test=None):
    put(root / "train" / FILES["train"], train)
    put(root / FILES["test"], test or records_2006("nothing here"))
    return root


def test_2006_tags_become_offsets(tmp_path):
    data = read_i2b2_2006(folder_2006(tmp_path, records_2006(DOCTOR, "none"), records_2006(DOCTOR)))
    first, second = data.splits["train"]
    assert first.text == "Dr. Jane Roe on 03/04/1999 & later\n[ report_end ]\n"
    assert found(first) == [("Jane Roe", "DOCTOR"), ("03/04", "DATE")] and second.entities == ()
    assert data.kind == "entities" and data.labels == ("DATE", "DOCTOR") and list(data.splits) == ["train", "test"]
    assert [first.id, only(data, "test").id, first.patient] == ["train/1", "test/1", ""] and clean(data.report)


def broken_2006(line):
    """A file with a tag that is opened a second time instead of closed, in this line."""
    before = records_2006("").split("</TEXT>")[0].count("\n")
    broken = 'on the <PHI TYPE="DATE">25th of May<PHI TYPE="DOCTOR"> by\n<PHI TYPE="DOCTOR">Roe</PHI>.'
    return records_2006("\n" * (line - 1 - before) + broken)


def test_2006_the_known_malformed_line_is_mended(tmp_path):
    data = read_i2b2_2006(folder_2006(tmp_path, broken_2006(25722)))
    document = only(data)
    assert document.text.strip() == "on the 25th of May by\nRoe."
    assert found(document) == [("25th of May", "DATE"), ("Roe", "DOCTOR")]
    assert data.report.mended == {"PHI tag closed": 1} and not data.report.left_out
    assert data.report.places == {"PHI tag closed": [f"{tmp_path / 'train' / FILES['train']}, line 25722"]}


@pytest.mark.parametrize("split", ["train", "test"])
def test_2006_other_malformed_places_are_refused_with_their_line(split, tmp_path):
    content = {"train": records_2006("none"), split: broken_2006(9000 if split == "train" else 25722)}
    folder_2006(tmp_path, content["train"], content.get("test"))
    with pytest.raises(UserError, match=r"line (9000|25722): a PHI tag before the last one is closed") as error:
        read_i2b2_2006(tmp_path)
    assert FILES[split] in str(error.value) and "May" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a\n<PHI TYPE="DATE">secret\n', r"line 6: malformed XML \(mismatched tag\)"),
        ("a & secret", r"line 4: malformed XML \(not well-formed"),
        ("a\n<B>secret</B>", "line 5: not a PHI tag with a TYPE around text"),
        ("a\n<PHI>secret</PHI>", "line 5: not a PHI tag with a TYPE around text"),
        ("</TEXT><TEXT>secret", "line 3: not a RECORD with an ID and one TEXT"),
    ],
)
def test_2006_what_is_not_of_the_format_is_refused(text, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        read_i2b2_2006(folder_2006(tmp_path, records_2006(text)))
    assert "secret" not in str(error.value)


def test_2006_a_tag_around_nothing_is_left_out(tmp_path):
    data = read_i2b2_2006(folder_2006(tmp_path, records_2006('at\n<PHI TYPE="DATE"> </PHI>')))
    assert only(data).entities == () and data.report.left_out == {"entity without a text": 1}
    assert data.report.places["entity without a text"] == [f"{tmp_path / 'train' / FILES['train']}, line 5"]


def test_2006_entities_of_a_document_type_are_not_expanded(tmp_path):
    secret = put(tmp_path / "secret", "secret")
    bomb = f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{secret}">]>\n<ROOT><RECORD ID="1"><TEXT>&x;</TEXT></RECORD></ROOT>'
    with pytest.raises(UserError, match="line 1: has a document type"):
        read_i2b2_2006(folder_2006(tmp_path, bomb))


def test_2006_an_unknown_encoding_is_refused(tmp_path):
    content = records_2006("a").replace("UTF-8", "klingon")
    with pytest.raises(UserError, match="unknown encoding; convert the file to UTF-8"):
        read_i2b2_2006(folder_2006(tmp_path, content))


def test_2006_files_must_be_there_once(tmp_path):
    with pytest.raises(UserError, match=f"no {FILES['train']} in it or below it"):
        read_i2b2_2006(tmp_path)
    put(folder_2006(tmp_path, records_2006("a")) / "copy" / FILES["train"], records_2006("a"))
    with pytest.raises(UserError, match="more than once"):
        read_i2b2_2006(tmp_path)
    (tmp_path / "copy" / FILES["train"]).unlink()
    put(tmp_path / "train" / FILES["train"], records_2006("a", "b").replace('ID="2"', 'ID="1"'))
    with pytest.raises(UserError, match="document train/1 occurs 2 times"):
        read_i2b2_2006(tmp_path)
    (tmp_path / FILES["test"]).unlink()
    (tmp_path / FILES["test"]).mkdir()
    put(tmp_path / "train" / FILES["train"], records_2006("a"))
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        read_i2b2_2006(tmp_path)


# i2b2 2010 -----------------------------------------------------------------------------------------------------------


def folder_2010(root, text, concepts, name="record-13"):
    """The data set's folders; the given text and concepts are those of Beth's only record."""
    train, test = root / "concept_assertion_relation_training_data", root / "reference_standard_for_test_data"
    put(train / "beth" / "txt" / f"{name}.txt", text)
    put(train / "beth" / "concept" / f"{name}.con", concepts)
    put(train / "partners" / "txt" / f"{name}.txt", "No pain .\n")
    put(train / "partners" / "concept" / f"{name}.con", 'c="pain" 1:1 1:1||t="problem"\n')
    put(root / "test_data" / "0001.txt", "CT scan\nof Chest\n")
    put(test / "concepts" / "0001.con", 'c="ct scan of chest" 1:0 2:1||t="test"\n')
    return root


def read_concepts(tmp_path, text, *concepts):
    """Beth's record, and the report."""
    data = read_i2b2_2010(folder_2010(tmp_path, text, "".join(f"{concept}\n" for concept in concepts)))
    return data.splits["train"][0], data.report


def test_2010_lines_and_tokens_become_offsets(tmp_path):
    concepts = 'c="chest pain" 2:1 2:2||t="problem"\nc="aspirin" 2:5 2:5||t="treatment"'
    data = read_i2b2_2010(folder_2010(tmp_path, "Admission :\nHas Chest Pain , took Aspirin .\n", concepts))
    beth, partners = data.splits["train"]
    assert found(beth) == [("Chest Pain", "problem"), ("Aspirin", "treatment")]
    assert found(partners) == [("pain", "problem")] and [beth.id, partners.id] == [
        "beth/record-13",
        "partners/record-13",
    ]
    assert found(only(data, "test")) == [("CT scan\nof Chest", "test")] and only(data, "test").id == "test/0001"
    assert data.labels == ("problem", "test", "treatment") and clean(data.report)


def test_2010_more_blanks_and_windows_line_ends(tmp_path):
    document, report = read_concepts(tmp_path, "a  b\r\nthe  left   arm\r\n", 'c="left arm" 2:1 2:2||t="problem"\r')
    assert found(document) == [("left   arm", "problem")] and clean(report)
    assert document.text == "a  b\r\nthe  left   arm\r\n"


def test_2010_quotes_and_bars_in_a_concept(tmp_path):
    document, report = read_concepts(tmp_path, 'a " b || c', 'c="" b ||" 1:1 1:3||t="test"')
    assert found(document) == [('" b ||', "test")] and clean(report)


@pytest.mark.parametrize(
    ("concept", "shifted"),
    [('c="folate" 2:3 2:3||t="treatment"', 1), ('c="folate" 2:2 2:2||t="treatment"', 0)],
)
def test_2010_both_indices_of_a_line_with_a_leading_blank(concept, shifted, tmp_path):
    document, report = read_concepts(tmp_path, "Plan :\n took some folate daily", concept)
    assert found(document) == [("folate", "treatment")] and not report.left_out
    assert report.mended == ({"token index counts a leading blank": 1} if shifted else {})


def test_2010_the_shifted_index_wins_where_both_fit(tmp_path):
    document, _ = read_concepts(tmp_path, " pain pain", 'c="pain" 1:1 1:1||t="problem"')
    assert document.entities[0].start == 1


def test_2010_no_token_is_before_the_first(tmp_path):
    document, report = read_concepts(tmp_path, " pain", 'c="pain" 1:0 1:0||t="problem"')
    assert found(document) == [("pain", "problem")] and clean(report)


@pytest.mark.parametrize(
    "concept",
    [
        'c="chest pain" 2:0 2:1||t="problem"',  # one to the left, in a line without a leading blank
        'c="chest pain" 9:1 9:2||t="problem"',
        'c="chest pain" 0:1 0:2||t="problem"',
        'c="chest pain" 2:1 2:99||t="problem"',
        'c="chest pain" 2:2 2:1||t="problem"',
    ],
)
def test_2010_a_concept_with_another_text_is_left_out_and_counted(concept, tmp_path):
    document, report = read_concepts(tmp_path, "Admission :\nHas Chest Pain .", 'c="has" 2:0 2:0||t="problem"', concept)
    assert found(document) == [("Has", "problem")] and not report.mended
    assert report.left_out == {"stated text isn't at the offset": 1}
    (place,) = report.places["stated text isn't at the offset"]
    assert place.endswith("beth/concept/record-13.con, line 2")


def test_2010_repeated_concepts_and_other_types_are_left_out(tmp_path):
    pain = 'c="pain" 1:0 1:0||t="problem"'
    document, report = read_concepts(tmp_path, "pain her", pain, pain, 'c="her" 1:1 1:1||t="person"', "")
    assert found(document) == [("pain", "problem")]
    assert report.left_out == {"repeated entity": 1, "entity of an unknown type": 1}


def test_2010_another_line_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"record-13\.con, line 2: not of the form") as error:
        read_concepts(tmp_path, "pain", 'c="pain" 1:0 1:0||t="problem"', 'c="secret" 1:0||t="problem"')
    assert "secret" not in str(error.value)


def test_2010_texts_and_concepts_must_be_pairs_of_utf_8(tmp_path):
    folder_2010(tmp_path, "a\n\xff".encode("latin-1"), "")
    with pytest.raises(UserError, match=r"record-13\.txt, line 2: not UTF-8"):
        read_i2b2_2010(tmp_path)
    folder_2010(tmp_path, "a", "")
    put(tmp_path / "test_data" / "._0001.txt", b"\x00\xff")  # macOS
    assert len(read_i2b2_2010(tmp_path).splits["test"]) == 1
    put(tmp_path / "test_data" / "0002.txt", "a")
    with pytest.raises(UserError, match=r"0002\.txt: no annotations of this name"):
        read_i2b2_2010(tmp_path)
    put(tmp_path / "reference_standard_for_test_data" / "concepts" / "0002.con", "")
    (tmp_path / "test_data" / "0001.txt").unlink()
    with pytest.raises(UserError, match=r"0001\.con: no text of this name"):
        read_i2b2_2010(tmp_path)


# i2b2 2012 and 2014 --------------------------------------------------------------------------------------------------


def note_xml(text, *tags):
    """A note; its tags begin in the line after the text's end."""
    return f'<?xml version="1.0" encoding="UTF-8" ?>\n<Root>\n<TEXT><![CDATA[{text}]]></TEXT>\n<TAGS>\n' + "".join(
        f"{tag}\n" for tag in (*tags, "</TAGS>", "</Root>")
    )


def event(start, end, text, kind="OCCURRENCE", tag="EVENT"):
    return (
        f'<{tag} id="E0" start="{start}" end="{end}" text="{text}" modality="FACTUAL" polarity="POS" type="{kind}" />'
    )


def folder_2012(root, content, test="ground_truth/merged_xml"):
    put(root / "2012-07-15.original-annotation.release" / "143.xml", content)
    put(root / "2012-07-15.original-annotation.release" / "143.xml.txt", "not a note")
    put(root / test / "101.xml", note_xml("Fall", event(0, 4, "Fall", "PROBLEM")))
    return root


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


def phi(start, end, text, kind="DATE"):
    return f'<NAME id="P0" start="{start}" end="{end}" text="{text}" TYPE="{kind}" comment="" />'


def folder_2014(root, content, name="220-01"):
    put(root / "training-PHI-Gold-Set1" / f"{name}.xml", content)
    put(root / "training-PHI-Gold-Set2" / "301-02.xml", note_xml("Ann", phi(0, 3, "Ann", "PATIENT")))
    put(root / "testing-PHI-Gold-fixed" / "110-03.xml", note_xml("Roe", phi(0, 3, "Roe", "DOCTOR")))
    return root


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


# brat ----------------------------------------------------------------------------------------------------------------


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


# IOB -----------------------------------------------------------------------------------------------------------------


def read_tags(folder, content, name="train.tsv"):
    put(folder / name, content)
    data = read_iob(folder)
    return data.splits["train"], data.report


def test_iob_a_sentence_is_a_document_where_none_is_marked(tmp_path):
    put(tmp_path / "LICENSE.md", "text")
    put(tmp_path / "train_dev.tsv", "not read")
    put(tmp_path / "devel.tsv", "a\tO\n")
    documents, report = read_tags(tmp_path, "low\tB-Disease\nbone\tI-Disease\nin\tO\n\n\ndogs\tB-Species\n\n")
    assert [(d.id, d.text) for d in documents] == [("train-1", "low bone in"), ("train-2", "dogs")]
    assert [found(d) for d in documents] == [[("low bone", "Disease")], [("dogs", "Species")]] and clean(report)
    assert list(read_iob(tmp_path).splits) == ["train", "development"]


def test_iob_documents_of_conll_2003(tmp_path):
    rows = ["-DOCSTART- -X- -X- O", "", "EU NNP B-NP B-ORG", "rejects VBZ B-VP O", "", "Peter  NNP B-NP B-PER ", "",
            "-DOCSTART- -X- -X- O", "-DOCSTART-", "Peter NNP B-NP B-PER"]  # fmt: skip
    documents, report = read_tags(tmp_path, "\ufeff" + "\r\n".join(rows), "train.conll")
    assert [d.text for d in documents] == ["EU rejects\nPeter", "Peter"] and clean(report)
    assert [found(d) for d in documents] == [[("EU", "ORG"), ("Peter", "PER")], [("Peter", "PER")]]
    assert documents[0].entities[1].start == 11


def test_iob_a_token_keeps_its_blanks_between_tabs(tmp_path):
    documents, report = read_tags(tmp_path, "2 1/2\tCD\tB-Dose\nmg\u00a0x\tNN\tI-Dose\n")
    assert found(documents[0]) == [("2 1/2 mg\u00a0x", "Dose")] and clean(report)


@pytest.mark.parametrize(
    ("tags", "entities", "mended"),
    [
        ("B-A I-A B-A O B-B", ["a b", "c", "e"], {}),  # IOB2
        ("I-A I-A B-A O I-B", ["a b", "c", "e"], {}),  # IOB1
        ("B-A E-A S-A O S-B", ["a b", "c", "e"], {}),  # BIOES
        ("B-A O I-B I-B O", ["a", "c d"], {"entity without its first tag": 1}),
        ("B-A I-B O O O", ["a", "b"], {"entity without its first tag": 1}),
        ("B-A I-A O E-A S-A", ["a b", "d", "e"], {"entity without its first tag": 1, "entity without its last tag": 1}),
    ],
)
def test_iob_schemes(tags, entities, mended, tmp_path):
    rows = [f"{token}\t{tag}" for token, tag in zip("abcde", tags.split(), strict=True)]
    documents, report = read_tags(tmp_path, "\n".join(rows))
    assert [text for text, _ in found(documents[0])] == entities
    assert report.mended == mended and not report.left_out


@given(
    lengths=st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["", "A", "B"])), min_size=1, max_size=8),
    scheme=st.sampled_from(["IOB1", "IOB2", "BIOES"]),
)
def test_iob_what_a_scheme_encodes_is_read_back(lengths, scheme, tmp_path_factory):
    tags, expected, before, start = [], [], "", 0
    for length, kind in lengths:
        if not kind:
            tags += ["O"] * length
        else:
            tags += [f"I-{kind}"] * length
            if scheme != "IOB1" or kind == before:
                tags[-length] = f"B-{kind}"
            if scheme == "BIOES":
                tags[-1] = f"{'S' if length == 1 else 'E'}-{kind}"
            expected.append((start, start + 2 * length - 1, kind))
        before, start = kind, start + 2 * length
    documents, report = read_tags(tmp_path_factory.mktemp("iob"), "".join(f"x {tag}\n" for tag in tags))
    assert list(documents[0].entities) == expected and clean(report)


@pytest.mark.parametrize(
    "line", ["secret", "\tO", "secret\tX-A", "secret\tB-", "secret\tB-A\t", "secret 0", "secret o"]
)
def test_iob_another_line_is_refused(line, tmp_path):
    with pytest.raises(UserError, match=r"train\.tsv, line 3: not a token and a tag") as error:
        read_tags(tmp_path, f"a\tO\n\n{line}\n")
    assert "secret" not in str(error.value)


def test_iob_files_of_splits_must_be_there(tmp_path):
    with pytest.raises(UserError, match="no files of splits"):
        read_iob(tmp_path)


# The real sets -------------------------------------------------------------------------------------------------------


def kinds(documents):
    found = {}
    for document in documents:
        for entity in document.entities:
            assert 0 <= entity.start < entity.end <= len(document.text)
            found[entity.type] = found.get(entity.type, 0) + 1
    return found


@pytest.mark.shared
def test_the_whole_of_maccrobat():
    data = read_brat(SHARED / "tasks" / "maccrobat2020")
    counts = kinds(data.splits["train"])
    assert len(data.splits["train"]) == 200 and len(data.labels) == len(counts) == 41
    assert sum(counts.values()) == 25_189 and counts["Sign_symptom"] == 3_382
    assert data.report.mended == {"gaps filled": 39, "white space filled": 5} and not data.report.left_out


@pytest.mark.slow
@pytest.mark.shared
def test_the_whole_of_bc5cdr():
    data = read_iob(SHARED / "tasks" / "BC5CDR-IOB")
    assert {split: len(documents) for split, documents in data.splits.items()} == {
        "train": 4560,
        "development": 4581,
        "test": 4797,
    }
    assert [kinds(documents) for documents in data.splits.values()] == [
        {"Chemical": 5203, "Disease": 4182},
        {"Chemical": 5347, "Disease": 4246},
        {"Chemical": 5385, "Disease": 4424},
    ]
    assert data.labels == ("Chemical", "Disease") and clean(data.report)
