"""What a run goes on from: DeepSpeed's files of weights and optimizer, RunState, and a manifest, written last.

`checkpoints/step-N/` is written as `.step-N.tmp`, each file flushed to the disk, and renamed when all ranks are done:
a folder of that name was whole once, and its `manifest.json` tells whether it still is. Data order, masks and dropout
are functions of the seed and of integers, so no random state needs to be saved.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clinical_pretrain.config.recovery import CheckpointConfig
from clinical_pretrain.distributed import Ranks
from clinical_pretrain.engine.optim import parameter_count, torch_optimizer
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import file_sha256, flush_folder, write_atomically, write_json

FORMAT_VERSION = 3
STATE_NAME = "state.json"
PROBE_NAME = "probe.safetensors"
MANIFEST_NAME = "manifest.json"
LEASE_PREFIX = ".export-"
LATEST_NAME = "latest"
"""Names the newest checkpoint's folder, as DeepSpeed's own file of that name does."""


@dataclass(frozen=True)
class RunState:
    """Where a run stands."""

    step: int
    samples_consumed: int
    world_size: int
    zero_stage: int
    precision: str
    shard_fingerprint: str
    samples_skipped: int = 0
    """Stepped over for want of a finite loss."""
    recent_losses: tuple[float, ...] = ()
    """What a spike is measured by."""
    bad_in_a_row: int = 0
    """The last so many steps had no finite loss."""
    consecutive_overflows: int = 0
    """The last so many had one, but their gradients overflowed in fp16."""
    skipped_updates: int = 0
    """Updates skipped in all."""
    format_version: int = FORMAT_VERSION

    @property
    def layout(self) -> tuple[int, int]:
        """What decides how DeepSpeed cuts its files: ZeRO stage and number of ranks."""
        return self.zero_stage, self.world_size


@dataclass(frozen=True)
class Saved:
    """How a save went."""

    error: str | None
    """Why there is no new checkpoint; the earlier ones are as they were."""
    bytes: int = 0


def folder_of(run_dir: Path, step: int) -> Path:
    """A step's checkpoint."""
    return run_dir / "checkpoints" / f"step-{step}"


def saved_steps(run_dir: Path) -> list[int]:
    """Steps that have a checkpoint, ascending. Whether their files are as they were written, `fault_of` tells."""
    names = (path.name for path in (run_dir / "checkpoints").glob("step-*"))
    return sorted(int(number) for name in names if (number := name.removeprefix("step-")).isdecimal())


def read_state(run_dir: Path, step: int) -> RunState:
    """A checkpoint's RunState.

    Raises:
        UserError: there is no such checkpoint, or it's of another format.
    """
    try:
        return _read_state(folder_of(run_dir, step))
    except FileNotFoundError:
        raise _no_checkpoint(run_dir, step) from None


def _read_state(folder: Path) -> RunState:
    path = folder / STATE_NAME
    raw = json.loads(path.read_text())
    if raw.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path}: format_version {raw.get('format_version')}, but this reads {FORMAT_VERSION}")
    return RunState(**raw)


def _no_checkpoint(run_dir: Path, step: int) -> UserError:
    steps = ", ".join(map(str, saved_steps(run_dir))) or "none"
    return UserError(f"{run_dir}: no checkpoint of step {step}; there are: {steps}")


# Save -------------------------------------------------------------------------------------------------------------


