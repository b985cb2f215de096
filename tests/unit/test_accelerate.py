"""accelerate_attention: the outputs and gradients of transformers' untouched models, for every kind of head."""

import copy
import pickle

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel, BigBirdConfig, LongformerConfig

from clinical_pretrain import accelerate_attention
from clinical_pretrain.models.attention import products
from tokenizer_tools.errors import UserError

HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
FAMILIES = ("longformer", "bigbird")
COMMON = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
          "intermediate_size": 64, "max_position_embeddings": 600, "hidden_dropout_prob": 0.0,
          "attention_probs_dropout_prob": 0.0, "pad_token_id": 1, "sep_token_id": 2}  # fmt: skip


def make(family, head="Model", **changes):
    """A small model. BigBird in float64, so that rounding is far below a wrong function; transformers' Longformer
    computes its softmax in float32 whatever the dtype, and has NaN gradients in float64."""
    torch.manual_seed(0)
    if family == "longformer":
        config = LongformerConfig(**COMMON | {"attention_window": [32, 16]} | changes)
    else:
        config = BigBirdConfig(
            block_size=16, num_random_blocks=3, **COMMON | {k: v for k, v in changes.items() if k != "attention_window"}
        )
    model = getattr(transformers, {"longformer": "Longformer", "bigbird": "BigBird"}[family] + head)(config)
    model = model.double() if family == "bigbird" else model
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1)
    return model.eval()


def batch(family, length=300, padding=(0, 37, 150), globals_=((0,), (0, 7, 90), ())):
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(3, 100, (len(padding), length), generator=generator)
    ids[:, :3] = torch.tensor([0, 5, 2])
    mask, is_global = torch.ones_like(ids), torch.zeros_like(ids)
    for row, (pad, positions) in enumerate(zip(padding, globals_, strict=True)):
        mask[row, length - pad :] = 0
        is_global[row, list(positions)] = 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    return inputs | ({"global_attention_mask": is_global} if family == "longformer" else {})


def gradients(model, output):
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    found = torch.autograd.grad((output * weights).sum(), parameters, allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


def close(found, expected):
    """Equal to rounding, measured against the largest value: the scores of masked question tokens are -1e6."""
    tolerance = 1e-8 if expected.dtype == torch.float64 else 3e-6
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1))


def assert_same(stock, fast, inputs):
    expected, found = stock(**inputs)[0], fast(**inputs)[0]
    assert close(found, expected)
    wanted, got = (
        torch.cat([each.flatten() for each in gradients(*pair)]) for pair in ((stock, expected), (fast, found))
    )
    assert float((got - wanted).norm() / wanted.norm()) < (1e-8 if wanted.dtype == torch.float64 else 5e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_gradients_are_those_of_the_untouched_model(family, head, training):
    stock = make(family, head).train(training)
    assert_same(stock, accelerate_attention(copy.deepcopy(stock)), batch(family))


@settings(max_examples=25)
@given(data=st.data(), family=st.sampled_from(FAMILIES), training=st.booleans())
def test_any_padding_and_any_global_tokens(data, family, training):
    length = data.draw(st.integers(20 if family == "bigbird" else 3, 420))
    padding = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=3))
    globals_ = [data.draw(st.lists(st.integers(0, length - 1), max_size=4, unique=True)) for _ in padding]
    stock = make(family).train(training)
    assert_same(stock, accelerate_attention(copy.deepcopy(stock)), batch(family, length, padding, globals_))


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_mask(family):
    stock = make(family)
    assert_same(stock, accelerate_attention(copy.deepcopy(stock)), {"input_ids": batch(family)["input_ids"]})


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_weights_are_given_where_they_are_asked_for(family):
    stock = make(family)
    fast = accelerate_attention(copy.deepcopy(stock))
    for length in (300, 100):
        inputs = batch(family, length, (0, 40, 10))
        fast(**inputs)
        expected, found = (model(**inputs, output_attentions=True) for model in (copy.deepcopy(stock), fast))
        assert len(found.attentions) == 2
        # transformers' BigBird loses those of a short batch, as it takes other modules for it.
        for wanted, got in zip(expected.attentions, found.attentions, strict=bool(expected.attentions)):
            torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(wanted))
        assert not fast(**inputs).attentions


