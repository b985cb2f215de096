"""PubMedQA with labels of experts (PQA-L): does an abstract answer its question by yes, no or maybe?"""

from __future__ import annotations

from pathlib import Path

from clinical_pretrain.tasks.readers.common import UNDIVIDED
from clinical_pretrain.tasks.readers.rows import as_object, get_text, get_texts, read_json
from clinical_pretrain.tasks.records import Document, TaskData
from tokenizer_tools.errors import UserError

LABELS = ("yes", "no", "maybe")


def read_pubmedqa(path: Path) -> TaskData:
    """Read ori_pqal.json, or the folder `data` of https://github.com/pubmedqa/pubmedqa.

    The text is the abstract without its conclusion (CONTEXTS, joined by line breaks), the second text the question.
    The conclusion (LONG_ANSWER) is not read: it holds the answer.

    A folder also has test_ground_truth.json, the official test split of 500; the other 500 are `train`. A file alone
    isn't divided.

    Raises:
        UserError: a file is missing or not of this form, or the two disagree.
    """
    if not path.is_dir():
        return TaskData("class", {UNDIVIDED: list(_documents(path).values())}, LABELS)
    documents, test_path = _documents(path / "ori_pqal.json"), path / "test_ground_truth.json"
    test = read_json(test_path)
    for identifier, label in test.items():
        if identifier not in documents or documents[identifier].labels != (label,):
            raise UserError(f"{test_path}: {identifier} isn't in ori_pqal.json, or has another label; copy both again")
    splits = {
        "train": [document for document in documents.values() if document.id not in test],
        "test": [document for document in documents.values() if document.id in test],
    }
    return TaskData("class", splits, LABELS)


def _documents(path: Path) -> dict[str, Document]:
    """The documents by PubMed identifier."""
    documents = {}
    for identifier, value in read_json(path).items():
        place = f"{path}, {identifier}"
        record = as_object(value, place)
        contexts = get_texts(record, "CONTEXTS", place)
        question, label = get_text(record, "QUESTION", place), get_text(record, "final_decision", place)
        if label not in LABELS or not contexts:
            raise UserError(f"{place}: needs CONTEXTS, and yes, no or maybe as final_decision; copy the file again")
        documents[identifier] = Document(identifier, "\n".join(contexts), second_text=question, labels=(label,))
    return documents
