"""Reading i2b2 2010: lines and tokens become offsets, and what has another text is counted."""

import pytest
from entity_files import clean, folder_2010, found, only, put

from clinical_pretrain.tasks.readers.i2b2_2010 import read_i2b2_2010
from tokenizer_tools.errors import UserError


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
