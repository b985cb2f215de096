"""What a run says of its speed."""

import json
import math
import resource
from dataclasses import replace
from types import SimpleNamespace

from run_folders import write_metrics
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
from transformers import BigBirdConfig, LongformerConfig

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.engine.step_reports import StepReport
from clinical_pretrain.models.flops import peak_flops, training_flops_per_token
from clinical_pretrain.run_folder.metrics import MetricsReader, damaged_lines, read_metrics
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.training import step_log
from clinical_pretrain.training.metrics_writer import MetricsWriter, SaveMetrics, StepMetrics, Usage


def test_arithmetic_of_a_token_at_base_size():
    """Counted by hand, in millions: linear layers 169.9, attention 18.9, head 11.8; three times."""
    longformer = LongformerConfig(vocab_size=50265, attention_window=512)
    assert round(training_flops_per_token(longformer, 4096) / 1e6) == 602
    windows = LongformerConfig(vocab_size=50265, attention_window=[512] * 12)
    assert training_flops_per_token(windows, 4096) == training_flops_per_token(longformer, 4096)
    assert training_flops_per_token(longformer, 256) < training_flops_per_token(longformer, 4096)
    assert round(training_flops_per_token(BigBirdConfig(vocab_size=50358), 4096) / 1e6) == 616


def test_peaks_by_name():
    known = {"NVIDIA H200": 989, "NVIDIA H100 80GB HBM3": 989, "NVIDIA A100-SXM4-80GB": 312, "NVIDIA A10": 125,
             "Tesla V100-SXM2-32GB": 125}  # fmt: skip
    assert {name: peak_flops(name) for name in known} == {name: peak * 1e12 for name, peak in known.items()}
    slower = ["NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA A10G", "NVIDIA RTX A1000", "Tesla V100-PCIE-16GB"]
    assert not any(peak_flops(name) for name in slower)


def step_metrics(step, loss=1.0):
    return StepMetrics(step, loss, learning_rate=1e-4, gradient_norm=1.0, tokens_per_second=1e5, seconds=2.0, stage=1,
                       samples_consumed=1, epoch=0.1, skipped_updates=0, loss_scale=None,
                       usage=Usage(1e5, 1.5, 0.01, 2.5, {"data": 0.05, "forward": 0.33, "backward": 0.62}))  # fmt: skip


def test_mfu_is_written_where_it_is_known(tmp_path, capsys):
    for step, peak in ((0, 1e5 / 0.4123456), (1, None)):
        metrics = MetricsWriter(RunFolder(tmp_path), step, 2, peak_tokens_per_second=peak)
        metrics.train(step_metrics(step + 1))
        metrics.close()
    first, second = read_metrics(RunFolder(tmp_path), "train")
    assert first["mfu"] == 0.4123 and "mfu" not in second and json.dumps(first)
    assert first["shares"]["backward"] == 0.62 and first["memory_gb"] == 1.5
    assert "100,000 tokens/s (41% MFU) · backward 62%, forward 33%, data 5% · " in capsys.readouterr().out


def test_a_loss_that_is_no_number_is_null_wherever_it_stands(tmp_path):
    """JSON has no NaN: the line is read as any other, and a part doesn't cost the whole."""
    figures = {"loss": math.nan, "accuracy": 0.1, "predicted": 3}
    metrics = MetricsWriter(RunFolder(tmp_path), 0, 2)
    metrics.validation(1, {**figures, "by_category": {"Nursing": figures}})
    context = {"tokens": 512, "predicted": 3, "loss_whole": 2.0, "loss_cut": math.inf}
    metrics.validation(2, {**figures, "loss": 2.0, "by_category": {"Nursing": figures}, "context": context})
    metrics.close()
    first, second = read_metrics(RunFolder(tmp_path), "validation")
    assert first["loss"] is None and first["by_category"]["Nursing"] == {**figures, "loss": None}
    assert second["loss"] == 2.0 and second["context"] == {**context, "loss_cut": None}
    assert not damaged_lines(RunFolder(tmp_path))
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write("\n{\n")
    reader = MetricsReader(RunFolder(tmp_path))
    assert len(list(reader.new_lines())) == 2 and reader.damaged == 1 and damaged_lines(RunFolder(tmp_path)) == [4]


