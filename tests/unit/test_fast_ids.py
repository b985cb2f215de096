"""tiktoken's ids are the tokenizer's own, for any text; where they wouldn't be, they aren't used."""

import itertools
import json
import string

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tokenizer_tools.manifest import MANIFEST_NAME
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import ShardSettings
from tokenizer_tools.tokenizer.fast_ids import IdEncoder, _FastEncoding
from tokenizer_tools.tokenizer.load import encode

PIECES = ["<unk>", "<s>", "</s>", "<mask>", " <mask> ", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2003", "\x00",
          "\x1c", "'s", "'S", "’s", "é", "e\u0301", "µg", "½", "≥", "한", "١٢", "👩\u200d⚕️", "\u200b", "\ufeff",
          "aspirin", "HISTORY", "q.d.", "0.125", "-", "___", "=" * 40]  # fmt: skip


@pytest.fixture(scope="module")
def backend(corpus):
    return Tokenizer.from_file(str(corpus / "tokenizer" / "tokenizer.json"))


def changed(backend, **model):
    """A tokenizer with other values in its model, or with another pre-tokenizer or normalizer."""
    state = json.loads(backend.to_str())
    steps = {name: model.pop(name) for name in ("normalizer", "pre_tokenizer") if name in model}
    state["model"] |= model
    return Tokenizer.from_str(json.dumps(state | steps))


def assert_same(backend, texts, encoder=None):
    encoder = encoder or IdEncoder(backend, ("<unk>",))
    for text, found, wanted in zip(texts, encoder(texts), encode(backend, texts), strict=True):
        assert found.tolist() == wanted, repr(text[:80])
    return encoder


@given(texts=st.lists(st.lists(st.sampled_from(PIECES) | st.text(max_size=8)).map("".join), max_size=5))
@example(texts=["a" * 5000, " " * 5000 + "a", "a " * 3000, "\n" * 3000, "\n \n" * 2000, "é" * 3000, ""])
@settings(deadline=None, max_examples=300)
def test_any_text_has_the_tokenizers_own_ids(texts, backend):
    assert assert_same(backend, texts).is_fast


@pytest.mark.slow
def test_all_short_texts_of_ascii_and_all_characters_have_them(backend):
    """ASCII isn't tried when it occurs, so all of it is tried here: signs by themselves, letters and digits by kind."""
    kinds = "".join(map(chr, range(32))) + string.punctuation + " aBsdtx1\x7f"
    texts = ["".join(triple) for triple in itertools.product(kinds, repeat=3)]
    encoder = IdEncoder(backend, ())
    parts = [texts[start : start + 50_000] for start in range(0, len(texts), 50_000)]
    found = [ids for part in parts for ids in encoder._mixed(part, encoder._fast)]
    assert len(texts) > 200_000 and all(map(np.array_equal, found, encode(backend, texts)))
    characters = [chr(point) for point in range(0x80, 0x110000, 7) if not 0xD800 <= point < 0xE000]
    assert_same(backend, ["".join(characters[start : start + 50]) for start in range(0, len(characters), 50)], encoder)
    assert encoder.is_fast


@pytest.mark.shared
@pytest.mark.slow
def test_real_notes_have_them_with_the_real_vocabularies():
    from tokenizer_tools.corpus.read_notes import read_notes

    texts = [note.text for note in read_notes([SHARED / "notes" / "mtsamples_unique.jsonl.gz"])][:1500]
    for name in ("longformer", "bigbird"):
        backend = Tokenizer.from_file(str(SHARED / "tokenizers" / name / "tokenizer.json"))
        assert assert_same(backend, texts).is_fast


@pytest.mark.parametrize(
    "other",
    [
        {"ignore_merges": True},
        {"dropout": 0.1},
        {"byte_fallback": True},
        {"end_of_word_suffix": "</w>"},
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}},
    ],
    ids=lambda other: "-".join(map(str, other)),
)
def test_another_form_is_left_to_tokenizers(other, backend):
    encoder = IdEncoder(changed(backend, **other), ("<unk>",))
    assert not encoder.is_fast
    if "dropout" not in other and "end_of_word_suffix" not in other:
        assert_same(changed(backend, **other), ["Aspirin 0.125 mg q.d.", " a\n b"], encoder)


def test_a_placeholder_that_takes_its_surroundings_is_left_to_tokenizers(backend):
    state = json.loads(backend.to_str())
    (mask,) = (entry for entry in state["added_tokens"] if entry["content"] == "<mask>")
    mask["lstrip"] = True
    greedy = Tokenizer.from_str(json.dumps(state))
    assert not IdEncoder(greedy, ("<mask>",)).is_fast and not IdEncoder(backend, ("no token",)).is_fast
    assert assert_same(greedy, ["a <mask> b", "a  <mask>b <unk>"]).is_fast


def test_other_ids_are_noticed_and_said(backend, capsys):
    encoder = IdEncoder(backend, ("<unk>",))
    encoder._fast._ids = encoder._fast._ids[::-1].copy()
    assert not assert_same(backend, ["some words"] * 3, encoder).is_fast
    assert "tiktoken gives other token ids" in capsys.readouterr().err


def test_shards_are_the_same_with_and_without_it(corpus, tmp_path, monkeypatch):
    made = []
    for name in ("with", "without"):
        settings = ShardSettings(sequence_length=256, patient_key=str(tmp_path / "key"))
        build_shards([corpus / "notes.csv"], str(corpus / "tokenizer"), tmp_path / name, settings)
        files = {path.relative_to(tmp_path / name): path for path in (tmp_path / name).rglob("*") if path.is_file()}
        made.append({path: file.read_bytes() for path, file in files.items() if path.name != MANIFEST_NAME})
        from tokenizer_tools.shards.token_ids import _loaded

        _loaded.cache_clear()
        monkeypatch.setattr(_FastEncoding, "of", lambda *_: None)
    assert made[0] == made[1] and len(made[0]) > 3
