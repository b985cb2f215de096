"""A checkpoint to a Hugging Face folder: weights put together, saved as safetensors, reloaded and compared."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

from clinical_pretrain.checkpoint.lease import lease
from clinical_pretrain.checkpoint.plain_model import plain_model
from clinical_pretrain.checkpoint.state import PROBE_NAME, RunState
from clinical_pretrain.checkpoint.verify import check_file_ownership, verify
from clinical_pretrain.config.optim import OptimConfig
from clinical_pretrain.engine.optim import stage_of
from clinical_pretrain.engine.reshard import WEIGHT, StoredCheckpoint
from clinical_pretrain.release.push import CARD_NAME, FORMAT_VERSION, is_generated
from clinical_pretrain.run_folder.history import Period, best_validation, lineage, validations
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import copy_files, file_sha256, write_json
from tokenizer_tools.manifest import TOKENIZER_FOLDER

FACTS_NAME = "pretraining.json"
CONFIG_NAME = "config.json"
REPLACING_NAME = ".export.json"
"""While an export takes an earlier one's place: hashes of the files of both, by name."""
# Largest difference allowed between the trained model's logits and the export's: absolute in fp32; for half
# precisions, whose logits were rounded on the way, the root mean square relative to the logits' own.
FP32_TOLERANCE = 1e-3
HALF_TOLERANCE = 0.05


def export(run_dir: Path, out: Path, step: int | str | None = None) -> dict[str, Any]:
    """Make a model that plain `transformers` loads of a run's checkpoint.

    Any ZeRO stage is put together in fp32. The folder appears only after plain `AutoModelForMaskedLM` has loaded it
    and given the logits that the trained model gave when the checkpoint was saved, and plain `AutoTokenizer` the run's
    token ids.

    Args:
        run_dir: the run folder, such as runs/NAME.
        out: the folder to make. Of an earlier export of the same run, the files that export made are replaced, and all
            others stay.
        step: which checkpoint; best: of those of the lowest validation loss; default the newest.

    Returns:
        model_dir, step, max_logit_difference, kept (names of the files in `out` that stayed), and what else
        `pretraining.json` holds.

    Raises:
        UserError: there is no such run or checkpoint, `out` holds something else, or the logits or ids differ.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # weights alone: no GPU is needed, nor a warning that there is none
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    RunFolder(run_dir).read_run()  # tells what is no run
    check_out(out, run_dir)
    check_file_ownership(RunFolder(run_dir))
    out = out.resolve()
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with lease(RunFolder(run_dir), lambda steps: _chosen(run_dir, step, steps)) as (folder, state):
            if fault := verify(folder):
                fault = fault.replace(str(folder), str(RunFolder(run_dir).checkpoint(state.step)))
                raise UserError(f"{fault}; nothing was exported: try another --step")
            copy_files(run_dir / TOKENIZER_FOLDER, temporary)
            _save_plain(run_dir, folder, state, temporary)
            difference = compare(temporary, folder / PROBE_NAME, state.precision)
        compare_tokenizer(temporary, run_dir / TOKENIZER_FOLDER / "tokenizer.json")
        facts = _facts(run_dir, RunFolder(run_dir).read_run(), state, difference)
        facts["files"] = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
        facts["files"][FACTS_NAME] = _sha256_of(facts)
        write_json(temporary / FACTS_NAME, facts)
        kept = put_in_place(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    of_steps = {key: value for key, value in facts.items() if key not in ("steps", "files")}
    return {"model_dir": str(out), "step": state.step, **of_steps, "kept": kept}


def _chosen(run_dir: Path, step: int | str | None, steps: list[int]) -> int:
    """The step to export, of those that have a checkpoint."""
    if step != "best":
        return max(steps) if step is None else int(step)
    best = best_validation(RunFolder(run_dir), RunFolder(run_dir).read_run()["starts"], steps)
    if not best:
        raise UserError(f"{run_dir}: no step with a checkpoint has a validation loss; choose a --step by its number")
    return int(best["step"])


def _save_plain(run_dir: Path, folder: Path, state: RunState, out: Path) -> None:
    model, frozen = plain_model(RunFolder(run_dir))
    report = model.load_state_dict(
        StoredCheckpoint(folder, state.zero_stage, model).tensors(WEIGHT) | frozen, strict=False
    )
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
        UserError: it is more than rounding, or the trained model's aren't finite.
    """
    from transformers import AutoModelForMaskedLM

    probe = load_file(probe_file)
    if not probe["logits"].isfinite().all():
        raise UserError(
            f"{probe_file}: the trained model's logits aren't finite; nothing was exported: try another --step"
        )
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


def compare_tokenizer(model_dir: Path, tokenizer_file: Path) -> None:
    """Raise a UserError if plain transformers, in the export, gives other ids than the run's tokenizer: tried on texts
    made of its whole vocabulary."""
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


# Take an earlier export's place ------------------------------------------------------------------------------------


