"""Reading questions: SQuAD's form with COVID-QA, emrQA, MedConceptsQA."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED

from clinical_pretrain.tasks.readers.answers import AFTER_BLANK, MOVED, NOT_FOUND, REACH, STRIPPED
from clinical_pretrain.tasks.readers.emrqa import read_emrqa
from clinical_pretrain.tasks.readers.medconceptsqa import PER_SUBSET, as_task_data, count_answers, read_medconceptsqa
from clinical_pretrain.tasks.readers.squad import read_squad
from clinical_pretrain.tasks.records import Answer
from tokenizer_tools.errors import UserError

SECRET = "Janeroe"
"""Stands in every text that a reader might quote by mistake."""


# SQuAD --------------------------------------------------------------------------------------------------------------


def squad(path, context, *questions, document_id=None):
    """Write one paragraph; a question is (answers, further keys), an answer (start, text)."""
    qas = [
        {
            "id": number,
            "question": f"{SECRET}?",
            "answers": [{"answer_start": s, "text": t} for s, t in answers],
            **more,
        }
        for number, (answers, more) in enumerate(questions)
    ]
    paragraph = {"context": context, "qas": qas} | ({"document_id": document_id} if document_id is not None else {})
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": SECRET, "paragraphs": [paragraph]}]}))
    return path


def answers_of(data):
    """The answers of each question."""
    return [question.answers for documents in data.splits.values() for d in documents for question in d.questions]


@pytest.mark.parametrize(
    ("text", "start", "answer", "rule"),
    [
        ("aspirin daily", 0, Answer(0, "aspirin"), None),
        ("take aspirin daily", 5, Answer(5, "aspirin"), None),
        ("take aspirin daily", 4, Answer(5, "aspirin"), MOVED),
        ("take aspirin daily", 0, Answer(5, "aspirin"), MOVED),
        ("take  aspirin daily", 0, None, NOT_FOUND),
        ("aspirin, take aspirin", 8, None, NOT_FOUND),
        ("take aspirin daily", 10, Answer(5, "aspirin"), MOVED),
        ("take Aspirin daily", 5, None, NOT_FOUND),
    ],
)
def test_an_answer_stands_at_its_offset_or_close_to_it(text, start, answer, rule, tmp_path):
    data = read_squad(squad(tmp_path / "a.json", text, ([(start, "aspirin")], {}), ([(0, text[0])], {})))
    assert answers_of(data)[:-1] == ([(answer,)] if answer else [])
    assert data.report.mended == ({MOVED: 1} if rule == MOVED else {})
    assert data.report.left_out[NOT_FOUND] == (rule == NOT_FOUND)
    assert REACH == 5


def test_an_answer_twice_within_reach_is_left_out(tmp_path):
    """At its wrong offset, both are as near."""
    data = read_squad(squad(tmp_path / "a.json", "a b a b a", ([(1, "a")], {})))
    assert answers_of(data) == [] and data.report.left_out[NOT_FOUND] == 1
    assert data.report.left_out["question without an answer that can be used"] == 1
    (place,) = data.report.places[NOT_FOUND]
    assert place == f"{tmp_path}/a.json, article 0, paragraph 0, question 0"


@pytest.mark.parametrize(("start", "rule"), [(4, STRIPPED), (5, AFTER_BLANK), (2, MOVED)])
def test_blanks_are_no_part_of_an_answer(start, rule, tmp_path):
    """In COVID-QA, 194 offsets are those of the text after a leading blank that the answer has."""
    data = read_squad(squad(tmp_path / "a.json", "take aspirin daily", ([(start, " aspirin ")], {})))
    assert answers_of(data) == [(Answer(5, "aspirin"),)]
    assert data.report.mended == {rule: 1} and not data.report.left_out


def test_an_answer_of_blanks_is_left_out(tmp_path):
    data = read_squad(squad(tmp_path / "a.json", "a b", ([(1, " "), (2, "b")], {})))
    assert answers_of(data) == [(Answer(2, "b"),)] and data.report.left_out == {"answer without text": 1}


def test_impossible_questions_have_no_answer(tmp_path):
    questions = [([], {"is_impossible": True}), ([(0, "a"), (0, "a")], {"is_impossible": False}), ([], {}),
                 ([(0, "a")], {"is_impossible": True})]  # fmt: skip
    data = read_squad(squad(tmp_path / "a.json", "a", *questions))
    assert answers_of(data) == [(), (Answer(0, "a"),)]
    assert data.report.left_out == {
        "question without an answer that can be used": 1,
        "question is called impossible and has answers": 1,
    }


def test_a_wrong_offset_makes_no_question_impossible(tmp_path):
    data = read_squad(squad(tmp_path / "a.json", "a" * 40 + "b", ([(0, "b")], {"is_impossible": False})))
    assert answers_of(data) == []


def test_identifiers(tmp_path):
    """COVID-QA's documents have identifiers; CliniRC's titles are words of the note, and are not used."""
    squad(tmp_path / "medication-train.json", "a", ([(0, "a")], {"id": "x"}), document_id=630)
    squad(tmp_path / "medication-dev.json", "a", ([(0, "a")], {"id": "y"}))
    squad(tmp_path / "test-v1.1.json", "a", ([(0, "a")], {"id": "z"}))
    data = read_squad(tmp_path)
    ids = {split: [document.id for document in documents] for split, documents in data.splits.items()}
    assert ids == {"development": ["medication-dev/0/0"], "train": ["630"], "test": ["test-v1.1/0/0"]}
    squad(tmp_path / "test-v1.1.json", "a", ([(0, "a")], {"id": "x"}))
    with pytest.raises(UserError, match=r"question 3 \(split test\) has the identifier of question 2 \(split train\)"):
        read_squad(tmp_path)


@pytest.mark.parametrize("name", ["train-2.json", "notes.json", "train-dev.json"])
def test_files_of_a_folder_are_named_after_their_splits(name, tmp_path):
    for file in ("train.json", name):
        squad(tmp_path / file, "a", ([(0, "a")], {"id": file}))
    with pytest.raises(UserError, match="name each file of a folder after its split, one each of train, dev and test"):
        read_squad(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"not JSON \(Expecting property name enclosed in double quotes at line 1, column 2\)"),
        ('{"data": [], "data": []}', "not JSON with each key once"),
        ("[]", "not a JSON object"),
        ('{"data": 1}', "no list 'data'"),
        ('{"data": [{"paragraphs": [{"context": 1, "qas": []}]}]}', "article 0, paragraph 0: no text 'context'"),
        ('{"data": [{"paragraphs": [{"context": "Janeroe", "qas": [{"question": "Janeroe", "answers": []}]}]}]}',
         "question 0: has no 'id'"),
        ('{"data": [{"paragraphs": [{"context": "Janeroe", "qas": [{"id": 1, "question": "Janeroe", "answers": '
         '[{"text": "Janeroe", "answer_start": "0"}]}]}]}]}', "'answer_start' must be a whole number"),
        ('{"data": [{"paragraphs": [{"context": "Janeroe", "qas": [{"id": 1, "question": "Janeroe", "answers": '
         '[{"text": "Janeroe", "answer_start": -7}]}]}]}]}', "'answer_start' must be a whole number"),
    ],
)  # fmt: skip
def test_other_files_are_refused(content, message, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        read_squad(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in str(error.value) and "\n" not in str(error.value)
    assert SECRET not in str(error.value)


def test_a_missing_file_or_encoding_is_named(tmp_path):
    with pytest.raises(UserError, match=r"b\.json: cannot be read"):
        read_squad(tmp_path / "b.json")
    (tmp_path / "b.json").write_bytes('{"data": "é"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"b\.json, line 1: not UTF-8"):
        read_squad(tmp_path / "b.json")


@pytest.mark.shared
def test_covid_qa():
    """All 1,380 answers can be used; the 234 that don't stand at their offset are mended."""
    data = read_squad(SHARED / "tasks" / "covid_qa" / "200423_covidQA.json")
    assert data.kind == "answers" and data.labels == () and list(data.splits) == ["train"]
    documents = data.splits["train"]
    assert len(documents) == 98 and len(answers_of(data)) == 1380
    assert data.report.mended == {STRIPPED: 184, AFTER_BLANK: 196, MOVED: 38} and not data.report.left_out
    for document in documents:
        for question in document.questions:
            for start, text in question.answers:
                assert document.text[start : start + len(text)] == text == text.strip() != ""


