"""Our attention compared with Hugging Face's: the same function, up to rounding."""

import copy
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import BigBirdConfig, BigBirdForMaskedLM, LongformerConfig, LongformerForMaskedLM

from clinical_pretrain.models.attention import bigbird as bigbird_attention
from clinical_pretrain.models.attention import longformer as longformer_attention
from clinical_pretrain.models.attention import products
from clinical_pretrain.models.attention.backend import is_plain, project, project_at_once
from clinical_pretrain.models.attention.bigbird_plan import make_plan, random_blocks
from clinical_pretrain.models.attention.documents import first_tokens
from clinical_pretrain.models.encoder import Encoder, HuggingFaceEncoder, use_fused_gelu

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SLOW_TO_DRAW = [HealthCheck.too_slow, HealthCheck.data_too_large]


def longformer(length, windows, heads=2, dropout=0.0, seed=0):
    torch.manual_seed(seed)
    config = LongformerConfig(
        vocab_size=60, hidden_size=8 * heads, num_hidden_layers=len(windows), num_attention_heads=heads,
        intermediate_size=24, attention_window=list(windows), max_position_embeddings=length + 2, pad_token_id=1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return sharpened(LongformerForMaskedLM(config))


def bigbird(length, block=16, layers=1, heads=2, random=3, kind="block_sparse", seed=0, longest=None):
    torch.manual_seed(seed)
    config = BigBirdConfig(
        vocab_size=60, hidden_size=8 * heads, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=24, block_size=block, num_random_blocks=random, attention_type=kind, pad_token_id=0,
        max_position_embeddings=longest or max(length, 1024), **NO_DROPOUT,
    )  # fmt: skip
    return sharpened(BigBirdForMaskedLM(config))


def sharpened(model):
    """Scale weights up, so that attention is far from uniform: otherwise a wrong mask would make no difference."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("query", "key", "value", "embeddings.weight")):
                parameter.mul_(15)
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
    return model.train()


def batch(rows, length, padding=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 60, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    if padding:
        mask[-1, -padding:] = 0
    return torch.where(mask.bool(), ids, 1), mask


def assert_same_function(model, ids, mask, global_mask=None, **settings_):
    """Hidden states are equal to 1e-5, and every parameter's gradient to 1e-4, for a loss over all real tokens."""
    ours = copy.deepcopy(model)
    use_fused_gelu(ours)
    extra = {} if global_mask is None else {"global_attention_mask": global_mask}
    expected = model.base_model(ids, attention_mask=mask, **extra)[0]
    got = Encoder(ours, "blocked", **settings_)(ids, mask.clone(), global_attention_mask=global_mask)
    real = mask.bool()
    assert (got - expected)[real].abs().max() <= 1e-5
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)) * real[..., None]
    (expected * weights).sum().backward()
    (got * weights).sum().backward()
    assert_same_gradients(model, ours)


def assert_same_gradients(model, ours):
    pairs = [(name, p.grad, q.grad) for (name, p), q in zip(model.named_parameters(), ours.parameters(), strict=True)]
    largest = max(grad.norm() for _, grad, _ in pairs if grad is not None)
    for name, expected, got in pairs:
        if expected is None:
            assert got is None or not got.any(), name
        elif got is None:  # where Hugging Face fills a gradient with zeros
            assert not expected.any(), name
        else:
            # A key's bias moves nothing: its gradient is rounding alone, hence the second term.
            assert (got - expected).norm() <= 1e-4 * expected.norm() + 1e-6 * largest, name


def by_products(yes):
    """As in bf16 on a CPU, whatever the precision."""
    return mock.patch.object(products, "by_products", lambda x: yes)


