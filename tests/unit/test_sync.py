"""`sync`: what is sent to a tracker, once, and what never is. With the real libraries, offline."""

import importlib
import json
import os
import sys
from types import SimpleNamespace

import pytest
from run_folders import metrics_line, start_entry, train_line, validation_line, write_run

from clinical_pretrain.cli import main
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.observe.sync import prepare, public_settings
from clinical_pretrain.observe.trackers import SENDERS, _without_credentials
from clinical_pretrain.run_folder.metrics import cut_metrics
from clinical_pretrain.run_folder.paths import RunFolder

CATEGORY = "Smith, John"
"""A category that shouldn't be one."""
PRIVATE = (CATEGORY.encode(), b"Smith", b"/private/", b"elsewhere")
"""What the folder has, and nobody may see: a name, paths, the host."""


@pytest.fixture
def run(tmp_path):
    config = RunConfig(run_dir="/private/runs/a", deepspeed="/private/zero.json").to_yaml()
    lines = [train_line(step, shares={"data": 0.25}, mfu=None) for step in (10, 20, 30)]
    figures = {"loss": 2.0, "accuracy": 0.5, "predicted": 9}
    by_category = {CATEGORY: figures, "Nursing": figures}
    lines += [validation_line(20, by_category=by_category, general=figures),
              {"step": 20, "kind": "save", "time": 1.7e9, "start": 0, "seconds": 1.0, "bytes": 5}]  # fmt: skip
    write_run(tmp_path / "a", lines, config=config, stop=("error: /private/notes.csv", 2))
    return tmp_path / "a"


@pytest.fixture
def library():
    """Imports a tracker's library."""

    def library(name):
        try:
            return importlib.import_module(name)
        except ImportError:
            message = f"needs {name}: pip install 'clinical-pretrain[{name}]'"
            if os.environ.get("CI"):
                pytest.fail(message)
            return pytest.skip(message)

    return library


def add(run, *lines):
    with (run / "metrics.jsonl").open("a") as stream:
        stream.writelines(map(metrics_line, lines))


def sync(run, *words):
    assert main(["sync", str(run), *words, "--json", str(run / "sent.json")]) == 0
    return json.loads((run / "sent.json").read_text())


def test_only_numbers_switches_and_choices_are_public():
    config = RunConfig(run_dir="/private/a").to_dict()
    public, withheld = public_settings(config | {"new": {"key": 1}})
    texts = ["data.shards", "deepspeed", "model.name_or_path", "run_dir", "validation.general_text", "validation.words"]
    assert withheld == sorted([*texts, "new.key"])
    assert public["optim.learning_rate"] == 3e-5 and public["precision"] == "bf16" and public["data.language"] == "en"
    assert not any("/" in str(value) for value in public.values())


