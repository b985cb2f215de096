"""Export a checkpoint as a Hugging Face model: consolidate the weights, save, reload, compare the logits."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

from clinical_pretrain.allocator import keep_freed_memory
from clinical_pretrain.checkpoint.lease import lease
from clinical_pretrain.checkpoint.plain_model import plain_model
from clinical_pretrain.checkpoint.state import PROBE_NAME, RunState
from clinical_pretrain.checkpoint.verify import check_file_ownership, verify
from clinical_pretrain.engine.reshard import WEIGHT, StoredCheckpoint
from clinical_pretrain.release.facts import collect_facts
from clinical_pretrain.release.facts_file import write_facts
from clinical_pretrain.release.replace import check_out, put_in_place
from clinical_pretrain.run_folder.history import best_validation
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import copy_files

FP32_TOLERANCE = 1e-3
"""Largest absolute difference between the logits of a model trained in fp32 and of its export."""
HALF_TOLERANCE = 0.05
"""The same in bf16 and fp16, whose logits are rounded: root mean square, relative to that of the logits."""


def export(run_dir: Path, out: Path, step: int | str | None = None) -> dict[str, Any]:
    """Export a checkpoint as a model in fp32 that plain `transformers` loads.

    The folder appears only after plain `AutoModelForMaskedLM` has loaded it and computed the logits that the trained
    model had when the checkpoint was saved, and plain `AutoTokenizer` gives the run's token ids.

    Args:
        run_dir: the run folder, such as runs/NAME.
        out: the folder to make. The files of an earlier export of the same run are replaced; all others stay.
        step: step of the checkpoint, or best for the lowest validation loss; default the newest.

    Returns:
        model_dir, step, kept (names of the files in `out` that stayed), and the facts of `pretraining.json`.

    Raises:
        UserError: there is no such run or checkpoint, `out` holds something else, or the logits or ids differ.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # needs no GPU, and DeepSpeed should not warn that there is none
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = RunFolder(run_dir)
    folder.read_run()  # refuses a folder that is no run
    check_out(out, run_dir)
    check_file_ownership(folder)
    out = out.resolve()
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with lease(folder, lambda steps: _chosen_step(folder, step, steps)) as (checkpoint, state):
            if fault := verify(checkpoint):
                fault = fault.replace(str(checkpoint), str(folder.checkpoint(state.step)))
                raise UserError(f"{fault}; nothing was exported: try another --step")
            copy_files(folder.tokenizer, temporary)
            _save_model(folder, checkpoint, state, temporary)
            difference = compare(temporary, checkpoint / PROBE_NAME, state.precision)
        compare_tokenizer(temporary, folder.tokenizer / "tokenizer.json")
        facts = {**collect_facts(folder, state), "max_logit_difference": difference}
        write_facts(temporary, facts)
        kept = put_in_place(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    del facts["steps"]
    return {"model_dir": str(out), "step": state.step, **facts, "kept": kept}


def _chosen_step(folder: RunFolder, step: int | str | None, saved: list[int]) -> int:
    """The step to export, of those that have a checkpoint."""
    if step != "best":
        return max(saved) if step is None else int(step)
    best = best_validation(folder, folder.starts(), saved)
    if not best:
        raise UserError(f"{folder}: no step with a checkpoint has a validation loss; give a --step by its number")
    return int(best["step"])


def _save_model(folder: RunFolder, checkpoint: Path, state: RunState, out: Path) -> None:
    """Save the checkpoint's weights, and those that training left alone, with `save_pretrained`."""
    model, frozen = plain_model(folder)
    trained = StoredCheckpoint(checkpoint, state.zero_stage, model).tensors(WEIGHT)
    report = model.load_state_dict(trained | frozen, strict=False)
    tied = set(model.all_tied_weights_keys)
    wrong = [name for name in report.missing_keys if name not in tied] + report.unexpected_keys
    if wrong:
        names = ", ".join(wrong[:5])
        raise UserError(f"{folder}: the checkpoint doesn't hold this model's weights ({names}); nothing was exported")
    model.tie_weights()
    model.save_pretrained(out)


def compare(model_dir: Path, probe_file: Path, precision: str) -> float:
    """Compare the logits of the reloaded export with those of the trained model.

    Args:
        model_dir: the export.
        probe_file: inputs and logits of the trained model, saved with the checkpoint.
        precision: that of the training.

    Returns:
        The largest absolute difference.

    Raises:
        UserError: the difference is larger than rounding, or the trained model's logits are NaN or infinite.
    """
    from transformers import AutoModelForMaskedLM

    probe = load_file(probe_file)
    if not probe["logits"].isfinite().all():
        raise UserError(
            f"{probe_file}: the trained model's logits are NaN or infinite; nothing was exported: try another --step"
        )
    keep_freed_memory()
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
    agrees = difference <= FP32_TOLERANCE if precision == "fp32" else relative <= HALF_TOLERANCE
    if not agrees:
        raise UserError(
            f"the exported model's logits differ from the trained model's by up to {difference:.2g} ({relative:.1%} of "
            "their size), more than rounding; nothing was exported: try another --step, and report this"
        )
    return float(difference)


def compare_tokenizer(model_dir: Path, tokenizer_file: Path) -> None:
    """Compare the ids of plain transformers in the export with those of the run's tokenizer, on its whole vocabulary.

    Raises:
        UserError: the ids differ.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    trained = Tokenizer.from_file(str(tokenizer_file))
    loaded = AutoTokenizer.from_pretrained(model_dir)
    ids, size = list(range(trained.get_vocab_size())), 64
    texts = [trained.decode(ids[i : i + size], skip_special_tokens=False) for i in range(0, len(ids), size)]
    if loaded(texts)["input_ids"] != [encoding.ids for encoding in trained.encode_batch(texts)]:
        raise UserError(
            f"{tokenizer_file}: transformers {transformers.__version__} gives other ids than the tokenizer that the "
            "model was trained with; nothing was exported: report this"
        )