@settings(max_examples=60, suppress_health_check=SLOW_TO_DRAW)
@given(st.data())
def test_longformer_equals_hugging_faces(data):
    windows = data.draw(st.lists(st.sampled_from([4, 8, 16, 32]), min_size=1, max_size=3))
    length = data.draw(st.integers(3, 150))
    model = longformer(length, windows, data.draw(st.integers(1, 3)))
    rows = data.draw(st.integers(1, 3))
    ids, mask = batch(rows, length, data.draw(st.integers(0, length - 1)))
    global_mask = None
    if data.draw(st.booleans()):
        places = data.draw(st.lists(st.integers(0, rows * length - 1), max_size=5))
        global_mask = torch.zeros(rows * length, dtype=torch.long)
        global_mask[places] = 1
        global_mask = global_mask.view(rows, length) * mask
    with by_products(data.draw(st.booleans())):
        assert_same_function(model, ids, mask, global_mask)


@settings(max_examples=60, suppress_health_check=SLOW_TO_DRAW)
@given(st.data())
def test_bigbird_equals_hugging_faces(data):
    block, count = data.draw(st.sampled_from([4, 16])), data.draw(st.integers(1, 3))
    length = data.draw(st.sampled_from([200, 250, 256, 333]) if block == 16 else st.integers(30, 150))
    model = bigbird(length, block, data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), count)
    model.train(data.draw(st.booleans()))
    ids, mask = batch(data.draw(st.integers(1, 2)), length, data.draw(st.integers(0, length - 1)))
    with by_products(data.draw(st.booleans())):
        assert_same_function(model, ids, mask)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("padding", [0, 100])
def test_bigbird_at_the_lengths_of_the_papers_code(training, padding):
    """1,024, 3,072 and 4,096 tokens have plans of their own; at 1,024 some random blocks are the last block, which then
    counts twice."""
    model = bigbird(1024, layers=2, longest=4096).train(training)
    assert_same_function(model, *batch(1, 1024, padding))
    plan = make_plan(bigbird(1024, block=64, longest=4096).bert.encoder.layer[0].attention.self, 1024, True,
                     torch.device("cpu"))  # fmt: skip
    assert plan.counts_twice and plan.counts.max() == 2


def test_default_windows_and_activation_checkpointing():
    assert_same_function(longformer(1100, [512, 64]), *batch(2, 1100, 90))
    for kind in ("attention", "full"):
        assert_same_function(longformer(70, [16, 8]), *batch(2, 70, 9), activation_checkpointing=kind)
        assert_same_function(bigbird(256), *batch(2, 256, 9), activation_checkpointing=kind)


@pytest.mark.parametrize("training", [True, False])
def test_bigbird_with_all_heads_at_once(training):
    """As on a GPU without flex_attention; here in fp64, which the CPU's flash kernel isn't used for."""
    model = bigbird(256, layers=2, heads=3).train(training).double()
    (ids, mask), ours = batch(2, 256, 30), copy.deepcopy(model)
    expected = model.base_model(ids, attention_mask=mask)[0]
    got = Encoder(ours, "blocked")(ids, mask)
    assert got.dtype == torch.float64 and (got - expected)[mask.bool()].abs().max() <= 1e-6
    for out in (expected, got):
        (out * mask[..., None]).pow(2).sum().backward()
    assert_same_gradients(model, ours)


def test_bigbird_with_full_attention():
    """A BigBird of that kind, and sequences so short that transformers' model switches to it for good; ours doesn't."""
    assert_same_function(bigbird(256, kind="original_full"), *batch(2, 256, 30))
    model = bigbird(256)
    assert_same_function(copy.deepcopy(model), *batch(2, 150, 20))
    encoder = Encoder(model, "blocked")
    before, (ids, mask) = copy.deepcopy(model), batch(2, 256)
    encoder(ids[:, :150], mask[:, :150])
    assert torch.allclose(encoder(ids, mask), before.base_model(ids, attention_mask=mask)[0], atol=1e-5)


