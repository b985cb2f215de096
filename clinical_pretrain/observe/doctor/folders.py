"""Whether the run folder can be written, how fast, whether checkpoints fit, and whether its disk has locks and the
right time; how fast shards are read."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.console import FULL_DISK
from clinical_pretrain.observe.doctor.findings import Finding, fault, ok, warning
from clinical_pretrain.observe.doctor.network import CLOCK_SECONDS, check_clock
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.manifest import Manifest
from tokenizer_tools.wording import byte_count

TRIAL_BYTES, TRIAL_SECONDS = 64 << 20, 3.0
"""A disk's speed is measured with so many bytes, or for so long."""
SLOW_READING = 10e6
"""Bytes per second. A node of eight GPUs reads some MB of shards per second."""
_BLOCK, _FLUSH = 1 << 20, 8 << 20
OTHER_RUN_DIR = "choose another --run_dir"


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if os.path.lexists(each))


def check_run_folder(run_dir: Path, warning_seconds: int, checkpoint_bytes: int | None) -> list[Finding]:
    """Write a file where checkpoints will be written, lock it, compare its time; then delete it.

    Args:
        run_dir: the run folder, which need not be there.
        warning_seconds: how long before a time limit the run is told to save; 0: not at all.
        checkpoint_bytes: size of a checkpoint; None where it isn't known.
    """
    try:
        # Among the jobs' logs, if there are some: in a run folder that is still empty, a check of another node may run.
        with _trial_folder(existing(RunFolder(run_dir).jobs)) as folder:
            speed, clock = _write(folder / "trial"), _clock_of_disk(folder)
            locks = check_locks(folder)
    except OSError as error:
        return [_cannot_write(run_dir, error)]
    found = f"{run_dir}: can be written, {speed / 1e6:,.0f} MB/s ({filesystem(run_dir)})"
    written = ok("run folder", found)
    if checkpoint_bytes:
        seconds = checkpoint_bytes / speed
        found += f"; a checkpoint of {byte_count(checkpoint_bytes)} takes {seconds:,.0f} s"
        written = ok("run folder", found)
        if 0 < warning_seconds < 2 * seconds:
            remedy = f"--slurm.warning_seconds {10 * round(0.3 * seconds)} or a faster disk"
            found += f", but two must fit into the {warning_seconds} s before a time limit"
            written = warning("run folder", found, remedy)
    return [written, *locks, *clock]


