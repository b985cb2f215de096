"""Ids by the memory of words are the tokenizer's own; where they wouldn't be, it isn't used."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tokenizer_tools.corpus.synthetic_notes import COLUMNS, notes_of
from tokenizer_tools.tokenizer import word_ids
from tokenizer_tools.tokenizer.fast_ids import IdEncoder
from tokenizer_tools.tokenizer.load import encode
from tokenizer_tools.tokenizer.word_ids import WordEncoding

PIECES = ["<unk>", " <unk>", "[MASK]", "<s>", " ", "  ", "\n", "\t", "▁", "\u00a0", "\x00", "é", "µg", "≥", "한",
          "👩\u200d⚕️",
          "aspirin", "HISTORY", "q.d.", "0.125", "-", "___", "Pt"]  # fmt: skip


@pytest.fixture(scope="module")
def backend():
    """As BigBird's: Unigram, divided at spaces, without newline and tab."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(left=False, right=False), normalizers.Replace(Regex(" {2,}"), "▁")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    texts = [" ".join(row[COLUMNS.index("TEXT")].split()) for row in notes_of(10, seed=0)]
    trainer = trainers.UnigramTrainer(
        vocab_size=800, special_tokens=["<pad>", "<s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True)])
    return tokenizer


def assert_same(backend, texts, encoder):
    for text, found, wanted in zip(texts, encoder(texts), encode(backend, texts), strict=True):
        assert found.tolist() == wanted, repr(text[:80])


@given(texts=st.lists(st.lists(st.sampled_from(PIECES) | st.text(max_size=6)).map("".join), max_size=5))
@example(texts=["", " ", "<unk>", "<unk><unk>", "a<unk> b", "a <unk>b", " a", "a ", "<unk> ", "≥≥ ≥"])
@settings(deadline=None, max_examples=300)
def test_any_text_has_the_tokenizers_own_ids(texts, backend):
    for placeholder in ("<unk>", None):
        encoder = IdEncoder(backend, (placeholder,) if placeholder else ())
        assert isinstance(encoder._fast, WordEncoding)
        assert_same(backend, texts, encoder)
        assert_same(backend, texts, encoder)  # remembered
        assert encoder.is_fast


@given(text=st.lists(st.sampled_from(PIECES) | st.text(max_size=6)).map("".join))
@settings(deadline=None, max_examples=300)
def test_safe_texts_have_them_without_a_sample(text, backend):
    encoding = IdEncoder(backend, ("<unk>",))._fast
    if encoding.is_safe(text):
        assert encoding.encode([text])[0].tolist() == encode(backend, [text])[0]


def test_the_memory_is_bounded(backend, monkeypatch):
    monkeypatch.setattr(word_ids, "_MOST_CHARACTERS", 1000)
    encoder = IdEncoder(backend, ())
    for start in range(0, 5000, 100):
        assert_same(backend, [f"word{number} {number}" for number in range(start, start + 100)], encoder)
        assert len(encoder._fast._memory) <= 400


@pytest.mark.parametrize(
    "other",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}},
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}},
    ],
    ids=lambda other: "-".join(map(str, other)),
)
def test_another_form_is_left_to_tokenizers(other, backend):
    changed = Tokenizer.from_str(json.dumps(json.loads(backend.to_str()) | other))
    assert not IdEncoder(changed, ("<unk>",)).is_fast and not IdEncoder(backend, ("[MASK]",)).is_fast


def test_other_ids_are_noticed_and_said(backend, capsys):
    encoder = IdEncoder(backend, ("<unk>",))
    encoder._fast._memory["aspirin"] = bytes(12)
    assert_same(backend, ["aspirin"] * 3, encoder)
    assert not encoder.is_fast and "the memory of words gives other token ids" in capsys.readouterr().err