@pytest.mark.parametrize("length", [3, 8, 40])
def test_a_short_batch_of_longformer_is_not_padded_to_a_window(length):
    stock = make("longformer", "ForTokenClassification", attention_window=[256, 16])
    fast, seen = accelerate_attention(copy.deepcopy(stock)), []
    fast.longformer.encoder.layer[0].register_forward_hook(lambda module, args, out: seen.append(args[0].shape[1]))
    inputs = batch("longformer", length, (0, length // 2, 0), ((0,), (), ()))
    assert close(fast(**inputs).logits, stock(**inputs).logits)
    expected, found = (model(**inputs, output_hidden_states=True).hidden_states for model in (stock, fast))
    assert [each.shape for each in found] == [each.shape for each in expected]
    assert seen == [length, length]


def test_a_short_batch_of_bigbird_leaves_long_ones_sparse(caplog):
    """transformers' own stays at full attention from then on."""
    fast, short, long = accelerate_attention(make("bigbird")), batch("bigbird", 100), batch("bigbird", 400)
    before = fast(**long)[0]
    assert close(fast(**short)[0], make("bigbird")(**short)[0])
    assert torch.equal(fast(**long)[0], before)
    assert close(before, make("bigbird")(**long)[0])


def test_a_bigbird_of_full_attention():
    stock = make("bigbird", attention_type="original_full")
    assert_same(stock, accelerate_attention(copy.deepcopy(stock)), batch("bigbird"))


def test_training_leaves_numpys_generator_alone():
    model = accelerate_attention(make("bigbird").train())
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    model(**batch("bigbird", 400))
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(family, reentrant):
    stock = make(family, "ForTokenClassification").train()
    fast = accelerate_attention(copy.deepcopy(stock))
    fast.gradient_checkpointing_enable({"use_reentrant": reentrant})
    inputs, losses = batch(family) | {"labels": torch.ones(3, 300, dtype=torch.long)}, []
    for model in (stock, fast):
        losses.append(model(**inputs).loss)
        losses[-1].backward()
    torch.testing.assert_close(*losses)
    for wanted, got in zip(stock.parameters(), fast.parameters(), strict=True):
        if wanted.grad is not None:
            assert close(got.grad, wanted.grad)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_is_a_plain_model(family, tmp_path):
    fast = accelerate_attention(make(family, "ForTokenClassification"))
    expected = fast(**batch(family))[0]
    fast.save_pretrained(tmp_path)
    plain = type(fast).from_pretrained(tmp_path, dtype=fast.dtype)
    assert not [module for module in plain.modules() if type(module).__module__.startswith("clinical_pretrain")]
    assert plain.state_dict().keys() == fast.state_dict().keys()
    assert plain.config.architectures == [type(plain).__name__]
    assert close(plain(**batch(family))[0], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_and_a_second_call_compute_the_same(family):
    fast = accelerate_attention(make(family))
    expected = fast(**batch(family))[0]
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), accelerate_attention(fast)):
        assert torch.equal(other(**batch(family))[0], expected)
    assert len(fast._forward_pre_hooks) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision(family):
    """The error in bf16 is no larger than transformers' own, and about the same under autocast, which transformers'
    BigBird can't take."""
    inputs = batch(family)
    exact = make(family)(**inputs)[0]
    stock, fast = make(family).bfloat16(), accelerate_attention(make(family).bfloat16())
    with torch.no_grad():
        theirs, ours = (float((model(**inputs)[0] - exact).norm()) for model in (stock, fast))
        with torch.autocast("cpu", torch.bfloat16):
            cast = float((accelerate_attention(make(family).float())(**inputs)[0] - exact).norm())
    assert ours < 1.2 * theirs and cast < 1.2 * theirs


@pytest.mark.slow
@pytest.mark.parametrize(("family", "length"), [("longformer", 300), ("bigbird", 100)])
def test_attention_dropout_is_as_strong_as_transformers(family, length):
    """Over many draws, the outputs of a layer scatter about as much."""
    model = make(family, attention_probs_dropout_prob=0.3, num_hidden_layers=1, attention_window=[32]).train()
    spread = []
    for each in (model, accelerate_attention(copy.deepcopy(model))):
        with torch.no_grad():
            spread.append(float(torch.stack([each(**batch(family, length))[0] for _ in range(100)]).std(0).mean()))
    assert spread[1] == pytest.approx(spread[0], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_under_transformers_trainer(family, tmp_path):
    """The losses of ten steps on batches of several lengths; no short ones for BigBird, after which transformers' own
    would attend to everything."""
    lengths = (400, 250, 300, 200, 400) if family == "bigbird" else (400, 50, 300, 20, 100)
    data = [
        {name: value[0] for name, value in batch(family, length, (5,), ((0,),)).items()}
        | {"labels": torch.arange(length) % 2}
        for length in lengths
    ]
    losses = []
    stock = make(family, "ForTokenClassification").float()
    for number, model in enumerate((stock, accelerate_attention(copy.deepcopy(stock)))):
        arguments = transformers.TrainingArguments(
            tmp_path / str(number), max_steps=10, per_device_train_batch_size=1, logging_steps=1, use_cpu=True,
            report_to="none", save_strategy="no", disable_tqdm=True, gradient_checkpointing=True, seed=1,
        )  # fmt: skip
        trainer = transformers.Trainer(model, arguments, train_dataset=data)
        trainer.train()
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert len(losses[0]) == 10 and losses[1] == pytest.approx(losses[0], abs=2e-4) and losses[0][0] != losses[0][-1]


def test_other_models_are_refused():
    size = {name: COMMON[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    with pytest.raises(UserError, match="BertModel: no Longformer or BigBird"):
        accelerate_attention(BertModel(BertConfig(**size, intermediate_size=8)))
    with pytest.raises(UserError, match="a decoder"):
        accelerate_attention(make("bigbird", is_decoder=True, attention_type="original_full"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(3, 1, 4, 12), (1, 2, 1, 12), None])
@pytest.mark.parametrize("added", [True, False])
def test_attention_by_products_is_the_formula(dtype, dropout, shape, added, monkeypatch):
    """Values and gradients against autograd's, with the same weights dropped."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, length, 8, dtype=dtype, requires_grad=True) for length in (4, 12, 12))
    seen = torch.rand(shape or 1) > 0.3
    seen[..., 0] = True
    to_scores = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
    mask = None if shape is None else to_scores if added else seen
    keeps = [torch.rand(3, 4, 12) >= dropout for _ in range(2)]
    remaining = iter(keeps)
    monkeypatch.setattr(products, "by_products", lambda x: True)
    monkeypatch.setattr(products, "_keep", lambda shape, probability: next(remaining))
    weights = ((q @ k.mT) / 8**0.5 + to_scores).softmax(-1) * torch.stack(keeps, 1) / (1 - dropout)
    pairs = []
    for out in (weights @ v, products.attention(q, k, v, mask, dropout)):
        direction = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)
        pairs.append((out, *torch.autograd.grad((out * direction).sum(), (q, k, v))))
    for expected, found in zip(*pairs, strict=True):
        torch.testing.assert_close(found, expected)
    assert not dropout or next(remaining, None) is None


@pytest.mark.parametrize("probability", [0.0001, 0.1, 0.5, 0.9])
def test_the_share_of_dropped_weights(probability):
    """In each of the four numbers that are made of one, too."""
    torch.manual_seed(0)
    keep = products._keep(torch.Size((1000, 1003)), probability)
    error = 5 * (probability * (1 - probability) / (keep.numel() / 4)) ** 0.5 + 2**-17
    for lane in range(4):
        dropped = 1 - float(keep.flatten()[lane::4].double().mean())
        assert abs(dropped - probability) < error
    assert keep.shape == (1000, 1003) and keep.dtype == torch.bool


def test_a_recomputed_layer_drops_the_same_weights():
    stock = make("longformer", "ForTokenClassification", attention_probs_dropout_prob=0.3).train()
    inputs, found = batch("longformer") | {"labels": torch.ones(3, 300, dtype=torch.long)}, []
    for recomputed in (False, True):
        fast = accelerate_attention(copy.deepcopy(stock))
        if recomputed:
            fast.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)
        fast(**inputs).loss.backward()
        found.append([parameter.grad for parameter in fast.parameters() if parameter.grad is not None])
    assert all(map(torch.equal, *found))
