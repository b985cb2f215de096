"""`run --dry_run` on two real ranks: a step on made-up tokens, and nothing written."""

import json

import pytest
from launching import REPOSITORY, launch

RUN = REPOSITORY / "clinical_pretrain" / "run.py"
CONFIG = REPOSITORY / "configs" / "demo_cpu.yaml"


@pytest.mark.parametrize("attention", ["sequence", "isolate"])
def test_a_dry_run_takes_a_step_and_writes_nothing(shards, tmp_path, attention):
    run, out = tmp_path / "run", tmp_path / "dry.json"
    auto = ["--batch.micro_batch_size_per_gpu", "auto", "--activation_checkpointing", "auto"]
    data = ["--data.shards", shards, "--data.document_attention", attention]
    done = launch(RUN, "--dry_run", "--config", CONFIG, "--run_dir", run, "--json", out, *data, *auto)
    assert done.returncode == 0, done.stderr
    line = "dry run: micro-batches of 1 with activation_checkpointing none fit: "
    assert done.stdout.count(line) == 1
    assert not run.exists()
    found = json.loads(out.read_text())
    assert found["micro_batch_size_per_gpu"] == 1 and 0.1 < found["peak_gb"] < 10 and found["card_gb"] is None