# emrQA --------------------------------------------------------------------------------------------------------------

NOTE = ["Janeroe is a patient .\n", " She takes Aspirin 81 mg daily\n", "and aspirin  with aspirin </s>\n", "for pain"]


def entity(line, word, text, **more):
    """An answer as emrQA's generators write it: its evidence is its line."""
    evidence = NOTE[line - 1] if 1 <= line <= len(NOTE) else ""
    return {"answer_start": [line, word], "text": text, "evidence": evidence, "evidence_start": line,
            "answer_entity_type": "single"} | more  # fmt: skip


def emrqa(path, part, *answers, context=NOTE, note_id="7", questions=("Why?", "What for?")):
    """Write a data.json whose part has one note with one question."""
    paragraph = {"note_id": note_id, "context": list(context),
                 "qas": [{"id": [["x"]], "question": list(questions), "answers": list(answers)}]}  # fmt: skip
    others = [{"title": title, "paragraphs": []} for title in ("smoking", "obesity")]
    path.write_text(json.dumps({"data": [*others, {"title": part, "paragraphs": [paragraph]}]}))
    return path


def read_one(tmp_path, part, *answers, target="text", **more):
    """The answers of the only question, and the report."""
    data = read_emrqa(emrqa(tmp_path / "data.json", part, *answers, **more), part, target)
    (document,) = data.splits["train"]
    for question in document.questions:
        for start, text in question.answers:
            assert document.text[start : start + len(text)] == text
    return [text for _, text in document.questions[0].answers] if document.questions else [], data.report


