import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tokenizer_tools.corpus.synthetic_notes import make_notes
from tokenizer_tools.errors import UserError
from tokenizer_tools.tokenizer.train import TokenizerSettings, train_tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizer")
    make_notes(root / "n.csv", patients=20)
    result = train_tokenizer([root / "n.csv"], root / "tokenizer", TokenizerSettings(vocab_size=1000))
    assert result["vocab_size"] == 1000
    return root


def test_plain_transformers_gives_the_same_ids(made):
    tokenizer = AutoTokenizer.from_pretrained(made / "tokenizer")
    raw = Tokenizer.from_file(str(made / "tokenizer" / "tokenizer.json"))
    text = "The patient denies chest <mask>. pH 7.35, Café"
    assert tokenizer(text).input_ids == raw.encode(text).ids
    text = "The patient denies chest pain.\n  pH 7.35,\tCafé"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert tokenizer.model_max_length == 4096


def test_special_tokens_lie_where_robertas_do(made):
    tokenizer = AutoTokenizer.from_pretrained(made / "tokenizer")
    ids = tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    assert ids == [0, 1, 2, 3, 999]
    assert (tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.pad_token_id) == (0, 0, 1)
    assert (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.unk_token_id) == (2, 2, 3)
    assert tokenizer.mask_token_id == 999
    one, two = (tokenizer(word, add_special_tokens=False).input_ids for word in ("chest", "pain"))
    assert tokenizer("chest").input_ids == [0, *one, 2]
    assert tokenizer("chest", "pain").input_ids == [0, *one, 2, 2, *two, 2]
    assert "Ġ" not in tokenizer.convert_ids_to_tokens(tokenizer("chest <mask>").input_ids)  # the mask takes its blank


def test_no_placeholder_is_learned(made):
    vocabulary = AutoTokenizer.from_pretrained(made / "tokenizer").get_vocab()
    assert not any("[**" in token or "lastname" in token for token in vocabulary)
    assert [token for token in vocabulary if "unk" in token] == ["<unk>"]  # what stands for them isn't learned either
    assert any("denies" in token for token in vocabulary)


def test_the_same_notes_give_the_same_bytes(made):
    train_tokenizer([made / "n.csv"], made / "again", TokenizerSettings(vocab_size=1000))
    for path in (made / "tokenizer").iterdir():
        assert path.read_bytes() == (made / "again" / path.name).read_bytes()


def test_a_piece_must_occur_often_enough(made, tmp_path):
    rare = train_tokenizer([made / "n.csv"], tmp_path / "t", TokenizerSettings(vocab_size=1000, min_frequency=500))
    assert rare["vocab_size"] < 1000


def test_bad_calls(made, tmp_path):
    with pytest.raises(UserError, match="isn't empty"):
        train_tokenizer([made / "n.csv"], made / "tokenizer")
    with pytest.raises(UserError, match="at least 300"):
        train_tokenizer([made / "n.csv"], tmp_path / "t", TokenizerSettings(vocab_size=10))
    (tmp_path / "empty.csv").write_text("subject_id,text\n1,\n")
    with pytest.raises(UserError, match="no note with text"):
        train_tokenizer([tmp_path / "empty.csv"], tmp_path / "t")
    assert not (tmp_path / "t").exists()
