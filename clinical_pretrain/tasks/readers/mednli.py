"""MedNLI: does a hypothesis follow from a sentence of a clinical note?"""

from __future__ import annotations

from pathlib import Path

from clinical_pretrain.tasks.readers.common import check_ids
from clinical_pretrain.tasks.readers.rows import get_text, read_jsonl
from clinical_pretrain.tasks.records import Document, TaskData
from tokenizer_tools.errors import UserError

LABELS = ("entailment", "neutral", "contradiction")
FILES = {"train": "mli_train_v1.jsonl", "development": "mli_dev_v1.jsonl", "test": "mli_test_v1.jsonl"}


def read_mednli(folder: Path) -> TaskData:
    """Read mli_train_v1.jsonl, mli_dev_v1.jsonl and mli_test_v1.jsonl of https://physionet.org/content/mednli.

    The text is the premise (sentence1), the second text the hypothesis (sentence2). The data set names no patients.

    Raises:
        UserError: a file is missing or not of this form, a label isn't known, or two pairs have one pairID.
    """
    splits = {split: _documents(folder / name) for split, name in FILES.items()}
    return check_ids(TaskData("class", splits, LABELS), folder)


def _documents(path: Path) -> list[Document]:
    documents = []
    for place, row in read_jsonl(path):
        premise, hypothesis = get_text(row, "sentence1", place), get_text(row, "sentence2", place)
        if (label := get_text(row, "gold_label", place)) not in LABELS:
            raise UserError(f"{place}: its gold_label is none of {', '.join(LABELS)}; correct or delete the line")
        documents.append(Document(get_text(row, "pairID", place), premise, second_text=hypothesis, labels=(label,)))
    return documents
