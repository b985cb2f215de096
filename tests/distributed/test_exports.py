"""What an export says of its model's past, where it is put, and who else can load it."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY
from launching import WORKER, alone, saved_steps
from safetensors.torch import load_file

from clinical_pretrain.checkpoint import pending_save, retention
from clinical_pretrain.checkpoint.lease import lease
from clinical_pretrain.cli import main
from clinical_pretrain.commands.demo import _tell
from clinical_pretrain.config.recovery import CheckpointConfig
from clinical_pretrain.observe.plot import plot_loss
from clinical_pretrain.release.export import export
from clinical_pretrain.release.model_card import render_model_card
from clinical_pretrain.release.push import push
from clinical_pretrain.release.replace import put_in_place
from clinical_pretrain.run_folder.history import data_facts
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.corpus.synthetic_notes import make_notes
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import ShardSettings


@pytest.fixture(scope="module")
def root(corpus, shards, tmp_path_factory):
    root = tmp_path_factory.mktemp("release")
    make_notes(root / "other.csv", patients=40, seed=7)
    build_shards([root / "other.csv"], str(corpus / "tokenizer"), root / "other-shards",
                 ShardSettings(sequence_length=256, split=SplitRule(validation=0.2, test=0.1)))  # fmt: skip
    done = alone(WORKER, "release", shards, root)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


@pytest.fixture(scope="module")
def model(root):
    export(root / "first", root / "model")
    return root / "model"


def facts_of(folder):
    return json.loads((folder / "pretraining.json").read_text())


def test_a_step_before_a_change_knows_nothing_of_it(root, shards, tmp_path):
    export(root / "changed", tmp_path / "model", step=4)
    facts, manifest = facts_of(tmp_path / "model"), Manifest.load(shards)
    (data,), (recipe,) = facts["data"], facts["recipe"]
    assert (data["first_step"], data["last_step"], data["fingerprint"]) == (1, 4, manifest.fingerprint)
    assert data["splits"]["train"]["notes"] == manifest.splits["train"].notes
    assert (recipe["learning_rate"], recipe["train_batch_size"]) == (2e-3, 8) and facts["languages"] == ["en"]
    assert facts["results"]["validation_loss_before"] and facts["results"]["validation_loss_after"] is None


def test_a_step_after_a_change_lists_both_and_compares_nothing(root, shards, tmp_path):
    export(root / "changed", tmp_path / "model")
    facts = facts_of(tmp_path / "model")
    other = Manifest.load(root / "other-shards").fingerprint
    assert [(data["first_step"], data["last_step"], data["fingerprint"]) for data in facts["data"]] == [
        (1, 4, Manifest.load(shards).fingerprint), (5, 8, other),
    ]  # fmt: skip
    assert [recipe["train_batch_size"] for recipe in facts["recipe"]] == [8, 4]
    assert facts["samples_consumed"] == 4 * 8 + 4 * 4 and facts["languages"] == ["de", "en"]
    results = facts["results"]
    assert results["validation_loss_before"] is None and results["validation_step_after"] == 8
    assert results["not_comparable"] == ["other held-out sequences", "other number of sequences"]
    card = render_model_card(facts, repo_id="hospital/changed", license="other")
    assert "| train batch size | steps 1-4: 8; steps 5-8: 4 |" in card and "| masking probability | 0.15 |" in card
    assert "Steps 1-4: Split by " in card and "Steps 5-8: Split by " in card and "before |" not in card
    assert "No loss from before training compares with it: that was measured on other held-out sequences" in card
    assert main(["plot", str(root / "changed"), "--out", str(tmp_path / "loss.png")]) == 0
    summary = json.loads((root / "changed" / "summary.json").read_text())
    assert summary["validation_loss_before"] is None and summary["validation_loss_after"]


def test_an_unchanged_run_compares_before_and_after(model):
    facts = facts_of(model)
    assert len(facts["data"]) == len(facts["recipe"]) == 1 and not facts["results"]["not_comparable"]
    assert facts["results"]["validation_loss_after"] < facts["results"]["validation_loss_before"]


def test_stages_of_a_run_are_told_apart(root, tmp_path):
    for step, stages in ((4, [(1, 4, 4, 4)]), (6, [(1, 4, 4, 4), (5, 6, 2, 1)])):
        export(root / "bigbird", tmp_path / "model", step)
        keys = ("first_step", "last_step", "schedule_steps", "warmup_steps")
        assert [tuple(recipe[key] for key in keys) for recipe in facts_of(tmp_path / "model")["recipe"]] == stages
        facts = facts_of(tmp_path / "model")
        assert (facts["samples_consumed"], facts["tokens_consumed"]) == (8 * step, 8 * step * 256)
        assert len(facts["data"]) == 1


def test_a_local_base_model_is_never_named_as_one_of_the_hub(root, tmp_path, monkeypatch):
    """Wherever the export runs."""
    for folder in (root, tmp_path):
        monkeypatch.chdir(folder)
        export(root / "based", tmp_path / "model")
        facts = facts_of(tmp_path / "model")
        assert facts["base_model"] is None and facts["initialisation"] == "pretrained"
        assert "lf_bin" not in (tmp_path / "model" / "pretraining.json").read_text()


def test_a_base_model_of_the_hub_is_named(root, tmp_path, monkeypatch):
    """Also where a folder of that name has appeared since."""
    (tmp_path / "hospital" / "longformer").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    export(root / "of-hub", tmp_path / "model")
    facts = facts_of(tmp_path / "model")
    assert facts["base_model"] == "hospital/longformer" and facts["initialisation"] == "pretrained"
    assert "base_model: hospital/longformer\n" in render_model_card(facts, repo_id="hospital/x", license="other")


@pytest.mark.parametrize(("by", "said"), [
    ("patient", "held-out patients"),
    ("admission", "held-out admissions, whose patients may have been trained on"),
    ("note", "held-out notes, whose patients may have been trained on"),
])  # fmt: skip
def test_picture_and_demo_say_what_was_held_out(by, said, root, corpus, model, tmp_path, capsys):
    """By the shards' own split."""
    split = SplitRule(validation=0.2, test=0.1, by=by)
    manifest = build_shards(
        [root / "other.csv"], str(corpus / "tokenizer"), tmp_path / "s", ShardSettings(sequence_length=256, split=split)
    )
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "metrics.jsonl"):
        shutil.copy(root / "first" / name, run)
    RunFolder(run).write_versioned(run / "data.json", data_facts(manifest))
    plot_loss(run, tmp_path / "loss.svg")
    assert f"<!-- validation ({said}) -->" in (tmp_path / "loss.svg").read_text()
    summary = json.loads((root / "first" / "summary.json").read_text())
    _tell(summary | {"max_logit_difference": 0.0}, run, model, tmp_path / "s")
    assert f"validation loss ({said}): " in capsys.readouterr().out


