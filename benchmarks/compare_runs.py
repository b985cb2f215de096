"""Does `compare` tell a difference of settings from one of seeds? Tiny runs at three learning rates, with three seeds.

    python benchmarks/compare_runs.py --json benchmarks/results/compare_runs.json

Trains on synthetic notes on one CPU rank, and compares. The result holds what the tests read of the run folders: no
weights and no text. About five minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common import REPOSITORY, processor

from clinical_pretrain.distributed import free_port
from clinical_pretrain.observe.report.compare import compare_runs
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.run_folder.starts import versions
from clinical_pretrain.run_folder.validation_losses import losses_file
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.corpus.synthetic_notes import make_notes
from tokenizer_tools.files import write_json
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import ShardSettings
from tokenizer_tools.tokenizer.train import TokenizerSettings, train_tokenizer

RATES = (2e-3, 1.9e-3, 5e-4)
SEEDS = (1, 2, 3)
CONFIG: dict[str, Any] = {
    "max_steps": 120, "precision": "fp32", "activation_checkpointing": "none", "deepspeed": "none",
    "log_every_steps": 5,
    "model": {"init": "random", "size": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2,
                                         "intermediate_size": 64, "attention_window": 32}},
    "batch": {"train_batch_size": 8, "micro_batch_size_per_gpu": 8},
    "optim": {"warmup_steps": 12},
    "validation": {"every_steps": 30}, "checkpoint": {"every_steps": 60, "keep_latest": 1},
}  # fmt: skip
FILES = (
    "run.json",
    "data.json",
    "config.yaml",
    "metrics.jsonl",
    "summary.json",
    "stop.json",
    "model_config/config.json",
)
"""What is stored of a run folder, as text."""
PRIVATE = ("host", "process", "slurm_job")
"""What is left out of each start."""


def train(root: Path, rate: float, seed: int) -> str:
    """Train a run, and return its name."""
    name = f"rate-{rate:g}-seed-{seed}"
    options = ["--config", "config.yaml", "--data.shards", "shards", "--run_dir", f"runs/{name}", "--seed", seed,
               "--optim.learning_rate", rate]  # fmt: skip
    launcher = ["--num_gpus", "1", "--master_port", free_port()]
    call = [sys.executable, "-m", "clinical_pretrain", "run", *map(str, [*launcher, *options])]
    subprocess.run(call, cwd=root, check=True)
    return name


def stored(folder: RunFolder) -> dict[str, Any]:
    """A run folder as JSON: its files, and the last validation's losses by sequence, to eight digits, as text."""
    texts = {name: (folder.path / name).read_text() for name in FILES}
    run = json.loads(texts["run.json"])
    run["starts"] = [{key: value for key, value in start.items() if key not in PRIVATE} for start in run["starts"]]
    texts["run.json"] = json.dumps(run)
    step = max(line["step"] for line in map(json.loads, texts["metrics.jsonl"].splitlines()))
    with np.load(losses_file(folder, step)) as arrays:
        losses = {name: " ".join(f"{value:.8g}" for value in arrays[name].tolist()) for name in arrays}
    return {"files": texts, "step": step, "losses": losses}


def verdicts(root: Path) -> dict[str, list[str]]:
    """What compare says of seeds of one rate, of two rates with a seed each, and of three rates with all seeds."""

    def of(*runs: tuple[float, int]) -> list[str]:
        found = compare_runs([root / "runs" / f"rate-{rate:g}-seed-{seed}" for rate, seed in runs]).findings
        return [found.sentence(verdict) for verdict in found.verdicts]

    best, near, low = RATES
    return {
        "two seeds": of((best, 1), (best, 2)),
        "two rates that differ, a seed of each": of((low, 1), (best, 1)),
        "two rates that hardly differ, a seed of each": of((best, 1), (near, 1)),
        "two rates that differ, three seeds of each": of(*[(rate, seed) for rate in (low, best) for seed in SEEDS]),
        "two rates that hardly differ, three seeds of each": of(
            *[(rate, seed) for rate in (best, near) for seed in SEEDS]
        ),
    }


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_notes(root / "notes.csv", patients=120)
        train_tokenizer([root / "notes.csv"], root / "tokenizer", TokenizerSettings(vocab_size=1000))
        build_shards(
            [root / "notes.csv"],
            str(root / "tokenizer"),
            root / "shards",
            ShardSettings(
                sequence_length=128, split=SplitRule(validation=0.2, test=0.1), patient_key=str(root / "key")
            ),
        )
        (root / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
        names = [train(root, rate, seed) for rate in RATES for seed in SEEDS]
        result: dict[str, Any] = {
            "command": f"python {Path(__file__).relative_to(REPOSITORY)}",
            "hardware": processor(),
            "versions": versions(),
            "config": CONFIG | {"learning_rates": RATES, "seeds": SEEDS},
            "verdicts": verdicts(root),
            "runs": {name: stored(RunFolder(root / "runs" / name)) for name in names},
        }
    for name, found in result["verdicts"].items():
        print(f"{name}: {'; '.join(found)}")
    write_json(args.json, result)


if __name__ == "__main__":
    main()
