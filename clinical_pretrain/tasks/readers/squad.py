"""Questions in the form of SQuAD, such as COVID-QA."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from clinical_pretrain.tasks.readers.answers import locate
from clinical_pretrain.tasks.readers.common import SPLIT_OF, UNDIVIDED, check_ids
from clinical_pretrain.tasks.readers.rows import as_object, get_list, get_number, get_text, read_json
from clinical_pretrain.tasks.records import Document, Question, ReadingReport, TaskData
from tokenizer_tools.errors import UserError


def read_squad(path: Path) -> TaskData:
    """Read a JSON file in the form of SQuAD 1.1 or 2.0, or a folder of such files.

    In a folder, each file's name says its split as one of its words: `train-v2.0.json`, `medication-dev.json`. A
    paragraph is a document. Its identifier is its `document_id`, as in COVID-QA, or its number. Titles are not used:
    CliniRC's are the first words of a note.

    Answers are placed by the rules of `answers.locate`. A question with `is_impossible` has no answer. Other questions
    without an answer that can be used are left out.

    Format: https://rajpurkar.github.io/SQuAD-explorer/ and deepset-ai/COVID-QA.

    Raises:
        UserError: a file is missing or not of this form, or two documents or questions have one identifier.
    """
    report = ReadingReport()
    splits = {split: _documents(file, report) for split, file in _files(path).items()}
    return check_ids(TaskData("answers", splits, (), report), path)


def _files(path: Path) -> dict[str, Path]:
    """The files by split."""
    if not path.is_dir():
        return {UNDIVIDED: path}
    files: dict[str, Path] = {}
    for file in sorted(path.glob("*.json")):
        splits = {SPLIT_OF[word] for word in re.split(r"[-_.]", file.name.lower()) if word in SPLIT_OF}
        if len(splits) != 1 or splits & set(files):
            raise UserError(f"{file}: name each file of a folder after its split, one each of train, dev and test")
        files[splits.pop()] = file
    if not files:
        raise UserError(f"{path}: holds no .json file")
    return files


def _documents(path: Path, report: ReadingReport) -> list[Document]:
    documents = []
    for article_number, article in enumerate(get_list(read_json(path), "data", str(path))):
        place = f"{path}, article {article_number}"
        for number, paragraph in enumerate(get_list(as_object(article, place), "paragraphs", place)):
            where = f"{place}, paragraph {number}"
            text = get_text(as_object(paragraph, where), "context", where)
            identifier = str(paragraph.get("document_id", f"{path.stem}/{article_number}/{number}"))
            questions = [
                question
                for position, qa in enumerate(get_list(paragraph, "qas", where))
                if (question := _question(qa, text, f"{where}, question {position}", report))
            ]
            documents.append(Document(identifier, text, questions=tuple(questions)))
    return documents


def _question(qa: Any, text: str, place: str, report: ReadingReport) -> Question | None:
    wording = get_text(as_object(qa, place), "question", place)
    if not isinstance(identifier := qa.get("id"), (str, int)):
        raise UserError(f"{place}: has no 'id'; each question needs its own")
    given = get_list(qa, "answers", place)
    impossible = qa.get("is_impossible", False)
    if impossible and given:
        report.leave_out("question is called impossible and has answers", place)
        return None
    found = [locate(text, get_text(as_object(a, place), "text", place), _start(a, place), place, report) for a in given]
    answers = tuple(dict.fromkeys(answer for answer in found if answer))
    if not answers and not impossible:
        report.leave_out("question without an answer that can be used", place)
        return None
    return Question(str(identifier), wording, answers)


def _start(answer: dict[str, Any], place: str) -> int:
    return get_number(answer.get("answer_start"), "'answer_start'", place)
