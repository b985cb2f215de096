"""Notes as files of their own: XML of i2b2, patients in paths; and compressed files."""

import gzip
import json
import re
from pathlib import PurePosixPath

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer_tools.corpus.compressed_files import open_file
from tokenizer_tools.corpus.input_options import InputOptions, find_sources
from tokenizer_tools.corpus.path_patterns import PathPattern
from tokenizer_tools.corpus.read_notes import read_notes
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError

BY_PATIENT = SplitRule()


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(path, rule=BY_PATIENT, **options):
    return [(note.text, note.patient, note.fault) for note in read_notes([path], InputOptions(**options), rule)]


def refusal(path, rule=BY_PATIENT, **options):
    with pytest.raises(UserError) as caught:
        read(path, rule, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# XML -----------------------------------------------------------------------------------------------------------------

NAMED = {"patient_from": "{patient}-*.xml"}


def xml(text, root="deIdi2b2"):
    return f'<?xml version="1.0" encoding="UTF-8" ?>\n<{root}>\n<TEXT>{text}</TEXT>\n<TAGS>\n</TAGS>\n</{root}>\n'


def test_notes_of_i2b2(tmp_path):
    write(tmp_path / "0220-02.xml", xml("K &lt; 4 &amp; up", root="PatientMatching"))
    write(tmp_path / "220-01.xml", xml("<![CDATA[\nRecord date: 2067-05-03\nK 3.5 < 4 & up\n]]>"))
    assert read(tmp_path, **NAMED) == [
        ("K < 4 & up", "220", None),
        ("\nRecord date: 2067-05-03\nK 3.5 < 4 & up\n", "220", None),
    ]
    assert "no patients are known; if files are named by patients, say how with --patient-from" in refusal(tmp_path)


def test_compressed_notes(tmp_path):
    write(tmp_path / "1-1.xml.gz", gzip.compress(xml("<![CDATA[caf\u00e9]]>").encode()))
    write(tmp_path / "2-1.xml.zst", pa.compress(xml("<![CDATA[b]]>").encode(), codec="zstd", asbytes=True))
    assert read(tmp_path, patient_from="{patient}-*.xml.*") == [("caf\u00e9", "1", None), ("b", "2", None)]


BOMB = '<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY b "lol"><!ENTITY c "&b;&b;&b;">]>\n<a><TEXT>&c;</TEXT></a>'
FOREIGN = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n<a><TEXT>&x;</TEXT></a>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "1-1.xml, line 2: has a document type"),
        (FOREIGN, "1-1.xml, line 1: has a document type"),
        (xml("a & b"), "1-1.xml, line 3: malformed XML (not well-formed"),
        (xml("a")[:60], "malformed XML (unclosed token)"),
        ("", "malformed XML (no element found)"),
        ("<a><TAGS/></a>", "1-1.xml: holds 0 <TEXT>, not one"),
        ("<a><TEXT>b</TEXT><TEXT>c</TEXT></a>", "1-1.xml: holds 2 <TEXT>, not one"),
        ("<a><TEXT>seen by <PHI>Dr. X</PHI></TEXT></a>", "1-1.xml: has elements within <TEXT>"),
        ('<?xml version="1.0" encoding="nonsense"?><a><TEXT>b</TEXT></a>', "unknown encoding"),
        ('<?xml version="1.0" encoding="gb2312"?><a><TEXT>b</TEXT></a>', "unknown encoding"),
        (xml("caf\udce9").encode(errors="surrogateescape"), "malformed XML (not well-formed"),
    ],
)
def test_xml_that_is_no_note(content, message, tmp_path):
    """A file that can't be read is a bad row, which can be skipped. Nothing of its text is shown."""
    write(tmp_path / "1-1.xml", content)
    write(tmp_path / "2-1.xml", xml("fine"))
    found = refusal(tmp_path, **NAMED)
    assert message in found and "Dr. X" not in found and "root:" not in found
    assert read(tmp_path, on_bad_row="skip", **NAMED) == [("", "", "malformed"), ("fine", "2", None)]


def test_a_note_without_text(tmp_path):
    write(tmp_path / "1-1.xml", xml(""))
    assert read(tmp_path, **NAMED) == [("", "1", None)]


