"""Base models: which are loaded, which are refused, and the head on the masked positions."""

import ast
import json
import shutil
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch
from conftest import REPOSITORY
from safetensors.torch import load_file
from transformers import (
    AutoModelForMaskedLM,
    BigBirdConfig,
    BigBirdForMaskedLM,
    LongformerConfig,
    LongformerForMaskedLM,
)

from clinical_pretrain.config.data import DataConfig
from clinical_pretrain.config.model import AttentionConfig, ModelConfig, ModelSize
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.models import build
from clinical_pretrain.models.build import build_model
from clinical_pretrain.models.choose_backend import choose_backend
from clinical_pretrain.models.families import FAMILIES
from clinical_pretrain.models.mlm_head import mean_loss
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest
from tokenizer_tools.tokenizer.load import load_tokenizer

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def manifest(shards):
    return Manifest.load(shards)


@pytest.fixture(scope="module")
def bases(manifest, tmp_path_factory):
    """A small pretrained model of each family, in folders as a user has them."""
    root = tmp_path_factory.mktemp("bases")
    ids = {"vocab_size": 1000, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "sep_token_id": 2}
    longformer = LongformerConfig(**TINY, **ids, attention_window=[16, 16], max_position_embeddings=258)
    bigbird = BigBirdConfig(**TINY, **ids, block_size=16, max_position_embeddings=256)
    LongformerForMaskedLM(longformer).save_pretrained(root / "longformer")
    BigBirdForMaskedLM(bigbird).save_pretrained(root / "bigbird")
    return root


def run_config(folder, **changes):
    return RunConfig(
        model=ModelConfig(name_or_path=str(folder)), precision="fp32", activation_checkpointing="none", **changes
    )


def changed(folder, out, **settings):
    """A copy of a folder with other settings in its config.json."""
    shutil.copytree(folder, out)
    content = json.loads((out / "config.json").read_text()) | settings
    (out / "config.json").write_text(json.dumps(content))
    return out


@pytest.mark.parametrize("kind", ["longformer", "bigbird"])
def test_losses_and_logits_equal_hugging_faces(bases, manifest, kind):
    model = build_model(run_config(bases / kind), manifest).eval()
    theirs = AutoModelForMaskedLM.from_pretrained(bases / kind).eval()
    ids = torch.randint(5, 1000, (2, 256), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 200:] = 0
    positions = torch.tensor([3, 100, 255, 256, 400])
    labels = torch.tensor([7, 8, 9, 10, 11])
    everywhere = torch.full((512,), -100)
    everywhere[positions] = labels
    losses, logits = model(ids, mask, positions, labels, outputs="logits")
    expected = theirs(ids, attention_mask=mask, labels=everywhere.view(2, 256))
    assert torch.allclose(losses.mean(), expected.loss, atol=1e-6)
    assert torch.allclose(logits, expected.logits.flatten(0, 1)[positions], atol=1e-6)


@pytest.mark.parametrize("kind", ["longformer", "bigbird"])
def test_padding_the_vocabulary_on_a_gpu_keeps_the_losses(bases, manifest, kind, monkeypatch):
    """A vocabulary of 1,000, where nothing is compiled: torch.compile pads by itself."""
    plain = build_model(run_config(bases / kind), manifest)
    monkeypatch.setattr(build, "uses_gpu", lambda: True)
    config = replace(run_config(bases / kind), precision="bf16", attention=AttentionConfig("blocked"), compile="off")
    padded = build_model(config, manifest)
    inputs = [
        torch.randint(5, 1000, (2, 256)),
        torch.ones(2, 256, dtype=torch.long),
        torch.arange(90),
        torch.arange(90),
    ]
    widths, linear = [], torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, w, b=None: widths.append(len(w)) or linear(x, w, b))
    results = []
    for model in (plain, padded):
        torch.manual_seed(0)
        losses, logits = model(*inputs, outputs="logits")
        losses.sum().backward()
        results.append(
            (losses, logits, model.get_output_embeddings().weight.grad, model.get_output_embeddings().bias.grad)
        )
    assert max(widths) == 1024 and list(plain.state_dict()) == list(padded.state_dict())
    for first, second in zip(*results, strict=True):
        assert first.shape == second.shape and torch.allclose(first, second, atol=1e-6)


@pytest.mark.parametrize("kind", ["longformer", "bigbird"])
def test_a_folder_with_a_bin_file_only_is_loaded(bases, manifest, kind, tmp_path):
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


