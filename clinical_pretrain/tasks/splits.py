"""Complete the splits of a data set: what it has of its own is kept, and what it lacks is taken out of `train`.

A patient, or a document where no patient is named, is in a split by a hash of its identifier alone, whatever the order
and the number of the others. It is the rule of `build-shards`, so with the same identifiers and seed the patients that
pretraining holds out by `--split.validation` and `--split.test` are in this `test` split, as far as its share reaches:
shares of 0.05 and 0.15 there keep all patients of a test split of 0.2 out of pretraining.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from clinical_pretrain.tasks.records import Document, TaskData
from tokenizer_tools.corpus.identifiers import LostDigitsError, identifier_of
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS
from tokenizer_tools.ranges import Range

ORDER = ("train", "development", "test")


@dataclass(frozen=True)
class SplitShares:
    """How much is taken out of `train` for a split that the data set lacks."""

    development: Annotated[float, Range(above=0, below=0.5)] = 0.15
    """Share of the patients, or of the documents where no patient is named."""
    test: Annotated[float, Range(above=0, below=0.5)] = 0.2
    """Likewise."""
    seed: Annotated[int, Range(0, 2**31)] = 0
    """Another seed gives another split."""

    def split_of(self, document: Document, missing: Sequence[str]) -> str:
        """The split of a document of `train`, if these splits are missing."""
        rule = SplitRule(validation=self.test, test=self.development, seed=self.seed)
        drawn = {"validation": "test", "test": "development"}.get(SPLITS[rule.split_of(group_of(document))], "train")
        return drawn if drawn in missing else "train"


@dataclass(frozen=True)
class DividedData:
    """The documents of a task in the splits that an evaluation needs."""

    data: TaskData
    """With train, development and test, none of them empty."""
    rule: str
    """One sentence: which splits are the data set's own, and how the others were made."""


def patient_of(document: Document) -> str:
    """The identifier of a document's patient as build-shards writes it; empty where none is named.

    Raises:
        UserError: it has lost digits, such as 1E+11.
    """
    try:
        return identifier_of(document.patient)
    except LostDigitsError:
        raise UserError(
            f"document {document.id}: its patient's identifier has lost digits; export identifiers as text"
        ) from None


def group_of(document: Document) -> str:
    """What stays together: a patient's documents, or a document whose patient isn't named.

    Raises:
        UserError: a patient's identifier has lost digits.
    """
    patient = patient_of(document)
    return f"patient {patient}" if patient else f"document {document.id}"


def divide(data: TaskData, name: str, shares: SplitShares | None = None) -> DividedData:
    """Complete the splits of a data set.

    Args:
        data: as a reader gives it.
        name: the task's, for messages.
        shares: of the splits that are missing.

    Raises:
        UserError: a split is empty, or would be.
    """
    shares = shares or SplitShares()
    if empty := [split for split in ("train", *data.splits) if not data.splits.get(split)]:
        raise UserError(f"{name}: the data set has no documents in its split {empty[0]}; look at its files again")
    missing = [split for split in ORDER if split not in data.splits]
    splits: dict[str, list[Document]] = {split: list(data.splits.get(split, ())) for split in ORDER}
    if missing:
        splits["train"] = []
        for document in data.splits["train"]:
            splits[shares.split_of(document, missing)].append(document)
    if empty := [split for split in ORDER if not splits[split]]:
        groups = len({group_of(document) for document in data.splits["train"]})
        raise UserError(
            f"{name}: its {groups} patients or documents are too few to divide, as none falls into {empty[0]}; "
            "divide them yourself, by files or a column that name the splits"
        )
    rule = _own_rule(data) + _made_rule(missing, splits, data)
    if both := patients_on_both_sides(splits):
        rule += f"; {both}"
    return DividedData(replace(data, splits=splits), f"{rule}.")


def _own_rule(data: TaskData) -> str:
    own = [split for split in ORDER if split in data.splits]
    if own == ["train"]:
        return "the data set has no splits of its own"
    return f"{' and '.join(filter(None, [', '.join(own[:-1]), own[-1]]))} are the data set's own"


def _made_rule(missing: Sequence[str], splits: dict[str, list[Document]], data: TaskData) -> str:
    """Say how many documents, and patients where they are named, were taken out of train."""
    if not missing:
        return ""
    whole = data.splits["train"]
    counts = " and ".join(f"{split} {len(splits[split]):,}" for split in missing)
    of_patients = " and ".join(f"{len(_patients(splits[split])):,}" for split in missing)
    patients = f" ({of_patients} of {len(_patients(whole)):,} patients)" if _patients(whole) else ""
    of_train = " of train" if len(data.splits) > 1 else ""
    by = "patient" if patients else "document"
    return f"; {counts} of {len(whole):,} documents{of_train}{patients}, drawn by a hash of the {by}'s identifier"


def patients_on_both_sides(splits: dict[str, list[Document]]) -> str:
    """Say how many patients of the test split are in another one, which only the data set's own division can do; empty
    if none is."""
    test = _patients(splits["test"])
    both = test & _patients([*splits.get("train", ()), *splits["development"]])
    return f"{len(both):,} of the {len(test):,} patients in test are in train or development, too" if both else ""


def _patients(documents: Sequence[Document]) -> set[str]:
    """The patients who are named."""
    return {patient for document in documents if (patient := patient_of(document))}
