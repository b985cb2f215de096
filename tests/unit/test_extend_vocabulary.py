"""Words added to a tokenizer and its model: which, and that nothing else changes."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BigBirdConfig,
    BigBirdForMaskedLM,
    LongformerConfig,
    LongformerForMaskedLM,
    PreTrainedTokenizerFast,
)

from clinical_pretrain.cli import main
from clinical_pretrain.config.model import ModelConfig
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.data.masking import Vocabulary
from clinical_pretrain.data.shards import Split
from clinical_pretrain.models.base_model import fitting_model_config
from clinical_pretrain.models.vocabulary import check_model, extend_model, widened
from tokenizer_tools.corpus.read_notes import InputOptions
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import ShardSettings
from tokenizer_tools.tokenizer.extend import (
    add_entries,
    addable,
    extend_tokenizer,
    save_extension,
    take_apart,
)
from tokenizer_tools.tokenizer.load import encode, load_tokenizer
from tokenizer_tools.tokenizer.settings import ExtensionSettings
from tokenizer_tools.tokenizer.training_notes import find_notes
from tokenizer_tools.tokenizer.words import kind_of

ALL = SplitRule(0, 0)
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def unigram(corpus, tmp_path_factory):
    """Like BigBird's, but with a score of its own for each piece."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    specials = ["<pad>", "<unk>", "[CLS]", "[SEP]"]
    trainer = trainers.UnigramTrainer(
        vocab_size=600, special_tokens=specials, unk_token="<unk>", max_piece_length=4, show_progress=False
    )
    backend.train_from_iterator((corpus / "notes.csv").read_text().splitlines()[:2000], trainer)
    backend.add_special_tokens(["[MASK]"])  # behind the vocabulary
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), specials, strict=True))
    folder = tmp_path_factory.mktemp("unigram")
    PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **roles).save_pretrained(folder)
    return folder


def extended(notes: Path, tokenizer: Path, **options):
    options = {"split": ALL, "min_patients": 5} | options
    settings = ExtensionSettings(**options)
    inputs = find_notes([notes], settings.reading, settings.split)
    return extend_tokenizer(inputs, load_tokenizer(str(tokenizer)), settings, str(tokenizer))


def added(extension):
    """The added words, as they are written."""
    ids = [new for new in extension.pieces if new >= extension.base_size + len(extension.added_tokens)]
    entries = extension.tokenizer.convert_ids_to_tokens(ids)
    return [entry.replace("Ġ", " ").replace("▁", " ") for entry in entries]


def write_notes(path, texts_of_patients):
    rows = [{"subject_id": patient, "text": text} for patient, texts in texts_of_patients.items() for text in texts]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_name_is_not_added(corpus, tmp_path):
    """By any rule; and what is added stands in the tokenizer alone."""
    text = (
        "CHOLECYSTECTOMY and cholecystectomy were done. He was seen by Jablonski in Weissenfels{i}\n"
        "HEMICOLECTOMY: dr. kowalczyk and marmadukeson, transferred from [**vinzenzhaus**] to the vinzenzhaus, "
        "called jsmithson@example.org. Cholecystectomy went well, says brzezinska, RN.{rare}"
    )
    notes = {i: [text.format(i=" " * (i % 3) + "." * i, rare=" proctocolitis" * (i < 4))] for i in range(8)}
    (tmp_path / "names.txt").write_text("MARMADUKESON   0.006  1\n")
    extension = extended(
        write_notes(tmp_path / "n.jsonl", notes),
        corpus / "tokenizer",
        names=str(tmp_path / "names.txt"),
        reading=InputOptions(),
    )
    words = {word.strip().lower() for word in added(extension)}
    assert "cholecystectomy" in words
    assert {" Cholecystectomy", " cholecystectomy", "CHOLECYSTECTOMY"} >= {
        word for word in added(extension) if "chole" in word.lower()
    }
    assert not words & {"jablonski", "weissenfels", "hemicolectomy", "kowalczyk", "marmadukeson", "vinzenzhaus"}
    assert not words & {"jsmithson", "example", "brzezinska", "proctocolitis"}
    left_out = {rule: entry.words for rule, entry in extension.choice.left_out.items()}
    assert left_out["names_file"] == 1 and left_out["title"] == 2 and left_out["few_patients"] == 1
    assert left_out["capitalised"] == 2 and left_out["placeholder"] == 1
    assert left_out["never_lower_case"] >= 1
    assert not any(word in json.dumps(extension.to_json()) for word in words)


