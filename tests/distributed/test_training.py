"""Two real ranks on the CPU: both models under every ZeRO stage, exports, resume, and other numbers of ranks."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
import yaml
from golden import assert_golden
from launching import REPOSITORY, WORKER, launch, losses, read_metrics, saved_steps, validations
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from clinical_pretrain.cli import main
from clinical_pretrain.observe.status import status
from clinical_pretrain.release.export import export
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.run_folder.validation_losses import read_validation_losses
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import file_sha256, write_json

STAGES = range(4)


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_trains_and_agrees_with_stage_0(trained, family, stage):
    run = trained / f"{family}-{stage}"
    assert len(losses(run)) == 20
    assert losses(run) == pytest.approx(losses(trained / f"{family}-0"), rel=1e-4)
    before, after = validations(run)
    assert after < before - 0.3


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
@pytest.mark.parametrize("kind", ["1", "2", "bf16-2"])
def test_the_gradient_norm_is_deepspeeds(trained, family, kind):
    """A GPU computes it by fewer kernels, a CPU without copies (engine/deepspeed_internals.py)."""
    by_rank = [json.loads((trained / f"{family}-{kind}" / f"norms-{rank}.json").read_text()) for rank in range(2)]
    assert by_rank[0] == by_rank[1] and len(by_rank[0]) == (6 if kind == "bf16-2" else 20)
    for theirs, on_a_gpu, ours in by_rank[0]:
        assert 0 < on_a_gpu == pytest.approx(theirs, rel=1e-5)
        assert ours == pytest.approx(theirs, rel=2e-7)


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
@pytest.mark.parametrize("stage", STAGES)
def test_golden_losses_and_weights(trained, family, stage, tmp_path):
    assert_golden(f"{family}-{stage}", trained / f"{family}-{stage}", tmp_path / "model")


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_exports_the_trained_model(trained, family, stage, tmp_path):
    result = export(trained / f"{family}-{stage}", tmp_path / "model")
    assert result["max_logit_difference"] < 1e-5
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "model")) == model.config.vocab_size
    if family == "bigbird":
        assert model.config.attention_type == "block_sparse"
    weights, expected = model.state_dict(), export(trained / f"{family}-0", tmp_path / "zero")["step"]
    other = AutoModelForMaskedLM.from_pretrained(tmp_path / "zero").state_dict()
    assert expected == 20 and all(torch.allclose(weights[name], other[name], atol=2e-4) for name in other)


def test_the_tied_head_is_tied_and_frozen_weights_are_untouched(trained, tmp_path):
    export(trained / "longformer-3", tmp_path / "model")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    assert model.lm_head.decoder.weight is model.longformer.embeddings.word_embeddings.weight
    frozen = load_file(trained / "longformer-3" / "frozen.safetensors")
    assert len(frozen) == 12 and all("_global" in name for name in frozen)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in frozen.items())


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_bf16_keeps_fp32_weights_and_exports_them(trained, family, tmp_path):
    assert losses(trained / f"{family}-bf16-0") == pytest.approx(losses(trained / f"{family}-bf16-2"), rel=2e-3)
    for stage in (0, 2):
        export(trained / f"{family}-bf16-{stage}", tmp_path / f"{stage}")
        weights = load_file(tmp_path / f"{stage}" / "model.safetensors")
        trained_ones = [w for name, w in weights.items() if "_global" not in name and "pooler" not in name]
        assert any((w != w.bfloat16().float()).any() for w in trained_ones)


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
@pytest.mark.parametrize("kind", ["full", "attention"])
def test_recomputation_changes_nothing(trained, family, kind):
    assert losses(trained / f"{family}-{kind}") == pytest.approx(losses(trained / f"{family}-0"), rel=1e-4)


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_our_attention_trains_as_hugging_faces(trained, family):
    expected = losses(trained / f"{family}-hf")
    assert losses(trained / f"{family}-blocked") == pytest.approx(expected, rel=1e-4)
    assert validations(trained / f"{family}-blocked") == pytest.approx(validations(trained / f"{family}-hf"), rel=1e-4)


@pytest.mark.parametrize(
    ("family", "stage"),
    [(family, stage) for stage in (1, 2) for family in ("longformer", "bigbird")] + [("bigbird", 3)],
)
def test_compiled_layers_train_as_they_are(trained, family, stage):
    """Under ZeRO, with each kind of checkpointing; nothing is compiled anew once the first step is done, through
    accumulation, checkpoints and validation."""
    assert losses(trained / f"{family}-compiled-{stage}") == pytest.approx(
        losses(trained / f"{family}-blocked"), rel=1e-3
    )
    for rank in range(2):
        graphs = json.loads((trained / f"{family}-compiled-{stage}" / f"graphs-{rank}.json").read_text())
        assert graphs[0] > 0 and graphs == graphs[:1] * 20


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_isolated_notes_train_otherwise(trained, family, tmp_path):
    run = trained / f"{family}-isolate"
    assert losses(run)[0] != losses(trained / f"{family}-0")[0]
    before, after = validations(run)
    assert after < before - 0.3 and export(run, tmp_path / "model")["max_logit_difference"] < 1e-5


def test_validation_with_the_random_blocks_of_training(trained, tmp_path):
    """Other figures, and an export that is compared in evaluation mode all the same."""
    run = trained / "bigbird-training-blocks"
    assert losses(run)[0] == pytest.approx(losses(trained / "bigbird-1")[0], rel=1e-6)
    assert validations(run)[0] != pytest.approx(validations(trained / "bigbird-1")[0], rel=1e-7)
    assert export(run, tmp_path / "model")["max_logit_difference"] < 1e-5


def test_a_loss_that_is_no_number_ends_all_ranks_alike(trained):
    messages = {(trained / f"diverging-{rank}.txt").read_text() for rank in range(2)}
    assert len(messages) == 1 and "and there is no earlier checkpoint to roll back to; lower optim" in messages.pop()
    assert not saved_steps(trained / "diverging") and not (trained / "diverging" / "summary.json").exists()


@pytest.mark.parametrize("stage", [2, 3])
def test_offload_changes_nothing(trained, stage):
    assert losses(trained / f"offload-{stage}") == pytest.approx(losses(trained / "longformer-0"), rel=1e-4)


def test_global_attention_on_the_first_token(trained, tmp_path):
    first = losses(trained / "global")
    assert first != pytest.approx(losses(trained / "longformer-3")[:6], rel=1e-6)
    assert export(trained / "global", tmp_path / "model")["max_logit_difference"] < 1e-5
    assert not load_file(trained / "global" / "frozen.safetensors")


def test_an_earlier_step_can_be_exported(trained, tmp_path):
    result = export(trained / "longformer-2", tmp_path / "model", step=10)
    assert result["step"] == 10 and result["max_logit_difference"] < 1e-5
    with pytest.raises(UserError, match="no checkpoint of step 11; there are: 10, 20"):
        export(trained / "longformer-2", tmp_path / "model", step=11)


def test_an_export_whose_logits_differ_is_refused(trained, tmp_path):
    import shutil

    from safetensors.torch import save_file

    run = tmp_path / "run"
    shutil.copytree(trained / "longformer-1", run)
    path = run / "checkpoints" / "step-20" / "probe.safetensors"
    probe = load_file(path)
    probe["logits"][0, 7] += 0.1
    save_file(probe, path)
    with pytest.raises(UserError, match=r"probe.safetensors: not the bytes that were written; nothing was exported"):
        export(run, tmp_path / "model")
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["files"][path.name]["sha256"] = file_sha256(path)
    write_json(path.parent / "manifest.json", manifest)
    with pytest.raises(UserError, match="logits differ"):
        export(run, tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_a_folder_that_is_no_export_is_not_replaced(trained, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="not an earlier export"):
        export(trained / "longformer-1", tmp_path / "model")
    export(trained / "longformer-1", tmp_path / "other")
    export(trained / "longformer-1", tmp_path / "other", step=10)
    with pytest.raises(UserError, match="another run"):
        export(trained / "longformer-2", tmp_path / "other")


@pytest.fixture(scope="module")
def resumed(shards, tmp_path_factory):
    root = tmp_path_factory.mktemp("resume")
    done = launch(WORKER, "resume", shards, root)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


@pytest.mark.parametrize("stage", STAGES)
def test_a_stopped_run_goes_on_bit_for_bit(resumed, stage, tmp_path):
    keys = ("step", "loss", "learning_rate", "gradient_norm", "samples_consumed")
    whole, stopped = (
        [[line[key] for key in keys] for line in read_metrics(resumed / f"{name}-{stage}", "train")]
        for name in ("whole", "stopped")
    )
    assert whole == stopped
    measured = [
        [(line["step"], line["loss"]) for line in read_metrics(resumed / f"{name}-{stage}", "validation")]
        for name in ("whole", "stopped")
    ]
    assert measured[0] == measured[1] and len(measured[0]) == (21 if stage == 1 else 2)
    weights = []
    for name in ("whole", "stopped"):
        export(resumed / f"{name}-{stage}", tmp_path / name)
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


@pytest.mark.parametrize("stage", STAGES)
def test_golden_losses_and_weights_of_a_resumed_run(resumed, stage, tmp_path):
    assert_golden(f"resumed-{stage}", resumed / f"stopped-{stage}", tmp_path / "model")


def test_a_stop_amid_a_validation_is_heard_and_the_validation_done_again(resumed):
    """At the first step, where there is nothing to save; at the tenth; and at the last."""
    run, whole = resumed / "validating", resumed / "whole-2"
    assert losses(run) == losses(whole)
    assert [line["step"] for line in read_metrics(run, "validation")] == [0, 10, 20]
    assert validations(run)[0::2] == validations(whole)
    stops = json.loads((resumed / "stops.json").read_text())
    assert [(stop["exit_code"], stop["step"], stop["saved"]) for stop in stops] == [(75, 0, []), (75, 10, [10]),
                                                                                   (75, 20, [10, 20])]  # fmt: skip


RUN = REPOSITORY / "clinical_pretrain" / "run.py"


@pytest.fixture(scope="module")
def alone(shards, config_file, tmp_path_factory):
    """The same run by one rank, without a launcher, by a user in some other folder."""
    run_dir = tmp_path_factory.mktemp("alone") / "run"
    call = [sys.executable, str(RUN), "--config", str(config_file), "--data.shards", str(shards),
            "--run_dir", str(run_dir), "--json", str(run_dir.parent / "summary.json"), "--profile", "2"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # Training needs no pandas: this one can't be imported.
    (run_dir.parent / "pandas.py").write_text("raise ImportError('no pandas here')")
    done = subprocess.run(call, cwd=run_dir.parent, env=environment | {"PYTHONPATH": str(run_dir.parent)},
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return run_dir, done


def test_the_number_of_ranks_changes_nothing(alone, trained):
    """Neither data nor masks nor dropout depend on it."""
    assert losses(alone[0]) == pytest.approx(losses(trained / "longformer-1"), rel=1e-5)
    assert validations(alone[0]) == pytest.approx(validations(trained / "longformer-1"), rel=1e-5)


def test_what_a_run_leaves_behind(alone, shards):
    run_dir, done = alone
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary == json.loads((run_dir.parent / "summary.json").read_text())
    assert summary["steps"] == 20 and summary["validation_loss_after"] < summary["validation_loss_before"]
    facts = json.loads((run_dir / "run.json").read_text())
    assert facts["shard_fingerprint"] == json.loads((shards / "manifest.json").read_text())["fingerprint"]
    start = facts["starts"][0]
    assert start["versions"]["torch"] == torch.__version__ and start["config"]["optim"]["learning_rate"] == 2e-3
    assert facts["base_model"] is None and start["data"]["fingerprint"] == facts["shard_fingerprint"]
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["optim"]["learning_rate"] == 2e-3
    assert "auto" not in (run_dir / "deepspeed.json").read_text()
    assert list((run_dir / "tensorboard").iterdir())
    lines = done.stdout.splitlines()
    assert lines[:2] == ["loading PyTorch, transformers and DeepSpeed", "building the model"]
    assert lines[4].startswith("starting: longformer") and "tokens/s" in done.stdout and "left" in done.stdout
    assert not [p for p in run_dir.rglob("*") if p.stat().st_mode & 0o077]


def test_categories_add_up_to_the_whole(alone):
    for line in read_metrics(alone[0], "validation"):
        parts = line["by_category"].values()
        assert len(parts) > 2 and sum(p["predicted"] for p in parts) == line["predicted"]
        assert sum(p["loss"] * p["predicted"] for p in parts) / line["predicted"] == pytest.approx(line["loss"])


def test_positions_sequences_and_general_text_are_measured(alone):
    lines = read_metrics(alone[0], "validation")
    for line in lines:
        (in_range,) = line["by_position"].values()  # sequences of 256 tokens
        assert in_range == {name: pytest.approx(line[name]) for name in ("loss", "accuracy", "predicted")}
        losses = read_validation_losses(RunFolder(alone[0]), line["step"])
        assert losses.predicted.sum() == line["predicted"] and len(losses.sequence) == 8
        assert losses.loss.sum() / losses.predicted.sum() == pytest.approx(line["loss"])
        assert line["general"]["predicted"] > 100 and "context" not in line
    assert lines[0]["general"] != lines[-1]["general"] and "by_words" in lines[0]


def test_shares_of_the_time_add_up(alone):
    for line in read_metrics(alone[0], "train")[1:]:
        shares = line["shares"]
        assert sum(shares.values()) == pytest.approx(1, abs=0.01) and min(shares.values()) >= 0
        assert shares["backward"] > 0
        assert 0 <= line["padding_share"] < 1 and line["memory_gb"] > 0.1
        assert line["tokens_per_second_per_gpu"] == pytest.approx(line["tokens_per_second"], rel=0.01)


def test_ranks_wait_for_each_other(trained):
    lines = read_metrics(trained / "longformer-2", "train")
    assert all(line["shares"]["communication"] > 0 for line in lines)


def test_a_few_steps_are_traced(alone):
    (trace,) = (alone[0] / "traces").iterdir()
    with gzip.open(trace, "rt") as stream:
        events = json.load(stream)["traceEvents"]
    steps = {event["name"] for event in events if event.get("name", "").startswith("ProfilerStep#")}
    assert len(steps) == 2 and any(event.get("name") == "aten::addmm" for event in events)
    assert trace.stat().st_mode & 0o077 == 0


def test_the_loss_picture(alone, tmp_path):
    from clinical_pretrain.cli import main

    assert main(["plot", str(alone[0]), "--out", str(tmp_path / "loss.png")]) == 0
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("ranks", "options", "message"),
    [
        (2, ["--optim.learning_rate", "1e-3"], "holds another run: optim.learning_rate was 0.002, now 0.001"),
        (3, [], "3 ranks can't share 4 micro-batches"),
    ],
)
def test_the_launcher_passes_on_one_line_and_exit_code_2(alone, config_file, shards, ranks, options, message):
    before = (alone[0] / "run.json").read_bytes()
    done = launch(RUN, "--config", config_file, "--data.shards", shards, "--run_dir", alone[0], *options, ranks=ranks)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and len(errors) == 1 and message in errors[0], done.stderr
    assert "Traceback" not in done.stderr and (alone[0] / "run.json").read_bytes() == before


def test_a_finished_run_started_again_does_nothing(alone, config_file, shards):
    names = ("metrics.jsonl", "run.json", "summary.json", "stop.json")
    before = [(alone[0] / name).read_bytes() for name in names]
    call = [sys.executable, str(RUN), "--config", str(config_file), "--data.shards", str(shards), "--run_dir",
            str(alone[0])]  # fmt: skip
    done = subprocess.run(call, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "already finished at step 20" in done.stdout and "resuming" not in done.stdout
    assert [(alone[0] / name).read_bytes() for name in names] == before


def test_a_zero_file_that_lays_tensors_out_in_another_way(trained, shards, tmp_path):
    """At the same stage, with as many ranks: DeepSpeed's own loading would fail."""
    run, before = tmp_path / "run", trained / "longformer-3"
    shutil.copytree(before, run)
    shutil.rmtree(run / "checkpoints" / "step-20")
    (run / "summary.json").unlink()
    zero = json.loads((run / "deepspeed.json").read_text())["zero_optimization"]
    (tmp_path / "mine.json").write_text(json.dumps({"zero_optimization": zero | {"sub_group_size": 3000}}))
    done = launch(RUN, "--config", run / "config.yaml", "--data.shards", shards, "--run_dir", run, "--deepspeed",
                  tmp_path / "mine.json", ranks=2)  # fmt: skip
    assert done.returncode == 0 and "resuming" in done.stdout, done.stderr[-3000:]
    assert losses(run) == pytest.approx(losses(before), rel=1e-5)
    assert len(losses(run)) == 20


