"""Parts of run folders, as tests need them."""

import json
import time
from pathlib import Path

from clinical_pretrain.run_folder import metrics, paths
from clinical_pretrain.run_folder.paths import RunFolder


def write_metrics(run_dir: Path, lines):
    """A metrics log of these lines."""
    RunFolder(run_dir).metrics_file.write_text("".join(map(metrics_line, lines)))


def metrics_line(line):
    """A line of a metrics log."""
    return json.dumps({"format_version": metrics.FORMAT_VERSION, **line}, ensure_ascii=False) + "\n"


def train_line(step, **more):
    """A training step's figures: a step a second, without what only a GPU has."""
    return {"step": step, "kind": "train", "time": 1.7e9 + step, "start": 0, "loss": 9.0 - step / 1000,
            "learning_rate": 1e-4, "gradient_norm": 1.0, "tokens_per_second": 8192.0, "seconds": 10.0, "stage": 1,
            "samples_consumed": 2 * step, "epoch": 0.5, "skipped_updates": 3, **more}  # fmt: skip


def validation_line(step, **more):
    return {"step": step, "kind": "validation", "time": 1.7e9 + step, "start": 0, "loss": 9.1 - step / 1000,
            "accuracy": 0.5, "predicted": 100,
            "by_category": {"Nursing": {"loss": 1.0, "accuracy": 0.5, "predicted": 9}}, **more}  # fmt: skip


def start_entry(**more):
    """A start in run.json, of a process that is elsewhere."""
    return {"timestamp": 1.7e9, "host": "elsewhere", "process": 1, "slurm_job": None, "from_step": 0, "world_size": 2,
            "zero_stage": 2, "device": "NVIDIA H100", "attention_backend": "varlen", "compiled": True,
            "versions": {"torch": "2.13.0"}, "validation_set": {"masks": 1}, "data": {"sequence_length": 4096},
            "changes": [], **more}  # fmt: skip


def write_run(run_dir: Path, lines=(), starts=None, config="max_steps: 2000\n", stop=None):
    """A run folder of these lines, starts, config, and (reason, exit code) of the last stop."""
    run_dir.mkdir(parents=True, exist_ok=True)
    starts = [start_entry()] if starts is None else starts
    run = {"format_version": paths.FORMAT_VERSION, "run_id": "1", "base_model": None, "starts": starts}
    (run_dir / "run.json").write_text(json.dumps(run))
    (run_dir / "config.yaml").write_text(config)
    write_metrics(run_dir, lines)
    if stop:
        facts = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "reason": stop[0], "exit_code": stop[1], "step": 7}
        (run_dir / "stop.json").write_text(json.dumps({"format_version": paths.FORMAT_VERSION, **facts}))