def test_lines_count_from_one_and_words_from_zero(tmp_path):
    """An answer at offset 0 is kept, and one that goes on in the next line is found."""
    found, report = read_one(
        tmp_path, "medication", entity(1, 0, "Janeroe"), entity(2, 2, "aspirin 81 mg"), entity(2, 5, "daily and")
    )
    assert found == ["Janeroe", "Aspirin 81 mg", "daily\nand"] and not report.mended and not report.left_out
    (document,) = read_emrqa(tmp_path / "data.json", "medication", "text").splits["train"]
    assert document.questions[0].answers[0] == Answer(0, "Janeroe")
    assert document.text == "".join(NOTE) + "\n" and (document.id, document.patient) == ("7", "")


def test_a_word_number_of_a_line_that_begins_with_a_blank(tmp_path):
    """i2b2's tools count the empty word before the blank."""
    found, report = read_one(tmp_path, "medication", entity(2, 3, "aspirin"))
    assert found == ["Aspirin"] and report.mended == {"word number wrong, answer stands once in its line": 1}
    assert report.places["word number wrong, answer stands once in its line"] == [
        f"{tmp_path}/data.json, medication, note 0, 0"
    ]


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        (entity(3, 0, "aspirin"), "answer not at its line and word"),  # twice in its line
        (entity(1, 1, "aspirin"), "answer not at its line and word"),  # in another line
        (entity(2, 6, "and"), "answer not at its line and word"),  # word 6 of line 2 is word 0 of line 3
        (entity(9, 0, "aspirin"), "answer outside the note"),
        (entity(0, 0, "aspirin"), "answer outside the note"),
        (entity(2, "", "", answer_entity_type="empty"), "empty answer"),
        (entity(2, 0, ["aspirin", "81 mg"], answer_start=[[2, 2], [2, 3]], answer_entity_type="complex"),
         "complex answer: several entities"),
    ],
)  # fmt: skip
def test_answers_that_cannot_be_used_are_counted(answer, rule, tmp_path):
    found, report = read_one(tmp_path, "relations", answer)
    assert found == [] and report.left_out == {rule: 1, "question without an answer that can be used": 1}
    found, report = read_one(tmp_path, "relations", answer, entity(4, 1, "pain"))
    assert found == ["pain"] and report.left_out == {rule: 1}


def test_the_status_that_a_generator_appends_is_removed(tmp_path):
    """`aspirin (causes)` stands in no note."""
    found, report = read_one(tmp_path, "relations", entity(4, 1, "pain (not known status)"))
    assert found == ["pain"] and report.mended == {"status removed from an answer": 1}


def test_every_paraphrase_is_a_question(tmp_path):
    path = emrqa(tmp_path / "data.json", "medication", entity(4, 1, "pain"), entity(4, 1, "pain"))
    (document,) = read_emrqa(path, "medication", "text").splits["train"]
    assert [(question.id, question.text) for question in document.questions] == [
        ("7/0/0", "Why?"),
        ("7/0/1", "What for?"),
    ]
    assert all(len(question.answers) == 1 for question in document.questions)


def test_evidence_is_the_line_of_the_answer(tmp_path):
    """Empty answers (yes and no) have evidence, too."""
    answers = [entity(1, 0, "janeroe"), entity(2, "", "", answer_entity_type="empty"), entity(4, 1, "pain")]
    found, report = read_one(tmp_path, "medication", *answers, target="evidence")
    assert found == [line.strip() for line in (NOTE[0], NOTE[1], NOTE[3])]
    assert not report.mended and not report.left_out


