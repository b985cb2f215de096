"""Placeholders in shards: typed tokens and surrogates, what is counted, and that training never predicts a token."""

import csv
import datetime
import json
import random
import shlex
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from shard_folders import content
from tokenizers import Tokenizer

from clinical_pretrain.cli import main
from clinical_pretrain.config.data import MaskingConfig
from clinical_pretrain.data.collator import Collator
from clinical_pretrain.data.masking import Vocabulary
from clinical_pretrain.data.sampler import MASKS, VALIDATION_MASKS, generator
from clinical_pretrain.data.shards import Split
from clinical_pretrain.tasks.contamination import count_contamination
from clinical_pretrain.tasks.records import Document
from tokenizer_tools.corpus.placeholders import TYPED_TOKENS
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS, Manifest
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.shards.summary import summarise, summary_lines
from tokenizer_tools.shards.verify.verify import verify_shards
from tokenizer_tools.tokenizer.fast_ids import IdEncoder
from tokenizer_tools.tokenizer.load import encode
from tokenizer_tools.tokenizer.train import TokenizerSettings, train_tokenizer

TOKENS = set(TYPED_TOKENS.values())


def build(notes, tokenizer, out, workers=1, **settings):
    split = settings.pop("split", SplitRule(0.2, 0.1))
    settings = ShardSettings(sequence_length=256, split=split, notes_per_part=100, **settings)
    return build_shards([notes], str(tokenizer), out, settings, BuildOptions(workers=workers))


def faulty(out):
    """The checks of `verify` that fail, but modes: only the command line sets the umask."""
    return [check for check in verify_shards(out).failed if check.name != "modes"]


@pytest.fixture(scope="module")
def typed(corpus, tmp_path_factory):
    """The corpus with typed tokens: the tokenizer by the command that the refusal names, and shards."""
    root = tmp_path_factory.mktemp("typed")
    with pytest.raises(UserError) as refused:
        build(corpus / "notes.csv", corpus / "tokenizer", root / "shards", placeholder="typed")
    assert not (root / "shards").exists()
    message = str(refused.value)
    assert message.startswith("--placeholder typed: the tokenizer has no special token [NAME],[DATE],")
    words = shlex.split(message.rsplit(": ", 1)[1])
    words = words[words.index("extend-vocabulary") :]
    cut = words.index("--model")
    assert main([*words[:cut], "--out", str(root / "tokenizer")]) == 0
    return root, build(corpus / "notes.csv", root / "tokenizer", root / "shards", placeholder="typed")


def test_typed_tokens_are_those_of_a_name(corpus, typed, tmp_path):
    root, _ = typed
    assert main(["extend-vocabulary", "--size", "0", "--tokens", "typed", "--tokenizer", str(corpus / "tokenizer"),
                 "--out", str(tmp_path / "t")]) == 0  # fmt: skip
    assert content(tmp_path / "t") == content(root / "tokenizer")


def test_placeholders_are_counted_by_kind(typed, tmp_path):
    root, manifest = typed
    found = Counter()
    for name in SPLITS:
        for sequence in Split(root / "shards", manifest, name):
            found.update(sequence.input_ids.tolist())
    ids = manifest.tokenizer.typed_placeholders
    assert set(ids) == TOKENS and manifest.tokenizer.placeholder_id == ids["[DEID]"]
    assert manifest.tokenizer.placeholder_ids == ids
    assert {kind: found[ids[token]] for kind, token in TYPED_TOKENS.items() if found[ids[token]]} == (
        manifest.placeholders
    )
    assert {"name", "date", "place", "id", "contact"} == set(manifest.placeholders)
    assert Manifest.load(root / "shards") == manifest
    assert any(line.startswith("  placeholders: ") for line in summary_lines(manifest, root, False))
    assert summarise(manifest)["placeholders_name"] == manifest.placeholders["name"]
    assert not faulty(root / "shards")
    shutil.copytree(root / "shards", tmp_path / "s")
    replace(manifest, placeholders=manifest.placeholders | {"underscores": 1}).save(tmp_path / "s")
    (check,) = faulty(tmp_path / "s")
    assert check.name == "counts" and check.faults[0].what.startswith("tokens [DEID]")


