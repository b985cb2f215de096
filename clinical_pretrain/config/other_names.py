"""Names under which users may look for a setting: those of Hugging Face's Trainer and run_mlm.py, and former ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from tokenizer_tools.errors import UserError

_LENGTH = "the shards say it: build-shards --sequence-length"
_EPOCHS = "set max_steps: an epoch has as many steps as training rows / batch.train_batch_size"
_WARMUP = "set optim.warmup_steps, in steps"
_SHARDS = "data.shards"

OTHER_NAMES = {
    "batch_size": "batch.train_batch_size",
    "total_train_batch_size": "batch.train_batch_size",
    "per_device_train_batch_size": "batch.micro_batch_size_per_gpu",
    "per_gpu_train_batch_size": "batch.micro_batch_size_per_gpu",
    "micro_batch_size": "batch.micro_batch_size_per_gpu",
    "gradient_accumulation_steps": "batch.train_batch_size / batch.micro_batch_size_per_gpu / GPUs gives it",
    "per_device_eval_batch_size": "validation takes batch.micro_batch_size_per_gpu",
    "lr": "optim.learning_rate",
    "adam_beta1": "optim.beta1",
    "adam_beta2": "optim.beta2",
    "adam_epsilon": "optim.epsilon",
    "eps": "optim.epsilon",
    "lr_scheduler_type": "optim.schedule",
    "scheduler": "optim.schedule",
    "min_lr": "optim.final_learning_rate_fraction",
    "gradient_clipping": "optim.max_grad_norm",
    "warmup": _WARMUP,
    "warmup_ratio": _WARMUP,
    "epoch": _EPOCHS,
    "epochs": _EPOCHS,
    "num_epochs": _EPOCHS,
    "num_train_epochs": _EPOCHS,
    "steps": "max_steps",
    "max_train_steps": "max_steps",
    "max_train_samples": _EPOCHS,
    "output_dir": "run_dir",
    "overwrite_output_dir": "a run is continued in its folder; for a new one choose another run_dir",
    "resume_from_checkpoint": "the same command continues the run in run_dir",
    "logging_steps": "log_every_steps",
    "save_steps": "checkpoint.every_steps",
    "save_total_limit": "checkpoint.keep_latest",
    "eval_steps": "validation.every_steps",
    "do_train": "leave it out: this command trains",
    "do_eval": "leave it out; see validation.every_steps",
    "report_to": "metrics.jsonl and TensorBoard's curves are always written to run_dir",
    "fp16": "set precision to fp16",
    "bf16": "set precision to bf16",
    "mixed_precision": "precision",
    "gradient_checkpointing": "activation_checkpointing",
    "torch_compile": "compile",
    "zero_stage": "deepspeed",
    "deepspeed_config": "deepspeed",
    "mlm_probability": "masking.probability",
    "whole_word_mask": "masking.whole_words",
    "model_name_or_path": "model.name_or_path",
    "model_type": "model.family",
    "layers": "model.size.num_hidden_layers",
    "num_layers": "model.size.num_hidden_layers",
    "heads": "model.size.num_attention_heads",
    "num_heads": "model.size.num_attention_heads",
    "tokenizer_name": "the shards hold their tokenizer: build-shards --tokenizer",
    "dataset_name": _SHARDS,
    "train_file": _SHARDS,
    "data_dir": _SHARDS,
    "max_seq_length": _LENGTH,
    "max_length": _LENGTH,
    "seq_len": _LENGTH,
    "seq_length": _LENGTH,
    "sequence_length": _LENGTH,
    "num_gpus": "it stands before run.py: deepspeed --num_gpus N clinical_pretrain/run.py",
    "nproc_per_node": "it stands before run.py: torchrun --nproc_per_node N clinical_pretrain/run.py",
}
"""Another program's name: our setting, or how to say it here."""

RENAMED = {
    "bad_steps.max_in_a_row": "bad_steps.max_consecutive_skips",
    "checkpoint.keep": "checkpoint.keep_latest",
    "checkpoint.max_failures": "checkpoint.max_consecutive_failures",
    "checkpointing": "activation_checkpointing",
    "model.positions": "model.position_embeddings",
    "model.size.heads": "model.size.num_attention_heads",
    "model.size.layers": "model.size.num_hidden_layers",
    "model.size.random_blocks": "model.size.num_random_blocks",
    "validation.early_stopping": "validation.early_stopping_patience",
    "validation.max_rows": "validation.max_sequences",
    "watch": "watchdog",
    "watch.silence_seconds": "watchdog.heartbeat_timeout_seconds",
    "watch.step_seconds": "watchdog.step_timeout_seconds",
}
"""Former keys, which are refused with their new name."""


def refuse_unknown(names: Iterable[str], valid: Sequence[str], dashes: str = "", file: str = "") -> None:
    """Raise a UserError that names every unknown key, of options or of a file, and the nearest valid one.

    Where all of a file's keys are strange, none is named: it may be notes.
    """
    faults, all_strange = [], True
    last_parts = {key.split(".")[-1]: key for key in reversed(valid)}
    for name in names:
        word = name.lower().replace("-", "_").split(".")[-1]
        of_others = OTHER_NAMES.get(word, "") if "max_steps" in valid else ""
        same = [key for key in valid if key.split(".")[-1] == word] or [key for key in valid if key == of_others]
        near = same or difflib.get_close_matches(name, valid, n=1, cutoff=0.8)
        near = near or [last_parts[part] for part in difflib.get_close_matches(word, last_parts, n=1, cutoff=0.75)]
        all_strange &= not (near or of_others or name.split(".")[0] in valid)
        near = near or difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
        hint = f" (did you mean {dashes}{near[0]}?)" if near else ""
        if new_name := RENAMED.get(name) if "max_steps" in valid else None:
            all_strange, hint = False, f" (renamed to {dashes}{new_name})"
        elif of_others and not same:
            hint = f" ({of_others})"
        elif not near and len(valid) < 20:
            hint = f" (there are {', '.join(valid)})"
        elif not near and dashes:
            hint = " (--help lists all)"
        if name not in valid:
            faults.append(f"unknown {dashes}{name}{hint}")
    if faults and file and all_strange:
        raise UserError(f"{file}: none of its keys is a setting, such as {valid[0]}")
    if faults:
        raise UserError((f"{file}: " if file else "") + "; ".join(faults))