def test_held_out_patients_stay_out(corpus, tmp_path):
    rule = SplitRule(0.3, 0.3)
    splits = {i: rule.split_of(rule.group_of(str(i), "", "")) for i in range(60)}
    notes = {
        i: [f"Seen by Smith {i}, had {('sigmoidoscopy', 'bronchoscopy')[split > 0]}"] for i, split in splits.items()
    }
    extension = extended(write_notes(tmp_path / "n.jsonl", notes), corpus / "tokenizer", split=rule)
    words = {word.strip() for word in added(extension)}
    assert "sigmoidoscopy" in words and "bronchoscopy" not in words
    assert extension.notes == list(splits.values()).count(0)


def test_the_same_text_twice_counts_once(corpus, tmp_path):
    notes = {i: ["Seen by Smith with a nephrolithiasis"] for i in range(30)}
    with pytest.raises(UserError, match=r"no word to add: .* fewer than 5 patients"):
        extended(write_notes(tmp_path / "n.jsonl", notes), corpus / "tokenizer")


def test_without_case_names_must_be_listed(corpus, tmp_path):
    notes = write_notes(tmp_path / "n.jsonl", {i: [f"seen by smith {i} with nephrolithiasis"] for i in range(30)})
    with pytest.raises(UserError, match="without --names; name a file of names"):
        extended(notes, corpus / "tokenizer")
    (tmp_path / "names.txt").write_text("Smith\n")
    words = {word.strip() for word in added(extended(notes, corpus / "tokenizer", names=str(tmp_path / "names.txt")))}
    assert "nephrolithiasis" in words and "smith" not in words


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_the_ids_of_everything_else_stay(corpus, unigram, kind, tmp_path):
    folder = unigram if kind == "unigram" else corpus / "tokenizer"
    extension = extended(corpus / "notes.csv", folder, size=150, tokens="[NAME]")
    save_extension(extension, tmp_path / "t")
    base = load_tokenizer(str(folder)).backend_tokenizer
    new = Tokenizer.from_file(str(tmp_path / "t" / "tokenizer.json"))
    words = added(extension)
    assert len(words) == 150 and extension.tokens_after < 0.9 * extension.tokens_before
    assert all(new.encode(word, add_special_tokens=False).ids == [i] for i, word in zip(
        list(extension.pieces)[1:], words, strict=True))  # fmt: skip
    vocabulary = new.get_vocab()
    assert all(vocabulary[entry] == number for entry, number in base.get_vocab().items())
    assert_ids_stay(base, new, extension, is_exact=kind == "bpe")


def assert_ids_stay(base, new, extension, is_exact, examples=300):
    """On what hypothesis thinks of: words joined, cut, next to signs and special tokens."""
    parts = st.one_of(
        st.sampled_from(added(extension)),
        st.sampled_from([*" \n\t,.-'", "  ", "'s", "<mask>", "[MASK]", "120/80", "≥", "é", "𝔘"]),
        st.text(max_size=3),
    )

    @settings(max_examples=examples)
    @given(st.lists(parts, max_size=8).map("".join))
    def holds(text):
        before, after = (encode(each, [text])[0] for each in (base, new))
        assert take_apart(after, extension.pieces) == before
        assert base.decode(before) == new.decode(after)
        if is_exact and "<mask>" not in text:  # which takes the blanks before it
            assert new.decode(after, skip_special_tokens=False) == text

    holds()


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_plain_transformers_and_a_second_extension(corpus, unigram, kind, tmp_path):
    folder = unigram if kind == "unigram" else corpus / "tokenizer"
    first = extended(corpus / "notes.csv", folder, size=20, tokens="[NAME],[DATE]")
    save_extension(first, tmp_path / "first")
    loaded, base = AutoTokenizer.from_pretrained(tmp_path / "first"), AutoTokenizer.from_pretrained(folder)
    raw = Tokenizer.from_file(str(tmp_path / "first" / "tokenizer.json"))
    text = f"Seen by [NAME] on[DATE].{''.join(added(first))} {base.mask_token}"
    assert loaded(text).input_ids == raw.encode(text).ids
    assert loaded.special_tokens_map == base.special_tokens_map | {
        "additional_special_tokens": ["[NAME]", "[DATE]"]
    } or (loaded.special_tokens_map == base.special_tokens_map)
    assert set(loaded.all_special_tokens) == {*base.all_special_tokens, "[NAME]", "[DATE]"}
    assert sorted(raw.get_vocab().values()) == list(range(len(base) + 22))
    second = extended(corpus / "notes.csv", tmp_path / "first", size=20)
    assert second.base_size == len(base) + 22 and not set(added(first)) & set(added(second))
    assert second.tokens_before == first.tokens_after > second.tokens_after