def test_a_second_export_replaces_its_own_files_alone(root, tmp_path, capsys, monkeypatch):
    out = tmp_path / "model"
    out.mkdir()
    monkeypatch.chdir(out)
    export(root / "first", Path(), step=4)
    former = load_file(out / "model.safetensors")
    (out / "README.md").write_text("# mine")
    (out / "results").mkdir()
    (out / "results" / "ner.json").write_text("{}")
    assert main(["export", str(root / "first"), "--out", str(out)]) == 0
    assert "left unchanged, not written by export: README.md, results\n" in capsys.readouterr().out
    assert (out / "README.md").read_text() == "# mine" and (out / "results" / "ner.json").exists()
    assert facts_of(out)["steps"] == 8 and sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    name = "lm_head.bias"
    assert (load_file(out / "model.safetensors")[name] != former[name]).any()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "pretraining.json"])
def test_a_changed_file_of_an_export_is_not_overwritten(root, model, name, tmp_path):
    out = tmp_path / "model"
    shutil.copytree(model, out)
    content = json.loads((out / name).read_text()) | {"mine": 1}
    (out / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{name} changed since export made it; move it away"):
        export(root / "first", out)
    (out / name).unlink()
    if name != "pretraining.json":
        export(root / "first", out)
        (out / "generation_config.json").write_text("{}")
        shutil.copytree(model, tmp_path / "again")
        (tmp_path / "again" / "generation_config.json").write_text("{}")
        with pytest.raises(UserError, match=r"generation_config.json not made by export; move it away"):
            put_in_place(tmp_path / "again", out)
    assert name == "pretraining.json" or "mine" not in json.loads((out / name).read_text())


def killed_at(number, temporary, out):
    """Put an export in place, in a process that SIGKILL ends before its change of that number to the folders."""

    def count(event, _):
        nonlocal number
        if event in ("os.rename", "os.remove"):
            number -= 1
            if number < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def work():
        sys.addaudithook(count)
        put_in_place(temporary, out)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL


def test_a_kill_never_leaves_a_mix_that_loads(root, model, tmp_path):
    """At any moment: the folder holds one export as it was, or has no config.json; and the next export mends it."""
    earlier = tmp_path / "earlier"
    export(root / "first", earlier, step=4)
    (earlier / "README.md").write_text("# mine")
    wholes = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (earlier, model)]
    number, broken = 0, 0
    while True:
        out, temporary = tmp_path / f"out-{number}", tmp_path / f".out-{number}.tmp"
        shutil.copytree(earlier, out)
        shutil.copytree(model, temporary)
        if not killed_at(number, temporary, out):
            break
        left = {path.name: path.read_bytes() for path in out.iterdir()}
        if "config.json" in left:
            assert any(left.items() >= {k: v for k, v in whole.items() if k != "README.md"}.items() for whole in wholes)
        else:
            broken += 1
            with pytest.raises(UserError, match=r"not an exported model \(config.json"):
                push(out, "hospital/x", dry_run=True)
        if number % 3 == 0:
            export(root / "first", out)
            assert {path.name for path in out.iterdir()} == wholes[1].keys() | {"README.md"}
            assert (out / "model.safetensors").read_bytes() == wholes[1]["model.safetensors"]
        assert (out / "README.md").read_text() == "# mine"
        number += 1
    assert broken >= 4 and number > broken + 2