def test_the_time_of_steps_between_saves_isnt_lost(monkeypatch):
    """50 steps a line, a save of 7 s each 20 steps, a second a step; then the run is stopped."""
    written, clock = [], SimpleNamespace(now=0.0)
    monkeypatch.setattr(step_log.time, "monotonic", lambda: clock.now)
    run = SimpleNamespace(
        step=0,
        config=RunConfig(log_every_steps=50),
        guard=SimpleNamespace(observe=lambda report: None, skipped_updates=0),
        metrics=SimpleNamespace(train=written.append, progress=lambda *words: None),
        phases=SimpleNamespace(take_shares=lambda: ({}, 1.0)),
        batches=SimpleNamespace(take_padding_share=lambda: 0.0, split=[0]),
        ranks=SimpleNamespace(world_size=1),
        spec=SimpleNamespace(manifest=SimpleNamespace(sequence_length=100)),
        progress=SimpleNamespace(
            last_step=200, samples_at=int, stage=lambda step: SimpleNamespace(learning_rate=lambda *of: 0.0, number=1)
        ),
    )
    log = step_log.StepLog(run)
    for run.step in range(1, 173):
        clock.now += 1
        log.add(StepReport(run.step, 1.0, 1.0, 1.0, clock.now))
        if run.step % 20 == 0:
            clock.now += 7
            log.reset_timer()
    log.write_newest()
    log.write_newest()
    assert [(each.step, each.seconds) for each in written] == [(50, 50), (100, 50), (150, 50), (172, 22)]
    tokens = 100 * RunConfig().batch.train_batch_size
    assert all(each.tokens_per_second == tokens for each in written)


def test_curves_are_not_doubled_and_the_loss_comes_first(tmp_path):
    """Started again before the first checkpoint, and from one."""
    for start, (begin, end) in enumerate([(0, 5), (0, 8), (6, 9)]):
        metrics = MetricsWriter(RunFolder(tmp_path), begin, 9)
        if not begin:
            metrics.goodput(0, {"restarts": start})
        for step in range(begin + 1, end + 1):
            metrics.train(step_metrics(step, loss=float(start)))
        metrics.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={SCALARS: 0}).Reload()
    losses = [(event.step, event.value) for event in board.Scalars("loss/train")]
    assert losses == [(step, 1.0) for step in range(1, 7)] + [(step, 2.0) for step in range(7, 10)]
    assert [(line["step"], line["loss"]) for line in read_metrics(RunFolder(tmp_path), "train")] == losses
    assert min(board.Tags()[SCALARS]) == "loss/train"


def test_skipped_updates_and_the_loss_scale_have_curves(tmp_path):
    metrics = MetricsWriter(RunFolder(tmp_path), 0, 3)
    for step, scale in ((1, 256.0), (2, 128.0), (3, 64.0)):
        metrics.train(replace(step_metrics(step), skipped_updates=step - 1, loss_scale=scale))
    metrics.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={SCALARS: 0}).Reload()
    curves = {name: [event.value for event in board.Scalars(f"train/{name}")]
              for name in ("skipped_updates", "loss_scale")}  # fmt: skip
    assert curves == {"skipped_updates": [0, 1, 2], "loss_scale": [256, 128, 64]}
    assert [{name: line[name] for name in curves} for line in read_metrics(RunFolder(tmp_path), "train")] == [
        {"skipped_updates": 0, "loss_scale": 256}, {"skipped_updates": 1, "loss_scale": 128},
        {"skipped_updates": 2, "loss_scale": 64},
    ]  # fmt: skip


def test_a_full_disk_costs_lines_and_no_more(tmp_path):
    """What is cut off in the middle is left out; what comes later stands in lines of its own."""
    metrics, before = MetricsWriter(RunFolder(tmp_path), 0, 9), resource.getrlimit(resource.RLIMIT_FSIZE)

    def saved(step, size, error, failures):
        metrics.save(SaveMetrics(step, 0.5, 0.7, size, error, failures))

    saved(1, 1000, None, 0)
    size = (tmp_path / "metrics.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
    try:
        saved(2, 1000, None, 0)
        saved(3, 1000, None, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    saved(4, 1000, None, 0)
    saved(5, 0, "No space left on device", 1)
    metrics.close()
    assert [line["step"] for line in read_metrics(RunFolder(tmp_path), "save")] == [1, 4, 5]
    MetricsWriter(RunFolder(tmp_path), 4, 9).close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 4]


def test_a_category_may_hold_any_character(tmp_path):
    line = {
        "kind": "validation",
        "step": 1,
        "loss": 1.0,
        "by_category": {"a\u2028b\x85c": {"loss": 1.0}},
    }
    write_metrics(tmp_path, [line])
    (found,) = read_metrics(RunFolder(tmp_path))
    assert found.items() >= line.items()
