"""What all tests share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from xdist.scheduler import LoadScopeScheduling

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared" / "data"


# Before anything reads them: no test uses the user's own key, cache or configuration, and none goes online.
HOME = tempfile.TemporaryDirectory(prefix="clinical-pretrain-tests-")
os.environ |= {
    "XDG_CONFIG_HOME": f"{HOME.name}/config",
    "HF_HOME": f"{HOME.name}/huggingface",
    "HF_HUB_OFFLINE": "1",
    "DS_ACCELERATOR": "cpu",
}
# Under `make test` threads of several processes share two cores: one that waits must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
    os.environ.pop(name, None)
# What nohup and a shell's & have chosen would be inherited by every process that a test starts.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


# A test may be slow on a busy machine.
hypothesis.settings.register_profile("any-speed", deadline=None)
hypothesis.settings.load_profile("any-speed")

SECONDS = {"unit": 300, "distributed": 600, "slurm": 900, "end_to_end": 900}
"""Timeout of a test by its folder: some ten times what the slowest one takes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a test that hangs fail soon; one that knows better has a mark of its own."""
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS[item.path.parent.name]))


class ByWhatTheyShare(LoadScopeScheduling):
    """Gives each of the processes of `make test` one group of tests after another, in the order of `testpaths`.

    A folder whose tests start runs is one group, as they share what was trained, and a file of unit tests is one. So
    SLURM's tests, whose jobs have time limits, come beside unit tests, which take one core.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = Path(nodeid.split("::")[0])
        folder = path.parent.name
        return str(path) if folder == "unit" else folder


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByWhatTheyShare:
    return ByWhatTheyShare(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `shared` needs the real notes and tokenizers. Unit tests compute with one thread."""
    if item.path.parent.name == "unit" and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if item.get_closest_marker("shared") and not SHARED.is_dir():
        message = f"needs {SHARED}, which isn't here"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic notes of 60 patients, and a tokenizer of 1,000 entries trained on them, in one folder."""
    from tokenizer_tools.corpus.synthetic_notes import make_notes
    from tokenizer_tools.tokenizer.train import TokenizerSettings, train_tokenizer

    root = tmp_path_factory.mktemp("corpus")
    make_notes(root / "notes.csv", patients=60)
    train_tokenizer([root / "notes.csv"], root / "tokenizer", TokenizerSettings(vocab_size=1000))
    return root


@pytest.fixture(scope="session")
def shards(corpus: Path) -> Path:
    """Shards of them, in sequences of 256 tokens."""
    from tokenizer_tools.corpus.split_patients import SplitRule
    from tokenizer_tools.shards.build import build_shards
    from tokenizer_tools.shards.settings import ShardSettings

    build_shards(
        [corpus / "notes.csv"],
        str(corpus / "tokenizer"),
        corpus / "shards",
        ShardSettings(sequence_length=256, split=SplitRule(validation=0.1, test=0.1)),
    )
    return corpus / "shards"


@pytest.fixture(scope="session")
def transformers_4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with transformers 4.57 and what it needs beside the environment's torch."""
    folder = tmp_path_factory.mktemp("transformers_4")
    call = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "--requirement",
            str(REPOSITORY / "tests" / "transformers_4.txt")]  # fmt: skip
    done = subprocess.run(call, capture_output=True, text=True, timeout=600)
    if done.returncode:
        message = f"transformers 4.57 can't be installed: {done.stderr.strip()[-300:]}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a fresh virtual environment with a wheel of this clone, and this environment's libraries."""
    root = tmp_path_factory.mktemp("installed")
    call = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        copy = root / "clone" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(REPOSITORY / name):  # a deleted file is listed until its deletion is staged
            shutil.copy2(REPOSITORY / name, copy, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(root), str(root / "clone")]
    subprocess.run([*pip, *wheel], check=True, timeout=120)
    shutil.rmtree(root / "clone")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "venv")], check=True, timeout=60)
    (packages,) = (root / "venv" / "lib").glob("python*/site-packages")
    (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    install = ["install", "--no-deps", "--no-index", "--ignore-installed", *map(str, root.glob("*.whl"))]
    subprocess.run([*pip, "--python", str(root / "venv"), *install], check=True, timeout=60)
    return root / "venv" / "bin"


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of 20 steps as a user's YAML file."""
    content = {
        "max_steps": 20, "precision": "fp32", "activation_checkpointing": "none", "deepspeed": "ds_configs/zero1.json",
        "log_every_steps": 1,
        "model": {"init": "random", "size": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2,
                                             "intermediate_size": 64, "attention_window": 32}},
        "batch": {"train_batch_size": 8, "micro_batch_size_per_gpu": 2},
        "optim": {"learning_rate": 2e-3, "warmup_steps": 4, "weight_decay": 0.1},
        "validation": {"every_steps": 0, "max_sequences": 8}, "checkpoint": {"every_steps": 10},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="session")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of both models under every ZeRO stage, and more: see distributed/worker.py."""
    from launching import WORKER, launch  # beside the tests that use this

    root = tmp_path_factory.mktemp("stages")
    done = launch(WORKER, "stages", shards, root)
    assert done.returncode == 0, done.stderr[-3000:]
    return root