def test_half_precision_is_as_exact_as_hugging_faces():
    """In bf16 both differ from fp32, ours no more than theirs."""
    for model, length in ((longformer(256, [32, 32]), 256), (bigbird(256, layers=2), 256)):
        ids, mask = batch(2, length, 30)
        exact = model.base_model(ids, attention_mask=mask)[0].detach()
        model.bfloat16()
        theirs = model.base_model(ids, attention_mask=mask)[0].detach()
        got = Encoder(model, "blocked")(ids, mask).detach()
        error = [(x.float() - exact)[mask.bool()].pow(2).mean().sqrt() for x in (theirs, got)]
        assert error[1] <= 1.2 * error[0]


def test_bigbirds_plan_is_constant_and_leaves_numpys_generator_alone():
    attention = bigbird(256).bert.encoder.layer[0].attention.self.eval()
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()
    plan = random_blocks(attention, 256)
    assert np.random.get_state()[1].tolist() == before and not attention.training
    assert torch.equal(plan, random_blocks(attention, 256)) and plan.any()


def test_training_and_evaluation_use_different_random_blocks():
    model, (ids, mask) = bigbird(256, layers=2), batch(1, 256)
    in_training = model.base_model(ids, attention_mask=mask)[0]
    in_evaluation = model.eval().base_model(ids, attention_mask=mask)[0]
    assert (in_training - in_evaluation).abs().max() > 1e-2
    got = Encoder(copy.deepcopy(model), "blocked")(ids, mask)
    assert torch.allclose(got, in_evaluation, atol=1e-5)
    got = Encoder(copy.deepcopy(model), "blocked")(ids, mask, training_blocks=True)
    assert torch.allclose(got, in_training, atol=1e-5)


def test_attention_dropout_is_applied_in_training_only():
    model, (ids, mask) = longformer(64, [16], dropout=0.5), batch(1, 64)
    encoder = Encoder(model, "blocked")
    first, second = encoder(ids, mask), encoder(ids, mask)
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(encoder(ids, mask), encoder(ids, mask))


# Documents in a row -------------------------------------------------------------------------------------------------


def packed(lengths, length):
    """Documents and positions of sequences given as lists of document lengths."""
    documents, positions = (torch.zeros(len(lengths), length, dtype=torch.long) for _ in range(2))
    for row, parts in enumerate(lengths):
        start = 0
        for number, part in enumerate(parts, 1):
            documents[row, start : start + part] = number
            positions[row, start : start + part] = torch.arange(part)
            start += part
    return documents, positions


ROWS = [[20, 1, 43], [64], [30, 25]]


@pytest.mark.parametrize("backend", ["blocked", "flex", "hf"])
@pytest.mark.parametrize("global_tokens", ["none", "first"])
def test_an_isolated_document_gets_the_output_that_it_gets_alone(backend, global_tokens):
    model = longformer(64, [16, 8])
    ids, _ = batch(3, 64)
    documents, positions = packed(ROWS, 64)
    ours = copy.deepcopy(model)
    if backend == "hf":
        encoder = HuggingFaceEncoder(ours, global_tokens=global_tokens)
    else:
        encoder = Encoder(ours, backend, global_tokens=global_tokens)
    with torch.set_grad_enabled(backend != "flex"):
        got = encoder(ids, documents, positions)
    for row, parts in enumerate(ROWS):
        for number in range(1, len(parts) + 1):
            mine = documents[row] == number
            alone = ids[row, mine][None]
            first = torch.zeros_like(alone)
            first[:, 0] = 1
            extra = {"global_attention_mask": first} if global_tokens == "first" else {}
            expected = model.base_model(alone, attention_mask=torch.ones_like(alone), **extra)[0][0]
            assert torch.allclose(got[row, mine], expected, atol=1e-5), (row, number)
    if backend != "flex":
        got.sum().backward()
        assert all(p.grad.isfinite().all() for p in ours.parameters() if p.grad is not None)