@pytest.mark.parametrize("whole_words", [False, True])
@pytest.mark.parametrize(("split", "stream"), [("train", MASKS), ("validation", VALIDATION_MASKS)])
def test_training_never_predicts_a_placeholder_token(typed, whole_words, split, stream):
    """Nor hides one, nor puts one in the place of another token: in training and in validation."""
    root, manifest = typed
    vocabulary = Vocabulary.load(root / "shards" / "tokenizer" / "tokenizer.json", manifest.tokenizer)
    holders = list(manifest.tokenizer.placeholder_ids.values())
    sequences = list(Split(root / "shards", manifest, split))
    masking = MaskingConfig(probability=0.6, replace_with_random=0.3, replace_with_mask=0.6, whole_words=whole_words)
    collator = Collator(manifest.sequence_length, masking, vocabulary)
    batch = collator(sequences, [generator(0, stream, number) for number in range(len(sequences))])
    shown, labels = batch.input_ids.numpy(), batch.labels.numpy()
    assert len(labels) > 300 and not np.isin(labels, holders).any()
    for row, sequence in zip(shown, sequences, strict=True):
        row = row[: len(sequence.input_ids)]
        assert (np.isin(row, holders) == np.isin(sequence.input_ids, holders)).all()
    assert np.isin(shown, holders).sum() > 20


def test_the_manifest_alone_says_which_tokens_stand_for_placeholders(typed, tmp_path):
    """Also where the tokenizer doesn't call them special."""
    root, manifest = typed
    state = json.loads((root / "shards" / "tokenizer" / "tokenizer.json").read_text())
    for entry in state["added_tokens"]:
        entry["special"] = entry["special"] and entry["content"] not in TOKENS
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    vocabulary = Vocabulary.load(tmp_path / "tokenizer.json", manifest.tokenizer)
    assert not vocabulary.maskable[list(manifest.tokenizer.placeholder_ids.values())].any()


def test_typed_tokens_are_encoded_fast(typed):
    root, _ = typed
    backend = Tokenizer.from_file(str(root / "tokenizer" / "tokenizer.json"))
    encoder = IdEncoder(backend, tuple(TYPED_TOKENS.values()))
    texts = ["Dr.[NAME] saw[NAME][DATE].\n[PLACE]5 mg", "[name] [NAME", "<unk> and <mask>[AGE]"]
    assert encoder.is_fast and [ids.tolist() for ids in encoder(texts)] == encode(backend, texts)


def test_a_token_that_is_none_is_refused(corpus, tmp_path):
    for choice, message in {
        "none": "it is called drop now",
        "[NAME]": r"the tokenizer has no special token \[NAME\] without another role; say unk, drop, keep or",
        "<mask>": "the tokenizer has no special token <mask> without another role",
        "the": "no special token without another role; say unk, drop, keep, typed or surrogates, or a token such as",
        "</s>": "no special token without another role; say unk",
    }.items():
        with pytest.raises(UserError, match=f"--placeholder {choice}".replace("[", "\\[") + f": {message}"):
            build(corpus / "notes.csv", corpus / "tokenizer", tmp_path / "s", placeholder=choice)
    with pytest.raises(UserError, match=r"--placeholder: 'the' must be letters and digits in brackets"):
        TokenizerSettings(placeholder="the")
    with pytest.raises(UserError, match="--placeholder <mask>: has another role in this tokenizer"):
        TokenizerSettings(placeholder="<mask>")
    assert not (tmp_path / "s").exists()


def test_the_choice_belongs_to_the_shards_settings(corpus, tmp_path):
    plain = ShardSettings().compared()
    assert not {"placeholder", "surrogate_seed"} & set(plain)  # as in shards of version 0.1
    assert plain == ShardSettings(placeholder="drop", surrogate_seed=3).compared()  # the token tells them apart
    chosen = [ShardSettings(placeholder=choice, surrogate_seed=seed).compared()
              for choice, seed in (("keep", 0), ("typed", 0), ("surrogates", 0), ("surrogates", 1))]  # fmt: skip
    assert all(one != other for i, one in enumerate([plain, *chosen]) for other in chosen[i:])
    build(corpus / "notes.csv", corpus / "tokenizer", tmp_path / "s", placeholder="surrogates")
    with pytest.raises(UserError, match=r"finished shards with other settings \(surrogate_seed\)"):
        build(corpus / "notes.csv", corpus / "tokenizer", tmp_path / "s", placeholder="surrogates", surrogate_seed=1)


def texts_of(out):
    """The kept notes' texts, in order."""
    manifest = Manifest.load(out)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer" / "tokenizer.json"))
    notes = {}
    for name in SPLITS:
        for note, ids in Split(out, manifest, name).notes():
            notes[int(note)] = tokenizer.decode(ids.tolist()[1:-1], skip_special_tokens=False)
    return [notes[note] for note in sorted(notes)]


ROWS = [
    ("7", "1", "Seen by [**Known lastname 5**] on [**2151-7-16**]"),
    ("7", "1", "Again [**Known lastname 5**] on [**2151-7-18**], ___"),
    ("8", "2", "Seen by [**Known lastname 5**] on [**2151-7-16**]"),
    ("", "3", "[**Hospital1 5**] alone"),
    ("", "3", "to [**Hospital1 5**] alone"),
]


def write(path, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("SUBJECT_ID", "HADM_ID", "TEXT"), *rows])
    return path