@pytest.mark.parametrize(("uri", "told"), [
    ("https://me:secret@host:5000/a?key=secret", "https://host:5000/a"), ("sqlite:///a@b/mlflow.db", "sqlite:///a@b/mlflow.db"),
    ("mlruns", "mlruns"),
])  # fmt: skip
def test_credentials_are_not_written_down(uri, told):
    assert _without_credentials(uri) == told


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_library_is_one_line(run, name, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    assert main(["sync", str(run), "--to", name]) == 2
    wanted = f"error: {name} is missing, which --to {name} needs: pip install 'clinical-pretrain[{name}]'\n"
    assert capsys.readouterr().err == wanted and not (run / "trackers.json").exists()


def test_a_run_that_cannot_note_what_was_sent(run, monkeypatch, capsys):
    """Else the next call would send it all once more."""
    monkeypatch.setattr("os.access", lambda *arguments, **options: False)
    monkeypatch.setitem(SENDERS, "mlflow", SimpleNamespace(place=lambda: "there"))
    assert main(["sync", str(run), "--to", "mlflow"]) == 2
    assert (
        f"error: {run}: can't be written, and sync notes there what it has sent; its owner" in capsys.readouterr().err
    )


@pytest.mark.slow
@pytest.mark.trackers
def test_mlflow_gets_what_is_new(run, library, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    client, to = library("mlflow").MlflowClient(), ("--to", "mlflow")

    def history(key, run_id):
        return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)]

    first = sync(run, *to)
    told = capsys.readouterr().out
    assert "not sent: data.shards, deepspeed, model.name_or_path, run_dir, validation.general_text, " in told
    assert "; 2 names from the data (Smith, John, N" in told
    assert first["lines"] == 5 and f"{run} -> mlflow, project clinical-pretrain, run a\n" in told
    sent = client.get_run(first["run_id"]).data
    assert sent.params["optim.learning_rate"] == "3e-05" and sent.params["device"] == "NVIDIA H100"
    assert history("train/loss", first["run_id"]) == [(10, 8.99), (20, 8.98), (30, 8.97)]
    assert sent.metrics["validation/general/loss"] == 2.0 and sent.metrics["train/shares/data"] == 0.25
    assert not any("by_category" in key for key in sent.metrics) and "save/bytes" in sent.metrics
    assert not any(secret in (tmp_path / "mlflow.db").read_bytes() for secret in PRIVATE)
    # A restart trains steps again; a save is known later than the steps after it.
    cut_metrics(RunFolder(run), 20)
    again = [train_line(30, loss=7.0), train_line(40)]
    add(run, *again, {"step": 30, "kind": "save", "time": 1.7e9, "start": 0, "seconds": 2.0, "bytes": 6})
    (run / "config.yaml").write_text(RunConfig(seed=7).to_yaml())
    assert sync(run, *to) == first | {"lines": 2}
    assert history("train/loss", first["run_id"])[2:] == [(30, 8.97), (40, 8.96)]
    assert history("save/bytes", first["run_id"]) == [(20, 5), (30, 6)]
    assert client.get_run(first["run_id"]).data.tags["changed.seed"] == "7"
    assert sync(run, *to)["where"] == "nothing is new"
    # Another roll-back to the same step is another event.
    rollback = {"kind": "rollback", "step": 20, "start": 0, "first_sample": 1, "samples": 4}
    for time in (1.7e9 + 100, 1.7e9 + 200):
        add(run, rollback | {"time": time})
        assert sync(run, *to)["lines"] == 1
    (run / "summary.json").write_text(json.dumps({"format_version": 4}))
    sync(run, *to)
    assert client.get_run(first["run_id"]).info.status == "FINISHED"
    named = sync(run, *to, "--names", "--again")
    assert named["run_id"] != first["run_id"] and named["lines"] == 9
    assert (
        client.get_run(named["run_id"]).data.metrics[f"validation/by_category/{CATEGORY.replace(',', '_')}/loss"] == 2
    )
    client.delete_run(named["run_id"])
    add(run, train_line(50))
    capsys.readouterr()
    assert main(["sync", str(run), *to]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: mlflow refuses: ") and error.endswith("--again sends everything to a new one")


@pytest.mark.trackers
def test_wandb_gets_what_is_new_and_nothing_of_this_machine(run, library, monkeypatch):
    library("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    files = []
    for losses, others in (((b"8.99", b"8.98", b"8.97"), b"8.96"), ((b"8.96",), b"8.98")):
        sync(run, "--to", "wandb")
        (new,) = set(run.glob("wandb/offline-run-*/*.wandb")) - set(files)
        files.append(new)
        content = new.read_bytes()
        assert all(loss in content for loss in losses) and others not in content
        assert b"optim.learning_rate" in content and b"NVIDIA H100" in content
        here = (run.parent.name, os.uname().nodename, sys.executable, "pytest")
        names = [name.encode() for name in here if len(name) > 3]
        assert not [secret for secret in (*PRIVATE, *names) if secret in content]
        add(run, train_line(40))
    assert len({file.stem for file in files}) == 1  # one run of W&B's
    assert json.loads((run / "trackers.json").read_text())["https://api.wandb.ai, clinical-pretrain"]["last_steps"] == {
        "train": 40, "validation": 20, "save": 20,
    }  # fmt: skip
    assert prepare(run, "wandb", "clinical-pretrain").shipment.run_id == files[0].stem.removeprefix("run-")
    assert start_entry()["host"].encode() in PRIVATE
