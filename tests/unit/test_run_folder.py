"""Whether a run folder holds this very run."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest
import yaml
from run_folders import write_metrics

from clinical_pretrain.config.data import DataConfig
from clinical_pretrain.config.model import AttentionConfig
from clinical_pretrain.config.optim import BatchConfig, OptimConfig
from clinical_pretrain.config.recovery import CheckpointConfig
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.run_folder import lock
from clinical_pretrain.run_folder.compatibility import check_ownership, check_same_run, stage_ends
from clinical_pretrain.run_folder.history import lineage
from clinical_pretrain.run_folder.lock import exclusive_lock
from clinical_pretrain.run_folder.paths import FORMAT_VERSION, RunFolder
from clinical_pretrain.run_folder.starts import SkippedSamples, lost_steps, record_rollback
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest


def test_a_lock_of_the_same_job_is_only_taken_over_from_an_earlier_start(tmp_path, monkeypatch):
    """A requeued job's node may be lost, and its lock with it; two trainings in one job are both alive."""
    monkeypatch.setattr(lock, "LOCK_SECONDS", 0.3)
    folder = RunFolder(tmp_path)
    for held, restarts, is_taken in ((0, 0, False), (0, 1, True), (1, 1, False), (2, 1, False)):
        with exclusive_lock(folder, "71", held):
            if is_taken:
                exclusive_lock(folder, "71", restarts).close()
            else:
                with pytest.raises(UserError, match="another process is still training here"):
                    exclusive_lock(folder, "71", restarts)
    with exclusive_lock(folder, "71"), pytest.raises(UserError, match="another process"):
        exclusive_lock(folder, "72", 1)


def test_a_run_from_before_some_settings_existed_goes_on(shards, tmp_path):
    config, manifest = RunConfig(), Manifest.load(shards)
    old = config.to_dict()
    del old["compile"], old["attention"]["backend"], old["data"]["document_attention"], old["validation"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    (tmp_path / "deepspeed.json").write_text("{}")
    (tmp_path / "run.json").write_text(
        json.dumps({"format_version": FORMAT_VERSION, "shard_fingerprint": manifest.fingerprint})
    )
    check_same_run(RunFolder(tmp_path), config, {}, manifest)
    check_same_run(
        RunFolder(tmp_path),
        replace(config, compile="off", activation_checkpointing="none"),
        {},
        manifest,
    )
    check_same_run(RunFolder(tmp_path), replace(config, data=DataConfig("moved", language="de")), {}, manifest)
    with pytest.raises(UserError, match=r"optim.learning_rate was 3e-05, now 0.1; restore these settings"):
        check_same_run(RunFolder(tmp_path), replace(config, optim=OptimConfig(learning_rate=0.1)), {}, manifest)


def test_what_differs_is_named_and_can_be_accepted(shards, tmp_path):
    """But not what the weights wouldn't fit."""
    config, manifest = RunConfig(), Manifest.load(shards)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    (tmp_path / "deepspeed.json").write_text('{"train_batch_size": 18, "zero_optimization": {"stage": 2}, "a": 1}')
    (tmp_path / "run.json").write_text(json.dumps({"format_version": FORMAT_VERSION, "shard_fingerprint": "0" * 64}))
    (tmp_path / "data.json").write_text(json.dumps({"format_version": FORMAT_VERSION, "sequence_length": 256}))
    shutil.copytree(shards / "tokenizer", tmp_path / "tokenizer")
    resolved = {"train_batch_size": 36, "zero_optimization": {"stage": 3}, "a": 1, "timers": {}}
    larger = replace(config, batch=BatchConfig(36))
    with pytest.raises(UserError, match=r"by --checkpoint.accept_changes true") as caught:
        check_same_run(RunFolder(tmp_path), larger, resolved, manifest)
    for part in ("batch.train_batch_size was 18, now 36", "other data (fingerprint 000000000000, now"):
        assert part in str(caught.value)
    assert "stage" not in str(caught.value) and "deepspeed" not in str(caught.value)
    accepting = replace(larger, checkpoint=CheckpointConfig(accept_changes=True))
    check_same_run(RunFolder(tmp_path), accepting, resolved, manifest)
    with pytest.raises(UserError, match=r"precision was \"bf16\", now \"fp32\".*another --run_dir$"):
        check_same_run(RunFolder(tmp_path), replace(accepting, precision="fp32"), resolved, manifest)
    with_global = replace(accepting, attention=AttentionConfig(global_tokens="first"))
    with pytest.raises(UserError, match=r"attention.global_tokens was"):
        check_same_run(RunFolder(tmp_path), with_global, resolved, manifest)
    (tmp_path / "data.json").write_text(json.dumps({"format_version": FORMAT_VERSION, "sequence_length": 512}))
    with pytest.raises(UserError, match=r"data: sequence_length was 512, now 256.*another --run_dir$"):
        check_same_run(RunFolder(tmp_path), accepting, resolved, manifest)
    other = json.loads((tmp_path / "tokenizer" / "tokenizer.json").read_text())
    other["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="another tokenizer"):
        check_same_run(RunFolder(tmp_path), accepting, resolved, manifest)


@pytest.mark.parametrize("name", ["config.yaml", "deepspeed.json", "run.json"])
@pytest.mark.parametrize("content", ["{", "3", "\0", None])
def test_a_damaged_file_of_a_run_is_named(name, content, shards, tmp_path):
    config = RunConfig()
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    (tmp_path / "deepspeed.json").write_text("{}")
    (tmp_path / "run.json").write_text(json.dumps({"format_version": FORMAT_VERSION, "stages": [1000]}))
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=rf"{name}: (missing or )?damaged|not a run folder|another run"):
        check_same_run(RunFolder(tmp_path), config, {}, Manifest.load(shards))


def run_that_was_saved_at(folder, step, config, stages=None):
    """A run folder as far as steps are concerned."""
    facts = {"format_version": FORMAT_VERSION, "shard_fingerprint": "", "stages": stages or [config.max_steps]}
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "config.yaml").write_text(config.to_yaml())
    line = {"step": step, "kind": "save", "bytes": 1}
    write_metrics(folder, [line])
    (folder / "checkpoints" / f"step-{step}").mkdir(parents=True)


