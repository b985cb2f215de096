import json
import sys

import pytest

from clinical_pretrain.config import REPOSITORY, RunConfig, load_config
from clinical_pretrain.deepspeed_config import resolve
from tokenizer_tools.manifest import UserError

CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))


def yaml_file(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return str(path)


def test_file_and_overrides_are_one_config(tmp_path):
    path = yaml_file(tmp_path, "max_steps: 20\noptim: {learning_rate: 1.0e-4, warmup_steps: 5}\n")
    config, json_file = load_config(["--config", path, "--optim.learning_rate", "2e-4", "--json", "x"])
    assert (config.max_steps, config.optim.learning_rate, config.optim.warmup_steps) == (20, 2e-4, 5)
    assert json_file == "x" and config.masking.probability == 0.15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optim.learning_rat", "1"], "unknown --optim.learning_rat (did you mean --optim.learning_rate?)"),
        (["--learning_rate", "1"], "did you mean --optim.learning_rate?"),
        (["--max_steps", "many"], "max_steps"),
        (["--precision", "fp64"], "fp64"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such config file; there are configs/"),
        (["--max_steps", "0", "--optim.warmup_steps", "-1"], "max_steps is 0, must be at least 1; "),
        (["--batch.train_batch_size", "7", "--batch.micro_batch_size_per_gpu", "2"], "no multiple of"),
        (["--data.language", "German"], "data.language is German, must be an ISO 639 code"),
        (["stray"], "stray"),
    ],
)
def test_a_bad_call_is_refused_in_one_line(arguments, message):
    with pytest.raises(UserError) as caught:
        load_config(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {learning_rat: 1}", "learning_rat (did you mean"),
        ("optim: {learning_rate: fast}", "optim.learning_rate"),
        ("optim: [", "not YAML"),
        ("just words", "holds keys and values"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        load_config(["--config", yaml_file(tmp_path, text)])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_print_config_prints_what_config_reads(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        load_config(["--max_steps", "30000", "--print_config"])
    assert caught.value.code == 0
    path = yaml_file(tmp_path, capsys.readouterr().out)
    assert load_config(["--config", path])[0] == RunConfig(max_steps=30000)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_ours_is_whole(path):
    config, _ = load_config(["--config", str(path)])
    resolved = resolve(config, 1)
    assert resolved["train_batch_size"] == config.batch.train_batch_size
    assert "auto" not in json.dumps(resolved)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "ds_configs").glob("*.json")), ids=lambda path: path.stem)
def test_every_deepspeed_file_is_filled_in(path):
    config = RunConfig(deepspeed=str(path), precision="bf16")
    resolved = resolve(config, 2)
    assert "auto" not in json.dumps(resolved)
    assert resolved["gradient_accumulation_steps"] == 3 and resolved["bf16"]["enabled"]


def deepspeed_file(tmp_path, **content):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 1}} | content))
    return str(path)


def test_all_disagreements_are_reported_at_once(tmp_path):
    path = deepspeed_file(
        tmp_path, train_batch_size=64, bf16={"enabled": False}, optimizer={"type": "AdamW"}, aio={"block_size": "auto"}
    )
    with pytest.raises(UserError) as caught:
        resolve(RunConfig(deepspeed=path), 1)
    for part in ("train_batch_size is 64 but the run config says 18", "bf16.enabled", "optimizer", "aio.block_size"):
        assert part in str(caught.value)


def test_a_value_that_agrees_may_stand(tmp_path):
    path = deepspeed_file(tmp_path, train_batch_size=18, gradient_clipping=1.0)
    assert resolve(RunConfig(deepspeed=path), 3)["gradient_accumulation_steps"] == 2


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_deepspeed_file(tmp_path, content):
    (tmp_path / "ds.json").write_text(content)
    with pytest.raises(UserError, match="JSON"):
        resolve(RunConfig(deepspeed=str(tmp_path / "ds.json")), 1)


def test_a_world_size_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"4 ranks can't share 6 micro-batches.*use 1, 2, 3, 6 ranks"):
        RunConfig().accumulation_steps(4)


def test_help_needs_no_torch():
    import subprocess

    code = "import sys; from clinical_pretrain.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
