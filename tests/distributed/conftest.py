"""Runs that several files look at."""

import pytest
from launching import WORKER, launch


@pytest.fixture(scope="session")
def trained(shards, tmp_path_factory):
    """Both models under every ZeRO stage, and more: see worker.py."""
    root = tmp_path_factory.mktemp("stages")
    done = launch(WORKER, "stages", shards, root)
    assert done.returncode == 0, done.stderr[-3000:]
    return root
