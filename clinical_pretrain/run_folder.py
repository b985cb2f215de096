"""The run folder: what a run is, written down before its first step, and whether a folder holds this very run.

`config.yaml` and `deepspeed.json` (resolved), `model_config/`, `tokenizer/`, `data.json` (counts of the shards),
`frozen.safetensors`, and `run.json`: the run's id, the shards' fingerprint, and each start's time, device, versions.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from clinical_pretrain import checkpoint
from clinical_pretrain.config import REPOSITORY, RunConfig
from clinical_pretrain.distributed import Ranks
from tokenizer_tools.manifest import (
    TOKENIZER_FOLDER,
    Manifest,
    UserError,
    copy_files,
    write_atomically,
    write_json,
)

FORMAT_VERSION = 1
FROZEN_NAME = "frozen.safetensors"
"""The weights that training leaves alone, which the export takes over bit for bit."""


def prepare_run_folder(
    run_dir: Path,
    config: RunConfig,
    resolved: dict[str, Any],
    manifest: Manifest,
    model: Any,
    shards: Path,
    ranks: Ranks,
) -> None:
    """Make the run folder, or see that it holds this very run. Rank 0 does it; all learn of an error."""
    error = None
    if ranks.is_first:
        try:
            if (run_dir / "run.json").exists():
                refuse_other_run(run_dir, config, resolved, manifest)
            else:
                _new_run_folder(run_dir, config, resolved, manifest, model, shards)
            _note_start(run_dir, model, ranks)
        except UserError as caught:
            error = str(caught)
        except OSError as caught:
            error = f"{run_dir}: cannot write the run folder ({caught.strerror}); choose another --run_dir"
    error = ranks.agree(error)
    if error is not None:
        raise UserError(error)


def refuse_other_run(run_dir: Path, config: RunConfig, resolved: dict[str, Any], manifest: Manifest) -> None:
    """Raise a UserError with the differences if the folder's run isn't this one. The shards may have moved."""
    old = yaml.safe_load((run_dir / "config.yaml").read_text())
    old = _completed(old, RunConfig().to_dict())
    differences = _differences(_comparable(old), _comparable(config.to_dict()))
    old_resolved = json.loads((run_dir / "deepspeed.json").read_text())
    for settings in (old_resolved, resolved := dict(resolved)):
        settings.pop("gradient_accumulation_steps", None)  # follows from the world size
    differences += _differences(old_resolved, resolved, "deepspeed: ")
    fingerprint = json.loads((run_dir / "run.json").read_text())["shard_fingerprint"]
    if fingerprint != manifest.fingerprint:
        differences.append(f"data.shards: other data (fingerprint {fingerprint[:12]}, now {manifest.fingerprint[:12]})")
    if differences:
        raise UserError(
            f"{run_dir}: holds another run: {'; '.join(differences)}; go back to these settings, or choose another "
            "--run_dir"
        )


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    """Without what may change: where the folders are, and how the same function is computed. ZeRO's file is compared
    by what is in it."""
    config = json.loads(json.dumps(config))
    for key in ("run_dir", "deepspeed", "compile", "checkpointing"):
        config.pop(key)
    config["data"].pop("shards")
    config["attention"].pop("backend")
    return config


def _completed(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A config that was written before some keys existed, with their defaults."""
    missing = {key: value for key, value in defaults.items() if key not in config}
    known = {
        key: _completed(value, defaults.get(key, {})) if isinstance(value, dict) else value
        for key, value in config.items()
    }
    return known | missing


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in [*old, *(key for key in new if key not in old)]:
            separator = "." if prefix and not prefix.endswith(" ") else ""
            found += _differences(old.get(key), new.get(key), f"{prefix}{separator}{key}")
        return found
    return [] if old == new else [f"{prefix} was {json.dumps(old)}, now {json.dumps(new)}"]


def _new_run_folder(
    run_dir: Path, config: RunConfig, resolved: dict[str, Any], manifest: Manifest, model: Any, shards: Path
) -> None:
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise UserError(f"{run_dir}: not empty, and holds no run; choose another --run_dir")
    run_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(run_dir / "config.yaml", config.to_yaml())
    write_json(run_dir / "deepspeed.json", resolved)
    model.config.save_pretrained(run_dir / "model_config")
    frozen = {name: tensor for name, tensor in model.named_parameters() if not tensor.requires_grad}
    save_file(frozen, run_dir / FROZEN_NAME)
    copy_files(shards / TOKENIZER_FOLDER, run_dir / TOKENIZER_FOLDER)
    write_json(
        run_dir / "data.json",
        {
            "format_version": FORMAT_VERSION,
            "fingerprint": manifest.fingerprint,
            "sequence_length": manifest.sequence_length,
            "splits": {
                name: {
                    "rows": split.rows,
                    "tokens": split.tokens,
                    "notes": split.notes,
                    "patients": split.patients,
                }
                for name, split in manifest.splits.items()
            },
        },
    )
    write_json(
        run_dir / "run.json",
        {
            "format_version": FORMAT_VERSION,
            "run_id": uuid.uuid4().hex,
            "shard_fingerprint": manifest.fingerprint,
            "starts": [],
        },
    )


def _note_start(run_dir: Path, model: Any, ranks: Ranks) -> None:
    """Add this start to run.json: when, where, with what."""
    facts = json.loads((run_dir / "run.json").read_text())
    facts["starts"].append(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "from_step": max(checkpoint.whole_steps(run_dir), default=0),
            "world_size": ranks.world_size,
            "device": torch.cuda.get_device_name() if ranks.device.type == "cuda" else "cpu",
            "attention_backend": model.encode.backend,
            "compiled": model.encode.compiled,
            "git_commit": git_commit(),
            "versions": versions(),
        }
    )
    write_json(run_dir / "run.json", facts)


def versions() -> dict[str, str]:
    """Of Python and the libraries that decide the result."""
    names = ("clinical-pretrain", "torch", "transformers", "deepspeed", "tokenizers", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def git_commit() -> str | None:
    """The repository's commit, with '+changes' where files differ from it, other than stored results."""

    def git(*arguments: str) -> str:
        call = ["git", "-C", str(REPOSITORY), *arguments]
        return subprocess.run(call, capture_output=True, text=True, timeout=30, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
