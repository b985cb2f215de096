"""A checkpoint to a Hugging Face folder: weights put together, saved as safetensors, reloaded and compared."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from safetensors.torch import load_file

from clinical_pretrain import checkpoint
from clinical_pretrain.history import best_validation
from clinical_pretrain.reshard import WEIGHT, Stored
from clinical_pretrain.run_folder import plain_model, read_run
from tokenizer_tools.manifest import TOKENIZER_FOLDER, UserError, copy_files, write_json

FORMAT_VERSION = 1
FACTS_NAME = "pretraining.json"
# Largest difference allowed between the trained model's logits and the export's: absolute in fp32; for half
# precisions, whose logits were rounded on the way, the root mean square relative to the logits' own.
FP32_TOLERANCE = 1e-3
HALF_TOLERANCE = 0.05


def export(run_dir: Path, out: Path, step: int | str | None = None) -> dict[str, Any]:
    """Make a model that plain `transformers` loads of a run's checkpoint.

    Any ZeRO stage is put together in fp32. The folder appears only after plain `AutoModelForMaskedLM` has loaded it
    and given the logits that the trained model gave when the checkpoint was saved.

    Args:
        run_dir: the run folder, such as runs/NAME.
        out: the folder to make. An earlier export of the same run is replaced.
        step: which checkpoint; best: of those of the lowest validation loss; default the newest.

    Returns:
        model_dir, step, max_logit_difference, and what else `pretraining.json` holds.

    Raises:
        UserError: there is no such run or checkpoint, `out` holds something else, or the logits differ.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # weights alone: no GPU is needed, nor a warning that there is none
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    facts_of_run = _read_run(run_dir)
    steps = checkpoint.saved_steps(run_dir)
    if not steps:
        raise UserError(f"{run_dir}: no checkpoint yet; train until checkpoint.every_steps or the end")
    if step == "best":
        step = best_validation(run_dir, read_run(run_dir)["starts"], steps).get("step")
        if step is None:
            raise UserError(
                f"{run_dir}: no step with a checkpoint has a validation loss; choose a --step by its number"
            )
    state = checkpoint.read_state(run_dir, steps[-1] if step is None else int(step))
    check_out(out, run_dir)
    folder = checkpoint.folder_of(run_dir, state.step)
    checkpoint.refuse_strangers(run_dir)
    if fault := checkpoint.fault_of(folder):
        raise UserError(f"{fault}; nothing was exported: try another --step ({', '.join(map(str, steps))} are there)")
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        copy_files(run_dir / TOKENIZER_FOLDER, temporary)
        _save_plain(run_dir, folder, state, temporary)
        difference = compare(temporary, folder / checkpoint.PROBE_NAME, state.precision)
        facts = _facts(run_dir, state, facts_of_run, difference)
        write_json(temporary / FACTS_NAME, facts)
        if out.exists():
            shutil.rmtree(out)
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {"model_dir": str(out), "step": state.step, **{k: v for k, v in facts.items() if k != "steps"}}


def _save_plain(run_dir: Path, folder: Path, state: checkpoint.RunState, out: Path) -> None:
    model, frozen = plain_model(run_dir)
    report = model.load_state_dict(Stored(folder, state.zero_stage, model).tensors(WEIGHT) | frozen, strict=False)
    tied = set(model.all_tied_weights_keys)
    wrong = [name for name in report.missing_keys if name not in tied] + report.unexpected_keys
    if wrong:
        names = ", ".join(wrong[:5])
        raise UserError(f"{run_dir}: the checkpoint doesn't hold this model's weights ({names}); nothing was exported")
    model.tie_weights()
    model.save_pretrained(out)