def test_the_figures_of_a_run_that_ends_between_two_lines(config_file, shards, tmp_path):
    """By early stopping, as the weights don't change: the log, status, report and summary agree on its last step."""
    run, page = tmp_path / "run", tmp_path / "report.json"
    call = [sys.executable, str(RUN), "--config", str(config_file), "--data.shards", str(shards), "--run_dir", str(run),
            "--log_every_steps", "50", "--optim.learning_rate", "1e-12", "--validation.every_steps", "2",
            "--validation.early_stopping_patience", "1", "--checkpoint.every_steps", "1"]  # fmt: skip
    done = subprocess.run(call, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in read_metrics(run) if line["kind"] == "train"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["stopped_early"] and line["step"] == summary["steps"] == status(run)["step"] == 2
    tokens = 2 * 8 * 256
    assert summary["tokens_consumed"] == tokens and summary["seconds_in_training"] == round(line["seconds"], 1)
    assert line["tokens_per_second"] == pytest.approx(tokens / line["seconds"], rel=0.01)
    assert line["clock_seconds"] > line["seconds"] and line["shares"]["validation"] > 0
    assert main(["report", str(run), "--json", str(page)]) == 0
    assert json.loads(page.read_text())["tokens_consumed"] == tokens


def test_killed_and_started_again(alone, config_file, shards, tmp_path):
    """SIGKILL while the folder was made, and after the first checkpoint: the same command goes on, to the same losses,
    each step written once."""
    run_dir = tmp_path / "run"
    for name in ("tokenizer", "model_config"):
        shutil.copytree(alone[0] / name, run_dir / name)
    (run_dir / "lock").touch()
    (run_dir / "config.yaml.tmp").write_text("max_st")
    call = [sys.executable, str(RUN), "--config", str(config_file), "--data.shards", str(shards), "--run_dir",
            str(run_dir)]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(call, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (run_dir / "checkpoints" / "step-10" / "state.json").exists() and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (run_dir / "summary.json").exists()
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "resuming from step 10" in done.stdout, done.stderr
    assert losses(run_dir) == losses(alone[0]) and validations(run_dir) == validations(alone[0])
