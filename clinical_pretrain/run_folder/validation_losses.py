"""The losses of each held-out sequence, by which two runs are compared: `validation_losses/step-STEP.npz`."""

from __future__ import annotations

import os
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError


@dataclass(frozen=True)
class ValidationLosses:
    """Of one validation. All arrays are (sequences,)."""

    sequence: npt.NDArray[np.int64]
    """Its number in the held-out split, ascending."""
    loss: npt.NDArray[np.float64]
    """Sum over the masked tokens, in nats."""
    predicted: npt.NDArray[np.int64]
    """Number of masked tokens."""


def losses_file(folder: RunFolder, step: int) -> Path:
    """The file of a step's validation."""
    return folder.validation_losses / f"step-{step}.npz"


def write_validation_losses(folder: RunFolder, step: int, losses: ValidationLosses) -> None:
    """Write a validation's losses. A full disk costs the file, not the run: saving says what is wrong."""
    path = losses_file(folder, step)
    temporary = path.with_suffix(".tmp")
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, sequence=losses.sequence, loss=losses.loss, predicted=losses.predicted)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)


def read_validation_losses(folder: RunFolder, step: int) -> ValidationLosses:
    """Read a validation's losses.

    Raises:
        UserError: there are none of this step, or the file is damaged.
    """
    path = losses_file(folder, step)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return ValidationLosses(arrays["sequence"], arrays["loss"], arrays["predicted"])
    except FileNotFoundError:
        raise UserError(f"{path}: not there; the validations of this version write it") from None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        raise UserError(f"{path}: damaged; restore it from a backup") from None
