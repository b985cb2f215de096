"""Nothing that the commands make, and no notes, can be committed by accident."""

import subprocess

import pytest
from conftest import REPOSITORY

MADE = ["runs/a/metrics.jsonl", "runs/a/config.yaml", "demo/summary.json", "demo-mine/tokenizer/tokenizer.json",
        "demo/patient_key", "shards/manifest.json", "shards_bigbird/tokenizer/tokenizer.json", "model/README.md",
        "model/model.safetensors", "tokenizer/tokenizer.json", "chaos/log.txt",
        "slurm-clinical-pretrain-17.log", "slurm-clinical-pretrain-17/rank-0.log", "my/notes.arrow",
        "bases/longformer/pytorch_model.bin"]  # fmt: skip
NOTES = ["NOTEEVENTS.csv", "NOTEEVENTS.csv.gz", "some/where/notes.jsonl", "n.parquet", "n.tsv", "n.ndjson", "note.txt",
         "notes/p1/a.md", "data/x"]  # fmt: skip


@pytest.mark.parametrize("path", MADE + NOTES)
def test_git_ignores(path):
    done = subprocess.run(["git", "-C", str(REPOSITORY), "check-ignore", "--no-index", "--quiet", path])
    assert done.returncode == 0


def test_what_belongs_to_the_project_is_not_ignored():
    tracked = subprocess.run(["git", "-C", str(REPOSITORY), "ls-files"], capture_output=True, text=True, check=True)
    call = ["git", "-C", str(REPOSITORY), "check-ignore", "--no-index", "--stdin"]
    assert subprocess.run(call, input=tracked.stdout, capture_output=True, text=True).stdout == ""
