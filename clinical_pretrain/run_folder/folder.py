"""The run folder: what a run is, written down before its first step, and whether a folder holds this very run.

`config.yaml` and `deepspeed.json` (resolved), `model_config/`, `tokenizer/`, `data.json` (counts of the shards),
`frozen.safetensors`, and `run.json`: the run's id, the base model, the shards' fingerprint, each stage's last step, and
each start's time, device, versions, config, data and validation set.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO, TypeVar

import torch
import yaml
from safetensors.torch import load_file, save_file

from clinical_pretrain.checkpoint.save import saved_steps
from clinical_pretrain.config.resume import changed_settings
from clinical_pretrain.config.run_config import JOBS_FOLDER, RunConfig
from clinical_pretrain.console import console
from clinical_pretrain.distributed import Ranks
from clinical_pretrain.engine.deepspeed_config import zero_stage
from clinical_pretrain.resources import clone
from clinical_pretrain.run_folder.history import data_facts, validation_set
from clinical_pretrain.run_folder.metrics import read_metrics
from clinical_pretrain.training.loss_guard import Jump
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import copy_files, write_atomically, write_json
from tokenizer_tools.manifest import TOKENIZER_FOLDER, Manifest
from tokenizer_tools.tokenizer.identity import tokenizer_sha256

T = TypeVar("T")
FORMAT_VERSION = 4
NOT_COMPARED = ("zero_optimization", "gradient_accumulation_steps", "train_batch_size",
                "train_micro_batch_size_per_gpu", "gradient_clipping")  # fmt: skip
"""Of the DeepSpeed config: how the same computation is spread over ranks, and what the run config says already."""
LOCK_SECONDS = 120
"""For so long a run waits for another in its folder to end; a lost node's lock on a network disk lasts as long."""
LOCK_NAME = "lock"
FROZEN_NAME = "frozen.safetensors"
"""The weights that training leaves alone, which the export takes over bit for bit."""
BEGINNING = {LOCK_NAME, JOBS_FOLDER, "config.yaml", "deepspeed.json", "data.json", "model_config", TOKENIZER_FOLDER,
             FROZEN_NAME, "run.json"}  # fmt: skip
"""What a run folder holds before the first step."""


def read_run(run_dir: Path) -> dict[str, Any]:
    """What run.json says.

    Raises:
        UserError: it isn't there, is damaged, or of another format.
    """
    path = run_dir / "run.json"
    try:
        facts = dict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(
            f"{run_dir}: not a run folder; give the --run_dir of a training run, such as runs/NAME"
        ) from None
    except (OSError, ValueError, TypeError):
        raise _damaged(path) from None
    if facts.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path}: format_version {facts.get('format_version')}, but this reads {FORMAT_VERSION}")
    return facts


def _damaged(path: Path) -> UserError:
    return UserError(f"{path}: missing or damaged; bring it back from a copy, or choose another --run_dir")


