"""Starting runs on real ranks, and reading what they wrote."""

import os
import subprocess
import sys
from pathlib import Path

from clinical_pretrain.distributed import free_port
from clinical_pretrain.run_folder import metrics
from clinical_pretrain.run_folder.paths import RunFolder

WORKER = Path(__file__).with_name("worker.py")
REPOSITORY = WORKER.parent.parent.parent
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def alone(script, *arguments, timeout=600):
    """One rank, without a launcher."""
    call = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, timeout=timeout, env=os.environ | ENVIRONMENT)


def launch(script, *arguments, ranks=2, timeout=600, **variables):
    """The deepspeed launcher, as a user starts it."""
    call = [str(Path(sys.executable).parent / "deepspeed"), "--num_gpus", str(ranks), "--master_port", str(free_port()),
            str(script), *map(str, arguments)]  # fmt: skip
    environment = os.environ | ENVIRONMENT | variables
    return subprocess.run(call, capture_output=True, text=True, timeout=timeout, env=environment)


def read_metrics(run_dir, kind=None):
    return metrics.read_metrics(RunFolder(run_dir), kind)


def saved_steps(run_dir):
    return RunFolder(run_dir).saved_steps()


def losses(run_dir):
    return [line["loss"] for line in read_metrics(run_dir, "train")]


def validations(run_dir):
    return [line["loss"] for line in read_metrics(run_dir, "validation")]
