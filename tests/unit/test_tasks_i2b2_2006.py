"""Reading i2b2 2006: tags become offsets, the known fault is mended, and no message holds a text."""

import pytest
from entity_files import clean, folder_2006, found, only, put, records_2006

from clinical_pretrain.tasks.readers.i2b2_2006 import FILES, read_i2b2_2006
from tokenizer_tools.errors import UserError

DOCTOR = 'Dr. <PHI TYPE="DOCTOR">Jane Roe</PHI> on <PHI TYPE="DATE">03/04</PHI>/1999 &amp; later\n[ report_end ]\n'


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
    with pytest.raises(UserError, match=r"document 2 \(split train\) has the identifier of document 1 \(split train\)"):
        read_i2b2_2006(tmp_path)
    (tmp_path / FILES["test"]).unlink()
    (tmp_path / FILES["test"]).mkdir()
    put(tmp_path / "train" / FILES["train"], records_2006("a"))
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        read_i2b2_2006(tmp_path)