@pytest.mark.parametrize("backend", ["blocked", "flex"])
@pytest.mark.parametrize("training", [True, False])
def test_isolated_documents_in_bigbird(backend, training):
    """Compared with a dense softmax over scores + log(how often a key's block counts), -inf for other documents."""
    model = bigbird(256).train(training)
    attention = model.bert.encoder.layer[0].attention.self
    documents, _ = packed([[100, 3, 153], [200, 40]], 256)
    hidden = torch.randn(2, 256, 16)
    context = bigbird_attention.BigBirdContext(documents, 2, 16, isolated=True, dropout=0.0)
    plan = make_plan(attention, 256, training, torch.device("cpu"))
    with torch.no_grad():
        (layout,) = context.prepare(bigbird_attention.BACKENDS[backend], [plan], torch.float32)
        got = bigbird_attention.BigBirdAttention.self_attention(attention, hidden, context, layout)
        q, k, v = (linear(hidden).view(2, 256, 2, 8).transpose(1, 2) for linear in
                   (attention.query, attention.key, attention.value))  # fmt: skip
        counts = plan.counts.repeat_interleave(16, 1).repeat_interleave(16, 2)
        bias = counts.log() + torch.where(documents[:, :, None] == documents[:, None], 0, -torch.inf)[:, None]
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
    real = documents > 0
    assert torch.allclose(got[real], expected[real], atol=1e-5)


def test_first_tokens():
    documents = torch.tensor([[1, 1, 2, 3, 0], [1, 1, 1, 0, 0]])
    assert first_tokens(documents).int().tolist() == [[1, 0, 1, 1, 0], [1, 0, 0, 0, 0]]


@settings(max_examples=20)
@given(count=st.integers(1, 4), width=st.integers(1, 9), rows=st.integers(1, 5), seed=st.integers(0, 999))
def test_one_product_for_several_linear_layers(count, width, rows, seed):
    """As in code that is compiled for a GPU: values and gradients."""
    torch.manual_seed(seed)
    linears = [torch.nn.Linear(6, width, dtype=torch.float64) for _ in range(count)]
    inputs = {*(parameter for linear in linears for parameter in linear.parameters())}
    hidden = torch.randn(2, rows, 6, dtype=torch.float64, requires_grad=True)
    got, expected = project_at_once(hidden, *linears), project(hidden, *linears)
    assert all(map(torch.allclose, got, expected)) and len(got) == count
    gradients = ([*torch.autograd.grad(sum(x.pow(2).sum() for x in out), [hidden, *inputs])] for out in (got, expected))
    assert all(map(torch.allclose, *gradients))


def test_layers_that_are_wrapped_are_called():
    """LoRA's, for instance; and those whose weights ZeRO 3 has partitioned."""
    linear = torch.nn.Linear(2, 2)
    assert is_plain(linear)
    assert not is_plain(torch.nn.Sequential(linear)) and not is_plain(type("Own", (torch.nn.Linear,), {})(2, 2))
    handle = linear.register_forward_hook(lambda *_: None)
    assert not is_plain(linear)
    handle.remove()
    linear.weight.ds_tensor = None
    assert not is_plain(linear)


