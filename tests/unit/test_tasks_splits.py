"""Completing splits: by a hash alone, a patient on one side, and a sentence that says what was done."""

import random
from dataclasses import replace

import pytest

from clinical_pretrain.tasks.records import Document, TaskData
from clinical_pretrain.tasks.splits import SplitShares, divide
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS

ORDER = ["train", "development", "test"]


def documents(number, patients=0, prefix="d"):
    """Documents, each of one of so many patients if there are any."""
    return [
        Document(f"{prefix}{i}", "text", patient=f"{prefix}p{i % patients}" if patients else "") for i in range(number)
    ]


def task(**splits):
    return TaskData("class", splits, ("a",))


def ids(divided):
    return {split: [document.id for document in found] for split, found in divided.data.splits.items()}


def patients_of(divided):
    return [{document.patient for document in divided.data.splits[split]} for split in ORDER]


def test_what_is_missing_is_taken_out_of_train():
    divided = divide(task(train=documents(1000)), "mine")
    found = ids(divided)
    assert list(found) == ORDER and sorted(name for names in found.values() for name in names) == sorted(
        d.id for d in documents(1000)
    )
    assert 120 < len(found["development"]) < 180 and 165 < len(found["test"]) < 235
    assert divided.rule == (
        f"the data set has no splits of its own; development {len(found['development'])} and test {len(found['test'])} "
        "of 1,000 documents, drawn by a hash of the document's identifier."
    )


def test_own_splits_are_kept():
    data = task(train=documents(200), test=documents(30, prefix="t"))
    divided = divide(data, "mine")
    assert divided.data.splits["test"] == data.splits["test"]
    made = len(ids(divided)["development"])
    assert divided.rule == (
        f"train and test are the data set's own; development {made} of 200 documents of train, drawn by a "
        "hash of the document's identifier."
    )
    data = task(train=documents(200), development=documents(10, prefix="d"), test=documents(30, prefix="t"))
    divided = divide(data, "mine")
    assert divided.data.splits == data.splits
    assert divided.rule == "train, development and test are the data set's own."
    data = task(train=documents(200), development=documents(10, prefix="v"))
    divided = divide(data, "mine")
    assert divided.data.splits["development"] == data.splits["development"] and 20 < len(ids(divided)["test"]) < 60


def test_a_patient_is_on_one_side():
    divided = divide(task(train=documents(900, patients=300)), "mine")
    train, development, test = patients_of(divided)
    assert not train & development and not train & test and not development & test
    assert len(train | development | test) == 300
    assert f"({len(development)} and {len(test)} of 300 patients), drawn by a hash of the patient's" in divided.rule


def test_two_spellings_of_a_patient_are_one():
    """As build-shards reads identifiers; one that means `unknown` is nobody's."""
    spelt = [Document(f"{i}{s}", "text", patient=s.format(i)) for i in range(100) for s in ("{}", "00{}", "{}.0")]
    divided = divide(task(train=spelt), "mine")
    assert "of 100 patients)" in divided.rule
    of_patient = {}
    for split, found in divided.data.splits.items():
        for document in found:
            of_patient.setdefault(int(float(document.patient)), set()).add(split)
    assert all(len(splits) == 1 for splits in of_patient.values())
    nobody = [replace(document, patient="unknown") for document in documents(100)]
    assert "by a hash of the document's identifier" in divide(task(train=nobody), "mine").rule
    with pytest.raises(UserError, match="document d0: its patient's identifier has lost digits"):
        divide(task(train=[replace(documents(1)[0], patient="1.2E+14")]), "mine")


def test_the_order_and_other_documents_change_nothing():
    some = documents(300)
    shuffled = random.Random(0).sample(some, 300)
    whole, other = divide(task(train=some), "mine"), divide(task(train=shuffled), "mine")
    assert {split: set(found) for split, found in ids(whole).items()} == {s: set(f) for s, f in ids(other).items()}
    half = ids(divide(task(train=some[:150]), "mine"))
    assert all(set(half[split]) == set(ids(whole)[split]) & {d.id for d in some[:150]} for split in ORDER)
    assert ids(whole)["test"][:3] == ["d3", "d9", "d14"], "the rule is for good: stored results depend on it"
    another = ids(divide(task(train=some), "mine", SplitShares(seed=1)))
    assert another["test"] != ids(whole)["test"]


def test_patients_whom_pretraining_holds_out_are_in_the_test_split():
    data = task(train=documents(2000, patients=2000))
    test = patients_of(divide(data, "mine"))[2]
    for rule, share in ((SplitRule(), 0.1), (SplitRule(validation=0.05, test=0.15), 0.2)):
        split_of = {d.patient: SPLITS[rule.split_of(rule.group_of(d.patient, "", ""))] for d in data.splits["train"]}
        held_out = {patient for patient, split in split_of.items() if split != "train"}
        assert held_out <= test and abs(len(held_out) - 2000 * share) < 60
        assert (held_out == test) == (share == 0.2)


def test_patients_on_both_sides_of_the_data_sets_own_division_are_counted():
    data = task(train=documents(100, patients=50), test=documents(10, patients=5, prefix="t") + documents(1, 50))
    rule = divide(data, "mine").rule
    assert rule.endswith("; 1 of the 6 patients in test are in train or development, too.")


@pytest.mark.parametrize("split", ORDER)
def test_an_empty_split_is_refused(split):
    splits = {name: documents(3, prefix=name) for name in ORDER} | {split: []}
    with pytest.raises(UserError, match=f"mine: the data set has no documents in its split {split}; look at"):
        divide(task(**splits), "mine")


def test_a_data_set_without_train_is_refused():
    with pytest.raises(UserError, match="mine: the data set has no documents in its split train"):
        divide(task(test=documents(3)), "mine")


def test_too_few_documents_to_divide_are_refused():
    with pytest.raises(UserError, match="mine: its 1 patients or documents are too few to divide, as none falls into"):
        divide(task(train=documents(20, patients=1)), "mine")
    in_test = [document for document in documents(10) if document.id in ("d3", "d9")]
    with pytest.raises(UserError, match="none falls into train; divide them yourself, by files or a column that name"):
        divide(task(train=in_test, development=documents(1, prefix="v")), "mine")


def test_shares_can_be_chosen():
    divided = divide(task(train=documents(1000)), "mine", SplitShares(development=0.02, test=0.4))
    assert len(ids(divided)["development"]) < 40 and 340 < len(ids(divided)["test"]) < 460