# Paths ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("path", "files/p10/p10000032/s5.txt", {"patient": "p10000032"}),
        ("{patient}/*", "files/p10/p10000032/s5.txt", {"patient": "p10000032"}),
        ("p{patient}/s*.txt", "files/p10/p10000032/s5.txt", {"patient": "10000032"}),
        ("{patient}/{admission}/*", "x/7/33/note.txt", {"patient": "7", "admission": "33"}),
        ("{patient}-*.xml", "220-01.xml", {"patient": "220"}),
        ("{patient}_{admission}.txt", "7_33.txt", {"patient": "7", "admission": "33"}),
        ("note {patient} (*).txt", "note 7 (b).txt", {"patient": "7"}),
        ("{patient}-*.xml", "220.xml", None),
        ("{patient}-*.xml", "-01.xml", None),
        ("{patient}-*.xml", "220-01.XML", None),
        ("{patient}/*.txt", "7.txt", None),
        ("{patient}.txt", "7.txt/8.txt", {"patient": "8"}),
        ("{patient}.txt", "7xtxt", None),
        ("a{patient}a", "aa", None),
        ("a{patient}a", "aaa", {"patient": "a"}),
        ("*_{patient}.txt", "_7.txt", {"patient": "7"}),
        ("{patient}/*/a", "7/b/a", {"patient": "7"}),
        ("{patient}.a/*", "7.a/", None),
    ],
)
def test_patterns(pattern, path, expected):
    assert PathPattern(pattern).find(PurePosixPath(path)) == expected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("*.txt", "has neither {patient} nor {admission}"),
        ("", "has neither {patient} nor {admission}"),
        ("{pat}/*", "has neither {patient} nor {admission}"),
        ("{patient}/{pat}*", "has other braces than"),
        ("{patient}{admission}.txt", "has nothing between two of"),
        ("{patient}*.txt", "has nothing between two of"),
        ("{patient}/{patient}.txt", "names one of them twice"),
        ("/{patient}/*", "has an empty part"),
    ],
)
def test_wrong_patterns(pattern, message):
    with pytest.raises(UserError, match=message.replace("{", r"\{")):
        InputOptions(patient_from=pattern)


def all_ways(names, between, text):
    """What the named wildcards can stand for, by trying everything."""
    if not names:
        return {()} if text == between[0] else set()
    if not text.startswith(between[0]):
        return set()
    rest, is_named = text[len(between[0]) :], names[0] != "*"
    return {
        (*([rest[:cut]] if is_named else []), *more)
        for cut in range(is_named, len(rest) + 1)
        for more in all_ways(names[1:], between[1:], rest[cut:])
    }


PATTERNS = ["{patient}-*", "a{patient}-*b", "*-{patient}", "{patient}-{admission}a", "*-{admission}--{patient}-*"]


@given(st.text("ab-", min_size=1, max_size=9), st.sampled_from(PATTERNS))
def test_patterns_find_all_ways(text, pattern):
    wildcard = r"\{patient\}|\{admission\}|\*"
    names = re.findall(wildcard, pattern)
    ways = all_ways(names, re.split(wildcard, pattern), text)
    if len(ways) > 1:
        with pytest.raises(ValueError):
            PathPattern(pattern).find(PurePosixPath(text))
    else:
        found = PathPattern(pattern).find(PurePosixPath(text))
        assert found == next((dict(zip([n[1:-1] for n in names if n != "*"], way, strict=True)) for way in ways), None)


def test_a_pattern_takes_linear_time():
    for text in ("-" * 100_000, "a-" * 50_000, "b"):
        for pattern in ("*-*-*-*-{patient}x", "{patient}-*-*-*-*x"):
            assert PathPattern(pattern).find(PurePosixPath(text)) is None


@given(st.from_regex(r"[a-z0-9.]{1,8}", fullmatch=True), st.from_regex(r"[a-z0-9.-]{0,8}", fullmatch=True))
def test_a_pattern_finds_what_was_put_together(patient, rest):
    pattern, path = PathPattern("{patient}-*.xml"), PurePosixPath(f"{patient}-{rest}.xml")
    if "-" in rest:
        with pytest.raises(ValueError):
            pattern.find(path)
    else:
        assert pattern.find(path) == {"patient": patient}