def test_shards_with_added_words_and_a_typed_placeholder(corpus, tmp_path):
    extension = extended(corpus / "notes.csv", corpus / "tokenizer", size=50, tokens="[NAME],[DATE]")
    save_extension(extension, tmp_path / "t")
    options = ShardSettings(sequence_length=256, split=ALL, placeholder="[NAME]")
    manifest = build_shards([corpus / "notes.csv"], str(tmp_path / "t"), tmp_path / "s", options)
    name_id, date_id = list(extension.pieces)[:2]
    assert manifest.tokenizer.placeholder_id == name_id and manifest.tokenizer.vocab_size == extension.size
    ids = [int(i) for row in Split(tmp_path / "s", manifest, "train") for i in row.input_ids]
    assert name_id in ids and date_id not in ids and set(ids) >= set(list(extension.pieces)[2:])
    vocabulary = Vocabulary.load(
        tmp_path / "s" / "tokenizer" / "tokenizer.json", Manifest.load(tmp_path / "s").tokenizer
    )
    assert not vocabulary.maskable[[name_id, date_id]].any() and vocabulary.maskable[list(extension.pieces)[2:]].all()
    begins = [added(extension)[i][0] == " " for i in range(50)]
    assert vocabulary.begins_word[list(extension.pieces)[2:]].tolist() == begins


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", ["longformer", "bigbird"])
def test_the_real_tokenizers(name, tmp_path):
    """The proof on each note is in `extend_tokenizer`; here the text comes back as with the base."""
    notes = SHARED / "notes" / "mtsamples_unique.jsonl.gz"
    part = write_notes(tmp_path / "n.jsonl", dict(enumerate(texts(notes)[:150])))
    extension = extended(part, SHARED / "tokenizers" / name, size=100)
    save_extension(extension, tmp_path / "t")
    base, new = load_tokenizer(str(SHARED / "tokenizers" / name)), AutoTokenizer.from_pretrained(tmp_path / "t")
    assert extension.tokens_after < 0.95 * extension.tokens_before and len(new) == len(base) + 100
    for (text,) in texts(notes)[150:200]:
        before, after = (each(text, add_special_tokens=False).input_ids for each in (base, new))
        assert take_apart(after, extension.pieces) == before and base.decode(before) == new.decode(after)
        assert name == "bigbird" or new.decode(after) == text
    assert_ids_stay(base.backend_tokenizer, new.backend_tokenizer, extension, name == "longformer", examples=100)


def texts(path):
    with gzip.open(path, "rt") as lines:
        return [[json.loads(line)["text"]] for line in lines]


def model_of(kind, size):
    ids = {"vocab_size": size, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "sep_token_id": 2}
    torch.manual_seed(0)
    if kind == "longformer":
        config = LongformerConfig(**TINY, **ids, attention_window=[16, 16], max_position_embeddings=66)
        model = LongformerForMaskedLM(config)
        torch.nn.init.normal_(model.lm_head.bias)
        return model.eval()
    model = BigBirdForMaskedLM(BigBirdConfig(**TINY, **ids, attention_type="original_full", max_position_embeddings=64))
    torch.nn.init.normal_(model.cls.predictions.bias)
    return model.eval()


@pytest.mark.parametrize("kind", ["longformer", "bigbird"])
@pytest.mark.parametrize("padding", [0, 24])
def test_a_models_new_rows_are_the_mean_of_the_pieces(kind, padding, tmp_path):
    """Logits of the base's ids stay. A model may have more rows than its tokenizer has ids."""
    model, pieces = model_of(kind, 40 + padding), {40: [5, 6, 7], 41: [5], 42: [9, 9]}
    wide = widened(model, pieces).eval()
    old, new = model.get_input_embeddings().weight, wide.get_input_embeddings().weight
    assert len(new) == max(43, 40 + padding) == wide.config.vocab_size == wide.get_output_embeddings().out_features
    assert torch.equal(new[:40], old[:40]) and torch.equal(new[41], old[5])
    assert torch.allclose(new[40], (old[5] + old[6] + old[7]) / 3)
    assert wide.get_output_embeddings().weight.data_ptr() == new.data_ptr()
    ids = torch.randint(5, 40, (2, 32))
    with torch.no_grad():
        before, after = (each(input_ids=ids).logits for each in (model, wide))
    assert torch.equal(after[..., :40], before[..., :40])
    assert torch.allclose(after[..., 40], before[..., 5:8].mean(-1), atol=1e-6)
    wide.save_pretrained(tmp_path / "m")
    reloaded, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        assert torch.equal(reloaded.eval()(input_ids=ids).logits, after)