def _read(path: Path) -> dict[str, Any]:
    """What a YAML or JSON file of the run folder says.

    Raises:
        UserError: it isn't there, or is damaged.
    """
    try:
        return dict(yaml.safe_load(path.read_text()) if path.suffix == ".yaml" else json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        raise _damaged(path) from None


def prepare_run_folder(
    run_dir: Path,
    config: RunConfig,
    resolved: dict[str, Any],
    manifest: Manifest,
    model: Any,
    shards: Path,
    ranks: Ranks,
) -> list[str]:
    """Make the run folder, or see that it holds this very run. Rank 0 does it; all learn of an error.

    Returns:
        On rank 0, the differences from that run that were accepted.
    """

    def prepare() -> list[str]:
        accepted = refuse_other_folder(run_dir, config, resolved, manifest)
        if not (run_dir / "run.json").exists():
            _new_run_folder(run_dir, config, resolved, manifest, model, shards)
        return accepted

    return on_first_rank(prepare, run_dir, ranks) or []


@contextmanager
def alone_in(run_dir: Path, ranks: Ranks) -> Iterator[None]:
    """No other run writes to the folder meanwhile. One that is still there, say to save after its launcher's end, is
    waited for.

    Raises:
        UserError: it doesn't end.
    """
    stream = on_first_rank(lambda: _locked(run_dir), run_dir, ranks)
    try:
        yield
    finally:
        if stream:
            stream.close()


def _locked(run_dir: Path) -> TextIO:
    if not (run_dir / "run.json").exists():
        _refuse_strangers_folder(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
    stream, until = (run_dir / LOCK_NAME).open("a+"), time.monotonic() + LOCK_SECONDS
    told = False
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stream.truncate(0)
            stream.write(slurm_job() or "")
            stream.flush()
            return stream
        except BlockingIOError:
            if time.monotonic() > until:
                stream.seek(0)
                if slurm_job() and stream.read() == slurm_job():  # of an earlier start, on a node that is lost
                    return stream
                raise UserError(f"{run_dir}: another process still trains here; stop it first") from None
            if not told:
                console.say(f"{run_dir}: another process trains here; waiting for its end")
                told = True
            time.sleep(0.2)
        except OSError:  # a network disk that knows no locks
            return stream


def note_start(
    run_dir: Path,
    step: int,
    changes: list[str],
    stages: list[int],
    config: RunConfig,
    resolved: dict[str, Any],
    manifest: Manifest,
    model: Any,
    ranks: Ranks,
) -> None:
    """Add this start to run.json: when, where, with what, from which step, with which changed settings."""

    def note() -> None:
        _write_settings(run_dir, config, resolved, manifest)
        facts = read_run(run_dir)
        facts["shard_fingerprint"], facts["stages"] = manifest.fingerprint, stages
        if facts["starts"]:
            facts["starts"][-1] |= _reached(run_dir, len(facts["starts"]) - 1)
        facts["starts"].append(
            {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "timestamp": round(time.time(), 3),
                "from_step": step,
                "slurm_job": slurm_job(),
                "host": socket.gethostname(),
                "process": os.getpid(),
                "world_size": ranks.world_size,
                "zero_stage": zero_stage(resolved),
                "device": torch.cuda.get_device_name() if ranks.device.type == "cuda" else "cpu",
                "attention_backend": model.encode.backend,
                "compiled": model.encode.compiled,
                "changes": changes,
                "git_commit": git_commit(),
                "versions": versions(),
                "config": config.to_dict(),
                "stages": stages,
                "data": data_facts(manifest),
                "validation_set": validation_set(config, manifest),
            }
        )
        write_json(run_dir / "run.json", facts)

    on_first_rank(note, run_dir, ranks)


def _reached(run_dir: Path, start: int) -> dict[str, Any]:
    """How far a start came, and when, as far as the metrics say."""
    lines = [line for line in read_metrics(run_dir) if line["start"] == start]
    return {"to_step": max(line["step"] for line in lines), "until": lines[-1]["time"]} if lines else {}


def lost_steps(run_dir: Path, step: int) -> str:
    """A line for the user if an earlier start trained beyond the step that this one resumes from; else empty."""
    last = max((line["step"] for line in read_metrics(run_dir, "train")), default=0)
    if last <= step:
        return ""
    if step == 0:
        return f"an earlier start reached step {last:,} but saved no checkpoint: training starts again at step 0"
    return f"an earlier start reached step {last:,}: the steps after step {step:,} are trained again"


def slurm_job() -> str | None:
    """The job that this process is part of, as SLURM's commands take it."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def account(run_dir: Path) -> dict[str, Any]:
    """What a run has lost and spent, from its first start on.

    Returns:
        restarts; lost_steps, done again after a restart; seconds_in_save; seconds_in_training, of the steps that count;
        seconds_running, of all processes so far; and effective_training_time, the share of training in them.
    """
    starts = read_run(run_dir)["starts"]
    ends = [start.get("until", 0.0) for start in starts[:-1]] + [time.time()]
    running = sum(max(0.0, end - start.get("timestamp", end)) for start, end in zip(starts, ends, strict=True))
    spent = {"train": 0.0, "save": 0.0}
    for line in read_metrics(run_dir):
        if line["kind"] in spent:
            spent[line["kind"]] += line.get("seconds", 0.0)
    lost = sum(max(0, a.get("to_step", 0) - b["from_step"]) for a, b in itertools.pairwise(starts))
    return {
        "restarts": len(starts) - 1,
        "lost_steps": lost,
        "seconds_in_save": round(spent["save"], 1),
        "seconds_in_training": round(spent["train"], 1),
        "seconds_running": round(running, 1),
        "effective_training_time": round(spent["train"] / running, 3) if running else 0.0,
    }


def read_jumps(run_dir: Path, ranks: Ranks) -> list[Jump]:
    """Samples that the run steps over, on all ranks."""
    facts = read_run(run_dir) if ranks.is_first else {}
    return [Jump(**jump) for jump in ranks.broadcast(facts.get("jumps", []))]


def record_rollback(run_dir: Path, step: int, jumps: list[Jump], ranks: Ranks) -> None:
    """Write down the samples that the run steps over, before it does, and the step that it goes back to: the steps from
    there on are made with the settings of this start, though it may have begun later."""

    def record() -> None:
        facts = read_run(run_dir)
        start = facts["starts"][-1]
        start["from_step"] = min(start["from_step"], step)
        write_json(run_dir / "run.json", {**facts, "jumps": [asdict(jump) for jump in jumps]})

    on_first_rank(record, run_dir, ranks)


def on_first_rank(action: Callable[[], T], run_dir: Path, ranks: Ranks) -> T | None:
    """Do something with the run folder on rank 0, and return there what it gives; all ranks raise its error, as a
    UserError."""
    result = error = None
    if ranks.is_first:
        try:
            result = action()
        except UserError as caught:
            error = str(caught)
        except OSError as caught:
            error = (
                f"{run_dir}: cannot write the run folder ({caught.strerror}); make room, or choose another --run_dir"
            )
    error = ranks.broadcast(error)
    if error is not None:
        raise UserError(error)
    return result


def agree_on_first(action: Callable[[], T], run_dir: Path, ranks: Ranks) -> T:
    """The same, with the result on all ranks."""
    result: T = ranks.broadcast(on_first_rank(action, run_dir, ranks))
    return result


def refuse_other_folder(run_dir: Path, config: RunConfig, resolved: dict[str, Any], manifest: Manifest) -> list[str]:
    """Raise a UserError if the folder holds anything but this very run, or a beginning of one.

    Returns:
        Differences from that run that were accepted.
    """
    if (run_dir / "run.json").exists():
        _refuse_lost_checkpoints(run_dir)
        return refuse_other_run(run_dir, config, resolved, manifest)
    _refuse_strangers_folder(run_dir)
    return []


def refuse_other_run(run_dir: Path, config: RunConfig, resolved: dict[str, Any], manifest: Manifest) -> list[str]:
    """Raise a UserError with the differences if the folder's run isn't this one. The shards may have moved.

    Returns:
        The differences that were accepted.
    """
    soft, hard = differences(run_dir, config, resolved, manifest)
    if hard or (soft and not config.checkpoint.accept_changes):
        remedy = "go back to these settings, or choose another --run_dir"
        if not hard:
            remedy += ", or go on with the new ones by --checkpoint.accept_changes true"
        raise UserError(f"{run_dir}: holds another run: {'; '.join(hard + soft)}; {remedy}")
    return soft


def stage_ends(run_dir: Path, config: RunConfig) -> tuple[list[int], list[str]]:
    """The last step of each stage by this config, and a change of the current stage's, which can be accepted.

    Raises:
        UserError: the run is already beyond these steps, or finished, so that only --extra_steps adds steps.
    """
    target = config.max_steps + config.extra_steps
    if not (run_dir / "run.json").exists():
        return sorted({config.max_steps, target}), []
    ends = read_run(run_dir).get("stages")
    ends = ends or [_read(run_dir / "config.yaml")["max_steps"]]
    extended = f"--max_steps {ends[0]}" + (f" --extra_steps {ends[-1] - ends[0]}" if ends[1:] else "")
    reached = max(saved_steps(run_dir), default=0)
    if config.max_steps == ends[0] and target < ends[-1]:
        raise UserError(f"{run_dir}: the run has been extended to step {ends[-1]}; go back to {extended}")
    if target < reached:
        raise UserError(
            f"{run_dir}: max_steps {target} is below step {reached}, which the run has reached; go back to {extended}, "
            "or choose another --run_dir (an earlier step's model: clinical-pretrain export --step N)"
        )
    if config.max_steps != ends[0]:
        if reached >= ends[0]:
            more = max(target, ends[-1]) - ends[0]
            raise UserError(
                f"{run_dir}: max_steps was {ends[0]}, now {config.max_steps}, but the run has finished; add steps "
                f"as a stage of their own: --max_steps {ends[0]} --extra_steps {more or 'STEPS'}"
            )
        return sorted({config.max_steps, target}), [f"max_steps was {ends[0]}, now {config.max_steps}"]
    return (ends if target == ends[-1] else [*ends, target]), []


def differences(
    run_dir: Path, config: RunConfig, resolved: dict[str, Any], manifest: Manifest
) -> tuple[list[str], list[str]]:
    """Where a run differs from the one that a run folder holds: what can be accepted, and what can't, as the weights
    wouldn't fit."""
    soft, hard = changed_settings(_read(run_dir / "config.yaml"), config)
    soft = stage_ends(run_dir, config)[1] + soft
    was, now = (
        {key: value for key, value in settings.items() if key not in NOT_COMPARED}
        for settings in (_read(run_dir / "deepspeed.json"), resolved)
    )
    soft += _differences(was, now, "deepspeed: ")
    fingerprint = read_run(run_dir)["shard_fingerprint"]
    if fingerprint != manifest.fingerprint:
        soft.append(f"data.shards: other data (fingerprint {fingerprint[:12]}, now {manifest.fingerprint[:12]})")
        length = _read(run_dir / "data.json").get("sequence_length")
        hard += _differences({"sequence_length": length}, {"sequence_length": manifest.sequence_length}, "data: ")
        from tokenizers import Tokenizer

        tokenizer = tokenizer_sha256(Tokenizer.from_file(str(run_dir / TOKENIZER_FOLDER / "tokenizer.json")))
        if tokenizer != manifest.tokenizer.sha256:
            hard.append(
                f"data.shards: another tokenizer (sha256 {tokenizer[:12]}, now {manifest.tokenizer.sha256[:12]})"
            )
    return soft, hard


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in [*old, *(key for key in new if key not in old)]:
            separator = "." if prefix and not prefix.endswith(" ") else ""
            found += _differences(old.get(key), new.get(key), f"{prefix}{separator}{key}")
        return found
    return [] if old == new else [f"{prefix} was {json.dumps(old)}, now {json.dumps(new)}"]


def _refuse_lost_checkpoints(run_dir: Path) -> None:
    """Raise a UserError if a run has saved but no checkpoint is left: it would overwrite its own history."""
    saves = [line["step"] for line in read_metrics(run_dir, "save") if "failures" not in line]
    if saves and not saved_steps(run_dir):
        raise UserError(
            f"{run_dir}: step {saves[-1]} was saved, but there is no checkpoint; bring {run_dir / 'checkpoints'} back "
            "from a copy, or choose another --run_dir to start at step 0"
        )


def _refuse_strangers_folder(run_dir: Path) -> None:
    """Raise a UserError where a new run would be mixed with something else. What it may find is a run's beginning that
    a sudden end has cut short."""
    names = {path.name.removesuffix(".tmp") for path in run_dir.iterdir()} if run_dir.is_dir() else set()
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{run_dir}: not a folder; choose another --run_dir")
    if "checkpoints" in names:
        raise UserError(
            f"{run_dir}: holds checkpoints, but run.json is missing; bring it back from a copy, or choose another "
            "--run_dir"
        )
    if names - {JOBS_FOLDER} and not {LOCK_NAME} <= names <= BEGINNING:
        raise UserError(f"{run_dir}: not empty, and holds no run; choose another --run_dir")


def _new_run_folder(
    run_dir: Path, config: RunConfig, resolved: dict[str, Any], manifest: Manifest, model: Any, shards: Path
) -> None:
    _write_settings(run_dir, config, resolved, manifest)
    model.config.save_pretrained(run_dir / "model_config")
    frozen = {name: tensor for name, tensor in model.named_parameters() if not tensor.requires_grad}
    save_file(frozen, run_dir / FROZEN_NAME)
    shutil.rmtree(run_dir / TOKENIZER_FOLDER, ignore_errors=True)
    copy_files(shards / TOKENIZER_FOLDER, run_dir / TOKENIZER_FOLDER)
    write_json(
        run_dir / "run.json",
        {
            "format_version": FORMAT_VERSION,
            "run_id": uuid.uuid4().hex,
            "base_model": base_model(config),
            "shard_fingerprint": manifest.fingerprint,
            "stages": [],
            "starts": [],
        },
    )


def _write_settings(run_dir: Path, config: RunConfig, resolved: dict[str, Any], manifest: Manifest) -> None:
    write_atomically(run_dir / "config.yaml", config.to_yaml())
    write_json(run_dir / "deepspeed.json", resolved)
    write_json(run_dir / "data.json", {"format_version": FORMAT_VERSION, **data_facts(manifest)})


def base_model(config: RunConfig) -> str | None:
    """The Hub id of the model that a run begins with; None where that is a local folder, or has random weights. Only a
    run's start can tell an id from a folder of the same name."""
    name = config.model.name_or_path
    return None if config.model.init == "random" or Path(name).is_dir() else name


def plain_model(run_dir: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """The run's model in plain transformers, with frozen what training left alone, and the weights of that."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(run_dir / "model_config"))
    frozen = load_file(run_dir / FROZEN_NAME)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return model, frozen


def versions() -> dict[str, str]:
    """Of Python and the libraries that decide the result."""
    names = ("clinical-pretrain", "torch", "transformers", "deepspeed", "tokenizers", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def git_commit() -> str | None:
    """The clone's commit, with '+changes' where files differ from it, other than stored results; None without one."""
    if (folder := clone()) is None:
        return None

    def git(*arguments: str) -> str:
        call = ["git", "-C", str(folder), *arguments]
        return subprocess.run(call, capture_output=True, text=True, timeout=30, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