@pytest.mark.parametrize(
    ("reached", "stages", "changes", "expected"),
    [
        (20, [20], {"max_steps": 24}, "now 24, but .* as a stage of their own: --max_steps 20 --extend 4$"),
        (20, [20], {"max_steps": 10}, "max_steps 10 is below step 20, .*; use --max_steps 20 as before"),
        (12, [20], {"max_steps": 10}, "max_steps 10 is below step 12"),
        (12, [20], {"max_steps": 24}, ([24], ["max_steps was 20, now 24"])),
        (20, [20], {"max_steps": 20, "extend": 4}, ([20, 24], [])),
        (12, [20], {"max_steps": 20, "extend": 4}, ([20, 24], [])),
        (22, [20, 24], {"max_steps": 20, "extend": 4}, ([20, 24], [])),
        (24, [20, 24], {"max_steps": 20, "extend": 10}, ([20, 24, 30], [])),
        (22, [20, 24], {"max_steps": 20}, "extended to step 24; use --max_steps 20 --extend 4 as before$"),
        (24, [20, 24], {"max_steps": 24}, "max_steps was 20, now 24, .* --max_steps 20 --extend 4$"),
    ],
)  # fmt: skip
def test_where_a_run_ends(reached, stages, changes, expected, tmp_path):
    """Also where changes are accepted."""
    base = RunConfig(optim=OptimConfig(warmup_steps=0), checkpoint=CheckpointConfig(accept_changes=True))
    run_that_was_saved_at(tmp_path, reached, replace(base, max_steps=20), stages)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            stage_ends(RunFolder(tmp_path), replace(base, **changes))
    else:
        assert stage_ends(RunFolder(tmp_path), replace(base, **changes)) == expected


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(shards, tmp_path):
    """One that never had any may."""
    config = RunConfig()
    run_that_was_saved_at(tmp_path, 20, config)
    (tmp_path / "checkpoints" / "step-20").rmdir()
    with pytest.raises(
        UserError, match=r"20 was saved, but there is no checkpoint; restore .*checkpoints from a backup"
    ):
        check_ownership(RunFolder(tmp_path), config, {}, Manifest.load(shards))
    line = {"step": 20, "kind": "train"}
    write_metrics(tmp_path, [line])
    assert (
        lost_steps(RunFolder(tmp_path), 0)
        == "an earlier start reached step 20 but saved no checkpoint: training restarts at step 0"
    )
    assert lost_steps(RunFolder(tmp_path), 10).endswith("the steps after step 10 are trained again") and not lost_steps(
        RunFolder(tmp_path), 20
    )


def test_run_json_of_another_format_is_refused(tmp_path):
    (tmp_path / "run.json").write_text('{"format_version": 1, "starts": []}')
    with pytest.raises(UserError, match=r"run.json: format_version 1, but this version of clinical-pretrain reads"):
        RunFolder(tmp_path).read_run()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], None),
        (["slurm/"], None),
        (["lock", "slurm/", "tokenizer/", "config.yaml.tmp"], None),
        (["tokenizer/"], "not empty, and holds no run"),
        (["lock", "thesis.docx"], "not empty, and holds no run"),
        (["lock", "checkpoints/"], "holds checkpoints, but run.json is missing"),
    ],
)
def test_a_folder_that_holds_something_else_stays_as_it_is(names, message, tmp_path):
    for name in names:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    refused = nullcontext() if message is None else pytest.raises(UserError, match=message)
    with refused, exclusive_lock(RunFolder(tmp_path), None):
        assert (tmp_path / "lock").exists()
    if message:
        assert {path.name for path in tmp_path.iterdir()} == {name.rstrip("/") for name in names}


def test_steps_done_again_after_a_rollback_are_of_the_start_that_does_them(tmp_path):
    """The second start, from step 30, goes back to 20: the model card must tell of its settings from 21 on."""
    starts = [{"from_step": 0}, {"from_step": 30}]
    (tmp_path / "run.json").write_text(json.dumps({"format_version": FORMAT_VERSION, "starts": starts}))
    record_rollback(RunFolder(tmp_path), 20, [SkippedSamples(160, 80)])
    facts = RunFolder(tmp_path).read_run()
    assert [(p.first_step, p.last_step) for p in lineage(facts["starts"], 40)] == [(1, 20), (21, 40)]
    assert facts["skipped_samples"] == [{"at": 160, "count": 80}]