def test_missing_weights_are_named(bases, manifest, tmp_path):
    from safetensors.torch import save_file

    folder = changed(bases / "longformer", tmp_path / "headless")
    weights = load_file(folder / "model.safetensors")
    save_file({n: w for n, w in weights.items() if "lm_head.dense" not in n}, folder / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(UserError, match=r"no pretrained weights for lm_head\.dense\.bias, lm_head\.dense\.weight"):
        build_model(run_config(folder), manifest)


def test_a_bigbird_without_pooler_is_loaded(bases, manifest, tmp_path):
    from safetensors.torch import save_file

    folder = changed(bases / "bigbird", tmp_path / "poolerless")
    weights = load_file(folder / "model.safetensors")
    save_file({n: w for n, w in weights.items() if "pooler" not in n}, folder / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    build_model(run_config(folder), manifest)


def test_unused_weights_are_frozen(bases, manifest):
    for kind, part in (("longformer", "_global."), ("bigbird", ".pooler.")):
        model = build_model(run_config(bases / kind), manifest)
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        assert frozen and all(part in name for name in frozen)
    model = build_model(run_config(bases / "longformer", attention=AttentionConfig(global_tokens="first")), manifest)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["longformer", "bigbird"])
def test_twenty_steps_equal_those_of_hugging_faces_model(bases, manifest, kind):
    """The same AdamW on the same masked sequences, without dropout: the same losses, and the same weights after
    them."""
    models = [
        AutoModelForMaskedLM.from_pretrained(bases / kind).train(),
        build_model(run_config(bases / kind), manifest),
    ]
    for model in models:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            elif isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
    optimizers = [torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3) for model in models]
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(20):
        ids = torch.randint(5, 60, (2, 256), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, 230:] = 0
        chosen = (torch.rand(ids.shape, generator=generator) < 0.15) & mask.bool()
        shown = torch.where(chosen, 4, ids)
        theirs = models[0](shown, attention_mask=mask, labels=torch.where(chosen, ids, -100)).loss
        positions = chosen.flatten().nonzero().flatten()
        labels = ids.flatten()[positions]
        ours = mean_loss(models[1](shown, mask, positions, labels)[0], labels)
        for loss, optimizer in zip((theirs, ours), optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append((theirs.item(), ours.item()))
    first, last = losses[0][0], losses[-1][0]
    assert last < first - 1 and max(abs(a - b) for a, b in losses) < 1e-4
    expected, got = (dict(model.named_parameters()) for model in models)
    assert all(torch.allclose(got[name], tensor, atol=1e-3) for name, tensor in expected.items()
               if got[name].requires_grad)  # fmt: skip


def test_chunks_of_logits_keep_losses_and_gradients(bases, manifest, monkeypatch):
    from clinical_pretrain.models import mlm_head

    model = build_model(run_config(bases / "longformer"), manifest).eval()
    ids = torch.randint(5, 1000, (2, 256), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(0, 512, 5)
    labels = torch.where(positions % 3 > 0, ids.flatten()[positions], mlm_head.IGNORED)
    results = []
    _, logits = model(ids, torch.ones_like(ids), positions, labels, outputs="logits")
    expected = logits.argmax(-1) == labels
    for chunk in (1000, 7):
        monkeypatch.setattr(mlm_head, "POSITIONS_PER_CHUNK", chunk)
        losses, nothing_else = model(ids, torch.ones_like(ids), positions, labels)
        assert nothing_else is None and not losses[labels == -100].any()
        with torch.no_grad():
            graded, correct = model(ids, torch.ones_like(ids), positions, labels, outputs="correct")
        assert torch.equal(graded, losses.detach()) and torch.equal(correct, expected)
        loss = mean_loss(losses, labels)
        results.append((loss, torch.autograd.grad(loss, model.lm_head.dense.weight)[0]))
    assert torch.allclose(results[0][0], results[1][0]) and torch.allclose(results[0][1], results[1][1], atol=1e-7)
    everywhere = torch.full((512,), -100).index_put((positions,), labels).view(2, 256)
    theirs = LongformerForMaskedLM.from_pretrained(bases / "longformer").eval()(ids, labels=everywhere).loss
    assert torch.allclose(results[0][0], theirs, atol=1e-6)
    nothing = torch.full_like(labels, -100)
    assert mean_loss(model(ids, torch.ones_like(ids), positions, nothing)[0], nothing) == 0
    none = torch.zeros(0, dtype=torch.int64)  # of a micro-batch of a short sequence
    loss = mean_loss(model(ids, torch.ones_like(ids), none, none)[0], none)
    assert loss == 0 and not torch.autograd.grad(loss, model.lm_head.dense.weight)[0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [0, 1, 77])
def test_chunked_cross_entropy_is_bit_identical(count, dtype):
    from clinical_pretrain.models import mlm_head

    logits = torch.randn(count, 1000, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, 1000, (count,)).masked_fill_(torch.arange(count) % 5 == 3, mlm_head.IGNORED)
    whole, chunked = mlm_head._cross_entropy(logits, labels), mlm_head._chunked_cross_entropy(logits, labels)
    assert torch.equal(whole, chunked) and chunked.dtype == torch.float32
    weights = torch.randn(count)
    gradients = [torch.autograd.grad(losses, logits, weights)[0] for losses in (whole, chunked)]
    assert torch.equal(*gradients) and gradients[1].dtype == dtype


@pytest.mark.parametrize(("dtype", "rows"), [(torch.bfloat16, {32, 64}), (torch.float32, {0, 1, 32, 45})], ids=str)
def test_half_precision_on_a_cpu_multiplies_few_numbers_of_rows(bases, manifest, dtype, rows):
    """oneDNN keeps memory for each number of rows that it has seen, and each step masks another number of tokens."""
    model = build_model(run_config(bases / "longformer"), manifest).eval().to(dtype)
    seen = []
    model.lm_head.dense.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    for count in (0, 1, 32, 45):
        hidden = torch.randn(count, model.config.hidden_size, dtype=dtype)
        losses, correct = model.predict(hidden, labels := torch.arange(5, 5 + count), "correct")
        expected = torch.nn.functional.cross_entropy(model.lm_head(hidden).float(), labels, reduction="none")
        assert losses.shape == correct.shape == (count,) and torch.allclose(losses, expected, atol=1e-5)
        seen.pop()
    assert set(seen) - {0} == rows - {0}


def test_the_config_names_every_family():
    assert get_args(get_type_hints(ModelConfig)["family"]) == tuple(family.name for family in FAMILIES)


def test_only_the_families_know_model_types():
    """A third family is one record and one module of attention/, whatever else asks about models. estimate/ knows them
    without torch, in one module."""
    names = {name for family in FAMILIES for name in (family.name, family.model_type)}
    package = REPOSITORY / "clinical_pretrain"
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert found == {"models/families.py", "config/model.py", "estimate/shapes.py"}


def test_the_choice_of_a_backend(bases, manifest):
    def backend(kind="longformer", on_gpu=False, isolate=False, **attention):
        config = run_config(bases / kind, attention=AttentionConfig(**attention),
                            data=DataConfig(document_attention="isolate" if isolate else "sequence"))  # fmt: skip
        model = build_model(replace(config, attention=AttentionConfig(), data=DataConfig()), manifest)
        if attention.get("dropout") is not None and kind == "longformer":
            for layer in model.longformer.encoder.layer:
                layer.attention.self.dropout = attention["dropout"]
        return choose_backend(model, config, on_gpu)

    assert backend() == backend("bigbird") == "blocked"
    assert backend(backend="hf") == "hf" and backend(backend="hf", isolate=True) == "hf"
    for wanted, kind, message in [
        ("flex", "longformer", "no backward pass on a CPU; use auto"),
        ("varlen", "longformer", "needs a GPU; use auto"),
        ("varlen", "bigbird", "needs a GPU; use auto"),
    ]:
        with pytest.raises(UserError, match=f"attention.backend {wanted}: .*{message}"):
            backend(kind, backend=wanted)
    with pytest.raises(UserError, match="hf: transformers' BigBird can't keep documents apart"):
        backend("bigbird", backend="hf", isolate=True)


def test_the_choice_of_a_backend_on_a_gpu(bases, manifest, monkeypatch):
    """By capability, dropout, global tokens and precision; the backends themselves don't run here."""
    models = {kind: build_model(run_config(bases / kind), manifest) for kind in ("longformer", "bigbird")}

    def backend(kind="longformer", dropout=0.0, precision="bf16", capability=(9, 0), heads=12, block=64, **attention):
        size = models[kind].config
        size.hidden_size, size.num_attention_heads, size.block_size = 768, heads, block
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        if kind == "longformer":
            for layer in models[kind].longformer.encoder.layer:
                layer.attention.self.dropout = dropout
        config = replace(run_config(bases / kind, attention=AttentionConfig(**attention)), precision=precision)
        return choose_backend(models[kind], config, on_gpu=True)

    assert backend() == "varlen"
    assert backend(precision="fp32") == backend(global_tokens="first") == backend("bigbird") == "flex"
    assert backend("bigbird", block=16) == backend("bigbird", heads=96) == "blocked"
    assert backend(dropout=0.1) == backend(capability=(7, 0)) == backend("bigbird", capability=(7, 0)) == "blocked"
    for message, settings in {
        "takes no attention dropout": {"dropout": 0.1, "backend": "flex"},
        "Ampere": {"capability": (7, 0), "backend": "varlen"},
        "takes no global tokens": {"backend": "varlen", "global_tokens": "first"},
        "bf16 and fp16 alone": {"backend": "varlen", "precision": "fp32"},
        "can't compute BigBird's attention": {"kind": "bigbird", "backend": "varlen"},
        "blocks that are a multiple of 64, and this model's have 32": {
            "kind": "bigbird",
            "backend": "flex",
            "block": 32,
        },
        "heads of width 16 or more, and this model's have 8": {"backend": "flex", "heads": 96},
        "a multiple of 8 up to 256, and this model's have 384": {"backend": "varlen", "heads": 2},
    }.items():
        with pytest.raises(UserError, match=message):
            backend(**settings)


def test_attention_dropout_of_the_run_keeps_the_models_config(bases, manifest):
    model = build_model(run_config(bases / "longformer", attention=AttentionConfig(dropout=0.0)), manifest)
    assert {layer.attention.self.dropout for layer in model.longformer.encoder.layer} == {0.0}
    assert model.config.attention_probs_dropout_prob == 0.1
    build_model(run_config(bases / "bigbird", attention=AttentionConfig(dropout=0.0)), manifest)
    with pytest.raises(UserError, match="BigBird's block-sparse attention has none"):
        build_model(run_config(bases / "bigbird", attention=AttentionConfig(dropout=0.1)), manifest)


@pytest.mark.parametrize("kind", ["longformer", "bigbird"])
def test_position_embeddings_are_tiled_for_longer_sequences(bases, manifest, kind, tmp_path):
    """The result is a plain model for that length."""
    longer = replace(manifest, sequence_length=700)
    with pytest.raises(UserError, match=r"has 256 positions; .* --model\.position_embeddings tile"):
        build_model(run_config(bases / kind), longer)
    config = replace(
        run_config(bases / kind), model=ModelConfig(name_or_path=str(bases / kind), position_embeddings="tile")
    )
    model, short = build_model(config, longer).eval(), build_model(run_config(bases / kind), manifest)
    first, length = (2, 700) if kind == "longformer" else (0, 704)  # BigBird: whole blocks
    got, old = (m.base_model.embeddings.position_embeddings.weight for m in (model, short))
    assert got.shape[0] == model.config.max_position_embeddings == length + first
    for start in (0, 256, 512):
        count = min(256, 700 - start)
        assert torch.equal(got[first + start : first + start + count], old[first : first + count])
    assert torch.equal(got[:first], old[:first])
    name = next(name for name in short.state_dict() if "query.weight" in name)
    assert torch.equal(model.state_dict()[name], short.state_dict()[name])
    assert build_model(config, manifest).config.max_position_embeddings == 256 + first  # long enough already
    model.save_pretrained(tmp_path / "long")
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "long").eval()
    ids = torch.randint(5, 1000, (1, 700), generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([0, 300, 699])
    _, logits = model(ids, torch.ones_like(ids), positions, positions, outputs="logits")
    assert torch.allclose(logits, theirs(ids, attention_mask=torch.ones_like(ids)).logits[0, positions], atol=1e-5)


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

    from tokenizer_tools.tokenizer.train import TokenizerSettings, train_tokenizer

    other = changed(bases / "longformer", tmp_path / "other")
    train_tokenizer([corpus / "notes.csv"], tmp_path / "t", TokenizerSettings(vocab_size=800))
    for path in (tmp_path / "t").iterdir():
        shutil.copy(path, other)
    refused(other, "gives other ids than tokenizer, which the shards were built with")


def test_fp16_on_a_cpu_is_refused():
    from clinical_pretrain.training.setup import check_hardware

    if torch.cuda.is_available():
        check_hardware(RunConfig(precision="fp16"))
        return
    with pytest.raises(UserError, match="precision fp16: needs a GPU"):
        check_hardware(RunConfig(precision="fp16"))


def test_another_tokenizer_in_the_shard_folder_is_refused(shards, tmp_path):
    from clinical_pretrain.training.preflight import load_shards

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
    """The form in which google/bigbird-roberta-base comes."""
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


def test_cudnn_attention_is_off(bases, manifest):
    """It is torch's first choice on Hopper, and isn't made for keys that overlap in memory."""
    torch.backends.cuda.enable_cudnn_sdp(True)
    build_model(run_config(bases / "longformer"), manifest)
    assert not torch.backends.cuda.cudnn_sdp_enabled()