class Save:
    """A save under way, on all ranks: once this is made, what is to be written lies in memory, and a thread writes it
    while training goes on.

    A disk that is full or fails leaves the earlier checkpoints whole, and raises nothing.

    Args:
        run_dir: the run folder.
        engine: DeepSpeed's.
        state: where the run stands.
        probe: the model's own answers to a fixed question, for the export to compare with.
        ranks: all of them.
    """

    def __init__(
        self, run_dir: Path, engine: Any, state: RunState, probe: dict[str, torch.Tensor], ranks: Ranks
    ) -> None:
        from safetensors.torch import save as to_bytes

        from clinical_pretrain.engine.memory_file import MemoryCheckpointEngine

        self.step, self.began = state.step, time.monotonic()
        self._run_dir, self._ranks = run_dir, ranks
        self._folder = folder_of(run_dir, state.step)
        self._temporary = self._folder.with_name(f".{self._folder.name}.tmp")
        error = None
        if ranks.is_first:
            try:
                _clear_leftovers(self._folder.parent)
                _check_room(run_dir, engine)
                self._temporary.mkdir(parents=True)
            except OSError as caught:
                error = _reason(caught)
        self._error = ranks.broadcast(error)
        files: dict[str, Iterable[bytes | bytearray]] = {}
        if self._error is None:
            memory = MemoryCheckpointEngine.of(engine)
            engine.save_checkpoint(str(self._temporary.parent), tag=self._temporary.name, save_latest=False)
            files = {name: file.chunks for name, file in memory.files.items()}
            self._error = memory.error
        if ranks.is_first:
            files[PROBE_NAME] = [to_bytes({name: tensor.contiguous() for name, tensor in probe.items()})]
            files[STATE_NAME] = [json.dumps(asdict(state), indent=2).encode()]
        executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written = executor.submit(self._write, files)
        executor.shutdown(wait=False)

    @property
    def is_written(self) -> bool:
        """Whether this rank's files are on the disk, or can't be written."""
        return self._written.done()

    def finish(self, config: CheckpointConfig, best: Callable[[list[int]], int | None] = lambda steps: None) -> Saved:
        """Wait for all ranks' files, make them a checkpoint, and delete what need not be kept: `best` says, on rank 0,
        which of these steps to keep for its validation loss."""
        results = self._ranks.all_gather(self._written.result())
        error, size = next((error for error, _ in results if error), None), 0
        if self._ranks.is_first and error is None:
            files = {name: facts for _, written in results for name, facts in written.items()}
            try:
                write_json(self._temporary / MANIFEST_NAME, {"format_version": FORMAT_VERSION, "files": files})
                size = sum(entry["size"] for entry in files.values())
                _put_in_place(self._temporary, self._folder)
            except OSError as caught:
                error = _reason(caught)
        error, size = self._ranks.broadcast((error, size))
        if self._ranks.is_first:
            _tidy(self._run_dir, config, best, failed=error is not None)
        self._ranks.barrier()
        return Saved(error, size)

    def _write(self, files: dict[str, Iterable[bytes | bytearray]]) -> tuple[str | None, dict[str, dict[str, Any]]]:
        """In the thread: what went wrong, and each file's size and hash."""
        from clinical_pretrain.engine.memory_file import write_hashed

        written: dict[str, dict[str, Any]] = {}
        if self._error is None:
            try:
                for name, chunks in files.items():
                    written[name] = write_hashed(self._temporary / name, chunks)
            except OSError as caught:
                self._error = _reason(caught)
        return self._error, written


def _reason(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)


def _check_room(run_dir: Path, engine: Any) -> None:
    """Raise an OSError where the disk has no room for what a checkpoint takes: weights and both of Adam's moments in
    fp32, and the model's own weights."""
    needed, free = 16 * parameter_count(engine.module), shutil.disk_usage(run_dir).free
    if free < needed:
        unit, name = (1e9, "GB") if needed > 1e9 else (1e6, "MB")
        raise OSError(f"{needed / unit:,.1f} {name} are needed, {free / unit:,.1f} {name} are free")


def _put_in_place(temporary: Path, folder: Path) -> None:
    flush_folder(temporary)
    former = folder.with_name(f".{folder.name}.old")
    if folder.exists():  # the same step, saved before by other ranks
        folder.rename(former)
    try:
        temporary.rename(folder)
    except OSError:
        if former.exists():
            former.rename(folder)
        raise
    flush_folder(folder.parent)
    _point_to(folder)


def _point_to(folder: Path) -> None:
    with suppress(OSError):  # for DeepSpeed's own tools: nothing here reads it
        write_atomically(folder.parent / LATEST_NAME, folder.name)


