"""Base models as they come: what loads, what is refused, and the head on the masked positions."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForMaskedLM,
    BigBirdConfig,
    BigBirdForMaskedLM,
    LongformerConfig,
    LongformerForMaskedLM,
)

from clinical_pretrain.config import AttentionConfig, ModelConfig, ModelSize, RunConfig
from clinical_pretrain.models.build import build_model
from tokenizer_tools.load_tokenizer import load_tokenizer
from tokenizer_tools.manifest import Manifest, UserError

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def manifest(shards):
    return Manifest.load(shards)


@pytest.fixture(scope="module")
def bases(manifest, tmp_path_factory):
    """A small pretrained model of each kind, as a user's folder would hold it."""
    root = tmp_path_factory.mktemp("bases")
    ids = {"vocab_size": 1000, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "sep_token_id": 2}
    longformer = LongformerConfig(**TINY, **ids, attention_window=[16, 16], max_position_embeddings=258)
    bigbird = BigBirdConfig(**TINY, **ids, block_size=16, max_position_embeddings=256)
    LongformerForMaskedLM(longformer).save_pretrained(root / "longformer")
    BigBirdForMaskedLM(bigbird).save_pretrained(root / "bigbird")
    return root


def run_config(folder, **changes):
    return RunConfig(model=ModelConfig(name_or_path=str(folder)), precision="fp32", checkpointing="none", **changes)


def changed(folder, out, **settings):
    """A copy of a folder with other settings in its config.json."""
    shutil.copytree(folder, out)
    content = json.loads((out / "config.json").read_text()) | settings
    (out / "config.json").write_text(json.dumps(content))
    return out


@pytest.mark.parametrize("kind", ["longformer", "bigbird"])
def test_losses_and_logits_are_hugging_faces(bases, manifest, kind):
    model = build_model(run_config(bases / kind), manifest).eval()
    theirs = AutoModelForMaskedLM.from_pretrained(bases / kind).eval()
    ids = torch.randint(5, 1000, (2, 256), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 200:] = 0
    positions = torch.tensor([3, 100, 255, 256, 400])
    labels = torch.tensor([7, 8, 9, 10, 11])
    everywhere = torch.full((512,), -100)
    everywhere[positions] = labels
    losses, logits = model(ids, mask, positions, labels, return_logits=True)
    expected = theirs(ids, attention_mask=mask, labels=everywhere.view(2, 256))
    assert torch.allclose(losses.mean(), expected.loss, atol=1e-6)
    assert torch.allclose(logits, expected.logits.flatten(0, 1)[positions], atol=1e-6)


@pytest.mark.parametrize("kind", ["longformer", "bigbird"])
def test_a_folder_that_holds_only_a_bin_file(bases, manifest, kind, tmp_path):
    folder = changed(bases / kind, tmp_path / kind)
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    model = build_model(run_config(folder), manifest)
    assert torch.equal(model.state_dict()[next(iter(weights))], weights[next(iter(weights))])


