"""Counting test patients and texts in pretraining shards."""

import csv
import json
from dataclasses import asdict

import pytest

from clinical_pretrain.data.shards import Split
from clinical_pretrain.tasks.contamination import Contamination, count_contamination, describe
from clinical_pretrain.tasks.records import Document
from tokenizer_tools.corpus.clean_notes import CleaningRules, clean
from tokenizer_tools.corpus.placeholders import Replacement
from tokenizer_tools.corpus.split_patients import SplitRule, default_key_path
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS, Manifest
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import ShardSettings

RULE = SplitRule(validation=0.1, test=0.1)  # of the fixture `shards`


@pytest.fixture(scope="module")
def by_split(corpus):
    """Documents of the notes that the shards hold, by the split that each is in."""
    found: dict[str, list[Document]] = {name: [] for name in SPLITS}
    seen = set()
    with (corpus / "notes.csv").open(newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream)):
            text = clean(row["TEXT"], CleaningRules(), Replacement("<unk>"))
            if text and text not in seen:
                seen.add(text)
                split = SPLITS[RULE.split_of(f"patient {row['SUBJECT_ID']}")]
                found[split].append(Document(str(number), row["TEXT"], row["SUBJECT_ID"]))
    return found


@pytest.fixture
def without_key(monkeypatch, tmp_path):
    """A machine on which no shards have been built."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "clinical-pretrain" / "patient_key"


def patients(documents):
    return {document.patient for document in documents}


def test_every_trained_note_and_patient_is_found(shards, by_split):
    """Also the notes that go over several sequences of 256 tokens, and those of only a few tokens."""
    trained = by_split["train"]
    found = count_contamination(trained, shards)
    assert found.texts_seen == found.texts == found.notes == len(trained)
    assert found.patients_seen == found.patients == len(patients(trained)) > 40
    assert found.fingerprint == Manifest.load(shards).fingerprint
    split = Split(shards, Manifest.load(shards), "train")
    whose = [int(note) for number in range(len(split)) for note in split[number].segment_notes]
    assert max(map(whose.count, {*whose})) > 3  # sequences that one note goes over


def test_held_out_notes_and_patients_were_not_seen(shards, by_split):
    held_out = by_split["validation"] + by_split["test"]
    found = count_contamination(held_out, shards)
    assert (found.texts, found.texts_seen) == (len(held_out), 0)
    assert (found.patients, found.patients_seen) == (len(patients(held_out)), 0)
    assert found.line() == (
        f"contamination: 0 of {found.patients} test patients and 0 of {found.texts} test texts were in the pretraining "
        f"shards (training split, {found.notes:,} notes; texts compared whole)"
    )


def test_some_were_seen(shards, by_split):
    """Texts are compared after cleaning, and patients after their identifiers are spelt alike. A text that two
    documents have counts once; of a pair both texts count; an empty text isn't one."""
    trained, held_out = by_split["train"], by_split["test"]
    other = trained[1].text.replace("\n", "\r\n") + "  \n\n"
    documents = [
        Document("1", trained[0].text, f"00{trained[0].patient}.0"),
        Document("2", trained[0].text, held_out[0].patient),
        Document("3", held_out[0].text, held_out[0].patient, second_text=other),
        Document("4", trained[2].text + " Changed.", ""),
        Document("5", " \n ", held_out[0].patient),
    ]
    found = count_contamination(documents, shards)
    assert asdict(found) == {
        "texts": 4, "texts_seen": 2, "patients": 2, "patients_seen": 1, "patients_not_compared": None,
        "notes": len(trained), "fingerprint": found.fingerprint,
    }  # fmt: skip
    assert found.line().startswith("contamination: 1 of 2 test patients and 2 of 4 test texts were in the pretraining")
    assert found.line().endswith("the same patient only if data set and notes number patients alike")


