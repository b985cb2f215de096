"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared" / "data"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `shared` needs the real notes and tokenizers."""
    if item.get_closest_marker("shared") and not SHARED.is_dir():
        message = f"needs {SHARED}, which isn't here"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(autouse=True, scope="session")
def private_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes the user's own key, cache or configuration, and none goes online."""
    home = tmp_path_factory.mktemp("home")
    os.environ |= {
        "XDG_CONFIG_HOME": str(home / "config"),
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": "cpu",
    }
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