def test_a_folder_per_patient(tmp_path):
    write(tmp_path / "p10" / "p007" / "s1.txt", "a")
    write(tmp_path / "p10" / "p007" / "s2.txt", "b")
    write(tmp_path / "p11" / "p8" / "s3.txt", "c")
    assert read(tmp_path, patient_from="path") == [("a", "p007", None), ("b", "p007", None), ("c", "p8", None)]
    assert [note[1] for note in read(tmp_path, patient_from="p{patient}/s*.txt")] == ["7", "7", "8"]
    assert "say how with --patient-from" in refusal(tmp_path)
    write(tmp_path / "readme.txt", "not a note")
    found = refusal(tmp_path, patient_from="path")
    assert "readme.txt: its path doesn't match --patient-from path" in found
    assert refusal(tmp_path, rule=None, patient_from="path") == found, "also where nobody asks for patients"
    assert [note[2] for note in read(tmp_path, patient_from="path", on_bad_row="skip")][-1] == "no_patient"


def test_tables_named_by_their_patient(tmp_path):
    write(tmp_path / "patient_7.csv", "text\na\nb\n")
    write(tmp_path / "patient_8.csv", "text\nc\n")
    assert [note[:2] for note in read(tmp_path, patient_from="patient_{patient}.csv")] == [
        ("a", "7"), ("b", "7"), ("c", "8")
    ]  # fmt: skip
    (note,) = read(tmp_path / "patient_8.csv", patient_from="patient_{patient}.csv")
    assert note[1] == "8"


def test_paths_that_name_nobody_for_sure(tmp_path):
    write(tmp_path / "a" / "7-1-2.xml", xml("x"))
    assert "can be read in two ways by --patient-from {patient}-*.xml" in refusal(tmp_path / "a", **NAMED)
    assert read(tmp_path / "a", patient_from="*-{patient}-*") == [("x", "1", None)]
    write(tmp_path / "b" / "unknown-1.xml", xml("x"))
    assert "its path names nobody (--patient-from)" in refusal(tmp_path / "b", **NAMED)
    write(tmp_path / "c" / "1.2E+11-1.xml", xml("x"))
    assert "an identifier in its path has lost digits" in refusal(tmp_path / "c", **NAMED)
    assert "an identifier in its path has lost digits" in refusal(
        write(tmp_path / "d" / "1E+11" / "n.txt", "x").parent.parent, patient_folder=1
    )


def test_an_admission_in_a_path_leads_to_the_patient(tmp_path):
    write(tmp_path / "33" / "n.txt", "x")
    options = InputOptions(patient_from="{admission}/*")
    (note,) = read_notes(find_sources([tmp_path], options), options, BY_PATIENT)
    assert (note.patient, note.admission) == ("", "33")


# Compressed files ----------------------------------------------------------------------------------------------------

PACK = {
    "gz": gzip.compress,
    "zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}
TABLES = {
    "csv": b"subject_id,text\n1,a\n2,b\n",
    "tsv": b"subject_id\ttext\n1\ta\n2\tb\n",
    "jsonl": b"".join(json.dumps({"subject_id": i, "text": t}).encode() + b"\n" for i, t in ((1, "a"), (2, "b"))),
}


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("kind", TABLES)
def test_compressed_tables(packing, kind, tmp_path):
    pack, content = PACK[packing], TABLES[kind]
    whole = write(tmp_path / f"n.{kind}.{packing.upper()}", pack(content))
    joined = write(tmp_path / f"j.{kind}.{packing}", pack(content[:20]) + pack(content[20:]))
    assert read(whole) == read(joined) == [("a", "1", None), ("b", "2", None)]
    write(tmp_path / "parts" / f"part-0.{kind}.{packing}", pack(content))
    write(tmp_path / "parts" / f"part-1.{kind}.{packing}", pack(b""))
    assert read(tmp_path / "parts") == read(whole)
    assert find_sources([tmp_path / "parts"], InputOptions())[0].skipped == {
        f"empty {'csv' if kind == 'tsv' else kind}": 1
    }


@pytest.mark.parametrize("packing", PACK)
def test_broken_compressed_tables(packing, tmp_path):
    rows = b"".join(b"%d,some text that is not so short\n" % number for number in range(2000))
    packed = PACK[packing](b"subject_id,text\n" + rows)
    for content in (packed[: len(packed) // 2], packed[:-1], packed[:6], b"not compressed at all"):
        path = write(tmp_path / f"n.csv.{packing}", content)
        assert "n.csv" in refusal(path) and "broken or cut-off" in refusal(path)


def test_a_file_is_read_as_it_is(tmp_path):
    content = bytes(range(256)) * 1000
    for name, pack in {"a": bytes, "a.gz": PACK["gz"], "a.zst": PACK["zst"]}.items():
        with open_file(write(tmp_path / name, pack(content))) as stream:
            assert stream.read(10) == content[:10] and stream.read() == content[10:]
