"""Two nodes of a real SLURM, and runs on them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clinical_pretrain.commands.faults import TrainingProcesses
from clinical_pretrain.run_folder.metrics import read_metrics
from clinical_pretrain.run_folder.paths import RunFolder

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
STEPS = 500


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    """Until it's true; returns what it gave."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"waited too long for {what}"
        time.sleep(0.1)
    return found


def unused_port() -> int:
    """A port for a cluster's controller at which no other cluster's listens: the names of networks are made of it."""
    for port in range(26900, 27100, 20):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port
    raise AssertionError("ten clusters run on this machine")


class Cluster:
    """Two nodes. Everything is called as a user would, in a folder whose name has a space."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.environment = os.environ | {
            "CLUSTER": str(root),
            "CLUSTER_PORT": str(unused_port()),
            "SLURM_CONF": str(root / "slurm.conf"),
            "CLINICAL_PRETRAIN_HOME": str(REPOSITORY),
            "PYTHON": sys.executable,
            "TASKS_PER_NODE": "2",
            "OMP_NUM_THREADS": "1",
            "PACE": str(folder / "pace"),
            "PYTHONPATH": f"{HERE / 'pace'}:{REPOSITORY}",  # this checkout's code, whatever is installed
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    @contextmanager
    def slow(self, seconds: float = 0.2) -> Iterator[None]:
        """Each step of a training takes so much longer."""
        pace = Path(self.environment["PACE"])
        pace.write_text(str(seconds))
        try:
            yield
        finally:
            pace.unlink()

    def control(self, *words: str) -> None:
        """cluster.sh."""
        subprocess.run([HERE / "cluster.sh", *words], env=self.environment, check=True, timeout=120)

    def run(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command in the folder."""
        call = list(map(str, words))
        return subprocess.run(call, env=self.environment | environment, cwd=self.folder, capture_output=True, text=True,
                              timeout=120)  # fmt: skip

    def ok(self, *words: object, **environment: str) -> str:
        """A command that must succeed; its output."""
        done = self.run(*words, **environment)
        assert done.returncode == 0, (done.returncode, done.stdout + done.stderr)
        return done.stdout

    def sbatch(self, *words: object, **environment: str) -> str:
        """A job's number."""
        return self.ok("sbatch", "--parsable", *words, **environment).strip()

    def facts(self, job: str) -> dict[str, str]:
        """What SLURM knows of a job; nothing while its controller doesn't answer."""
        said = self.run("scontrol", "--oneliner", "show", "job", job).stdout.splitlines()
        return dict(word.split("=", 1) for word in said[0].split() if "=" in word) if said else {}

    def state(self, job: str) -> str:
        """SLURM's word."""
        return self.facts(job).get("JobState", "UNKNOWN")

    def wait(self, job: str, *states: str, seconds: float = 400) -> str:
        """Until a job is in one of these states."""
        wait_for(lambda: self.state(job) in states, f"job {job} to be {states}, not {self.state(job)}", seconds)
        return self.state(job)

    def urgent(self) -> None:
        """A short job that needs the whole cluster, and preempts whoever has it."""
        self.sbatch(
            "--partition=urgent", "--nodes=2", "--exclusive", "--time=1", "--output=/dev/null", "--wrap=sleep 1"
        )


class Run:
    """A run folder of the cluster's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def starts(self) -> list[dict[str, Any]]:
        """Of run.json."""
        path = self.folder / "run.json"
        return json.loads(path.read_text())["starts"] if path.exists() else []

    def step(self) -> int:
        """The last one done."""
        return max((line["step"] for line in read_metrics(RunFolder(self.folder), "train")), default=0)

    def stop(self) -> dict[str, Any]:
        """Why it last ended."""
        return json.loads((self.folder / "stop.json").read_text())

    def wait_for_start(self, number: int, steps: int = 15) -> None:
        """Until the start of this number, from 0, has done so many steps."""
        wait_for(lambda: len(self.starts()) > number, f"start {number} of {self.folder.name}", 180)
        begun = self.starts()[number]["from_step"]
        wait_for(lambda: self.step() >= begun + steps, f"{steps} steps of start {number}")

    def weights(self, max_steps: int) -> str:
        """Hash of the final weights and Adam's moments."""
        return TrainingProcesses(Path(), Path(), self.folder, max_steps, Path()).weights()

    def losses(self) -> list[float]:
        """Of all steps."""
        return [line["loss"] for line in read_metrics(RunFolder(self.folder), "train")]