def test_a_stored_count_gives_the_same_line():
    found = Contamination(412, 0, 120, 3, None, 5_000, "f")
    assert describe(json.loads(json.dumps(asdict(found)))) == found.line()
    assert found.line().startswith("contamination: 3 of 120 test patients and 0 of 412 test texts were in the")


def test_without_patients_texts_alone_are_compared(shards, by_split):
    found = count_contamination([Document("1", by_split["train"][0].text)], shards)
    assert (found.texts_seen, found.patients, found.patients_seen) == (1, 0, None)
    assert found.line().startswith("contamination: 1 of 1 test texts were in the pretraining shards (training split")
    assert found.line().endswith("; patients can't be compared: the data set names none")


def test_without_a_key_patients_cannot_be_compared(shards, by_split, without_key):
    found = count_contamination(by_split["train"][:3], shards)
    assert found.patients_seen is None and found.texts_seen == 3
    assert found.line().endswith(
        "can't be compared: there is no patient key; name the one that the shards were built with as --patient-key"
    )
    assert not without_key.exists()  # none was made
    without_key.parent.mkdir(parents=True)
    without_key.write_text("ab" * 32)
    assert (
        count_contamination(by_split["train"][:3], shards)
        .line()
        .endswith("can't be compared: the shards were built with another patient key; name it as --patient-key")
    )


def test_a_key_that_is_named_must_be_the_right_one(shards, by_split, without_key, tmp_path):
    with pytest.raises(UserError, match=r"key: no such file; name the key that the shards were built with"):
        count_contamination(by_split["train"], shards, tmp_path / "key")
    (tmp_path / "key").write_text("ab" * 32)
    with pytest.raises(UserError, match=r"key: not the key that the patients in .* were hashed with"):
        count_contamination(by_split["train"], shards, tmp_path / "key")


def test_a_key_that_is_named_is_used(shards, by_split, monkeypatch, tmp_path):
    (tmp_path / "key").write_bytes(default_key_path().read_bytes())
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nowhere"))
    found = count_contamination(by_split["train"], shards, tmp_path / "key")
    assert found.patients_seen == found.patients


@pytest.mark.parametrize("placeholder", ["unk", "drop"])
def test_texts_are_cleaned_as_those_of_the_shards(corpus, tmp_path, placeholder):
    """With the rules that these shards switch off or on, their placeholder, and special tokens spelt out by a note."""
    texts = ["Seen by [**Name**] today.\n----\nBP  120/80", "before <mask> and </s> after ___ end", "a\tb\r\nc"]
    lines = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "notes.jsonl").write_text("\n".join(lines))
    rules = CleaningRules(whitespace=False, join_lines=True)
    settings = ShardSettings(
        sequence_length=8, split=SplitRule(0, 0, by="note"), cleaning=rules, placeholder=placeholder
    )
    build_shards([tmp_path / "notes.jsonl"], str(corpus / "tokenizer"), tmp_path / "shards", settings)
    documents = [Document(str(number), text, "7") for number, text in enumerate(texts)]
    found = count_contamination(documents, tmp_path / "shards")
    assert (found.texts, found.texts_seen) == (3, 3)
    assert found.patients_not_compared == "the shards name none"
    changed = [Document("0", "Seen by [**Name**] today.\n----\nBP 120/80")]  # white space counts here
    assert count_contamination(changed, tmp_path / "shards").texts_seen == 0


def test_what_cannot_be_read_is_refused(shards, tmp_path):
    with pytest.raises(UserError, match="not a finished shard folder"):
        count_contamination([Document("1", "a")], tmp_path)
    (tmp_path / "manifest.json").write_bytes((shards / "manifest.json").read_bytes())
    with pytest.raises(UserError, match=r"tokenizer\.json: missing or damaged; build or copy the shards again"):
        count_contamination([Document("1", "a")], tmp_path)
    with pytest.raises(UserError, match=r"document 5: its patient's identifier has lost digits"):
        count_contamination([Document("5", "a", "1.2e+15")], shards)
