"""Training steps on torch's meta device, whose tensors have a shape and no values, in place of a GPU. Code that reads a
value fails there; on a GPU it would make the CPU wait."""

import pytest
import torch
import torch.nn.attention.flex_attention as flex_module
from test_attention import ROWS, bigbird, longformer, packed
from torch._dynamo.utils import counters

from clinical_pretrain.models import mlm_head
from clinical_pretrain.models.attention.flex import COMPILE_OPTIONS
from clinical_pretrain.models.encoder import Encoder, use_fused_gelu
from clinical_pretrain.models.families import family_of
from clinical_pretrain.models.mlm_head import mean_loss

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]
WAYS = [
    ("longformer", "varlen", "none"),
    ("longformer", "flex", "none"),
    ("longformer", "flex", "first"),
    ("longformer", "blocked", "none"),
    ("longformer", "blocked", "first"),
    ("bigbird", "flex", "none"),
    ("bigbird", "blocked", "none"),
]


@pytest.fixture(params=WAYS, ids="-".join)
def step(request, monkeypatch):
    """A function that makes a model on the meta device, and returns one that takes a training step."""
    family, backend, global_tokens = request.param
    monkeypatch.setattr(flex_module, "_validate_device", lambda *tensors: None)  # it doesn't know meta
    config = (longformer(256, [32, 32]) if family == "longformer" else bigbird(256, layers=2)).config
    model = family_of(config).model_class(config).to("meta").bfloat16().train()
    use_fused_gelu(model)
    torch._dynamo.reset()
    counters.clear()

    def prepare(isolate=False, **settings):
        model.encode = Encoder(model, backend, global_tokens=global_tokens, **settings)

        def train():
            documents, positions = packed(ROWS, 256) if isolate else packed([[256], [256], [200]], 256)
            inputs = {"input_ids": documents, "documents": documents, "position_ids": positions if isolate else None}
            inputs |= {"positions": torch.zeros(50, dtype=torch.long), "labels": torch.zeros(50, dtype=torch.long)}
            inputs = {name: value if value is None else value.to("meta") for name, value in inputs.items()}
            loss = mean_loss(model(**inputs, max_documents=4 if isolate else 1)[0], inputs["labels"])
            loss.backward()
            assert model.base_model.encoder.layer[0].attention.self.query.weight.grad is not None

        return train

    return prepare


@pytest.mark.parametrize("isolate", [False, True])
def test_a_step_never_waits_for_the_gpu(step, isolate, monkeypatch):
    monkeypatch.setattr(mlm_head, "POSITIONS_PER_CHUNK", 20)
    step(isolate)()


@pytest.mark.parametrize("isolate", [False, True])
def test_an_attention_kernel_may_return_a_transposed_result(step, isolate, monkeypatch):
    """As the memory-efficient kernel of GPUs does."""

    def attention(q, k, v, attn_mask=None, dropout_p=0.0):
        mask = None if attn_mask is None else attn_mask.expand(*q.shape[:3], k.shape[2]).to(q.dtype)
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, mask, False, dropout_p)[0]

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    step(isolate)()


@pytest.mark.parametrize(("checkpointing", "isolate"), [("none", False), ("attention", True), ("full", False)])
def test_layers_are_one_graph_that_is_compiled_once(step, checkpointing, isolate):
    train = step(isolate, activation_checkpointing=checkpointing, compile_backend="aot_eager")
    train()
    graphs = counters["stats"]["unique_graphs"]
    for _ in range(2):
        train()
    assert graphs == 1 and counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0), (10, 0), (12, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_torch_has_kernels_for_bigbirds_blocks(capability, dtype, monkeypatch):
    """Without our options flex_attention refuses blocks of 64 on all of these GPUs."""
    import torch._inductor.config
    from torch._inductor.template_heuristics.triton import CUDAConfigHeuristic

    def fits(*tiles):
        return all(64 % tile == 0 for tile in tiles)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: capability)
    kernels = CUDAConfigHeuristic()
    with torch._inductor.config.patch(COMPILE_OPTIONS):
        forward, backward = (get(64, dtype) for get in (kernels.get_flex_attn_fwd_configs,
                                                       kernels.get_flex_attn_bwd_configs))  # fmt: skip
    assert any(fits(c.block_m, c.block_n) for c in forward)
    assert any(fits(c.block_m1, c.block_n1, c.block_m2, c.block_n2) for c in backward)
