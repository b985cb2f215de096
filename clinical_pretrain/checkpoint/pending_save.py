"""Write a checkpoint while training continues.

`checkpoints/step-N/` holds DeepSpeed's files of weights and optimizer, `state.json`, `probe.safetensors`, and a
manifest of all files, which is written last. It is written as `.step-N.tmp`, each file is flushed to the disk, and the
folder is renamed when all ranks are done: a folder of that name was complete once, and verify.py checks that it still
is.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from clinical_pretrain.checkpoint.retention import delete_incomplete, prune
from clinical_pretrain.checkpoint.state import FORMAT_VERSION, MANIFEST_NAME, PROBE_NAME, STATE_NAME, RunState
from clinical_pretrain.checkpoint.verify import point_latest_to
from clinical_pretrain.config.recovery import CheckpointConfig
from clinical_pretrain.distributed import Ranks
from clinical_pretrain.engine.deepspeed_internals import parameter_count
from clinical_pretrain.estimate.shapes import checkpoint_bytes
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.files import flush_folder, write_json
from tokenizer_tools.wording import byte_count


@dataclass(frozen=True)
class SaveResult:
    """How a save ended."""

    error: str | None
    """Why there is no new checkpoint; earlier ones are unchanged."""
    bytes: int = 0


class PendingSave:
    """A save in progress, on all ranks. When it has been constructed, everything that will be written is in memory, and
    a thread writes it while training continues.

    A full or failing disk leaves earlier checkpoints intact, and raises nothing.

    Args:
        folder: the run folder.
        engine: DeepSpeed's.
        state: of the run.
        probe: the model's logits for a fixed input, for the export to compare with.
        ranks: all of them.
    """

    def __init__(
        self, folder: RunFolder, engine: Any, state: RunState, probe: dict[str, torch.Tensor], ranks: Ranks
    ) -> None:
        from safetensors.torch import save as to_bytes

        from clinical_pretrain.engine.memory_file import MemoryCheckpointEngine

        self.step, self.began = state.step, time.monotonic()
        self._folder, self._ranks = folder, ranks
        self._checkpoint = folder.checkpoint(state.step)
        self._temporary = self._checkpoint.with_name(f".{self._checkpoint.name}.tmp")
        error = None
        if ranks.is_first:
            try:
                delete_incomplete(folder)
                check_disk_space(folder, engine)
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

    def finish(
        self, config: CheckpointConfig, choose_best: Callable[[list[int]], int | None] = lambda steps: None
    ) -> SaveResult:
        """Wait until all ranks have written their files, make them a checkpoint, and delete what need not be kept.

        Args:
            config: what is kept; see retention.py.
            choose_best: on rank 0, returns which of the given steps has the best validation loss.
        """
        results = self._ranks.all_gather(self._written.result())
        error, size = next((error for error, _ in results if error), None), 0
        if self._ranks.is_first and error is None:
            files = {name: facts for _, written in results for name, facts in written.items()}
            try:
                write_json(self._temporary / MANIFEST_NAME, {"format_version": FORMAT_VERSION, "files": files})
                size = sum(entry["size"] for entry in files.values())
                _put_in_place(self._temporary, self._checkpoint)
            except OSError as caught:
                error = _reason(caught)
        error, size = self._ranks.broadcast((error, size))
        if self._ranks.is_first:
            prune(self._folder, config, choose_best, failed=error is not None)
        self._ranks.barrier()
        return SaveResult(error, size)

    def _write(self, files: dict[str, Iterable[bytes | bytearray]]) -> tuple[str | None, dict[str, dict[str, Any]]]:
        """Write this rank's files; called in the thread. Returns an error, if any, and each file's size and hash."""
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


def size_of_checkpoint(model: torch.nn.Module) -> int:
    """Bytes of a checkpoint of a model as it is trained: in its precision, with what is frozen."""
    element = next(model.parameters()).element_size()
    return checkpoint_bytes(parameter_count(model), parameter_count(model, only_trained=True), element)


def check_disk_space(folder: RunFolder, engine: Any) -> None:
    """Check that a checkpoint fits on the disk.

    Raises:
        OSError: it doesn't.
    """
    needed, free = size_of_checkpoint(engine.module), shutil.disk_usage(folder.path).free
    if free < needed:
        raise OSError(f"{byte_count(needed)} are needed, {byte_count(free)} are free")


def _put_in_place(temporary: Path, checkpoint: Path) -> None:
    """Give a complete checkpoint its name."""
    flush_folder(temporary)
    former = checkpoint.with_name(f".{checkpoint.name}.old")
    if checkpoint.exists():  # the same step, saved before by another number of ranks
        checkpoint.rename(former)
    try:
        temporary.rename(checkpoint)
    except OSError:
        if former.exists():
            former.rename(checkpoint)
        raise
    flush_folder(checkpoint.parent)
    point_latest_to(checkpoint)
