"""Whether a run folder may be used by this start: it is new, or holds this very run."""

from __future__ import annotations

import json
from typing import Any

from clinical_pretrain.config.resume import changed_settings
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.run_folder.metrics import read_metrics
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest
from tokenizer_tools.tokenizer.identity import tokenizer_sha256

IGNORED_KEYS = ("zero_optimization", "gradient_accumulation_steps", "train_batch_size",
                "train_micro_batch_size_per_gpu", "gradient_clipping", "timers")  # fmt: skip
"""Of the DeepSpeed config: how the same computation is spread over ranks and timed, and what the run config says
already."""


def check_ownership(folder: RunFolder, config: RunConfig, resolved: dict[str, Any], manifest: Manifest) -> list[str]:
    """Check that a run folder is new, or holds this very run.

    Args:
        folder: the run folder, which need not exist.
        config: of this start.
        resolved: DeepSpeed's config of this start.
        manifest: of the shards.

    Returns:
        Differences from the folder's run that are accepted.

    Raises:
        UserError: the folder holds something else, or a run that differs.
    """
    if folder.exists:
        _check_checkpoints_are_there(folder)
        return check_same_run(folder, config, resolved, manifest)
    check_unused(folder)
    return []


def check_same_run(folder: RunFolder, config: RunConfig, resolved: dict[str, Any], manifest: Manifest) -> list[str]:
    """Check that the folder's run has these settings and data. The shards may have moved.

    Returns:
        Differences that are accepted.

    Raises:
        UserError: the settings differ.
    """
    soft, hard = differences(folder, config, resolved, manifest)
    if hard or (soft and not config.checkpoint.accept_changes):
        remedy = "restore these settings, or choose another --run_dir"
        if not hard:
            remedy += ", or continue with the new ones by --checkpoint.accept_changes true"
        raise UserError(f"{folder}: holds another run: {'; '.join(hard + soft)}; {remedy}")
    return soft


def refuse_file(folder: RunFolder) -> None:
    """Check that what should be a run folder isn't a file.

    Raises:
        UserError: it is.
    """
    if folder.path.exists() and not folder.path.is_dir():
        raise UserError(f"{folder}: not a folder; choose another --run_dir")


def check_unused(folder: RunFolder) -> None:
    """Check that a new run would not be mixed with other files. Files of a run that was killed before its first step
    are accepted.

    Raises:
        UserError: the folder holds something else.
    """
    refuse_file(folder)
    names = {entry.name.removesuffix(".tmp") for entry in folder.path.iterdir()} if folder.path.exists() else set()
    if folder.checkpoints.name in names:
        raise UserError(
            f"{folder}: holds checkpoints, but run.json is missing; restore it from a backup, or choose another "
            "--run_dir"
        )
    if names - {folder.jobs.name} and not {folder.lock_file.name} <= names <= folder.names_before_first_step:
        raise UserError(f"{folder}: not empty, and holds no run; choose another --run_dir")


def stage_ends(folder: RunFolder, config: RunConfig) -> tuple[list[int], list[str]]:
    """The last step of each stage.

    Returns:
        The steps, and the changes of the current stage's last step, which can be accepted.

    Raises:
        UserError: the run is already beyond these steps, or finished, so that only --extend adds steps.
    """
    target = config.max_steps + config.extend
    if not folder.exists:
        return sorted({config.max_steps, target}), []
    ends = folder.read_run().get("stages") or [folder.read_config()["max_steps"]]
    settings = f"--max_steps {ends[0]}" + (f" --extend {ends[-1] - ends[0]}" if ends[1:] else "")
    reached = max(folder.saved_steps(), default=0)
    if config.max_steps == ends[0] and target < ends[-1]:
        raise UserError(f"{folder}: the run has been extended to step {ends[-1]}; use {settings} as before")
    if target < reached:
        raise UserError(
            f"{folder}: max_steps {target} is below step {reached}, which the run has reached; use {settings} as "
            "before, or choose another --run_dir (an earlier step's model: clinical-pretrain export --step N)"
        )
    if config.max_steps != ends[0]:
        if reached >= ends[0]:
            more = max(target, ends[-1]) - ends[0]
            raise UserError(
                f"{folder}: max_steps was {ends[0]}, now {config.max_steps}, but the run has finished; add steps "
                f"as a stage of their own: --max_steps {ends[0]} --extend {more or 'STEPS'}"
            )
        return sorted({config.max_steps, target}), [f"max_steps was {ends[0]}, now {config.max_steps}"]
    return (ends if target == ends[-1] else [*ends, target]), []


def differences(
    folder: RunFolder, config: RunConfig, resolved: dict[str, Any], manifest: Manifest
) -> tuple[list[str], list[str]]:
    """Where the settings and data differ from the folder's run.

    Returns:
        Differences that can be accepted, and those that can't, because the weights would not fit.
    """
    soft, hard = changed_settings(folder.read_config(), config)
    soft = stage_ends(folder, config)[1] + soft
    old_deepspeed, new_deepspeed = (
        {key: value for key, value in settings.items() if key not in IGNORED_KEYS}
        for settings in (folder.read_deepspeed(), resolved)
    )
    soft += _differences(old_deepspeed, new_deepspeed, "deepspeed: ")
    fingerprint = folder.read_run()["shard_fingerprint"]
    if fingerprint != manifest.fingerprint:
        soft.append(f"data.shards: other data (fingerprint {fingerprint[:12]}, now {manifest.fingerprint[:12]})")
        length = folder.read_data()["sequence_length"]
        hard += _differences({"sequence_length": length}, {"sequence_length": manifest.sequence_length}, "data: ")
        hard += _other_tokenizer(folder, manifest)
    return soft, hard


def _other_tokenizer(folder: RunFolder, manifest: Manifest) -> list[str]:
    from tokenizers import Tokenizer

    sha256 = tokenizer_sha256(Tokenizer.from_file(str(folder.tokenizer / "tokenizer.json")))
    if sha256 == manifest.tokenizer.sha256:
        return []
    return [f"data.shards: another tokenizer (sha256 {sha256[:12]}, now {manifest.tokenizer.sha256[:12]})"]


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in [*old, *(key for key in new if key not in old)]:
            separator = "." if prefix and not prefix.endswith(" ") else ""
            found += _differences(old.get(key), new.get(key), f"{prefix}{separator}{key}")
        return found
    return [] if old == new else [f"{prefix} was {json.dumps(old)}, now {json.dumps(new)}"]


def _check_checkpoints_are_there(folder: RunFolder) -> None:
    """Raise a UserError if a run has saved but no checkpoint is left: it would overwrite its own history."""
    saves = [line["step"] for line in read_metrics(folder, "save") if "failures" not in line]
    if saves and not folder.saved_steps():
        raise UserError(
            f"{folder}: step {saves[-1]} was saved, but there is no checkpoint; restore {folder.checkpoints} from a "
            "backup, or choose another --run_dir to start at step 0"
        )
