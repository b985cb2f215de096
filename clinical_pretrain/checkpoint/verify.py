"""Whether a checkpoint is what was written, and whether its files may be trusted."""

from __future__ import annotations

import json
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from clinical_pretrain.checkpoint.state import FORMAT_VERSION, LATEST_NAME, MANIFEST_NAME, STATE_NAME
from clinical_pretrain.distributed import Ranks
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import file_sha256, write_atomically


def latest_valid(folder: RunFolder, ranks: Ranks, before: int | None = None) -> tuple[int, list[str]]:
    """Find the newest step whose checkpoint is intact. Newer, damaged ones are renamed to `step-N.damaged`.

    Args:
        folder: the run folder.
        ranks: all of them; they share the reading.
        before: consider only checkpoints of earlier steps than this one.

    Returns:
        The step, 0 where there is no checkpoint, and the faults of the checkpoints that were skipped.

    Raises:
        UserError: there are checkpoints, but none is intact; or somebody else could have written them.
    """
    error = None
    if ranks.is_first:
        try:
            check_file_ownership(folder)
        except (UserError, OSError) as caught:
            error = str(caught)
    error, steps = ranks.broadcast((error, folder.saved_steps()))  # a network disk may show others an older view
    if error:
        raise UserError(error)
    faults: list[str] = []
    for step in reversed([step for step in steps if before is None or step < before]):
        fault = _verify_together(folder.checkpoint(step), ranks)
        if fault is None:
            if ranks.is_first:
                for damaged in steps[steps.index(step) + 1 :]:
                    _quarantine(folder.checkpoint(damaged))
                point_latest_to(folder.checkpoint(step))
            ranks.barrier()
            return step, faults
        faults.append(fault)
    if faults:
        raise UserError(
            f"no checkpoint is intact: {'; '.join(faults)}; restore one from a backup, or choose another --run_dir to "
            "start at step 0"
        )
    return 0, []


def _verify_together(checkpoint: Path, ranks: Ranks) -> str | None:
    """Each rank verifies its share of the files; all return the first fault, or raise the first error."""
    fault, error = None, None
    try:
        fault = verify(checkpoint, ranks.rank, ranks.world_size)
    except UserError as caught:
        error = str(caught)
    found = ranks.all_gather((fault, error))
    if error := next((error for _, error in found if error), None):
        raise UserError(error)
    return next((fault for fault, _ in found if fault), None)


def verify(checkpoint: Path, share: int = 0, shares: int = 1) -> str | None:
    """Compare a checkpoint's files with its manifest.

    Args:
        checkpoint: its folder.
        share: verify every `shares`-th file from this one on, so that ranks share the reading.
        shares: number of processes that share it.

    Returns:
        The fault: a file that is missing, or has other bytes than were written. None where there is none.

    Raises:
        UserError: the disk fails, or the checkpoint is of another format version.
    """
    manifest_file = checkpoint / MANIFEST_NAME
    try:
        manifest = json.loads(manifest_file.read_text())
        if manifest.get("format_version") != FORMAT_VERSION:
            if json.loads((checkpoint / STATE_NAME).read_text())["format_version"] == FORMAT_VERSION:
                raise ValueError  # both files are always of one version: the manifest is damaged
            raise UserError(
                f"{manifest_file}: format_version {manifest.get('format_version')}, but this reads {FORMAT_VERSION}; "
                "resume with the version of clinical-pretrain that wrote it"
            )
        for name, facts in sorted(manifest["files"].items())[share::shares]:
            path = checkpoint / name
            if path.stat().st_size != facts["size"]:
                return f"{path}: {path.stat().st_size:,} bytes instead of {facts['size']:,}"
            if file_sha256(path) != facts["sha256"]:
                return f"{path}: not the bytes that were written"
    except FileNotFoundError as error:
        return f"{error.filename}: missing"
    except OSError as error:
        raise UserError(f"{error.filename or checkpoint}: cannot be read ({error.strerror}); try again") from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{manifest_file}: not the bytes that were written"
    return None


def check_file_ownership(folder: RunFolder) -> None:
    """Check that nobody else could have written the checkpoints: DeepSpeed's files are pickles, and reading one runs
    whatever code its writer put there.

    Raises:
        UserError: a file belongs to another user, or others may write to it.
    """
    paths = [folder.path, folder.checkpoints]
    for checkpoint in folder.checkpoints.glob("step-*"):
        with suppress(FileNotFoundError):  # an export runs beside a training, which deletes checkpoints
            paths += [checkpoint, *checkpoint.iterdir()]
    for path in paths:
        try:
            facts = path.stat()
        except FileNotFoundError:
            continue
        if facts.st_uid not in (os.getuid(), 0):
            raise UserError(
                f"{path}: belongs to user {facts.st_uid}, and checkpoints can run code, so only your own are read; if "
                f"you trust it: cp -r {folder} NEW_FOLDER"
            )
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UserError(
                f"{path}: others may write to it, and checkpoints can run code; if nobody did: chmod -R go-w {folder}"
            )


def point_latest_to(checkpoint: Path) -> None:
    """Write the file `latest`."""
    with suppress(OSError):  # for DeepSpeed's own tools: nothing here reads it
        write_atomically(checkpoint.parent / LATEST_NAME, checkpoint.name)


def quarantined(checkpoint: Path) -> Path:
    """Where a damaged checkpoint is moved."""
    return checkpoint.with_name(f"{checkpoint.name}.damaged")


def _quarantine(checkpoint: Path) -> None:
    shutil.rmtree(quarantined(checkpoint), ignore_errors=True)
    checkpoint.rename(quarantined(checkpoint))
