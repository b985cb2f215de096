"""MedConceptsQA: which of four descriptions is that of a medical code?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinical_pretrain.tasks.records import Document, ReadingReport, TaskData
from tokenizer_tools.errors import UserError

LETTERS = "ABCD"
FILES = {"development": "dev-00000-of-00001.parquet", "test": "test-00000-of-00001.parquet"}
PER_SUBSET = 250
"""Questions of each vocabulary and level that the benchmark's own evaluation asks: the first ones."""
COLUMNS = (
    "question_id",
    "answer",
    "answer_id",
    "option1",
    "option2",
    "option3",
    "option4",
    "question",
    "vocab",
    "level",
)


@dataclass(frozen=True)
class ChoiceQuestion:
    """A multiple-choice question."""

    id: str
    text: str
    """The question with its four options, as the data set has it."""
    options: tuple[str, str, str, str]
    answer: str
    """The letter of the correct option."""
    vocabulary: str
    """Of the code: ICD10CM, ATC, ..."""
    level: str
    """easy, medium or hard."""


@dataclass(frozen=True)
class ChoiceData:
    """Multiple-choice questions."""

    splits: dict[str, list[ChoiceQuestion]]
    """`development` has the examples of prompts, `test` the questions."""
    report: ReadingReport


def read_medconceptsqa(folder: Path, config: str = "all", per_subset: int = PER_SUBSET) -> ChoiceData:
    """Read one configuration of https://huggingface.co/datasets/ofir408/MedConceptsQA, in the order of its files.

    Args:
        folder: holds a folder for each configuration, such as `icd10cm_easy`, with dev-00000-of-00001.parquet and
            test-00000-of-00001.parquet.
        config: the configuration; `all` has the questions of all others.
        per_subset: the number of questions of each vocabulary and level; 0: all.

    Questions whose letter isn't that of the option that equals their answer are left out: the data set's maker maps two
    positions to letters under one key (create_benchmark.py of nadavlab/MedConceptsQA). See `count_answers`.

    Raises:
        UserError: the configuration or a file is missing, or not of this form.
    """
    if not (folder / config).is_dir():
        found = ", ".join(sorted(path.name for path in folder.glob("*/") if path.is_dir())) or "none"
        raise UserError(f"{folder}: holds no configuration {config!r}; it has: {found}")
    report = ReadingReport()
    splits = {split: _questions(folder / config / name, per_subset, report) for split, name in FILES.items()}
    return ChoiceData(splits, report)


def as_task_data(choices: ChoiceData) -> TaskData:
    """The same questions as documents, whose class is the letter of the answer."""
    splits = {
        split: [Document(question.id, question.text, labels=(question.answer,)) for question in questions]
        for split, questions in choices.splits.items()
    }
    return TaskData("class", splits, tuple(LETTERS), choices.report)


def count_answers(questions: Iterable[ChoiceQuestion]) -> dict[str, int]:
    """How often each letter is the answer. The highest share is what a model gets that always gives that letter."""
    counts = dict.fromkeys(LETTERS, 0)
    for question in questions:
        counts[question.answer] += 1
    return counts


def _questions(path: Path, per_subset: int, report: ReadingReport) -> list[ChoiceQuestion]:
    import pyarrow as pa

    try:
        found = [_question(row, f"{path}, row {number}", report) for number, row in _rows(path, per_subset)]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(
            f"{path}: cannot be read as Parquet with MedConceptsQA's columns ({type(error).__name__})"
        ) from None
    return [question for question in found if question]


def _rows(path: Path, per_subset: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The first rows of each subset, with their numbers from 1. No more than a batch of the file is in memory."""
    import pyarrow.parquet as pq

    taken: Counter[tuple[Any, Any]] = Counter()
    before = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=list(COLUMNS)):
            wanted = []
            for at, subset in enumerate(
                zip(*(batch.column(name).to_pylist() for name in ("vocab", "level")), strict=True)
            ):
                taken[subset] += 1
                if not per_subset or taken[subset] <= per_subset:
                    wanted.append(at)
            yield from zip((before + at + 1 for at in wanted), batch.take(wanted).to_pylist(), strict=True)
            before += batch.num_rows


def _question(row: dict[str, Any], place: str, report: ReadingReport) -> ChoiceQuestion | None:
    if any(row[column] is None for column in COLUMNS):
        raise UserError(f"{place}: a column is empty; copy the file again")
    first, second, third, fourth = (str(row[f"option{number}"]) for number in (1, 2, 3, 4))
    options, letter = (first, second, third, fourth), str(row["answer_id"])
    if letter not in tuple(LETTERS) or options[LETTERS.index(letter)] != str(row["answer"]):
        report.leave_out("the answer's letter isn't that of its option", place)
        return None
    vocabulary, level = str(row["vocab"]), str(row["level"])
    identifier = f"{vocabulary}/{level}/{row['question_id']}"
    return ChoiceQuestion(identifier, str(row["question"]), options, letter, vocabulary, level)
