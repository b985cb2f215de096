"""Store a model's predictions of a split, so that another score needs no new run.

The file is JSONL: a header, then one line per document with ids, offsets, labels and probabilities. It never holds a
text. Offsets are of the data set's texts; the header's `texts_sha256` tells whether those are still the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clinical_pretrain.tasks.records import Document, Kind
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import check_format, unique_keys, write_atomically

FORMAT_VERSION = 1
REMEDY = "evaluate the model again"
FIELDS: dict[Kind, tuple[str, ...]] = {
    "entities": ("entities",),
    "answers": ("answers",),
    "class": ("labels", "probabilities"),
    "labels": ("labels", "probabilities"),
}
"""The fields of a prediction that a kind of task fills."""
HEADER = {"task": str, "split": str, "kind": str, "labels": list, "model": str, "seed": int, "texts_sha256": str}
"""The header's fields beside `format_version` and `documents`, their number: those of `Predictions`."""


class PredictedEntity(NamedTuple):
    """An entity that was found."""

    start: int
    end: int
    type: str
    probability: float | None = None


class PredictedAnswer(NamedTuple):
    """The answer to a question, by its offsets in the document."""

    question: str
    """The question's id."""
    start: int
    end: int
    """Equal to `start`: there is no answer."""
    probability: float | None = None


@dataclass(frozen=True)
class Prediction:
    """What is predicted of a document."""

    id: str
    """The document's."""
    entities: tuple[PredictedEntity, ...] = ()
    answers: tuple[PredictedAnswer, ...] = ()
    """Exactly one for each question."""
    labels: tuple[str, ...] = ()
    """Those that hold by the run's threshold; for the kind `class` exactly one."""
    probabilities: tuple[float, ...] = ()
    """Of all labels, in the order of `Predictions.labels`."""


@dataclass(frozen=True)
class Predictions:
    """What a model predicts of all documents of a split."""

    task: str
    split: str
    kind: Kind
    labels: tuple[str, ...]
    """Types of entities, classes or labels that the model knows."""
    model: str
    """Its name or folder."""
    seed: int
    """The seed of its fine-tuning."""
    texts_sha256: str
    """`texts_sha256` of the documents."""
    documents: tuple[Prediction, ...]


def texts_sha256(documents: Sequence[Document]) -> str:
    """sha256 of the documents' ids, texts and questions, in any order: what predictions depend on, without the gold."""
    digest = hashlib.sha256()
    for document in sorted(documents, key=lambda document: document.id):
        questions = [(question.id, question.text) for question in document.questions]
        digest.update(json.dumps([document.id, document.text, document.second_text, questions]).encode())
    return digest.hexdigest()


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions as a whole or not at all.

    Raises:
        UserError: a document is there twice, or the model gave a prediction that can't be, such as a probability that
            is NaN.
    """
    header = {name: getattr(predictions, name) for name in HEADER}
    lines = [json.dumps({"format_version": FORMAT_VERSION, **header, "documents": len(predictions.documents)})]
    ids: set[str] = set()
    for prediction in predictions.documents:
        if fault := _fault(prediction, predictions.kind, predictions.labels, ids):
            raise UserError(f"{path}: not written, the prediction of document {prediction.id!r} has {fault}")
        values = {name: getattr(prediction, name) for name in FIELDS[predictions.kind]}
        lines.append(json.dumps({"id": prediction.id, **values}))
    write_atomically(path, "\n".join(lines) + "\n")


def read_predictions(path: Path) -> Predictions:
    """Read what `write_predictions` wrote.

    Raises:
        UserError: the file is missing, unreadable, cut off, damaged, or of another format version.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {REMEDY}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: damaged, not UTF-8; {REMEDY}") from None
    header = check_format(path, _object(lines[0]) if lines else None, FORMAT_VERSION, REMEDY)
    fields: dict[str, Any] = {name: header.get(name) for name in HEADER}
    typed = all(type(fields[name]) is kind for name, kind in HEADER.items())
    if not typed or header["kind"] not in FIELDS or not all(isinstance(label, str) for label in header["labels"]):
        raise UserError(f"{path}, line 1: damaged, not a header of predictions; {REMEDY}")
    if header.get("documents") != len(lines) - 1:
        raise UserError(
            f"{path}: cut off or changed, {len(lines) - 1} documents where the header says {header.get('documents')}; "
            f"{REMEDY}"
        )
    fields["labels"] = tuple(header["labels"])
    documents, ids = [], set[str]()
    for number, line in enumerate(lines[1:], start=2):
        prediction = _prediction(_object(line), header["kind"])
        fault = _fault(prediction, header["kind"], fields["labels"], ids) if prediction else "not the form of its kind"
        if prediction is None or fault:
            raise UserError(f"{path}, line {number}: damaged, has {fault}; {REMEDY}")
        documents.append(prediction)
    return Predictions(**fields, documents=tuple(documents))