def test_evidence_one_line_off_in_both_directions_is_left_out(tmp_path):
    context = ["same\n", "other\n", "same\n"]
    answer = entity(1, 0, "same", evidence="same\n", evidence_start=2)
    found, report = read_one(tmp_path, "medication", answer, context=context, target="evidence")
    assert found == [] and report.left_out["evidence not at its line"] == 1


@pytest.mark.parametrize(
    ("evidence", "line", "found", "rules"),
    [
        ("".join(NOTE[1:3]), 2, "".join(NOTE[1:3]).strip(), {}),
        (",".join(NOTE[1:3]), 2, "".join(NOTE[1:3]).strip(), {}),  # as the generator of `medication` joins lines
        (NOTE[1], 1, NOTE[1].strip(), {"evidence one line off": 1}),
        (NOTE[1], 3, NOTE[1].strip(), {"evidence one line off": 1}),
        (NOTE[0], 0, NOTE[0].strip(), {"evidence one line off": 1}),
        (NOTE[0], 3, None, {"evidence not at its line": 1}),
        (NOTE[1] + NOTE[3], 4, None, {"evidence not at its line": 1}),  # of a discontinuous entity
        ("\n", 4, None, {"evidence not at its line": 1}),
    ],
)
def test_evidence_of_several_lines_or_one_line_off(evidence, line, found, rules, tmp_path):
    answer = entity(4, 0, "for", evidence=evidence, evidence_start=line)
    texts, report = read_one(tmp_path, "medication", answer, entity(4, 0, "for"), target="evidence")
    assert texts == ([found] if found else []) + ["for pain"]
    assert report.mended + report.left_out == rules


def test_long_answers_can_be_left_out(tmp_path):
    path = emrqa(tmp_path / "data.json", "medication", entity(1, 0, "janeroe"), entity(4, 1, "pain"))
    data = read_emrqa(path, "medication", max_words=5)
    assert [text for _, text in answers_of(data)[0]] == ["for pain"]
    assert data.report.left_out == {"answer of 5 words or more": 1}
    assert len(answers_of(read_emrqa(path, "medication", max_words=6))[0]) == 2


def test_risk_has_offsets_of_characters_and_joins_the_notes_of_a_patient(tmp_path):
    """Its generator strips each note's beginning and keeps the offsets: here by two and by three characters."""
    notes = ["CAD since 2067", "BP 160/90\nand CAD"]
    context = ("\n".join(notes) + "\n").split("\n")
    answers = [
        {"answer_start": [0, 2], "text": "CAD", "evidence": notes[0], "evidence_start": 0},
        {"answer_start": [15, 21], "text": "160/90", "evidence": "BP 160/90", "evidence_start": 15},
        {"answer_start": [25, 25 + 4 + 6], "text": "CAD", "evidence": "and CAD", "evidence_start": 25},
    ]
    found, report = read_one(tmp_path, "risk", *answers, context=context)
    assert found == ["CAD", "160/90"] and report.mended == {MOVED: 2} and report.left_out == {NOT_FOUND: 1}
    found, report = read_one(tmp_path, "risk", *answers, context=context, target="evidence")
    assert found == [notes[0], "BP 160/90", "and CAD"] and not report.mended
    (document,) = read_emrqa(tmp_path / "data.json", "risk").splits["train"]
    assert document.patient == document.id == "7" and document.text == "\n".join(notes) + "\n\n"


def test_the_parts_of_emrqa(tmp_path):
    answer = {"answer_start": [0, 0], "text": "Janeroe", "evidence": NOTE[0], "evidence_start": 0}
    path = emrqa(tmp_path / "data.json", "risk-dataset", answer)
    assert answers_of(read_emrqa(path, "risk", "text")) == [(Answer(0, "Janeroe"),)] * 2
    with pytest.raises(UserError, match=r"data\.json: 0 data sets have the title 'medication'"):
        read_emrqa(path, "medication")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"answer_start": [1]}, "'answer_start' isn't a pair"),
        ({"answer_start": [1, "0"]}, "'answer_start' must be a whole number"),
        ({"answer_start": 1}, "no list 'answer_start'"),
        ({"text": None}, "no text 'text'"),
    ],
)
def test_an_answer_of_another_form_is_refused(answer, message, tmp_path):
    path = emrqa(tmp_path / "data.json", "medication", entity(1, 0, "janeroe") | answer)
    with pytest.raises(UserError, match=message) as error:
        read_emrqa(path, "medication", "text")
    assert "medication, note 0, 0" in str(error.value) and SECRET.lower() not in str(error.value).lower()


# MedConceptsQA ------------------------------------------------------------------------------------------------------


