"""Names under which users may look for a setting: those of Hugging Face's Trainer and run_mlm.py, and former ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from tokenizer_tools.errors import UserError

_LENGTH = "the shards set it: build-shards --sequence-length"
_EPOCHS = "set max_steps; steps per epoch: training sequences / batch.train_batch_size"
_WARMUP = "set optim.warmup_steps, in steps"
_SHARDS = "data.shards"

OTHER_NAMES = {
    "batch_size": "batch.train_batch_size",
    "total_train_batch_size": "batch.train_batch_size",
    "per_device_train_batch_size": "batch.micro_batch_size_per_gpu",
    "per_gpu_train_batch_size": "batch.micro_batch_size_per_gpu",
    "micro_batch_size": "batch.micro_batch_size_per_gpu",
    "gradient_accumulation_steps": "it is batch.train_batch_size / batch.micro_batch_size_per_gpu / number of GPUs",
    "per_device_eval_batch_size": "validation uses batch.micro_batch_size_per_gpu",
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
    "overwrite_output_dir": "a run is resumed in its folder; choose another run_dir for a new run",
    "resume_from_checkpoint": "the same command resumes the run in run_dir",
    "logging_steps": "log_every_steps",
    "save_steps": "checkpoint.every_steps",
    "save_total_limit": "checkpoint.keep_latest",
    "eval_steps": "validation.every_steps",
    "do_train": "leave it out: this command trains",
    "do_eval": "leave it out; see validation.every_steps",
    "report_to": "metrics.jsonl and TensorBoard events are always written to run_dir",
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
    "tokenizer_name": "the shards contain their tokenizer: build-shards --tokenizer",
    "dataset_name": _SHARDS,
    "train_file": _SHARDS,
    "data_dir": _SHARDS,
    "max_seq_length": _LENGTH,
    "max_length": _LENGTH,
    "seq_len": _LENGTH,
    "seq_length": _LENGTH,
    "sequence_length": _LENGTH,
    "num_gpus": "put it before run.py: deepspeed --num_gpus N clinical_pretrain/run.py",
    "nproc_per_node": "put it before run.py: torchrun --nproc_per_node N clinical_pretrain/run.py",
}
"""A name elsewhere, and the setting here or what to do instead."""

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
    """Refuse unknown keys, and suggest the nearest valid one for each.

    Args:
        names: the keys.
        valid: all keys that exist.
        dashes: what an option begins with; empty for keys of a file.
        file: the file with the keys. If none of them resembles a setting, the file may hold notes, and no key is named.

    Raises:
        UserError: there are unknown keys; the message names all of them.
    """
    names = list(names)
    unknown = [name for name in names if name not in valid]
    if unknown and file and not any(_resembles_a_setting(name, valid) for name in names):
        raise UserError(f"{file}: none of its keys is a setting, such as {valid[0]}")
    if unknown:
        faults = "; ".join(f"unknown {dashes}{name}{_hint(name, valid, dashes)}" for name in unknown)
        raise UserError(f"{file}: {faults}" if file else faults)


def _hint(name: str, valid: Sequence[str], dashes: str) -> str:
    """What to write instead of an unknown key, in parentheses; empty if nothing is known."""
    if new_name := _renamed(name, valid):
        return f" (renamed to {dashes}{new_name})"
    advice = _advice(name, valid)
    if advice and advice not in valid and not _same_last_part(name, valid):
        return f" ({advice})"
    nearest = _nearest(name, valid) or next(iter(difflib.get_close_matches(name, valid, n=1, cutoff=0.5)), None)
    if nearest:
        return f" (did you mean {dashes}{nearest}?)"
    if len(valid) < 40:
        return f" (choose from {', '.join(valid)})"
    return " (--help lists all)" if dashes else ""


def _resembles_a_setting(name: str, valid: Sequence[str]) -> bool:
    in_section = name.split(".")[0] in valid
    return in_section or bool(_renamed(name, valid) or _advice(name, valid) or _nearest(name, valid))


def _nearest(name: str, valid: Sequence[str]) -> str | None:
    """The valid key with the same last part, of the same meaning elsewhere, or with a similar spelling."""
    if same := _same_last_part(name, valid):
        return same
    if (advice := _advice(name, valid)) in valid:
        return advice
    if close := difflib.get_close_matches(name, valid, n=1, cutoff=0.8):
        return close[0]
    last_parts = {key.split(".")[-1]: key for key in reversed(valid)}
    close = difflib.get_close_matches(_last_part(name), last_parts, n=1, cutoff=0.75)
    return last_parts[close[0]] if close else None


def _same_last_part(name: str, valid: Sequence[str]) -> str | None:
    same = [key for key in valid if key.split(".")[-1] == _last_part(name)]
    return max(same, key=lambda key: difflib.SequenceMatcher(None, name, key).ratio(), default=None)


def _last_part(name: str) -> str:
    return name.lower().replace("-", "_").split(".")[-1]


def _advice(name: str, valid: Sequence[str]) -> str:
    return OTHER_NAMES.get(_last_part(name), "") if _are_of_a_run(valid) else ""


def _renamed(name: str, valid: Sequence[str]) -> str | None:
    return RENAMED.get(name) if _are_of_a_run(valid) else None


def _are_of_a_run(valid: Sequence[str]) -> bool:
    """Whether the keys are those of a run, which alone have other names."""
    return "max_steps" in valid
