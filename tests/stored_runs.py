"""The runs that `compare` is tried on: benchmarks/results/compare_runs.json, which benchmarks/compare_runs.py made."""

import json
from pathlib import Path

import numpy as np
from conftest import REPOSITORY

from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.run_folder.validation_losses import ValidationLosses, write_validation_losses

STORED = json.loads((REPOSITORY / "benchmarks" / "results" / "compare_runs.json").read_text())


def restore_run(name, run_dir: Path) -> Path:
    """The run folder of a stored run."""
    stored = STORED["runs"][name]
    for file, text in stored["files"].items():
        (run_dir / file).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / file).write_text(text)
    write_losses(run_dir, stored["step"], **losses_of(name))
    return run_dir


def losses_of(name):
    """A stored run's losses by held-out sequence, as lists."""
    losses = STORED["runs"][name]["losses"]
    return {key: [float(value) for value in text.split()] for key, text in losses.items()}


def write_losses(run_dir: Path, step: int, sequence, loss, predicted):
    """A validation's losses by held-out sequence."""
    arrays = np.array(sequence, np.int64), np.array(loss, np.float64), np.array(predicted, np.int64)
    write_validation_losses(RunFolder(run_dir), step, ValidationLosses(*arrays))