@contextmanager
def _trial_folder(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f".doctor-{socket.gethostname()}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path) -> float:
    """Write and flush a file. Returns bytes per second.

    Raises:
        OSError: the disk is full, or fails.
    """
    block, written, began = os.urandom(_BLOCK), 0, time.monotonic()
    with path.open("wb", buffering=0) as stream:
        while written < TRIAL_BYTES and time.monotonic() - began < TRIAL_SECONDS:
            written += stream.write(block)
            if written % _FLUSH == 0:
                os.fsync(stream.fileno())
        os.fsync(stream.fileno())
    return written / (time.monotonic() - began)


def _cannot_write(run_dir: Path, error: OSError) -> Finding:
    if error.errno in FULL_DISK:
        remedy = f"free disk space or raise your quota (df -h, quota -s, ulimit -f), or {OTHER_RUN_DIR}"
        return fault("run folder", f"{run_dir}: the disk is full, or a quota reached ({error.strerror})", remedy)
    if error.errno == errno.EROFS:
        return fault("run folder", f"{run_dir}: its disk is mounted read-only on this node", OTHER_RUN_DIR)
    place = existing(run_dir)
    if not place.is_dir():
        return fault("run folder", f"{run_dir}: {place} is a file, not a folder", OTHER_RUN_DIR)
    remedy = f"ask the owner of {place} for write access, or {OTHER_RUN_DIR}"
    return fault("run folder", f"{run_dir}: can't be written ({error.strerror})", remedy)


def check_locks(folder: Path) -> list[Finding]:
    """Whether the folder's disk has locks, by which a training sees that another one uses its run folder."""
    with (folder / "lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return [no_locks(f"this disk has no locks ({error.strerror})")]
    return [ok("locks", "this disk has locks")]


@contextmanager
def holding_lock(path: Path) -> Iterator[None]:
    """Hold a lock, where the disk has locks, for others to try."""
    with path.open("a+") as stream:
        with suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def check_shared_lock(path: Path) -> list[Finding]:
    """Whether the lock that another node holds is seen on this one."""
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return []
        except OSError:  # no locks at all: check_locks() says so
            return []
    return [no_locks("this disk's locks are seen on one node alone")]


def no_locks(found: str) -> Finding:
    return warning(
        "locks",
        f"{found}: two trainings in one run folder won't notice each other",
        "never start a run twice at once; or have the disk mounted with locks (NFS 4, or 3 with lockd; Lustre -o "
        f"flock); or {OTHER_RUN_DIR}",
    )


def _clock_of_disk(folder: Path) -> list[Finding]:
    """A network disk's server stamps files with its own time."""
    stamped = folder / "stamp"
    before = time.time()
    stamped.touch()
    ahead = (before + time.time()) / 2 - stamped.stat().st_mtime
    return [] if abs(ahead) < 2 * CLOCK_SECONDS else [check_clock(ahead, "the disk of the run folder")]


def check_space(config: RunConfig, checkpoint_bytes: int | None) -> Finding:
    """Whether the checkpoints that a run keeps fit on the disk, beside those that are there.

    Args:
        config: the run's settings.
        checkpoint_bytes: size of a checkpoint; None where it isn't known.
    """
    folder, kept = RunFolder(Path(config.run_dir)), config.checkpoints_kept(config.max_steps + config.extend)
    free = shutil.disk_usage(existing(folder.path)).free
    if checkpoint_bytes is None:
        return ok("disk space", f"{byte_count(free)} free; what checkpoints need isn't known without the model")
    there = sum(path.stat().st_size for path in folder.checkpoints.glob("step-*/*") if path.is_file())
    needed = max(checkpoint_bytes, kept * checkpoint_bytes - there)
    found = (
        f"{byte_count(free)} free, {byte_count(needed)} needed for {kept} checkpoints of {byte_count(checkpoint_bytes)}"
    )
    remedy = f"free disk space, {OTHER_RUN_DIR}, or keep fewer: --checkpoint.keep_latest 1"
    if free < checkpoint_bytes:
        return fault("disk space", found, remedy)
    return warning("disk space", found, remedy) if free < needed else ok("disk space", found)


def check_reading(shards: Path, manifest: Manifest) -> Finding:
    """How fast shards are read, from the disk rather than from memory as far as the system lets us."""
    files = [shards / each.path for split in manifest.splits.values() for each in split.files]
    read, began = 0, time.monotonic()
    try:
        for path in files:
            with path.open("rb", buffering=0) as stream:
                with suppress(OSError):
                    os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while read < TRIAL_BYTES and time.monotonic() - began < TRIAL_SECONDS:
                    if not (block := stream.read(_BLOCK)):
                        break
                    read += len(block)
    except OSError as error:
        return fault("shards' disk", f"{error.filename}: can't be read ({error.strerror})", "copy the shards again")
    seconds = time.monotonic() - began
    speed, is_telling = read / seconds, read >= TRIAL_BYTES or seconds >= TRIAL_SECONDS
    found = f"{speed / 1e6:,.0f} MB/s ({filesystem(shards)})"
    if is_telling and speed < SLOW_READING:
        return warning("shards' disk", found, "copy the shards to a faster disk, and name them by --data.shards")
    return ok("shards' disk", found)


def filesystem(path: Path) -> str:
    """The type of the file system that a path is on or would be on, such as ext4 or nfs4."""
    place, best = str(existing(path).resolve()), ("", "unknown")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, more = line.partition(" - ")
        mount = fields.split()[4].encode().decode("unicode_escape")
        if (place == mount or place.startswith(mount.rstrip("/") + "/")) and len(mount) >= len(best[0]):
            best = mount, more.split()[0]
    return best[1]
