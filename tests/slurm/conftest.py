"""A real SLURM of two nodes, for as long as the tests run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from two_nodes import HERE, STEPS, Cluster

NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "shellcheck")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder need SLURM."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing or os.getuid():
        message = f"needs root and {', '.join(missing) or 'nothing more'}: sudo tests/slurm/install.sh, then as root"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with tempfile.TemporaryDirectory(prefix="cp-") as root:
        Path(root).chmod(0o755)
        cluster = Cluster(Path(root), tmp_path_factory.mktemp("my runs"))
        cluster.control("start")
        try:
            yield cluster
        finally:
            cluster.control("stop")


@pytest.fixture(scope="session")
def config(cluster: Cluster, shards: Path) -> Path:
    """A tiny run, under ZeRO 2, in the cluster's folder."""
    size = {"layers": 2, "hidden_size": 32, "heads": 2, "intermediate_size": 64, "attention_window": 32}
    settings = {
        "max_steps": STEPS,
        "precision": "fp32",
        "checkpointing": "none",
        "deepspeed": "ds_configs/zero2.json",
        "log_every_steps": 1,
        "model": {"init": "random", "family": "longformer", "size": size},
        "data": {"shards": str(shards)},
        "batch": {"train_batch_size": 8, "micro_batch_size_per_gpu": 2},
        "optim": {"learning_rate": 2e-3, "warmup_steps": 4},
        "validation": {"every_steps": 0, "max_rows": 8},
        "checkpoint": {"every_steps": 40},
        "watch": {"silence_seconds": 10},
    }
    path = cluster.folder / "a config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path
