"""The names of a run folder's files, and how each is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tokenizer_tools.errors import UserError
from tokenizer_tools.files import read_json, write_json

FORMAT_VERSION = 4
"""Format version of run.json, data.json, summary.json, stop.json and trackers.json."""
JOBS_FOLDER = "slurm"
"""Folder of SLURM jobs' logs and scripts, in a run folder or in a folder of runs."""
_REMEDY = "restore it from a backup; to train anew, choose another --run_dir"
_REMEDY_OF_END = "delete it: the run's own command writes it again"


@dataclass(frozen=True)
class RunFolder:
    """A run folder: the only place that knows its file names, but for those inside a checkpoint (checkpoint/state.py).
    It needs neither torch nor the run's shards.

    Before the first step: `config.yaml` and `deepspeed.json` (resolved), `model_config/`, `tokenizer/`, `data.json`
    (counts of the shards), `frozen.safetensors`, and `run.json`: the run's id, the base model, the shards' fingerprint,
    each stage's last step, and each start with its time, device, versions, config, data and validation set.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def run_file(self) -> Path:
        """`run.json`: a folder is a run's if it has one."""
        return self.path / "run.json"

    @property
    def config_file(self) -> Path:
        """The config of the last start."""
        return self.path / "config.yaml"

    @property
    def deepspeed_file(self) -> Path:
        """DeepSpeed's config, resolved."""
        return self.path / "deepspeed.json"

    @property
    def data_file(self) -> Path:
        """What the shards' manifest says, without their files."""
        return self.path / "data.json"

    @property
    def summary_file(self) -> Path:
        """Written at the end of a finished run."""
        return self.path / "summary.json"

    @property
    def stop_file(self) -> Path:
        """Why the run last ended."""
        return self.path / "stop.json"

    @property
    def metrics_file(self) -> Path:
        """One JSON object per line: losses, validations, saves."""
        return self.path / "metrics.jsonl"

    @property
    def validation_losses(self) -> Path:
        """Folder of each validation's losses by sequence; see validation_losses.py."""
        return self.path / "validation_losses"

    @property
    def trackers_file(self) -> Path:
        """What has been sent to which experiment tracker."""
        return self.path / "trackers.json"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def traces(self) -> Path:
        """Folder of the profiler's traces."""
        return self.path / "traces"

    @property
    def model_config(self) -> Path:
        """Folder of the Hugging Face config."""
        return self.path / "model_config"

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer, a copy of the shards'."""
        return self.path / "tokenizer"

    @property
    def frozen_weights(self) -> Path:
        """Weights that training leaves alone; the export takes them over bit for bit."""
        return self.path / "frozen.safetensors"

    @property
    def lock_file(self) -> Path:
        """Locked by the process that trains."""
        return self.path / "lock"

    @property
    def stacks(self) -> Path:
        """Folder of each rank's stack traces, where a step hung."""
        return self.path / "stacks"

    @property
    def jobs(self) -> Path:
        """Folder of SLURM jobs' logs and scripts."""
        return self.path / JOBS_FOLDER

    @property
    def job_file(self) -> Path:
        """The job that was submitted for the run."""
        return self.jobs / "job.json"

    @property
    def doctor_file(self) -> Path:
        """What `submit --doctor` last found, as JSON."""
        return self.jobs / "doctor.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of all checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Folder of one step's checkpoint."""
        return self.checkpoints / f"step-{step}"

    def saved_steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending. `checkpoint.verify` tells whether its files are still intact."""
        names = (path.name for path in self.checkpoints.glob("step-*"))
        return sorted(int(number) for name in names if (number := name.removeprefix("step-")).isdecimal())

    @property
    def names_before_first_step(self) -> set[str]:
        """Names that a run folder may have before the first step."""
        paths = (self.lock_file, self.jobs, self.config_file, self.deepspeed_file, self.data_file, self.model_config,
                 self.tokenizer, self.frozen_weights, self.run_file)  # fmt: skip
        return {path.name for path in paths}

    @property
    def exists(self) -> bool:
        """Whether this is a run folder."""
        return self.run_file.exists()

    def read_run(self) -> dict[str, Any]:
        """What run.json says.

        Raises:
            UserError: it is missing, damaged, or of another format version.
        """
        if not self.exists:
            raise UserError(f"{self}: not a run folder; give the --run_dir of a training run, such as runs/NAME")
        return read_json(self.run_file, FORMAT_VERSION, _REMEDY)

    def write_run(self, facts: dict[str, Any]) -> None:
        """Write run.json."""
        write_json(self.run_file, {"format_version": FORMAT_VERSION, **facts})

    def starts(self) -> list[dict[str, Any]]:
        """Each start of the run, in order; see history.py."""
        return list(self.read_run()["starts"])

    def read_config(self) -> dict[str, Any]:
        """The config of the last start, as it was written.

        Raises:
            UserError: it is missing or damaged.
        """
        return self._read_plain(self.config_file)

    def read_deepspeed(self) -> dict[str, Any]:
        """DeepSpeed's config of the last start.

        Raises:
            UserError: it is missing or damaged.
        """
        return self._read_plain(self.deepspeed_file)

    def read_data(self) -> dict[str, Any]:
        """What data.json says.

        Raises:
            UserError: it is missing, damaged, or of another format version.
        """
        return read_json(self.data_file, FORMAT_VERSION, _REMEDY)

    def read_summary(self) -> dict[str, Any] | None:
        """What summary.json says; None for a run that isn't finished.

        Raises:
            UserError: it is damaged, or of another format version.
        """
        return read_json(self.summary_file, FORMAT_VERSION, _REMEDY_OF_END) if self.summary_file.exists() else None

    def read_stop(self) -> dict[str, Any] | None:
        """What stop.json says; None for a run that hasn't ended yet.

        Raises:
            UserError: it is damaged, or of another format version.
        """
        return read_json(self.stop_file, FORMAT_VERSION, _REMEDY_OF_END) if self.stop_file.exists() else None

    def read_trackers(self) -> dict[str, Any]:
        """What trackers.json says, by tracker; empty where there is none.

        Raises:
            UserError: it is damaged, or of another format version.
        """
        if not self.trackers_file.exists():
            return {}
        content = read_json(self.trackers_file, FORMAT_VERSION, "delete it; then everything is sent again")
        return {tracker: sent for tracker, sent in content.items() if tracker != "format_version"}

    def write_versioned(self, path: Path, facts: dict[str, Any]) -> dict[str, Any]:
        """Write data.json, summary.json, stop.json or trackers.json. Returns what is written: the facts and the format
        version."""
        content = {"format_version": FORMAT_VERSION, **facts}
        write_json(path, content)
        return content

    def _read_plain(self, path: Path) -> dict[str, Any]:
        """Read a file whose format is its library's, and which has no format version: YAML or JSON, by its suffix."""
        try:
            text = path.read_text(encoding="utf-8")
            return dict(yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text))
        except (OSError, ValueError, TypeError, yaml.YAMLError):
            raise UserError(f"{path}: missing or damaged; {_REMEDY}") from None
