"""Slows trainings down, so that things can happen to them: Python imports this where PYTHONPATH has this folder.

While the file that PACE names is there, a step takes its number of seconds longer.
"""

import os
import sys
import threading
import time
from pathlib import Path


def slow_down(path: Path) -> None:
    """As soon as the training is imported, and whole."""
    while not hasattr(sys.modules.get("clinical_pretrain.training.train"), "end_step"):
        time.sleep(0.02)
    training = sys.modules["clinical_pretrain.training.train"]
    train_step = training.train_step

    def slow(*arguments):
        if path.exists():
            time.sleep(float(path.read_text() or 0))
        return train_step(*arguments)

    training.train_step = slow


if "PACE" in os.environ:
    threading.Thread(target=slow_down, args=(Path(os.environ["PACE"]),), daemon=True).start()