def test_a_model_in_half_precision_stays_so(corpus, tmp_path):
    model_of("longformer", 1000).to(torch.bfloat16).save_pretrained(tmp_path / "m")
    config = check_model(str(tmp_path / "m"), load_tokenizer(str(corpus / "tokenizer")).get_vocab(), "t")
    extend_model(str(tmp_path / "m"), config, {1000: [5, 6]}, tmp_path / "out")
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == torch.bfloat16


def test_the_command_extends_both(corpus, tmp_path, capsys):
    model_of("longformer", 1000).save_pretrained(tmp_path / "base")
    call = ["extend-vocabulary", "--tokenizer", str(corpus / "tokenizer"), "--model", str(tmp_path / "base"), "--out"]
    notes = ["--notes", str(corpus / "notes.csv"), "--min-patients", "5"]
    assert main([*call, str(tmp_path / "out"), *notes, "--size", "30", "--json", str(tmp_path / "r.json")]) == 0
    said = capsys.readouterr().out
    assert "1,030 entries, of which 30 words are new" in said and "no file of names was given" in said
    model, tokenizer = (each.from_pretrained(tmp_path / "out") for each in (AutoModelForMaskedLM, AutoTokenizer))
    assert model.config.vocab_size == len(tokenizer) == 1030
    build_shards([corpus / "notes.csv"], str(tmp_path / "out"), tmp_path / "shards", ShardSettings(sequence_length=64))
    run = RunConfig(model=ModelConfig(name_or_path=str(tmp_path / "out")))
    assert fitting_model_config(run, Manifest.load(tmp_path / "shards")).vocab_size == 1030
    words = {tokenizer.decode(i).strip().lower() for i in range(1000, 1030)}
    shown = said + (tmp_path / "r.json").read_text()
    assert not [word for word in words if word in shown.lower().split()]
    assert main([*call, str(tmp_path / "out"), *notes]) == 2 and "isn't empty" in capsys.readouterr().err
    assert main([*call, str(tmp_path / "tokens"), "--size", "0", "--tokens", "[NAME]"]) == 0
    assert "1,001 entries, of which the tokens [NAME] are new" in capsys.readouterr().out
    model_of("longformer", 900).save_pretrained(tmp_path / "base")
    assert main([*call, str(tmp_path / "again"), *notes]) == 2 and "not trained with the ids" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"base", "out", "r.json", "shards", "tokens"}


def test_bad_calls(corpus, tmp_path):
    for options, message in (
        ({"tokens": "NAME"}, "'NAME' must be letters and digits in brackets"),
        ({"tokens": "[NAME],[NAME]"}, "named twice"),
        ({"size": 0}, "nothing to add"),
        ({"tokens": "<mask>"}, "has <mask> already"),
        ({"names": str(tmp_path / "no")}, "cannot be read"),
        ({"min_patients": 1}, "at least 2"),
    ):
        with pytest.raises(UserError, match=message):
            extended(corpus / "notes.csv", corpus / "tokenizer", **options)
    wordpiece = Tokenizer(models.WordPiece({"a": 0}))
    with pytest.raises(UserError, match="a WordPiece tokenizer"):
        kind_of(wordpiece, "t")


def test_entries_that_no_merge_makes_are_refused(corpus):
    state = json.loads(load_tokenizer(str(corpus / "tokenizer")).backend_tokenizer.to_str())
    state["model"]["vocab"]["Ġzzyzx"] = 1000
    with pytest.raises(UserError, match="1 entries of this vocabulary are never made"):
        add_entries(Tokenizer.from_str(json.dumps(state)), "byte-level BPE", [" cholecystitis"], [])


def test_words_that_the_tokenizer_rewrites_are_passed_over(unigram):
    backend = load_tokenizer(str(unigram)).backend_tokenizer
    assert addable(backend, [" ﬁbrosis", " fibrosis", " fibrosis"]) == [" fibrosis"]
