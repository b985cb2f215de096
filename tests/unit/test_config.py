import json
import sys

import pytest
from conftest import REPOSITORY

from clinical_pretrain.config.command_line import load_config
from clinical_pretrain.config.fields import keys_of, settings_of
from clinical_pretrain.config.other_names import RENAMED
from clinical_pretrain.config.reference import reference
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.engine.build import refuse_config
from clinical_pretrain.engine.deepspeed_config import resolve
from tokenizer_tools.errors import UserError

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
        (["--precision", "fp64"], "fp64"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such config file; there are configs/"),
        (["--max_steps", "0", "--optim.warmup_steps", "-1"], "max_steps is 0, must be at least 1; "),
        (["--batch.train_batch_size", "7", "--batch.micro_batch_size_per_gpu", "2"], "is not a multiple of"),
        (["--data.language", "German"], "data.language is German, must be an ISO 639 code"),
        (["stray"], "stray"),
        (["my.yaml"], "unexpected argument my.yaml (did you mean --config my.yaml?)"),
        (["--max_steps"], "--max_steps: its value is missing (a whole number)"),
        (["--json", "."], "--json .: a folder; give a file"),
        (["--max_steps", "--seed", "1"], "--max_steps: its value is missing"),
        (["--max_steps", "many"], "config: max_steps is many, must be a whole number"),
        (
            ["--optim.learning_rate", "fast", "--seed", "1.5", "--masking.whole_words", "maybe"],
            "seed is 1.5, must be a whole number; masking.whole_words is maybe, must be true or false; "
            "optim.learning_rate is fast, must be a number",
        ),
        (["--optim", "5"], "optim is 5, must be a section with keys such as learning_rate; leave it out for its def"),
        (["--optim", "{warmup_stps: 5}"], "unknown --optim.warmup_stps (did you mean --optim.warmup_steps?)"),
        (["--lr", "1"], "unknown --lr (did you mean --optim.learning_rate?)"),
        (["--optim.lr", "1"], "unknown --optim.lr (did you mean --optim.learning_rate?)"),
        (["--batch_size", "1"], "unknown --batch_size (did you mean --batch.train_batch_size?)"),
        (["--batch-size", "1"], "did you mean --batch.train_batch_size?"),
        (["--epochs", "3"], "unknown --epochs (set max_steps; steps per epoch: training sequences / batch.tr"),
        (["--per_device_train_batch_size", "2"], "did you mean --batch.micro_batch_size_per_gpu?"),
        (
            ["--gradient_accumulation_steps", "2"],
            "batch.train_batch_size / batch.micro_batch_size_per_gpu / number of GPUs",
        ),
        (["--fp16", "true"], "set precision to fp16"),
        (["--output_dir", "x"], "did you mean --run_dir?"),
        (["--warmup_ratio", "0.1"], "set optim.warmup_steps, in steps"),
        (["--gradient_checkpointing", "true"], "did you mean --activation_checkpointing?"),
        (["--checkpointing", "full"], "unknown --checkpointing (renamed to --activation_checkpointing)"),
        (["--watch", "{step_seconds: 9}"], "unknown --watch (renamed to --watchdog)"),
        (["--model.size.random_blocks", "2"], "(renamed to --model.size.num_random_blocks)"),
        (["--layers", "2"], "did you mean --model.size.num_hidden_layers?"),
        (["--mlm_probability", "0.15"], "did you mean --masking.probability?"),
        (["--model_name_or_path", "x"], "did you mean --model.name_or_path?"),
        (["--max_seq_length", "4096"], "the shards set it: build-shards --sequence-length"),
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
        ("lr: 1e-4", "lr (did you mean"),
        ("num_train_epochs: 3", "unknown"),
        (
            "watch: {silence_seconds: 5}",
            "unknown watch.silence_seconds (renamed to watchdog.heartbeat_timeout_seconds)",
        ),
        (
            "seed: 1\noptim:\n  beta1: 0.8\n  beta2: 0.9\n  beta1: 0.9",
            "line 5: duplicate key, first in line 3; delete one",
        ),
        ("optim: {beta1: 0.8}\noptim.beta1: 0.9", "optim.beta1: given twice"),
        ("Chief complaint: pain\nMedications: none", "c.yaml: none of its keys is a setting, such as run_dir"),
        ("Medications: a\nMedications: b", "c.yaml, line 2: duplicate key, first in line 1"),
        ("seed: 1\nhiden_size: 2", "c.yaml: unknown hiden_size (did you mean model.size.hidden_size?)"),
        ("validation: null", "validation is null, must be a section with keys such as every_steps; leave it out"),
        ("validation:", "validation is null, must be a section with keys such as every_steps; leave it out"),
        ("run_dir: ~", "run_dir is null, must be text"),
        ("max_steps: [1, 2]", "max_steps is ['1', '2'], must be a whole number"),
        ("max_steps: {a: 1}", "unknown"),
        ("optim: {epsilon: .nan}", "optim.epsilon is .nan, must be a number"),
        ("a: &a\n  b: *a", "none of its keys is a setting"),
        ("[" * 5000, "not YAML"),
        ("? [1]\n: 2", "not YAML"),
        ("seed: !!python/object:os.system x", "not YAML"),
        ("max_steps: !!int abc", "not YAML"),
        ("max_steps: !!bool x", "not YAML"),
        ("max_steps: !!timestamp abc", "not YAML"),
        ("x: 'open", "not YAML"),
        ("\0", "not YAML"),
        ("just words", "must hold keys and values"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        load_config(["--config", yaml_file(tmp_path, text)])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_every_new_name_of_a_renamed_key_exists():
    keys = set(keys_of(RunConfig))
    assert set(RENAMED.values()) <= keys and not RENAMED.keys() & keys


def test_values_mean_what_they_say(tmp_path, monkeypatch):
    """YAML 1.1 would make booleans of on and off, text of 1e-5, seconds of 1:00."""
    monkeypatch.setenv("HOME", str(tmp_path))
    text = """
compile: on
seed: 007
max_steps: 2e5
run_dir: ~/runs/1:00
deepspeed: none
attention: {dropout: null}
optim: {learning_rate: 1e-5, warmup_steps: 1_000}
masking: {whole_words: yes}
data: {}
"""
    config, _ = load_config(["--config", yaml_file(tmp_path, text)])
    assert (config.compile, config.seed, config.max_steps, config.deepspeed) == ("on", 7, 200_000, "none")
    assert (config.optim.learning_rate, config.optim.warmup_steps, config.masking.whole_words) == (1e-5, 1000, True)
    assert config.attention.dropout is None and config.run_dir == f"{tmp_path}/runs/1:00"
    for word, meaning in (("off", "off"), ("yes", "on"), ("no", "off"), ("true", "on"), ("Auto", "auto")):
        config, _ = load_config(["--config", yaml_file(tmp_path, f"compile: {word}")])
        assert config.compile == meaning == load_config(["--compile", word])[0].compile
    words = ["--attention.dropout", "0.1", "--config", yaml_file(tmp_path, "attention: {dropout: null}")]
    assert load_config(words)[0].attention.dropout is None
    assert load_config([*words, "--attention.dropout=0.1"])[0].attention.dropout == 0.1
    assert load_config(["--optim", "{warmup_steps: 10, beta1: 0}", "--optim.beta1=0.5"])[0].optim.beta1 == 0.5


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = yaml_file(tmp_path, "data: {shards: ~/shards}\nmodel: {name_or_path: ~/model}\n")
    words = ["--config=~/c.yaml", "--deepspeed", "~/zero.json", "--run_dir=~/run", "--json", "~/x.json"]
    config, json_file = load_config(words)
    assert path == f"{tmp_path}/c.yaml" and json_file == f"{tmp_path}/x.json"
    paths = (config.data.shards, config.model.name_or_path, config.deepspeed, config.run_dir)
    assert paths == tuple(f"{tmp_path}/{name}" for name in ("shards", "model", "zero.json", "run"))
    monkeypatch.delenv("HOME")  # the password file still knows it, or nobody does
    assert load_config(["--run_dir", "~/run"])[0].run_dir.endswith("/run")


def test_a_run_needs_a_config_file():
    with pytest.raises(UserError, match=r"--config is missing; give a YAML file .*longformer"):
        load_config(["--data.shards", "x"], needs_file=True)


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


@pytest.mark.parametrize("stage", [1, 2])
def test_a_single_rank_on_a_cpu_copies_no_gradients(stage, monkeypatch):
    config = RunConfig(deepspeed=f"ds_configs/zero{stage}.json")

    def contiguous(world_size):
        return resolve(config, world_size)["zero_optimization"]["contiguous_gradients"]

    assert (contiguous(1), contiguous(2)) == (False, True)
    monkeypatch.setattr("clinical_pretrain.distributed.uses_gpu", lambda: True)
    assert contiguous(1) is True


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


def test_deepspeeds_timers_are_off_unless_they_are_asked_for(tmp_path):
    """Its throughput timer waits for the GPU twice a step."""
    assert resolve(RunConfig(deepspeed=deepspeed_file(tmp_path)), 1)["timers"] == {"throughput": {"enabled": False}}
    timers = {"throughput": {"synchronized": False}}
    assert resolve(RunConfig(deepspeed=deepspeed_file(tmp_path, timers=timers)), 1)["timers"] == timers


@pytest.mark.parametrize(("section", "message"), [
    ({"steps_per_print": 0}, "steps_per_print is 0, must be 1 or more"),
    ({"zero_optimization": {"round_robin_gradients": True}}, "round_robin_gradients: such a run can't go on"),
    ({"comms_logger": 3}, "DeepSpeed can't read it"),
    ({"flops_profiler": []}, "DeepSpeed can't read it"),
    ({"zero_optimization": {"stage": 1, "reduce_bucket_size": "much"}}, "reduce_bucket_size: "),
    ({"tensorboard": {"enabled": "perhaps"}}, "tensorboard|enabled"),
])  # fmt: skip
def test_what_deepspeed_cannot_read_is_said_in_one_line(section, message, tmp_path):
    path = deepspeed_file(tmp_path, **section)
    with pytest.raises(UserError, match=message) as caught:
        refuse_config(path, resolve(RunConfig(deepspeed=path), 1))
    assert str(caught.value).startswith(path) and "\n" not in str(caught.value)


def test_all_disagreements_are_reported_at_once(tmp_path):
    path = deepspeed_file(
        tmp_path, train_batch_size=64, bf16={"enabled": False}, optimizer={"type": "AdamW"}, aio={"block_size": "auto"}
    )
    with pytest.raises(UserError) as caught:
        resolve(RunConfig(deepspeed=path), 1)
    for part in ("train_batch_size is 64 but the run config says 18", "bf16.enabled", "optimizer", "aio.block_size"):
        assert part in str(caught.value)


def test_a_misspelt_key_of_deepspeed_is_not_dropped(tmp_path):
    path = deepspeed_file(tmp_path, zero_optimisation={"stage": 3}, gradient_cliping=1.0, wall_clock_breakdown=True)
    with pytest.raises(UserError) as caught:
        resolve(RunConfig(deepspeed=path), 1)
    assert "unknown zero_optimisation (did you mean zero_optimization?)" in str(caught.value)
    assert "unknown gradient_cliping (did you mean gradient_clipping?)" in str(caught.value)


def test_a_value_that_agrees_may_stand(tmp_path):
    path = deepspeed_file(tmp_path, train_batch_size=18, gradient_clipping=1.0)
    assert resolve(RunConfig(deepspeed=path), 3)["gradient_accumulation_steps"] == 2


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_gradients_are_accumulated_in_fp32_at_stage_2_and_3_alone(tmp_path, precision):
    types = {"data_types": {"grad_accum_dtype": "fp32"}}
    for stage in (0, 1):
        path = deepspeed_file(tmp_path, zero_optimization={"stage": stage}, **types)
        with pytest.raises(UserError, match='grad_accum_dtype "fp32" needs zero_optimization'):
            resolve(RunConfig(deepspeed=path, precision=precision), 1)
        assert resolve(RunConfig(deepspeed=path, precision="fp32"), 1)["data_types"] == types["data_types"]
    path = deepspeed_file(tmp_path, zero_optimization={"stage": 2}, **types)
    assert resolve(RunConfig(deepspeed=path, precision=precision), 1)["data_types"] == types["data_types"]


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"zero_optimization": 2}', '{"bf16": true}', '{"zero_optimization": {"stage": 1, "stage": 3}}'],
)
def test_a_broken_deepspeed_file(tmp_path, content):
    (tmp_path / "ds.json").write_text(content)
    with pytest.raises(UserError, match="JSON"):
        resolve(RunConfig(deepspeed=str(tmp_path / "ds.json")), 1)


def test_a_world_size_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"4 ranks can't share 6 micro-batches.*use 1, 2, 3, 6 ranks"):
        RunConfig().accumulation_steps(4)


def test_the_reference_of_settings_is_up_to_date():
    command = "python -m clinical_pretrain.config.reference > docs/settings.md"
    assert (REPOSITORY / "docs" / "settings.md").read_text() == reference(), f"run: {command}"
    keys = {setting.key for setting in settings_of(RunConfig)}
    assert all(f"| `{key}` |" in reference() for key in keys)


def test_help_needs_no_torch():
    import subprocess

    code = "import sys; from clinical_pretrain.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