def compare(model_dir: Path, probe_file: Path, precision: str) -> float:
    """Largest difference between the logits of the reloaded export and of the trained model, on the probe.

    Raises:
        UserError: it is more than rounding.
    """
    from transformers import AutoModelForMaskedLM

    probe = load_file(probe_file)
    model, report = AutoModelForMaskedLM.from_pretrained(model_dir, output_loading_info=True, dtype=torch.float32)
    if report["missing_keys"]:
        names = ", ".join(sorted(report["missing_keys"])[:5])
        raise UserError(f"{model_dir}: transformers finds no weights for {names}; nothing was exported")
    global_mask = {}
    if "global_attention_mask" in probe:
        global_mask = {"global_attention_mask": probe["global_attention_mask"]}
    with torch.no_grad():
        logits = model.eval()(input_ids=probe["input_ids"], **global_mask).logits.flatten(0, 1)[probe["positions"]]
    difference = (logits - probe["logits"]).abs().max().item()
    relative = ((logits - probe["logits"]).pow(2).mean().sqrt() / probe["logits"].pow(2).mean().sqrt()).item()
    good = difference <= FP32_TOLERANCE if precision == "fp32" else relative <= HALF_TOLERANCE
    if not good:
        raise UserError(
            f"the exported model's logits differ from the trained model's by up to {difference:.2g} ({relative:.1%} of "
            "their size), more than rounding; nothing was exported: try another --step, and report this"
        )
    return float(difference)


def _read_run(run_dir: Path) -> dict[str, Any]:
    try:
        return {
            "run": read_run(run_dir),
            "config": yaml.safe_load((run_dir / "config.yaml").read_text()),
            "data": json.loads((run_dir / "data.json").read_text()),
        }
    except FileNotFoundError:
        raise UserError(
            f"{run_dir}: not a run folder; give the --run_dir of a training run, such as runs/NAME"
        ) from None


def check_out(out: Path, run_dir: Path) -> None:
    """Raise a UserError if the folder holds anything but an export of this run, which may not have begun yet."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        earlier = json.loads((out / FACTS_NAME).read_text())
    except (OSError, ValueError):
        raise UserError(f"{out}: not empty, and not an earlier export; choose another --out") from None
    if not (run_dir / "run.json").exists() or earlier.get("run_id") != _run_id(run_dir):
        raise UserError(f"{out}: holds the model of another run; choose another --out, or delete it")


def _run_id(run_dir: Path) -> str:
    return str(read_run(run_dir)["run_id"])


def _facts(run_dir: Path, state: checkpoint.RunState, run: dict[str, Any], difference: float) -> dict[str, Any]:
    """What may be known of the run by whoever gets the model: figures, no text, no path."""
    from clinical_pretrain.metrics import read_metrics

    config, model = run["config"], run["config"]["model"]
    optim, batch, masking = config["optim"], config["batch"], config["masking"]
    validations = [line for line in read_metrics(run_dir, "validation") if line["step"] <= state.step]
    before, after = (validations[0], validations[-1]) if validations else ({}, {})
    base = Path(model["name_or_path"])
    local = base.is_absolute() or base.exists() or len(base.parts) > 2
    return {
        "format_version": FORMAT_VERSION,
        "run_id": _run_id(run_dir),
        "base_model": None if model["init"] == "random" else "a local folder" if local else model["name_or_path"],
        "initialisation": model["init"],
        "model_type": json.loads((run_dir / "model_config" / "config.json").read_text())["model_type"],
        "sequence_length": run["data"]["sequence_length"],
        "steps": state.step,
        "samples_consumed": state.samples_consumed,
        "tokens_consumed": state.samples_consumed * run["data"]["sequence_length"],
        "data": run["data"]["splits"],
        "shard_fingerprint": state.shard_fingerprint,
        "recipe": {
            "optimizer": "AdamW",
            **{k: optim[k] for k in ("learning_rate", "schedule", "warmup_steps", "weight_decay", "max_grad_norm")},
            "train_batch_size": batch["train_batch_size"],
            "precision": config["precision"],
            "masking_probability": masking["probability"],
            "whole_word_masking": masking["whole_words"],
            "seed": config["seed"],
            "zero_stage": state.zero_stage,
        },
        "results": {
            "validation_loss_before": before.get("loss"),
            "validation_loss_after": after.get("loss"),
            "validation_accuracy_after": after.get("accuracy"),
        },
        "max_logit_difference": difference,
        "versions": run["run"]["starts"][-1]["versions"],
    }
