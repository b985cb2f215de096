"""Private and undocumented parts of libraries that are used: a version that moves one is named here, with the module of
ours to change. What is computed with them, the other tests compare."""

import importlib
import inspect

import pytest
import torch

# Module of ours; object of the library; what its source must hold.
USED = [
    ("engine/deepspeed_internals.py", "deepspeed.runtime.fp16.unfused_optimizer:FP16_UnfusedOptimizer",
     ["self.optimizer = ", "self.loss_scale_config = ", "loss_scale_config.cur_scale", "self.overflow = ",
      "loss_scale = property("]),
    ("engine/deepspeed_internals.py", "deepspeed.runtime.bf16_optimizer:BF16_Optimizer",
     ["self.optimizer = ", "self.clip_grad = "]),
    ("engine/deepspeed_internals.py", "deepspeed.runtime.fp16.loss_scaler:DynamicLossScaler",
     ["self.raise_error_at_min_scale", "self.cur_scale", "self.cur_iter", "self.last_overflow_iter",
      "self.cur_hysteresis"]),
    ("engine/deepspeed_internals.py", "deepspeed.runtime.zero.stage_1_and_2:DeepSpeedZeroOptimizer",
     ["self.optimizer = ", "self.loss_scaler", "self.overflow = ", "self.clip_grad = ", "._hp_mapping",
      "self.compute_grad_norm = ", "self.cpu_offload = ", "self.dp_process_group = ", "self.averaged_gradients = {}",
      "self.check_overflow(partition_gradients=self.partition_gradients)",
      "def update_offload_overflow_tracker(self, grad)",
      "scaled_global_grad_norm = self.scaled_global_norm()",
      """                    or self.check_grad_overflow) and is_invalid_grad_norm(scaled_global_grad_norm):
                self.overflow = True"""]),
    ("engine/deepspeed_internals.py", "deepspeed.runtime.zero.stage3:DeepSpeedZeroOptimizer_Stage3",
     ["self.optimizer = ", "self.loss_scaler", "self.overflow = ", "self.clip_grad = ", "def get_param_id(",
      "self.grad_position[param_id] = [int(i), int(current_offset), int(num_elements)]",
      "self.fp32_partitioned_groups_flat = "]),
    ("engine/deepspeed_internals.py", "deepspeed.utils.tensor_fragment:tensor_fragment",
     ["hp_fragment_address: ", "lp_fragment_address: "]),
    ("engine/deepspeed_internals.py", "deepspeed.utils.tensor_fragment:fragment_address", ["numel: ", "start: "]),
    ("engine/deepspeed_internals.py", "deepspeed.runtime.zero.partition_parameters:Init",
     ["param.ds_tensor = ", "param.ds_numel = "]),
    ("engine/deepspeed_internals.py", "deepspeed.runtime.engine:DeepSpeedEngine",
     ["def _copy_recovery_script(self, save_path)", "self.checkpoint_engine = ", "def get_global_grad_norm("]),
    ("engine/reshard.py", "deepspeed.runtime.engine:DeepSpeedEngine",
     ["zero_pp_rank_", "_model_states.pt", "_optim_states.pt", "param_shapes"]),
    ("engine/reshard.py", "deepspeed.checkpoint.constants",
     ["single_partition_of_fp32_groups", "base_optimizer_state", "optimizer_state_dict", "fp32_flat_groups",
      "param_alignment_paddings"]),
    ("engine/memory_file.py", "deepspeed.runtime.checkpoint_engine:TorchCheckpointEngine",
     ["def save(self, state_dict, path"]),
    ("engine/memory_file.py", "deepspeed.runtime.checkpoint_engine.checkpoint_engine:CheckpointEngine",
     ["def makedirs(self, path"]),
    ("engine/optimizer.py", "torch.optim.adam:_fused_adam", ["found_inf"]),
    ("distributed.py", "deepspeed.comm.torch", ["deepspeed.ops.__compatible_ops__"]),
    ("distributed.py", "torch.distributed.distributed_c10d:_get_default_timeout",
     ["default_pg_timeout", "default_pg_nccl_timeout"]),
    ("models/attention/flex.py", "torch._dynamo.config", ["recompile_limit = "]),
    ("models/attention/bigbird_plan.py",
     "transformers.models.big_bird.modeling_big_bird:BigBirdBlockSparseAttention",
     ["def _bigbird_block_rand_mask(", "def _bigbird_block_rand_mask_with_head(", "def _get_rand_attn_plan(",
      "np.random.seed(seed)", "self.seed = ", "self.max_seqlen", "last_idx=1024", "[1024, 3072, 4096]"]),
    ("models/attention/longformer.py", "transformers.models.longformer.modeling_longformer:LongformerSelfAttention",
     ["self.one_sided_attn_window_size = ", "self.num_heads = ", "self.head_dim = ", "self.query_global = "]),
    ("models/accelerate.py", "transformers.models.longformer.modeling_longformer:LongformerModel",
     ["padding_len, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds = self._pad_to_window_size(",
      "return padding_len, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds"]),
    ("models/encoder.py", "transformers.models.big_bird.modeling_big_bird:BigBirdIntermediate",
     ["self.intermediate_act_fn"]),
    ("models/encoder.py", "transformers.models.big_bird.modeling_big_bird:BigBirdPredictionHeadTransform",
     ["self.transform_act_fn"]),
    ("models/encoder.py", "transformers.activations:NewGELUActivation", [""]),
    ("release/export.py", "transformers.modeling_utils:PreTrainedModel", ["all_tied_weights_keys"]),
    ("tasks/finetune.py", "transformers.training_args:TrainingArguments", ["return self._n_gpu"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "where", "text"),
    [(ours, where, text) for ours, where, texts in USED for text in texts],
    ids=lambda value: value.strip(" =.("),
)
def test_a_library_has_what_is_used_of_it(ours, where, text):
    module, _, name = where.partition(":")
    found = importlib.import_module(module)
    found = getattr(found, name) if name else found
    assert text in inspect.getsource(found), f"{where} has no longer {text!r}: see clinical_pretrain/{ours}"


def test_torchs_flash_attention_for_cpus_gives_and_takes_log_sums():
    """models/attention/bigbird.py calls both by position."""
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default._schema
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default._schema
    assert [result.name for result in forward.returns] == ["output", "logsumexp"]
    assert [argument.name for argument in backward.arguments] == [
        "grad_out", "query", "key", "value", "out", "logsumexp", "dropout_p", "is_causal", "attn_mask", "scale"
    ]  # fmt: skip


def test_a_block_mask_can_be_made_of_its_lists():
    """models/attention/bigbird.py gives both sides' lists to the constructor, which makes one side alone otherwise."""
    from torch.nn.attention.flex_attention import BlockMask

    lists = {f"{full}{side}_{what}" for full in ("", "full_") for side in ("kv", "q")
             for what in ("num_blocks", "indices")}  # fmt: skip
    assert lists <= inspect.signature(BlockMask.__init__).parameters.keys()
