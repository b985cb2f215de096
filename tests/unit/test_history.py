"""Which starts, data and validations lie behind a checkpoint."""

from dataclasses import replace

import pytest
from run_folders import write_metrics

from clinical_pretrain.config.data import DataConfig, MaskingConfig
from clinical_pretrain.config.optim import OptimConfig, ValidationConfig
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.run_folder.history import lineage, overfitting, validation_set, validations, validations_by_set
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.manifest import Manifest


@pytest.mark.parametrize(
    ("from_steps", "step", "expected"),
    [
        ([0], 100, [(1, 100, 0)]),
        ([0, 100], 100, [(1, 100, 0)]),  # of a finished run, started again
        ([0, 100], 150, [(1, 100, 0), (101, 150, 1)]),
        ([0, 100], 60, [(1, 60, 0)]),
        ([0, 0, 0, 50], 70, [(1, 50, 2), (51, 70, 3)]),  # killed twice before the first checkpoint
        ([0, 100, 200, 100, 300], 400, [(1, 100, 0), (101, 300, 3), (301, 400, 4)]),  # checkpoint 200 was lost
        ([0, 100, 50], 80, [(1, 50, 0), (51, 80, 2)]),
    ],
)
def test_a_start_supersedes_what_came_after_its_step(from_steps, step, expected):
    starts = [{"from_step": from_step, "number": number} for number, from_step in enumerate(from_steps)]
    found = [(period.first_step, period.last_step, period.start["number"]) for period in lineage(starts, step)]
    assert found == expected


@pytest.fixture
def run(shards, tmp_path):
    """A run that began anew at step 100, with other settings, and was validated at 0, 100 and 200."""
    manifest = Manifest.load(shards)
    lines = [
        {
            "step": step,
            "kind": "validation",
            "start": int(step > 100),
            "loss": 3 - step / 100,
        }
        for step in (0, 100, 200)
    ]
    write_metrics(tmp_path, lines)

    def starts(config, other=manifest):
        sets = validation_set(RunConfig(), manifest), validation_set(config, other)
        return [{"from_step": 100 * i, "validation_set": found} for i, found in enumerate(sets)]

    return tmp_path, starts, manifest


@pytest.mark.parametrize(
    ("change", "differences"),
    [
        ({"optim": OptimConfig(learning_rate=1e-4)}, []),
        ({"validation": ValidationConfig(max_sequences=10**6)}, []),  # more than there are
        ({"validation": ValidationConfig(max_sequences=1)}, ["other number of sequences"]),
        ({"validation": ValidationConfig(random_blocks="training")}, ["other random blocks"]),
        ({"masking": MaskingConfig(probability=0.3)}, ["other masks"]),
        ({"seed": 1}, ["other masks"]),
        ({"data": DataConfig(document_attention="isolate")}, ["other document attention"]),
    ],
)
def test_validations_compare_only_where_they_measure_the_same(run, change, differences):
    run_dir, starts, _ = run
    found = validations(RunFolder(run_dir), starts(replace(RunConfig(), **change)), 200)
    groups = validations_by_set(RunFolder(run_dir), starts(replace(RunConfig(), **change)))
    assert [len(group) for group in groups] == ([2, 1] if differences else [3])
    assert (found.before["step"], found.after["step"], found.differences) == (0, 200, differences)
    assert validations(RunFolder(run_dir), starts(replace(RunConfig(), **change)), 199).differences == []


def test_other_held_out_rows_are_another_validation_set(run):
    run_dir, starts, manifest = run
    split = manifest.splits["validation"]
    files = [replace(split.files[0], sha256="0" * 64)]
    other = replace(manifest, splits={**manifest.splits, "validation": replace(split, files=files)})
    assert validations(RunFolder(run_dir), starts(RunConfig(), other), 200).differences == ["other held-out sequences"]
    assert validations(RunFolder(run_dir / "nowhere"), [], 200).before == {}


@pytest.mark.parametrize(
    ("held_out", "training", "said"),
    [
        ([3.0, 2.5, 2.6, 2.7], [2.9, 2.4, 2.0, 1.5], True),
        ([3.0, 2.5, 2.6, 2.55], [2.9, 2.4, 2.0, 1.5], False),  # falls again
        ([3.0, 2.5, 2.6, 2.7], [2.9, 2.4, 2.6, 2.8], False),  # the training diverges
        ([3.0, 2.5, 2.4, 2.3], [2.9, 2.4, 2.0, 1.5], False),
        ([3.0, 2.5], [2.9, 2.4], False),
    ],
)
def test_overfitting_is_said(tmp_path, held_out, training, said):
    lines = []
    for number, (loss, of_training) in enumerate(zip(held_out, training, strict=True), 1):
        common = {"step": 10 * number, "start": 0}
        lines += [{**common, "kind": "train", "loss": of_training}, {**common, "kind": "validation", "loss": loss}]
    write_metrics(tmp_path, lines)
    found = overfitting(RunFolder(tmp_path), [{"from_step": 0, "validation_set": {}}])
    assert (found is not None) == said
    if found:
        assert "since step 20 the held-out loss rises (2.5000 to 2.7000)" in found and "2.4000 to 1.5000" in found