def test_surrogates_are_consistent_within_a_patient(corpus, tmp_path):
    notes = write(tmp_path / "n.csv", ROWS)
    manifest = build(notes, corpus / "tokenizer", tmp_path / "s", placeholder="surrogates", split=SplitRule(0, 0))
    first, again, other, *admission = texts_of(tmp_path / "s")
    name, day = first.removeprefix("Seen by ").split(" on ")
    assert again.startswith(f"Again {name} on ") and again.endswith(",<unk>") and other != first
    days = [datetime.date(*map(int, text.split("-"))) for text in (day, again.split(" on ")[1].split(",")[0])]
    assert days[1] - days[0] == datetime.timedelta(2)
    assert admission[1] == f"to {admission[0]}" and "[**" not in "".join(texts_of(tmp_path / "s"))
    assert manifest.counts["kept"] == 5 and manifest.tokenizer.typed_placeholders == {}
    assert manifest.placeholders == {"name": 3, "date": 3, "place": 2, "underscores": 1, "without_surrogate": 1,
                                     "notes_without_patient": 2}  # fmt: skip
    lines = "\n".join(summary_lines(manifest, tmp_path / "s", False))
    assert "1 placeholders have no surrogate" in lines and "2 notes with surrogates name no patient" in lines
    assert not faulty(tmp_path / "s")
    random.Random(1).shuffle(rows := list(ROWS))
    build(write(tmp_path / "m.csv", rows), corpus / "tokenizer", tmp_path / "t", placeholder="surrogates",
          split=SplitRule(0, 0))  # fmt: skip
    assert sorted(texts_of(tmp_path / "t")) == sorted([first, again, other, *admission])


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["typed", "surrogates"])
def test_the_number_of_workers_changes_nothing(typed, corpus, tmp_path, choice):
    root, _ = typed
    for workers in (1, 2):
        out = tmp_path / str(workers)
        build(corpus / "notes.csv", root / "tokenizer", out, workers=workers, placeholder=choice)
    assert content(tmp_path / "1") == content(tmp_path / "2")


def test_kept_placeholders_are_text(corpus, tmp_path):
    notes = write(tmp_path / "n.csv", ROWS)
    manifest = build(notes, corpus / "tokenizer", tmp_path / "s", placeholder="keep", split=SplitRule(0, 0))
    assert sorted(texts_of(tmp_path / "s")) == sorted({text for _, _, text in ROWS})
    assert manifest.tokenizer.placeholder_ids == {} and manifest.placeholders["name"] == 2


@pytest.mark.parametrize("choice", ["typed", "surrogates", "keep"])
def test_test_texts_are_cleaned_as_those_of_the_shards(typed, tmp_path, choice):
    notes = write(tmp_path / "n.csv", ROWS)
    build(notes, typed[0] / "tokenizer", tmp_path / "s", placeholder=choice, split=SplitRule(0, 0))
    documents = [Document(str(number), text, patient) for number, (patient, _, text) in enumerate(ROWS[:3])]
    found = count_contamination(documents, tmp_path / "s")
    assert found.texts_seen == found.texts == (3 if choice == "surrogates" else 2)


@pytest.mark.parametrize(("choice", "tokens"), [("typed", list(TYPED_TOKENS.values())), ("[X]", ["[X]"]),
                                               ("surrogates", []), ("keep", [])])  # fmt: skip
def test_a_new_tokenizer_knows_the_tokens(corpus, tmp_path, choice, tokens):
    train_tokenizer([corpus / "notes.csv"], tmp_path / "t", TokenizerSettings(vocab_size=700, placeholder=choice))
    backend = Tokenizer.from_file(str(tmp_path / "t" / "tokenizer.json"))
    assert backend.get_vocab_size() == 700
    assert [encode(backend, [token])[0] for token in tokens] == [[backend.token_to_id(token)] for token in tokens]
    assert ("lastname" in "".join(backend.get_vocab())) == (choice == "keep")
    notes = write(tmp_path / "n.csv", ROWS)
    manifest = build(notes, tmp_path / "t", tmp_path / "s", placeholder=choice, split=SplitRule(0, 0))
    assert set(manifest.tokenizer.placeholder_ids) == {*tokens, *(["<unk>"] if choice == "surrogates" else [])}


def test_shards_of_version_0_1_are_still_whole_and_not_built_again(corpus, tmp_path):
    manifest = build(corpus / "notes.csv", corpus / "tokenizer", tmp_path / "s")
    path = tmp_path / "s" / "manifest.json"
    raw = json.loads(path.read_text())
    del raw["placeholders"], raw["tokenizer"]["typed_placeholders"]
    path.write_text(json.dumps(raw))
    earlier = replace(manifest, placeholders={})
    assert build(corpus / "notes.csv", corpus / "tokenizer", tmp_path / "s") == Manifest.load(tmp_path / "s") == earlier
    assert not faulty(tmp_path / "s")
