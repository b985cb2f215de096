"""A push to a real HTTP server, and a load from it."""

import json
import os
import subprocess
import sys

import pytest
import torch
from hub_server import TOKEN, Hub
from transformers import LongformerConfig, LongformerForMaskedLM

from tokenizer_tools.synthetic_notes import make_notes
from tokenizer_tools.train_tokenizer import train_tokenizer

FACTS = {
    "format_version": 1,
    "run_id": "x",
    "base_model": "a local folder",
    "initialisation": "pretrained",
    "model_type": "longformer",
    "sequence_length": 64,
    "steps": 1200,
    "samples_consumed": 10,
    "tokens_consumed": 640,
    "data": {s: {"rows": 1, "tokens": 64, "notes": 4321, "patients": 17} for s in ("train", "validation", "test")},
    "shard_fingerprint": "f",
    "recipe": {"optimizer": "AdamW", "learning_rate": 3e-5},
    "results": {"validation_loss_before": 7.1, "validation_loss_after": 1.2345, "validation_accuracy_after": 0.5},
    "max_logit_difference": 1e-6,
    "versions": {"torch": "2"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    root = tmp_path_factory.mktemp("push")
    make_notes(root / "n.csv", patients=3)
    folder = root / "model"
    train_tokenizer([root / "n.csv"], folder, vocab_size=400)
    config = LongformerConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                              intermediate_size=16, attention_window=[8], max_position_embeddings=66)  # fmt: skip
    LongformerForMaskedLM(config).save_pretrained(folder)
    (folder / "pretraining.json").write_text(json.dumps(FACTS))
    return folder


@pytest.fixture(scope="module")
def hub():
    server = Hub()
    yield server
    server.shutdown()


def push(model, hub, *options, token=TOKEN, **variables):
    environment = os.environ | {"HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_TOKEN": token} | variables
    if not token:
        del environment["HF_TOKEN"]
    call = [sys.executable, "-m", "clinical_pretrain.cli", "push", str(model), *options]
    return subprocess.run(call, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def pushed(model, hub, tmp_path_factory):
    (model / "notes.csv").write_text("not for the Hub")
    (model / "pytorch_model.bin").write_bytes(b"a pickle")
    result = tmp_path_factory.mktemp("result") / "push.json"
    done = push(model, hub, "--repo-id", "hospital/tiny", "--json", str(result))
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(result.read_text())


def test_private_by_default_in_one_commit_and_whole(pushed, model, hub):
    repo = hub.repos["hospital/tiny"]
    assert repo["private"] is True and len(hub.commits) == 1
    for name, content in repo["files"].items():
        assert content == (model / name).read_bytes()
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(repo["files"])
    assert pushed[1]["private"] is True and pushed[1]["url"] == f"{hub.url}/hospital/tiny"


def test_nothing_else_leaves_the_folder(pushed, hub):
    assert not {"notes.csv", "pytorch_model.bin"} & set(hub.repos["hospital/tiny"]["files"])
    assert "left out, not part of a model: notes.csv, pytorch_model.bin" in pushed[0]


def test_the_card_has_counts_and_results_and_no_path(pushed, model, hub):
    card = hub.repos["hospital/tiny"]["files"]["README.md"].decode()
    assert "4,321" in card and "1.2345" in card and 'from_pretrained("hospital/tiny")' in card
    assert str(model.parent) not in card and "base_model:" not in card


def test_a_fresh_process_loads_it_from_the_hub(pushed, model, hub, tmp_path):
    code = (
        "import torch, sys\nfrom transformers import AutoModelForMaskedLM, AutoTokenizer\n"
        "AutoTokenizer.from_pretrained('hospital/tiny')\n"
        "m = AutoModelForMaskedLM.from_pretrained('hospital/tiny').eval()\n"
        "torch.save(m(torch.arange(64)[None]).logits, sys.argv[1])"
    )
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "l.pt")], env=environment, check=True, timeout=120)
    ours = LongformerForMaskedLM.from_pretrained(model).eval()(torch.arange(64)[None]).logits
    assert torch.equal(torch.load(tmp_path / "l.pt"), ours)


@pytest.mark.parametrize(
    ("options", "variables", "message"),
    [
        ({}, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"token": "hf_wrong"}, {}, "the Hub refused (401)"),
        ({"token": ""}, {}, "hf auth login"),
        ({"hub": None}, {}, "can't be reached"),
        ({"repo_id": "no-owner"}, {}, "must be org/name"),
        ({"repo_id": "hospital/public"}, {}, "exists and is public"),
        ({"repo_id": "hospital/x", "model": "nowhere"}, {}, "not an exported model"),
    ],
)
def test_one_line_and_exit_code_2(pushed, model, hub, options, variables, message):
    hub.repos["hospital/public"] = {"private": False, "files": {}}
    done = push(
        options.get("model", model),
        options.get("hub", hub),
        "--repo-id",
        options.get("repo_id", "hospital/new"),
        token=options.get("token", TOKEN),
        **variables,
    )
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not hub.repos["hospital/public"]["files"]


def test_a_dry_run_pushes_nothing(pushed, model, hub):
    before = len(hub.commits)
    done = push(model, None, "--repo-id", "hospital/dry", "--dry-run")
    assert done.returncode == 0 and "would push to hospital/dry (private)" in done.stdout
    assert len(hub.commits) == before and "hospital/dry" not in hub.repos
