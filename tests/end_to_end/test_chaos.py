"""The proof in short: the demo's model under faults, as a user starts it."""

import json

import pytest

from clinical_pretrain.cli import main


@pytest.mark.parametrize("elastic", [False, True])
def test_a_run_comes_through_its_faults(elastic, tmp_path, capsys):
    options = ["--faults", "2", "--seed", "5", "--out", str(tmp_path / "chaos"), "--json", str(tmp_path / "c.json")]
    assert main(["chaos", *options, *(["--elastic"] if elastic else [])]) == 0
    result = json.loads((tmp_path / "c.json").read_text())
    assert result["faults"] == result["survived"] == 2 and result["finished"] and result["agrees"]
    assert result["identical"] is not elastic
    assert result["effective_training_time"] > 0 and result["largest_relative_loss_difference"] < 1e-5
    said = capsys.readouterr().out
    assert "survived 2 of 2 faults" in said and ("bit-identical" in said) is not elastic
    assert main(["chaos", *options]) == 2  # the folder isn't empty


def test_a_run_that_fails_by_itself_is_said_so(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("{max_steps: 10, precision: fp16, optim: {warmup_steps: 1}}")
    assert main(["chaos", "--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and "fails without any fault; see" in error[0]