def medconcepts(folder, config, **splits):
    """Write a configuration; a question is (number, letter, answer, options)."""
    (folder / config).mkdir()
    for split, questions in splits.items():
        rows = [
            {"question_id": number, "answer": answer, "answer_id": letter, "question": "\n  What is Janeroe?\n  A. a\n",
             **{f"option{at}": option for at, option in enumerate(options, start=1)}, "vocab": "ATC", "level": "easy"}
            for number, letter, answer, options in questions
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), folder / config / f"{split}-00000-of-00001.parquet")


def test_medconceptsqa(tmp_path):
    """A letter that isn't that of the answer's option is left out: the data set's maker confuses two letters."""
    questions = [(1, "A", "a", "abcd"), (2, "C", "d", "abcd"), (3, "D", "d", "abcd"), (4, "E", "d", "abcd")]
    medconcepts(tmp_path, "atc_easy", dev=[(1, "B", "b", "abcd")], test=questions)
    data = read_medconceptsqa(tmp_path, "atc_easy")
    assert [(q.id, q.answer, q.options) for q in data.splits["test"]] == [
        ("ATC/easy/1", "A", tuple("abcd")),
        ("ATC/easy/3", "D", tuple("abcd")),
    ]
    (shot,) = data.splits["development"]
    assert (shot.text, shot.vocabulary, shot.level) == ("\n  What is Janeroe?\n  A. a\n", "ATC", "easy")
    assert data.report.left_out == {"the answer's letter isn't that of its option": 2}
    assert count_answers(data.splits["test"]) == {"A": 1, "B": 0, "C": 0, "D": 1}


def test_medconceptsqa_asks_the_first_questions_of_each_vocabulary_and_level(tmp_path):
    """As the benchmark's own evaluation does; the number of a row counts all."""
    medconcepts(tmp_path, "all", dev=[(1, "B", "b", "abcd")], test=[])
    rows = [
        {"question_id": number, "answer": "a", "answer_id": letter, "question": "?", "vocab": vocab, "level": level,
         **dict(zip(("option1", "option2", "option3", "option4"), "abcd", strict=True))}
        for number, (vocab, level, letter) in enumerate(
            [("ATC", "easy", "A")] * 3 + [("ATC", "hard", "A")] * 2 + [("ATC", "easy", "A")] + [("ICD9CM", "easy", "B")]
        )
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "all" / "test-00000-of-00001.parquet", row_group_size=2)
    ids = [question.id for question in read_medconceptsqa(tmp_path, per_subset=2).splits["test"]]
    assert ids == ["ATC/easy/0", "ATC/easy/1", "ATC/hard/3", "ATC/hard/4"]
    data = read_medconceptsqa(tmp_path, per_subset=0)
    assert len(data.splits["test"]) == 6 and PER_SUBSET == 250
    (place,) = data.report.places["the answer's letter isn't that of its option"]
    assert place.endswith("test-00000-of-00001.parquet, row 7")
    documents = as_task_data(data)
    assert (documents.kind, documents.labels) == ("class", ("A", "B", "C", "D"))
    (shot,) = documents.splits["development"]
    assert (shot.id, shot.labels, shot.text) == ("ATC/easy/1", ("B",), "\n  What is Janeroe?\n  A. a\n")


def test_medconceptsqa_names_what_is_missing(tmp_path):
    medconcepts(tmp_path, "atc_easy", dev=[(1, "B", "b", "abcd")])
    with pytest.raises(UserError, match=r"holds no configuration 'all'; it has: atc_easy$"):
        read_medconceptsqa(tmp_path)
    with pytest.raises(UserError, match=r"test-00000-of-00001\.parquet: cannot be read as Parquet"):
        read_medconceptsqa(tmp_path, "atc_easy")
    (tmp_path / "atc_easy" / "test-00000-of-00001.parquet").write_text("Janeroe")
    with pytest.raises(UserError, match=r"cannot be read as Parquet with MedConceptsQA's columns \(ArrowInvalid\)$"):
        read_medconceptsqa(tmp_path, "atc_easy")
    pq.write_table(pa.table({"question": ["Janeroe"]}), tmp_path / "atc_easy" / "test-00000-of-00001.parquet")
    with pytest.raises(UserError, match="cannot be read as Parquet with MedConceptsQA's columns"):
        read_medconceptsqa(tmp_path, "atc_easy")
    medconcepts(tmp_path, "empty", dev=[(1, "B", None, "abcd")], test=[(1, "B", "b", "abcd")])
    with pytest.raises(UserError, match="row 1: a column is empty"):
        read_medconceptsqa(tmp_path, "empty")