def _tidy(run_dir: Path, config: CheckpointConfig, best: Callable[[list[int]], int | None], failed: bool) -> None:
    """Delete what was left half-way; after a save, also what need not be kept, or was set aside and is there anew."""
    checkpoints = run_dir / "checkpoints"
    with suppress(OSError):  # the next save tries again
        doomed: list[Path] = []
        if not failed:
            steps = saved_steps(run_dir)
            doomed += [path for path in map(_aside, map(partial(folder_of, run_dir), steps)) if path.exists()]
            kept = best(steps) if config.keep_best else None
            for step in steps[: -config.keep_latest] if config.keep_latest else []:
                if step != kept and not (config.keep_every_steps and step % config.keep_every_steps == 0):
                    doomed.append(folder_of(run_dir, step))
        for folder in doomed:
            folder.rename(folder.with_name(f".{folder.name}.old"))  # first, for half of one must not look whole
        _clear_leftovers(checkpoints)


def _clear_leftovers(checkpoints: Path) -> None:
    for leftover in checkpoints.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)


# Load -------------------------------------------------------------------------------------------------------------


def load(run_dir: Path, engine: Any, step: int) -> None:
    """Put weights and optimizer state of a step's checkpoint into the engine, on all ranks."""
    folder = folder_of(run_dir, step)
    settings = [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]
    clip = getattr(engine.optimizer, "clip_grad", None)
    path, _ = engine.load_checkpoint(str(folder.parent), tag=folder.name)
    if path is None:
        raise UserError(f"{folder}: DeepSpeed found nothing to load; delete this folder to go on from an earlier step")
    _mend_optimizer(engine, settings)
    if clip is not None:
        engine.optimizer.clip_grad = clip


@contextmanager
def lease(run_dir: Path, choose: Callable[[list[int]], int] = max) -> Iterator[tuple[Path, RunState]]:
    """A checkpoint that stays readable, though training may delete it meanwhile: hard links to its files.

    Args:
        run_dir: the run folder.
        choose: the step, given those that have a checkpoint; asked again where training was faster. Default the newest.

    Yields:
        The folder to read, and the checkpoint's RunState.

    Raises:
        UserError: there is no such checkpoint.
    """
    _clear_leases(run_dir)
    links, gone = run_dir / "checkpoints" / f"{LEASE_PREFIX}{socket.gethostname()}-{os.getpid()}", None
    try:
        while True:
            steps = saved_steps(run_dir)
            if not steps:
                raise UserError(f"{run_dir}: no checkpoint yet; train until checkpoint.every_steps or the end")
            step = choose(steps)
            if step not in steps or step == gone:
                raise _no_checkpoint(run_dir, step)
            if gone is not None:
                print(f"step {gone:,}: training has deleted its checkpoint meanwhile; taking step {step:,}")
            try:
                folder = _link_files(folder_of(run_dir, step), links)
                state = _read_state(folder)
                break
            except FileNotFoundError as error:
                if folder_of(run_dir, step).exists():
                    raise UserError(f"{error.filename}: missing; try another --step") from None
                gone = step
                shutil.rmtree(links, ignore_errors=True)
        yield folder, state
    finally:
        shutil.rmtree(links, ignore_errors=True)


def _link_files(folder: Path, links: Path) -> Path:
    """Link a checkpoint's files into a new folder. Returns the checkpoint itself where a disk can't: one that is
    read-only, or knows no links.

    Raises:
        FileNotFoundError: the checkpoint isn't there, or no longer.
    """
    paths = list(folder.iterdir())
    try:
        links.mkdir()
        for path in paths:
            os.link(path, links / path.name)
    except FileNotFoundError:
        raise
    except OSError:
        return folder
    return links


def _clear_leases(run_dir: Path) -> None:
    """Delete what exports of this machine that were killed have left."""
    prefix = f"{LEASE_PREFIX}{socket.gethostname()}-"
    for links in (run_dir / "checkpoints").glob(f"{prefix}*"):
        if not Path(f"/proc/{links.name.removeprefix(prefix)}").exists():
            shutil.rmtree(links, ignore_errors=True)