def test_a_checkpoint_in_half_precision_is_trained_in_fp32(bases, manifest, tmp_path):
    LongformerForMaskedLM.from_pretrained(bases / "longformer").half().save_pretrained(tmp_path / "half")
    model = build_model(run_config(tmp_path / "half"), manifest)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_weights_that_would_be_new_are_named(bases, manifest, tmp_path):
    from safetensors.torch import save_file

    folder = changed(bases / "longformer", tmp_path / "headless")
    weights = load_file(folder / "model.safetensors")
    save_file({n: w for n, w in weights.items() if "lm_head.dense" not in n}, folder / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(UserError, match=r"no pretrained weights for lm_head\.dense\.bias, lm_head\.dense\.weight"):
        build_model(run_config(folder), manifest)


def test_a_bigbird_without_pooler_is_fine(bases, manifest, tmp_path):
    from safetensors.torch import save_file

    folder = changed(bases / "bigbird", tmp_path / "poolerless")
    weights = load_file(folder / "model.safetensors")
    save_file({n: w for n, w in weights.items() if "pooler" not in n}, folder / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    build_model(run_config(folder), manifest)


def test_what_the_loss_never_reaches_is_frozen(bases, manifest):
    for kind, part in (("longformer", "_global."), ("bigbird", ".pooler.")):
        model = build_model(run_config(bases / kind), manifest)
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        assert frozen and all(part in name for name in frozen)
    model = build_model(run_config(bases / "longformer", attention=AttentionConfig(global_tokens="first")), manifest)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_base_that_does_not_fit_is_refused(bases, manifest, corpus, tmp_path):
    def refused(folder, message, fits=manifest, **changes):
        with pytest.raises(UserError, match=message) as caught:
            build_model(run_config(folder, **changes), fits)
        assert "\n" not in str(caught.value)

    longer = replace(manifest, sequence_length=257)
    refused(bases / "longformer", "has 256 positions; build the shards with --sequence-length 256", longer)
    refused(bases / "bigbird", "has 256 positions", longer)
    refused(bases / "bigbird", "too short for BigBird's block-sparse", replace(manifest, sequence_length=176))
    refused(bases / "bigbird", "only a Longformer", attention=AttentionConfig(global_tokens="first"))
    small = changed(bases / "longformer", tmp_path / "small", vocab_size=900)
    refused(small, "knows 900 tokens, but the shards' tokenizer tokenizer has 1,000")
    refused(changed(bases / "longformer", tmp_path / "pad", pad_token_id=0), "pads with id 0")
    refused(tmp_path / "nowhere", "no such folder")
    refused("nobody/nothing", "hf download nobody/nothing")
    bert = changed(bases / "longformer", tmp_path / "bert", model_type="bert")
    refused(bert, "a bert model; this trains big_bird and longformer")

    from tokenizer_tools.train_tokenizer import train_tokenizer

    other = changed(bases / "longformer", tmp_path / "other")
    train_tokenizer([corpus / "notes.csv"], tmp_path / "t", vocab_size=800)
    for path in (tmp_path / "t").iterdir():
        shutil.copy(path, other)
    refused(other, "gives other ids than tokenizer, which the shards were built with")


def test_fp16_on_a_cpu_is_refused():
    from clinical_pretrain.train import check_hardware

    if torch.cuda.is_available():
        check_hardware(RunConfig(precision="fp16"))
        return
    with pytest.raises(UserError, match="precision fp16: needs a GPU"):
        check_hardware(RunConfig(precision="fp16"))


def test_a_tokenizer_that_was_exchanged_in_the_shards_is_noticed(shards, tmp_path):
    from clinical_pretrain.train import load_shards

    copy = tmp_path / "s"
    shutil.copytree(shards, copy)
    load_shards(copy)
    path = copy / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace('"denies"', '"admits"').replace("Ġdenies", "Ġadmits"))
    with pytest.raises(UserError, match="not the tokenizer that these shards were built with"):
        load_shards(copy)


def test_random_models_are_the_same_for_the_same_seed(manifest):
    config = RunConfig(model=ModelConfig(init="random", size=ModelSize(1, 16, 2, 16, 16)))
    first, second, other = (build_model(c, manifest).state_dict() for c in (config, config, replace(config, seed=1)))
    name = "lm_head.dense.weight"
    assert torch.equal(first[name], second[name]) and not torch.equal(first[name], other[name])


def test_a_raw_spiece_model(corpus, tmp_path):
    """google/bigbird-roberta-base's own form."""
    import sentencepiece

    folder = tmp_path / "raw"
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus / "notes.csv"), model_prefix=str(folder / "spiece"), vocab_size=800, minloglevel=2,
        unk_id=100, pad_id=0, eos_id=1, bos_id=2, user_defined_symbols=["[CLS]", "[SEP]", "[MASK]"],
        max_sentence_length=1 << 20,
    )  # fmt: skip
    (folder / "spiece.vocab").unlink()
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.mask_token == "[MASK]" and len(tokenizer("denies chest pain").input_ids) > 4
    assert tokenizer.decode(tokenizer("pH 7.35").input_ids, skip_special_tokens=True) == "pH 7.35"


def test_a_tokenizer_that_transformers_would_change_is_refused(corpus, tmp_path):
    from tokenizers import Tokenizer, normalizers

    folder = tmp_path / "lower"
    shutil.copytree(corpus / "tokenizer", folder)
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    raw.normalizer = normalizers.Lowercase()
    raw.save(str(folder / "tokenizer.json"))
    load_tokenizer(str(folder))  # PreTrainedTokenizerFast keeps it
    content = json.loads((folder / "tokenizer_config.json").read_text())
    content["tokenizer_class"] = "LongformerTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="without its own normalizer"):
        load_tokenizer(str(folder))
