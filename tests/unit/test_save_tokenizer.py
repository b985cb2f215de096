"""Tokenizers of every kind, as transformers 5 and 4.57 load what is saved of them."""

import json
import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY, SHARED
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tokenizer_tools.corpus.input_files import find_inputs
from tokenizer_tools.tokenizer.extend import extend_tokenizer, save_extension
from tokenizer_tools.tokenizer.identity import vocab_sha256
from tokenizer_tools.tokenizer.load import load_tokenizer, save_tokenizer
from tokenizer_tools.tokenizer.settings import ExtensionSettings


def answers(folders, transformers_4):
    """What both versions make of the same folders, each alone in a process."""
    found = []
    for path, version in ((REPOSITORY, "5."), (transformers_4, "4.57.")):
        call = [sys.executable, str(REPOSITORY / "tests" / "load_exported.py"), *map(str, folders)]
        done = subprocess.run(call, env=os.environ | {"PYTHONPATH": str(path)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        result = json.loads(done.stdout.splitlines()[-1])
        assert result["version"].startswith(version)
        found.append(result["answers"])
    return found


def like_bigbird(folder):
    """Unigram with blanks as ▁, other roles' tokens than RoBERTa's, and more special tokens than have a role."""
    pieces = [*"abcdefghijklmnopqrstuvwxyz▁µ0123456789:./-", "▁the", "ation", *(f"▁word{i}" for i in range(60))]
    specials = ["<pad>", "</s>", "<s>", "[CLS]", "[SEP]", "<unused_1>", "<unk>"]
    backend = Tokenizer(models.Unigram([(piece, -5.0) for piece in [*specials, *pieces]], unk_id=6))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens([*specials, AddedToken("[MASK]", lstrip=True, special=True)])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", backend.token_to_id("[CLS]")), ("[SEP]", backend.token_to_id("[SEP]"))],
    )  # fmt: skip
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
        cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]", extra_special_tokens=["<unused_1>"],
    ).save_pretrained(folder)  # fmt: skip
    return folder


def with_a_blank_in_front(folder):
    """Byte-level, as GPT-2's with add_prefix_space, which transformers 4 would take back."""
    tokenizer = AutoTokenizer.from_pretrained(folder.parent / "trained")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, add_prefix_space=True, **tokenizer.special_tokens_map
    ).save_pretrained(folder)
    return folder


def with_added_words(folder):
    """As extend-vocabulary adds them, and a special token more than have a role."""
    base = load_tokenizer(str(folder.parent / "trained"))
    options = ExtensionSettings(size=20, min_patients=5, tokens="[NAME]")
    inputs = find_inputs([folder.parent / "notes.csv"], None)
    save_extension(extend_tokenizer(inputs, base, options, "trained"), folder)
    return folder


def assert_saved_alike(names, root, transformers_4, others=()):
    """Of folders NAME that `saved-NAME` was made of: the same ids in both versions, and the same as before.

    Returns:
        What each version makes of the other folders.
    """
    five, four = answers([*(root / f"saved-{name}" for name in names), *others], transformers_4)
    assert five == four
    for name in names:
        found = five[str(root / f"saved-{name}")]
        before, raw = AutoTokenizer.from_pretrained(root / name), root / f"saved-{name}" / "tokenizer.json"
        text = f"The patient denies chest {before.mask_token} pain.\n  pH 7.35,\tCafé"
        assert found["ids"][0] == before(text).input_ids == Tokenizer.from_file(str(raw)).encode(text).ids
        assert found["model_max_length"] == 512 and found["special"] == sorted(before.all_special_ids)
        config = json.loads((root / f"saved-{name}" / "tokenizer_config.json").read_text())
        assert not {"is_local", "local_files_only", "name_or_path", "extra_special_tokens"} & config.keys()
    return [five[str(folder)] for folder in others]


@pytest.mark.slow
def test_both_versions_of_transformers_load_what_is_saved(corpus, shards, tmp_path, transformers_4):
    (tmp_path / "trained").symlink_to(corpus / "tokenizer")
    (tmp_path / "notes.csv").symlink_to(corpus / "notes.csv")
    names = ["trained", "bigbird", "prefixed", "extended"]
    like_bigbird(tmp_path / "bigbird")
    with_a_blank_in_front(tmp_path / "prefixed")
    with_added_words(tmp_path / "extended")
    for name in names:
        save_tokenizer(load_tokenizer(str(tmp_path / name)), tmp_path / f"saved-{name}", 512)
    folders = [corpus / "tokenizer", shards / "tokenizer"]  # as train-tokenizer makes it, and its copy
    trained, copied = assert_saved_alike(names, tmp_path, transformers_4, folders)
    assert trained == copied and trained["model_max_length"] == 4096
    assert trained["decoded"][0].startswith("The patient denies chest pain.\n")  # the mask took its blank


@pytest.mark.slow
@pytest.mark.shared
def test_both_versions_load_what_is_saved_of_the_real_ones(tmp_path, transformers_4):
    for name in ("longformer", "bigbird"):
        (tmp_path / name).symlink_to(SHARED / "tokenizers" / name)
        save_tokenizer(load_tokenizer(str(tmp_path / name)), tmp_path / f"saved-{name}", 512)
    assert_saved_alike(["longformer", "bigbird"], tmp_path, transformers_4)


def test_a_vocabularys_hash_does_not_depend_on_the_order_of_its_tokens():
    """Also where two tokens have one id: a vocabulary comes as a hash map, each time in another order."""
    assert vocab_sha256({"a": 0, "b": 1, "c": 1}) == vocab_sha256({"c": 1, "b": 1, "a": 0})