def newest_whole(run_dir: Path, ranks: Ranks, before: int | None = None) -> tuple[int, list[str]]:
    """The newest step whose checkpoint is as it was written. Newer ones are renamed to `step-N.damaged`.

    Args:
        run_dir: the run folder.
        ranks: all of them.
        before: only checkpoints of earlier steps than this one.

    Returns:
        The step, 0 where there is no checkpoint at all, and what is wrong with those that were passed over.

    Raises:
        UserError: there are checkpoints, but no whole one; or somebody else could have written them.
    """
    error = None
    if ranks.is_first:
        try:
            refuse_strangers(run_dir)
        except (UserError, OSError) as caught:
            error = str(caught)
    error, steps = ranks.broadcast((error, saved_steps(run_dir)))  # a network disk may show others an older view
    if error:
        raise UserError(error)
    faults: list[str] = []
    for step in reversed([step for step in steps if before is None or step < before]):
        fault, error = None, None
        try:
            fault = fault_of(folder_of(run_dir, step), ranks.rank, ranks.world_size)
        except UserError as caught:
            error = str(caught)
        found = ranks.all_gather((fault, error))
        fault, error = (next((text[i] for text in found if text[i]), None) for i in range(2))
        if error:
            raise UserError(error)
        if fault is None:
            if ranks.is_first:
                for damaged in steps[steps.index(step) + 1 :]:
                    _set_aside(folder_of(run_dir, damaged))
                _point_to(folder_of(run_dir, step))
            ranks.barrier()
            return step, faults
        faults.append(fault)
    if faults:
        raise UserError(
            f"no checkpoint is whole: {'; '.join(faults)}; bring one back from a copy, or choose "
            "another --run_dir to start at step 0"
        )
    return 0, []


def fault_of(folder: Path, part: int = 0, parts: int = 1) -> str | None:
    """What is wrong with a checkpoint: a file that is missing, or isn't what was written. None: nothing.

    Args:
        folder: the checkpoint.
        part: look at every `parts`-th file from this one on, so that ranks share the reading.
        parts: how many share it.

    Raises:
        UserError: it can't be told, as the disk fails, or it's of another format.
    """
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text())
        if manifest.get("format_version") != FORMAT_VERSION:
            if json.loads((folder / STATE_NAME).read_text())["format_version"] == FORMAT_VERSION:
                raise ValueError  # both are of one version
            raise UserError(
                f"{folder / MANIFEST_NAME}: format_version {manifest.get('format_version')}, but this reads "
                f"{FORMAT_VERSION}; go on with the version of clinical-pretrain that wrote it"
            )
        for name, facts in sorted(manifest["files"].items())[part::parts]:
            path = folder / name
            if path.stat().st_size != facts["size"]:
                return f"{path}: {path.stat().st_size:,} bytes instead of {facts['size']:,}"
            if file_sha256(path) != facts["sha256"]:
                return f"{path}: not the bytes that were written"
    except FileNotFoundError as error:
        return f"{error.filename}: missing"
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be read ({error.strerror}); try again") from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{folder / MANIFEST_NAME}: not the bytes that were written"
    return None


def refuse_strangers(run_dir: Path) -> None:
    """DeepSpeed's files are pickles: reading one runs whatever its writer put there.

    Raises:
        UserError: something in the checkpoints belongs to another user, or others may write to it.
    """
    paths = [run_dir, run_dir / "checkpoints"]
    for folder in (run_dir / "checkpoints").glob("step-*"):
        with suppress(FileNotFoundError):  # an export runs beside a training, which deletes
            paths += [folder, *folder.iterdir()]
    for path in paths:
        try:
            facts = path.stat()
        except FileNotFoundError:
            continue
        if facts.st_uid not in (os.getuid(), 0):
            raise UserError(
                f"{path}: belongs to user {facts.st_uid}, and checkpoints can run code, so only your own are read; if "
                f"you trust it: cp -r {run_dir} NEW_FOLDER"
            )
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UserError(
                f"{path}: others may write to it, and checkpoints can run code; if nobody did: chmod -R go-w {run_dir}"
            )


def _set_aside(folder: Path) -> None:
    shutil.rmtree(_aside(folder), ignore_errors=True)
    folder.rename(_aside(folder))


def _aside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.damaged")


def _mend_optimizer(engine: Any, settings: list[dict[str, Any]]) -> None:
    """Bring back the config's settings, which may have been changed since the checkpoint; and undo two faults of
    DeepSpeed's stage 3 load with several parameter groups (0.19.8): every group gets the first one's settings, and all
    share one step counter, which then advances once per group."""
    for group, mine in zip(engine.optimizer.param_groups, settings, strict=True):
        group.update(mine)
    for state in torch_optimizer(engine).state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()