def check_out(out: Path, run_dir: Path) -> None:
    """Raise a UserError if the folder holds anything but an export of this run, which may not have begun yet, or files
    of it have been changed since."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        run_id = json.loads((out / FACTS_NAME).read_text())["run_id"]
        exported = _exported(out)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{out}: not empty, and not an earlier export; choose another --out") from None
    if not (run_dir / "run.json").exists() or run_id != RunFolder(run_dir).read_run()["run_id"]:
        raise UserError(f"{out}: holds the model of another run; choose another --out, or delete it")
    changed = [name for name, hashes in exported.items() if (out / name).exists() and _hash(out / name) not in hashes]
    if changed:
        raise UserError(
            f"{out}: {', '.join(changed)} changed since export made it; move it away, or choose another --out"
        )


def put_in_place(temporary: Path, out: Path) -> list[str]:
    """Put a finished export where an earlier one may be. What that has made goes; everything else stays.

    The earlier config.json goes first and the new one comes last: in between nothing loads, and the next export there
    starts over. So whoever is killed never leaves a mix of two models that loads.

    Returns:
        Names of what stays.

    Raises:
        UserError: a file of the new export would overwrite one that no export has made.
    """
    if not out.exists():
        temporary.replace(out)
        return []
    exported = _exported(out) if any(out.iterdir()) else {}
    new = {path.name: _hash(path) for path in temporary.iterdir()}
    if strange := sorted(name for name in new if name not in exported and (out / name).exists()):
        raise UserError(f"{out}: {', '.join(strange)} not made by export; move it away, or choose another --out")
    if exported:
        added = {name: [*exported.get(name, []), sha256] for name, sha256 in new.items()}
        write_json(out / REPLACING_NAME, exported | added)
        (out / CONFIG_NAME).unlink(missing_ok=True)
    for name in [FACTS_NAME, *sorted(new.keys() - {FACTS_NAME, CONFIG_NAME})]:
        (temporary / name).replace(out / name)
    for name in exported.keys() - new.keys():
        (out / name).unlink(missing_ok=True)
    if is_generated(out / CARD_NAME):  # of the earlier model: push makes it anew
        (out / CARD_NAME).unlink()
    (temporary / CONFIG_NAME).replace(out / CONFIG_NAME)
    (out / REPLACING_NAME).unlink(missing_ok=True)
    return sorted(path.name for path in out.iterdir() if path.name not in new)


def _exported(out: Path) -> dict[str, list[str]]:
    """The files that exports have made in a folder, with the hashes that they may have: two where an export was killed
    while it took another's place."""
    if (out / REPLACING_NAME).exists():
        return dict(json.loads((out / REPLACING_NAME).read_text()))
    return {name: [sha256] for name, sha256 in json.loads((out / FACTS_NAME).read_text())["files"].items()}


def _hash(path: Path) -> str:
    """A file's sha256; of pretraining.json, the one that stands in itself."""
    return _sha256_of(json.loads(path.read_text())) if path.name == FACTS_NAME else file_sha256(path)


def _sha256_of(facts: dict[str, Any]) -> str:
    own = {**facts, "files": {name: sha256 for name, sha256 in facts["files"].items() if name != FACTS_NAME}}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


# Facts ------------------------------------------------------------------------------------------------------------


def _facts(run_dir: Path, run: dict[str, Any], state: RunState, difference: float) -> dict[str, Any]:
    """What may be known of the run by whoever gets the model: figures, no text, no path."""
    starts = run["starts"]
    periods = lineage(starts, state.step)
    measured = validations(RunFolder(run_dir), starts, state.step)
    config, length = periods[-1].start["config"], periods[-1].start["data"]["sequence_length"]
    languages = {start["data"]["fingerprint"]: start["config"]["data"]["language"] for start in starts}
    return {
        "format_version": FORMAT_VERSION,
        "run_id": run["run_id"],
        "base_model": run["base_model"],
        "initialisation": config["model"]["init"],
        "model_type": json.loads((run_dir / "model_config" / CONFIG_NAME).read_text())["model_type"],
        "languages": sorted({languages[period.start["data"]["fingerprint"]] for period in periods}),
        "sequence_length": length,
        "steps": state.step,
        "samples_consumed": state.samples_consumed,
        "tokens_consumed": state.samples_consumed * length,
        "data": _by_steps(periods, lambda period: period.start["data"]),
        "recipe": _by_steps(list(_by_stages(periods)), _recipe),
        "results": {
            "validation_loss_before": None if measured.differences else measured.before.get("loss"),
            "validation_loss_after": measured.after.get("loss"),
            "validation_accuracy_after": measured.after.get("accuracy"),
            "validation_step_after": measured.after.get("step"),
            "not_comparable": measured.differences,
        },
        "max_logit_difference": difference,
        "versions": periods[-1].start["versions"],
    }


def _by_stages(periods: Sequence[Period]) -> Iterator[Period]:
    """Periods cut where one stage of the schedule ends and another begins."""
    for period in periods:
        first = period.first_step
        while first <= period.last_step:
            last = min(period.last_step, stage_of(first, period.start["stages"]).last_step)
            yield replace(period, first_step=first, last_step=last)
            first = last + 1


def _recipe(period: Period) -> dict[str, Any]:
    """The settings that decide the weights, with the schedule of the stage that the steps are part of."""
    config, stage = period.start["config"], stage_of(period.first_step, period.start["stages"])
    return {
        "optimizer": "AdamW",
        **asdict(stage.schedule(OptimConfig(**config["optim"]))),
        "schedule_steps": stage.steps,
        "train_batch_size": config["batch"]["train_batch_size"],
        "precision": config["precision"],
        **{f"masking_{key}": value for key, value in config["masking"].items()},
        "document_attention": config["data"]["document_attention"],
        "global_tokens": config["attention"]["global_tokens"],
        "attention_dropout": config["attention"]["dropout"],
        "seed": config["seed"],
        "zero_stage": period.start["zero_stage"],
    }


def _by_steps(periods: Sequence[Period], choose: Callable[[Period], dict[str, Any]]) -> list[dict[str, Any]]:
    """What held in which steps; periods that are alike are one."""
    found = []
    for value, group in groupby(periods, choose):
        same = list(group)
        found.append({"first_step": same[0].first_step, "last_step": same[-1].last_step, **value})
    return found
