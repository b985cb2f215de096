"""Stages of a run and their schedules; which validation is the best."""

import itertools
import json

import pytest
from run_folders import write_metrics

from clinical_pretrain.config.optim import OptimConfig, ValidationConfig
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.data.sampler import Sampler
from clinical_pretrain.engine.schedule import learning_rate, stage_of
from clinical_pretrain.run_folder.history import best_validation, validations_without_progress
from clinical_pretrain.run_folder.paths import FORMAT_VERSION, RunFolder
from clinical_pretrain.training.validation import is_early_stop


def test_each_step_has_its_stage():
    stages = [stage_of(step, [20, 24, 30]) for step in (1, 20, 21, 24, 25, 30)]
    assert [(stage.number, stage.first_step, stage.last_step) for stage in stages] == [
        (1, 1, 20), (1, 1, 20), (2, 21, 24), (2, 21, 24), (3, 25, 30), (3, 25, 30)]  # fmt: skip


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd"])
def test_a_stage_warms_up_again_and_decays_to_its_own_end(schedule):
    """And what comes after changes nothing of the first."""
    config = OptimConfig(learning_rate=4e-4, warmup_steps=6, schedule=schedule, decay_steps=50)
    rates = [stage_of(step, [80, 120]).learning_rate(step, config) for step in range(1, 121)]
    assert rates[:80] == [learning_rate(step, config, 80) for step in range(1, 81)]
    assert rates[80:84] == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4])  # a tenth of 40 steps
    assert max(rates[80:]) == pytest.approx(4e-4) and 0 < rates[119] < 2e-5
    assert all(later <= rate for rate, later in itertools.pairwise(rates[83:]))


def test_a_second_stage_takes_the_rows_that_follow():
    """20 steps of 8, then 4: no row of the epoch twice."""
    sampler = Sampler(667, seed=42)
    samples = [(sample.epoch, sample.sequence) for sample in map(sampler.sample, range(24 * 8))]
    assert len(set(samples)) == 192


def test_a_stage_that_is_asked_for_begins_whatever_the_one_before_came_to(tmp_path):
    """The validation at the end of stage 1 was the third without a lower loss."""
    start = {"from_step": 0, "validation_set": "a"}
    (tmp_path / "run.json").write_text(json.dumps({"format_version": FORMAT_VERSION, "starts": [start]}))
    losses = {0: 5.0, 25: 3.0, 50: 3.1, 75: 3.2, 100: 3.3}
    write_metrics(
        tmp_path, [{"kind": "validation", "step": step, "start": 0, "loss": loss} for step, loss in losses.items()]
    )
    config = RunConfig(validation=ValidationConfig(early_stopping_patience=3))
    assert is_early_stop(100, RunFolder(tmp_path), config, [100])
    assert not is_early_stop(100, RunFolder(tmp_path), config, [100, 150])


def test_the_best_validation_is_of_those_that_compare(tmp_path):
    starts = [{"validation_set": "a"}, {"validation_set": "b"}]
    losses = {0: 7.0, 10: 1.0, 60: 6.5, 70: 5.0, 80: 5.0, 90: None, 100: 5.5}
    write_metrics(
        tmp_path,
        [{"kind": "validation", "step": step, "start": int(step > 50), "loss": loss} for step, loss in losses.items()],
    )
    assert best_validation(RunFolder(tmp_path), starts)["step"] == 70
    assert best_validation(RunFolder(tmp_path), starts, [60, 100])["step"] == 100
    assert best_validation(RunFolder(tmp_path), starts, [90]) == {}
    assert best_validation(RunFolder(tmp_path), [*starts, starts[0]])["step"] == 10
    assert validations_without_progress(RunFolder(tmp_path), starts, range(101)) == 2
    assert validations_without_progress(RunFolder(tmp_path), starts, range(71)) == 0
    assert validations_without_progress(RunFolder(tmp_path), starts, range(72, 81)) == 0