def train_and_delete(run_dir, steps):
    """What a training does to its checkpoints, without the training: the next one appears, the one before goes."""
    source = run_dir.parent / "first" / "checkpoints" / "step-8"
    for step in range(9, 9 + steps):
        new = RunFolder(run_dir).checkpoint(step)
        temporary = new.with_name(f".{new.name}.tmp")
        shutil.copytree(source, temporary)
        state = json.loads((temporary / "state.json").read_text()) | {"step": step}
        (temporary / "state.json").write_text(json.dumps(state))
        manifest = json.loads((temporary / "manifest.json").read_text())
        manifest["files"].pop("state.json")
        (temporary / "manifest.json").write_text(json.dumps(manifest))
        pending_save._put_in_place(temporary, new)
        retention.prune(RunFolder(run_dir), CheckpointConfig(keep_latest=1), lambda steps: None, failed=False)


def test_an_export_beside_a_training_that_deletes_its_checkpoints(root, tmp_path):
    run = root / "deleting"
    shutil.copytree(root / "first", run)
    facts = json.loads((run / "run.json").read_text())
    facts["starts"][0]["stages"] = [10**6]  # a long run
    (run / "run.json").write_text(json.dumps(facts))
    training = multiprocessing.get_context("fork").Process(target=train_and_delete, args=(run, 100_000))
    training.start()
    try:
        while 4 in saved_steps(run):
            time.sleep(0.001)
        steps = [export(run, tmp_path / "model")["step"] for _ in range(12)]
        assert steps == sorted(steps) and steps[-1] > 8 and training.is_alive()
        with pytest.raises(UserError, match=r"no checkpoint of step 4; there are: \d+"):
            export(run, tmp_path / "model", step=4)
        for _ in range(12):  # a step that is there when it's asked for, and gone at once
            step = saved_steps(run)[-1]
            try:
                assert export(run, tmp_path / "model", step)["step"] == step
            except UserError as error:
                assert f"no checkpoint of step {step}" in str(error)
    finally:
        training.kill()
        training.join()
    assert not list(run.rglob(".export-*"))
    (run / "checkpoints" / f".export-{os.uname().nodename}-999999999").mkdir()  # of an export that was killed
    with lease(RunFolder(run)):
        assert len(list((run / "checkpoints").glob(".export-*"))) == 1


def test_both_versions_of_transformers_load_what_is_exported(root, model, tmp_path, transformers_4):
    """Tokenizer, ids and logits."""
    export(root / "bigbird", tmp_path / "bigbird")
    found = []
    for path, version in ((REPOSITORY, "5."), (transformers_4, "4.57.")):
        call = [sys.executable, str(REPOSITORY / "tests" / "load_exported.py"), str(model), str(tmp_path / "bigbird")]
        done = subprocess.run(call, env=os.environ | {"PYTHONPATH": str(path)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        result = json.loads(done.stdout.splitlines()[-1])
        assert result["version"].startswith(version)
        found.append(result["answers"])
    for five, four in zip(found[0].values(), found[1].values(), strict=True):
        assert five.pop("logits") == pytest.approx(four.pop("logits"), abs=2e-3) and five == four
        assert len(five["ids"][0]) > 10


def test_other_ids_than_the_runs_are_refused(root, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(root / "first", run)
    config = json.loads((run / "tokenizer" / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "LongformerTokenizer"  # which drops the lower-casing
    (run / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = json.loads((run / "tokenizer" / "tokenizer.json").read_text())
    (run / "tokenizer" / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": {"type": "Lowercase"}}))
    with pytest.raises(UserError, match="gives other ids than the tokenizer that the model was trained with"):
        export(run, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_folder_of_runs_is_told_from_a_run(root, capsys):
    assert main(["export", str(root), "--out", str(root / "x")]) == 2
    error = capsys.readouterr().err
    assert f"{root}: a folder of runs; give one of them: {root / 'based'}, {root / 'bigbird'}, " in error
    assert main(["plot", str(root)]) == 2 and "a folder of runs" in capsys.readouterr().err
    assert main(["export", str(Path("nowhere")), "--out", "x"]) == 2 and "not a run folder" in capsys.readouterr().err
