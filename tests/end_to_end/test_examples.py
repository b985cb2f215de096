"""The scripts under examples/ run, one after the other in one folder."""

import os
import subprocess
import sys

from conftest import REPOSITORY

EXAMPLES = ["notes_to_shards.py", "masked_batch.py", "train_and_export.py"]


def test_examples(tmp_path):
    assert sorted(path.name for path in (REPOSITORY / "examples").glob("*.py")) == sorted(EXAMPLES)
    printed = []
    for name in EXAMPLES:
        call = [sys.executable, str(REPOSITORY / "examples" / name), str(tmp_path)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(call, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-3000:]
        printed.append(done.stdout)
    assert "train: " in printed[0] and "to be predicted" in printed[1] and "validation loss: " in printed[2]