def aligned(documents: Sequence[Document], predictions: Predictions) -> list[Prediction]:
    """The predictions of the documents, in the documents' order.

    No document is scored without a prediction, and none is left out: two models are compared on the same documents.

    Raises:
        UserError: the predictions are of other documents, texts, questions or labels.
    """
    place = f"predictions of {predictions.model} for {predictions.task}/{predictions.split}"
    found = {prediction.id: prediction for prediction in predictions.documents}
    ids = [document.id for document in documents]
    if not ids:
        raise UserError(f"{place}: the data set has no document in this split; nothing can be scored")
    for what, others in (("none of", set(ids) - set(found)), ("one of an unknown", set(found) - set(ids))):
        if others:
            raise UserError(f"{place}: {what} document {min(others)!r} (and {len(others) - 1} more); {REMEDY}")
    if texts_sha256(documents) != predictions.texts_sha256:
        raise UserError(f"{place}: the documents' texts or questions are others now; {REMEDY}")
    for document in documents:
        if fault := _misfit(document, found[document.id], predictions):
            raise UserError(f"{place}: document {document.id!r} has {fault}; {REMEDY}")
    return [found[name] for name in ids]


def _misfit(document: Document, prediction: Prediction, predictions: Predictions) -> str | None:
    """Why a prediction can't be compared with its document."""
    if not {*document.labels, *(entity.type for entity in document.entities)} <= set(predictions.labels):
        return "a label that the model doesn't know"
    questions = {question.id for question in document.questions}
    if predictions.kind == "answers" and questions != {answer.question for answer in prediction.answers}:
        return "questions without a prediction, or the other way round"
    if max((span.end for span in _spans(prediction)), default=0) > len(document.text):
        return "a prediction beyond the end of its text"
    return None


def _object(line: str) -> Any:
    """The JSON value of a line, None if there is none."""
    try:
        return json.loads(line, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError):
        return None


def _prediction(value: Any, kind: Kind) -> Prediction | None:
    """A line's prediction; None if it hasn't the form of one."""
    if not isinstance(value, dict) or set(value) != {"id", *FIELDS[kind]}:
        return None
    makers: dict[str, Any] = {"entities": PredictedEntity._make, "answers": PredictedAnswer._make}
    try:
        fields = {name: tuple(map(makers.get(name, lambda item: item), value[name])) for name in FIELDS[kind]}
    except TypeError:
        return None
    prediction = Prediction(value["id"], **fields)
    names = [prediction.id, *prediction.labels, *(entity.type for entity in prediction.entities)]
    names += [answer.question for answer in prediction.answers]
    return prediction if all(isinstance(name, str) for name in names) else None


def _fault(prediction: Prediction, kind: Kind, labels: tuple[str, ...], ids: set[str]) -> str | None:
    """What is wrong with a prediction, without a value of it; adds its id to those seen."""
    spans = _spans(prediction)
    probabilities = [*prediction.probabilities, *(s.probability for s in spans if s.probability is not None)]
    names = [*prediction.labels, *(entity.type for entity in prediction.entities)]
    questions = [answer.question for answer in prediction.answers]
    repeated = prediction.id in ids
    ids.add(prediction.id)
    faults = {
        "an id that occurs twice": repeated,
        "other fields than its kind": any(
            getattr(prediction, name) for name in {"entities", "answers", "labels", "probabilities"} - {*FIELDS[kind]}
        ),
        "offsets that are no range": any(not _is_range(s.start, s.end) for s in spans),
        "an empty entity": any(entity.start == entity.end for entity in prediction.entities),
        "two answers to a question": len(set(questions)) < len(questions),
        "a label that the model doesn't know": not set(names) <= set(labels),
        "a label twice": len(set(prediction.labels)) < len(prediction.labels),
        "not exactly one class": kind == "class" and len(prediction.labels) != 1,
        "not one probability for each label": "probabilities" in FIELDS[kind]
        and len(prediction.probabilities) != len(labels),
        "a probability that isn't a number from 0 to 1": not all(map(_is_probability, probabilities)),
    }
    return next((fault for fault, found in faults.items() if found), None)


def _spans(prediction: Prediction) -> list[PredictedEntity | PredictedAnswer]:
    return [*prediction.entities, *prediction.answers]


def _is_range(start: Any, end: Any) -> bool:
    return type(start) is int and type(end) is int and 0 <= start <= end


def _is_probability(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1  # not NaN
