"""Parts of run folders, as tests need them."""

import json
from pathlib import Path

import numpy as np

from clinical_pretrain.run_folder import metrics
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.run_folder.validation_losses import ValidationLosses, write_validation_losses


def write_metrics(run_dir: Path, lines):
    """A metrics log of these lines."""
    texts = (json.dumps({"format_version": metrics.FORMAT_VERSION, **line}, ensure_ascii=False) for line in lines)
    RunFolder(run_dir).metrics_file.write_text("".join(f"{text}\n" for text in texts))


def restore_run(stored, run_dir: Path) -> Path:
    """A run folder of `benchmarks/results/compare_runs.json`."""
    for name, text in stored["files"].items():
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).write_text(text)
    write_losses(run_dir, stored["step"], **losses_of(stored))
    return run_dir


def losses_of(stored):
    """Its losses by held-out sequence, as lists."""
    return {name: [float(value) for value in text.split()] for name, text in stored["losses"].items()}


def write_losses(run_dir: Path, step: int, sequence, loss, predicted):
    """A validation's losses by held-out sequence."""
    arrays = np.array(sequence, np.int64), np.array(loss, np.float64), np.array(predicted, np.int64)
    write_validation_losses(RunFolder(run_dir), step, ValidationLosses(*arrays))