@settings(max_examples=30)
@given(st.data())
def test_documents_of_varlen_begin_where_ids_change(data):
    length = data.draw(st.integers(4, 30))
    lengths = data.draw(st.lists(st.lists(st.integers(1, length // 3), max_size=3), min_size=1, max_size=3))
    documents, _ = packed(lengths, length)
    context = longformer_attention.LongformerContext(documents, 3)
    got = longformer_attention.cumulative_lengths(16, context, torch.float32)
    tokens = [(row, document) for row, of_row in enumerate(documents.tolist()) for document in of_row]
    starts = [i for i, token in enumerate(tokens) if i == 0 or token != tokens[i - 1]]
    missing = len(lengths) * 4 + 1 - len(starts)
    assert got.dtype == torch.int32 and got.tolist() == starts + [len(tokens)] * missing


# flex and varlen, whose backward passes need a GPU ------------------------------------------------------------------


@settings(max_examples=15, suppress_health_check=SLOW_TO_DRAW)
@given(st.data())
def test_flex_equals_blocked(data):
    length = data.draw(st.integers(200, 400))
    lengths = data.draw(st.lists(st.lists(st.integers(1, length // 3), max_size=3), min_size=1, max_size=2))
    documents, positions = packed(lengths, length)
    ids, _ = batch(len(lengths), length)
    if data.draw(st.booleans()):
        model, global_tokens = longformer(length, [16, 160]), data.draw(st.sampled_from(["none", "first"]))
    else:
        model, global_tokens = bigbird(length).train(data.draw(st.booleans())), "none"
    with torch.no_grad():
        got, expected = (
            Encoder(copy.deepcopy(model), backend, global_tokens=global_tokens)(ids, documents, positions)
            for backend in ("flex", "blocked")
        )
    assert torch.allclose(got[documents > 0], expected[documents > 0], atol=1e-5)


def reference_varlen(q, k, v, starts_q, starts_k, longest_q, longest_k, *, window_size):
    """varlen_attn as torch documents it, one sequence at a time."""
    assert starts_q.dtype == torch.int32 and torch.equal(starts_q, starts_k) and longest_q == longest_k
    out = torch.zeros_like(q)
    for start, end in zip(starts_q.tolist(), starts_q[1:].tolist(), strict=False):
        if end > start:
            assert end - start <= longest_q
            place = torch.arange(end - start)
            near = place - place[:, None]
            near = (near >= -window_size[0]) & (near <= window_size[1])
            one = (x[start:end].transpose(0, 1) for x in (q, k, v))
            out[start:end] = F.scaled_dot_product_attention(*one, attn_mask=near).transpose(0, 1)
    return out


@pytest.mark.parametrize("lengths", [ROWS, [[64], [64], [64]], [[64], [50], [1]]])
def test_varlen_is_given_the_right_sequences(monkeypatch, lengths):
    """varlen_attn runs on GPUs only: a slow reference replaces it here, to check what it is given."""
    monkeypatch.setattr(longformer_attention, "varlen_attn", reference_varlen)
    model, (documents, positions) = longformer(64, [16, 8]), packed(lengths, 64)
    ids, _ = batch(3, 64)
    got = Encoder(copy.deepcopy(model), "varlen")(ids, documents, positions, max_documents=4)
    expected = Encoder(copy.deepcopy(model), "blocked")(ids, documents, positions)
    assert torch.allclose(got[documents > 0], expected[documents > 0], atol=1e-5)


# Compiled -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["none", "attention", "full"])
@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_compiled_layers_compute_the_same_and_are_compiled_once(family, checkpointing):
    """With torch.compile's front end, without its code generator."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    model = longformer(256, [16, 16, 16]) if family == "longformer" else bigbird(256, layers=3)
    plain, compiled = copy.deepcopy(model), copy.deepcopy(model)
    first = Encoder(plain, "blocked", checkpointing)
    second = Encoder(compiled, "blocked", checkpointing, compile_backend="aot_eager")
    graphs = []
    for step in range(3):
        ids, mask = batch(2, 256, padding=20 * (step + 1), seed=step)
        outs = [encoder(ids, mask.clone(), max_documents=1) for encoder in (first, second)]
        assert torch.allclose(*outs, atol=1e-5)
        for out in outs:
            (out * mask[..., None]).pow(2).sum().backward()
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0 and graphs == graphs[:1] * 3
    assert_same_gradients(plain, compiled)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_flex_compiled_on_a_cpu(family, monkeypatch):
    """The compiled forward pass uses the lists of blocks, not a mask over all tokens."""
    from torch.nn.attention.flex_attention import flex_attention

    from clinical_pretrain.models.attention import flex

    monkeypatch.setattr(flex, "flex_attention", torch.compile(flex_attention, dynamic=False))
    length = 512
    model = longformer(length, [256]) if family == "longformer" else bigbird(length)
    documents, positions = packed([[length], [300, 100]], length)
    ids, _ = batch(2, length)
    with torch.no_grad():
        got, expected = (
            Encoder(copy.deepcopy(model), backend)(ids, documents, positions) for backend in ("flex", "blocked")
        )
    assert torch.allclose(got[documents > 0], expected[documents > 0], atol=1e-5)
