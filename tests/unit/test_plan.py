"""What `plan` says of a run before it starts: memory against stored peaks, its choice, its figures, its errors."""

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import REPOSITORY

from clinical_pretrain.cli import main
from clinical_pretrain.config.command_line import load_config
from clinical_pretrain.config.model import ModelConfig, ModelSize
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.estimate import activations, choice, shapes, speed
from clinical_pretrain.estimate.cards import CARDS, card_named, card_of_device
from clinical_pretrain.estimate.zero import ZeroSettings
from clinical_pretrain.models import choose_backend, flops, mlm_head
from clinical_pretrain.models.base_model import random_config
from clinical_pretrain.models.families import FAMILIES, family_named
from clinical_pretrain.observe import plan as observe_plan
from clinical_pretrain.observe import plan_scaling
from clinical_pretrain.observe.plan_measured import newest_measurement
from clinical_pretrain.observe.status import runs_in
from clinical_pretrain.run_folder import metrics
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.training import auto
from tokenizer_tools.errors import UserError

RESULTS = REPOSITORY / "benchmarks" / "results"
CONFIGS = [f"configs/clinical_{family}.yaml" for family in ("longformer", "bigbird")]


def benchmark():
    """benchmarks/plan.py as a module."""
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    spec = importlib.util.spec_from_file_location("plan_benchmark", REPOSITORY / "benchmarks" / "plan.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def given(config, card="h100-80gb", world_size=1, **settings):
    """Conditions of a recipe."""
    options = [word for name, value in settings.items() for word in (f"--{name.replace('__', '.')}", str(value))]
    run, _ = load_config(["--config", str(REPOSITORY / config), *options])
    model = shapes.shape_of(run.model, 4096)
    return choice.Conditions(run, model, 4096, card_named(card), world_size, speed.Network())


def zero(stage):
    return ZeroSettings.of(json.loads((REPOSITORY / f"ds_configs/zero{stage}.json").read_text()))


def plan(*words):
    return main(["plan", "--config", str(REPOSITORY / CONFIGS[0]), *words])


@pytest.mark.parametrize(("part", "most", "count"), [("gpu", 0.05, 24), ("cpu", 0.10, 12)])
def test_memory_is_near_the_stored_peaks(part, most, count):
    module = benchmark()
    result = json.loads((RESULTS / f"plan_{part}.json").read_text())
    peaks = list(getattr(module, f"{part}_peaks")(result))
    assert len({peak.setting for peak in peaks}) >= count
    wrong = {peak.setting: round(peak.error, 3) for peak in peaks if abs(peak.error) > most}
    assert not wrong


def test_stored_peaks_cover_what_the_estimates_are_for():
    found = json.loads((RESULTS / "plan_gpu.json").read_text())["peaks"]
    names = {*found[0]} - {"rows", "peak_bytes_by_rows"}
    covered = {name: {peak[name] for peak in found} for name in names}
    assert covered["model"] == {"longformer", "bigbird"} and covered["capability"] == {"7.0", "8.0", "9.0"}
    assert covered["precision"] == {"bf16", "fp16"} and covered["activation_checkpointing"] == {*choice.KINDS}
    assert covered["zero_stage"] == {1, 2, 3} and covered["length"] == {4096, 16384}
    assert covered["attention"] == {"blocked", "flex", "varlen"} and covered["compiled"] == {True, False}


def test_chosen_micro_batches_train_on_a_card_of_that_size():
    """Each was trained in the dry run on a card of the memory that CUDA leaves; see benchmarks/plan.py fit."""
    found = json.loads((RESULTS / "plan_fit.json").read_text())["runs"]
    assert len(found) >= 8
    assert all(run["trained"] for run in found), [run["name"] for run in found if not run["trained"]]
    for run in found:
        conditions = given(f"configs/clinical_{run['model']}.yaml", run["card"], precision=run["precision"])
        size = choice.largest_that_fits(conditions, zero(run["zero_stage"]), run["activation_checkpointing"])
        assert size <= run["sequences"], f"{run['name']}: chooses {size} now, but {run['sequences']} was tried"


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_shape_and_flops_are_those_of_the_model(family):
    size = ModelSize(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=128,
                     attention_window=64, block_size=16)  # fmt: skip
    config = ModelConfig(init="random", family=family, size=size)
    pad_id = 1 if family == "longformer" else 0
    tokenizer = SimpleNamespace(vocab_size=1000, pad_id=pad_id, begin_id=2, end_id=3)
    transformers_config = random_config(config, SimpleNamespace(tokenizer=tokenizer, sequence_length=512))
    with torch.device("meta"):
        model = family_named(family).model_class(transformers_config)
    frozen = (*family_named(family).unused_weights, *family_named(family).global_weights)
    wanted = {name: p.numel() for name, p in model.named_parameters()}
    shape = shapes.shape_of(config, 512, 1000)
    found = shapes.parameters(shape)
    assert sum(each.numel for each in found) == sum(wanted.values())
    trained = sum(number for name, number in wanted.items() if not any(part in name for part in frozen))
    assert sum(each.numel for each in found if each.is_trained) == trained
    read = shapes.from_transformers(transformers_config.to_dict())
    others = ("block_size", "num_random_blocks") if family == "longformer" else ("attention_window",)
    assert read == replace(shape, **{name: getattr(read, name) for name in others})
    batch = activations.MicroBatch(shape, 512, 2, 154, "bf16", "varlen", True, "none")
    mine = speed.product_flops(batch) + 3 * speed.attention_flops(batch) / (1 + speed.BACKWARD_ATTENTION)
    theirs = 1024 * flops.training_flops_per_token(transformers_config, 512, 154 / 1024)
    assert mine == pytest.approx(theirs, rel=1e-6)


def test_constants_are_those_of_the_modules_that_import_torch():
    assert activations.POSITIONS_PER_CHUNK == mlm_head.POSITIONS_PER_CHUNK
    for card in CARDS:
        name = {"a10-24gb": "NVIDIA A10", "l40s-48gb": "NVIDIA L40S", "h200-141gb": "NVIDIA H200"}.get(card.name)
        name = name or {"v100": "Tesla V100-SXM2-", "a100": "NVIDIA A100-SXM4-", "h100": "NVIDIA H100 "}[
            card.name[:4]
        ] + card.name[5:].upper().replace("-", "")
        assert card_of_device(name) == card, name
        assert flops.peak_flops(name) == card.peak_flops


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("card", ["v100-32gb", "a100-40gb"])
@pytest.mark.parametrize("settings", [{}, {"attention__dropout": "null"}, {"precision": "fp16"}])
def test_attention_backend_is_the_one_that_a_run_takes(config, card, settings, monkeypatch):
    conditions = given(config, card, **settings)
    major, minor = divmod(round(conditions.card.capability * 10), 10)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (major, minor))
    family = next(family for family in FAMILIES if family.name == conditions.model.family)
    dropout = conditions.config.attention.dropout
    dropout = conditions.model.attention_dropout if dropout is None else dropout
    module = SimpleNamespace(attention=SimpleNamespace(self=SimpleNamespace(dropout=dropout)))
    of_model = SimpleNamespace(
        config=SimpleNamespace(model_type=family.model_type, block_size=64, hidden_size=768, num_attention_heads=12),
        base_model=SimpleNamespace(encoder=SimpleNamespace(layer=[module])),
    )
    assert conditions.backend == choose_backend.choose_backend(of_model, conditions.config, on_gpu=True)


def test_choice_is_the_fastest_that_fits():
    conditions = given(CONFIGS[0], "v100-16gb", precision="fp16", batch__micro_batch_size_per_gpu="auto")
    found = list(choice.candidates(conditions, [zero(2)]))
    chosen = choice.choose(found)
    assert chosen.fits and chosen.needed_bytes <= conditions.card.memory_bytes
    assert all(chosen.time.total <= 1.02 * each.time.total for each in found if each.fits)
    larger = [size for size in choice.possible_sizes(18, 1) if size > chosen.micro_batch_size]
    assert not choice.candidate(conditions, zero(2), chosen.activation_checkpointing, larger[0]).fits


def test_more_of_anything_takes_more_memory():
    conditions = given(CONFIGS[0], "a100-80gb", world_size=8, batch__train_batch_size="144")

    def peak(stage=2, kind="none", size=3):
        return choice.candidate(conditions, zero(stage), kind, size).memory.peak_bytes

    assert peak(kind="full") < peak(kind="attention") < peak(kind="none")
    assert peak(size=3) < peak(size=6) < peak(size=9)
    by_part = choice.candidate(conditions, zero(2), "none", 3).memory
    assert sum(by_part.by_part.values()) == by_part.peak_bytes


def test_communication_grows_with_gpus_and_over_slow_networks():
    conditions = given(CONFIGS[0], "h100-80gb", batch__train_batch_size="3072")
    batch = conditions.micro_batch(3, "none", 2)

    def sent(gpus, gigabits=200.0, stage=2):
        network = speed.Network(8, gigabits)
        return speed.step_time(batch, zero(stage), conditions.card, network, gpus, 1).sent

    assert sent(1) == 0 < sent(2) < sent(8) < sent(16) < sent(1024)
    assert sent(16, 100.0) > sent(16) and sent(8, 100.0) == sent(8)
    assert sent(16, stage=3) > sent(16)


def test_report_and_flat_figures(tmp_path, capsys):
    out = tmp_path / "plan.json"
    assert plan("--gpus", "8", "--gpu", "h100-80gb", "--json", str(out)) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("An estimate: nothing of it was measured")
    assert "8 GPUs can't share batch.train_batch_size 18 evenly: planned with 24 a step, and 150,000 steps" in printed
    found = json.loads(out.read_text())
    flat = ("peak_gb_per_gpu", "tokens_per_second", "hours", "micro_batch_size_per_gpu", "checkpointing", "fits")
    assert all(isinstance(found[name], int | float | str) for name in flat)
    assert found["fits"] is True and found["micro_batch_size_per_gpu"] == 3 and found["checkpointing"] == "none"
    assert found["hours"] == pytest.approx(found["tokens"] / found["tokens_per_second"] / 3600, abs=0.01)
    assert found["gpu_hours"] == pytest.approx(8 * found["hours"], rel=0.02)
    assert [row["gpus"] for row in found["scaling"]] == [2**power for power in range(11)]
    assert len(found["candidates"]) == 9 and found["epochs"] is None and "shards" not in found["disk_gb"]


def test_shards_say_length_vocabulary_and_epochs(shards, tmp_path, capsys):
    out = tmp_path / "plan.json"
    model = ["--model.init", "random", "--model.family", "longformer", "--max_steps", "100"]
    words = ["--gpu", "a10-24gb", "--optim.warmup_steps", "0", "--shards", str(shards), "--json", str(out), *model]
    assert plan(*words) == 0
    found = json.loads(out.read_text())
    train = json.loads((shards / "manifest.json").read_text())["splits"]["train"]
    assert found["tokens"] == 100 * 18 * 256
    assert found["epochs"] == pytest.approx(100 * 18 / train["sequences"], abs=0.01)
    assert "epochs over" in capsys.readouterr().out and found["disk_gb"]["shards"] >= 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--gpu h100", "--gpu h100: unknown (did you mean h100-80gb?)"),
        ("--gpus 0", "--gpus is 0, must be at least 1"),
        ("--gpus -3", "--gpus is -3, must be at least 1"),
        (
            "--gpus 16 --gpus-per-node 3",
            "--gpus 16 don't fill nodes of --gpus-per-node 3: give 15 or 18 GPUs, or --gpus-per-node 2",
        ),
        ("--plot no/x.svg", "no/x.svg: there is no folder no; make it first"),
        ("--json no/x.json", "no/x.json: there is no folder no; make it first"),
        ("--gpu v100-16gb", "precision bf16: v100-16gb has no bf16"),
        ("--model.name_or_path no/such", "no/such: its config.json isn't here"),
        ("--deepspeed ds_configs/zero2_offload.json", "ZeRO with offload: memory and time of that can't be estimated"),
        ("--deepspeed none", "a run without ZeRO: memory"),
        (
            "--precision fp32 --attention.global_tokens first",
            "precision fp32 on a GPU, attention.global_tokens: memory",
        ),
        ("--sequence-length 8192", "sequences of 8,192 tokens, but the model has 4,096 positions"),
        ("--shards nowhere", "nowhere: no such folder"),
        ("--data.shards nowhere", "nowhere: no such folder"),
        ("--data.shards=x --sequence-length 512", "--sequence-length: shards have their own; give it or --shards"),
        ("--optim.lr 1", "unknown --optim.lr"),
    ],
)
def test_mistakes_end_in_one_line(words, message, capsys, tmp_path, monkeypatch):
    """Before anything is printed or made."""
    monkeypatch.chdir(tmp_path)
    assert plan(*words.split()) == 2
    printed = capsys.readouterr()
    assert message in printed.err and len(printed.err.splitlines()) == 1 and not printed.out
    assert not list(tmp_path.iterdir())


def test_a_deepspeed_file_that_leaves_an_auto_is_refused(tmp_path, capsys):
    (tmp_path / "zero.json").write_text('{"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}}')
    assert plan("--deepspeed", str(tmp_path / "zero.json")) == 2
    assert 'zero_optimization.reduce_bucket_size is "auto", must be a number' in capsys.readouterr().err


def test_plan_starts_without_torch():
    code = (
        "import sys\nfrom clinical_pretrain.cli import main\n"
        f"main(['plan', '--config', {str(REPOSITORY / CONFIGS[0])!r}])\n"
        "print(sorted({'torch', 'transformers', 'deepspeed', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def run_on(folder, device, speeds, config):
    """A run folder of a run on two GPUs, with these tokens per second in its metrics."""
    run = RunFolder(folder)
    folder.mkdir()
    start = {"device": device, "world_size": 2, "config": config.to_dict()}
    run.write_run({"starts": [start]})
    run.write_versioned(run.data_file, {"sequence_length": 4096})
    run.model_config.mkdir()
    shape = asdict(shapes.LONGFORMER_BASE) | {"model_type": "longformer"}
    (run.model_config / "config.json").write_text(json.dumps(shape))
    same = {"format_version": metrics.FORMAT_VERSION, "kind": "train", "start": 0}
    lines = [{**same, "step": 10 * step, "tokens_per_second": speed} for step, speed in enumerate(speeds, 1)]
    run.metrics_file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_a_measured_run_scales_the_times(tmp_path, capsys):
    config = given(CONFIGS[0]).config
    run_on(tmp_path / "run", "NVIDIA H100 80GB HBM3", [1.0, 9e5, 1e6, 1.2e6], config)
    run_on(tmp_path / "short", "NVIDIA H100 80GB HBM3", [1.0, 9e5], config)
    out = tmp_path / "plan.json"

    def found(*words):
        assert plan("--gpus", "2", "--json", str(out), *words) == 0
        return json.loads(out.read_text())

    plain, scaled = found(), found("--measured", str(tmp_path / "run"))
    factor = 1e6 / plain["tokens_per_second"]
    assert plain["measured_over_estimated"] is None
    assert scaled["measured_over_estimated"] == pytest.approx(factor, abs=1e-3)
    assert scaled["tokens_per_second"] == 1_000_000
    (same_number,) = (row for row in scaled["scaling"] if row["gpus"] == 2)
    assert same_number["weak_tokens_per_second"] == same_number["strong_tokens_per_second"] == 1_000_000
    seconds, plain_seconds = (sum(each["seconds_of_a_step"].values()) for each in (scaled, plain))
    assert seconds == pytest.approx(plain_seconds / factor, rel=0.02)
    assert scaled["hours"] == pytest.approx(plain["hours"] / factor, rel=0.02)
    assert "trained 1,000,000 tokens/s on this GPU" in capsys.readouterr().out
    # Without being named, too, if it lies where this run will.
    by_itself = found("--run_dir", str(tmp_path / "next"))
    assert by_itself["measured_over_estimated"] == scaled["measured_over_estimated"]
    for run, gpu, message in (
        ("run", "a100-80gb", "trained on NVIDIA H100 80GB HBM3, not on a100-80gb"),
        ("short", "h100-80gb", "only 1 line of metrics after the first; 3 are needed"),
        ("none", "h100-80gb", "not a run folder"),
    ):
        assert plan("--gpu", gpu, "--measured", str(tmp_path / run)) == 2
        assert message in capsys.readouterr().err


def test_other_users_runs_are_passed_over(tmp_path, monkeypatch):
    """In a folder of runs that many share."""
    config = given(CONFIGS[0]).config
    run_on(tmp_path / "run", "NVIDIA H100 80GB HBM3", [1.0, 9e5, 1e6, 1.2e6], config)
    (tmp_path / "private").mkdir()
    exists = Path.exists

    def refuses(path):
        if "private" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", refuses)
    assert runs_in([tmp_path]) == [tmp_path / "run"]
    assert newest_measurement(tmp_path, card_named("h100-80gb"), speed.Network()).run == tmp_path / "run"


def test_small_runs_have_fitting_units(tmp_path, capsys):
    out = tmp_path / "plan.json"
    assert plan("--max_steps", "2", "--optim.warmup_steps", "0", "--json", str(out)) == 0
    printed = capsys.readouterr().out
    assert "a step, 2 steps: 147 k tokens" in printed and "under 0.01 GPU-hours, under 0.01 kWh" in printed
    seconds = float(re.search(r"time +([\d.]+) s: ", printed)[1])
    assert seconds == pytest.approx(3600 * json.loads(out.read_text())["hours"], rel=0.05)
    assert plan("--max_steps", "12000") == 0
    assert re.search(r"time +\d+\.\d min: .*\n +\d\.\d+ GPU-hours, 0\.\d+ kWh", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("--gpus 6", ""),
        ("--gpus 8", "--max_steps 150000 --batch.train_batch_size 24"),
        (
            "--gpus 6 --max_steps 10001 --batch.train_batch_size 16 --batch.micro_batch_size_per_gpu 1",
            "--max_steps 8890 --optim.warmup_steps 8890 --batch.train_batch_size 18 --batch.micro_batch_size_per_gpu 3",
        ),
        (
            "--gpus 2 --gpu a10-24gb --batch.train_batch_size 400 --batch.micro_batch_size_per_gpu 200 "
            "--activation_checkpointing full",
            "--batch.micro_batch_size_per_gpu 10 --activation_checkpointing none",
        ),
        ("--gpus 2 --batch.micro_batch_size_per_gpu auto --activation_checkpointing auto", ""),
        (
            "--gpus 8 --max_steps 1000 --extend 20000 --optim.warmup_steps 0",
            "--max_steps 750 --extend 15000 --batch.train_batch_size 24",
        ),
    ],
)
def test_the_choice_is_written_as_options(words, options, capsys, tmp_path):
    """With them the config is what was chosen."""
    out = tmp_path / "plan.json"
    assert plan(*words.split(), "--json", str(out)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "options for it" in line] == ([f"  options for it: {options}"] if options else [])
    chosen = json.loads(out.read_text())["chosen"]
    assert plan(*words.split(), *options.split(), "--json", str(out)) == 0
    again = json.loads(out.read_text())
    assert again["options"] == [] and again["chosen"] == chosen
    assert all(again[name] == chosen[name] for name in ("micro_batch_size_per_gpu", "checkpointing", "zero_stage"))


def test_another_zero_stage_is_an_option():
    conditions = given(CONFIGS[0], world_size=2)
    config, chosen = conditions.config, choice.candidate(conditions, zero(3), "none", 3)
    found = observe_plan.options_for(config, config, config.max_steps, chosen)
    assert found == ("--deepspeed", "ds_configs/zero3.json")


def test_efficiency_exceeds_one_by_the_update_alone(monkeypatch):
    """ZeRO divides it among the GPUs; else no GPU is faster with others than alone."""
    conditions = given(CONFIGS[0], "a100-40gb", world_size=2)
    chosen = choice.candidate(conditions, zero(2), "none", 3)
    rows = plan_scaling.scaling(conditions, chosen)
    assert max(row.weak_efficiency for row in rows) > 1 and "over 100%: ZeRO" in "\n".join(
        plan_scaling.scaling_lines(rows)
    )
    monkeypatch.setattr(speed, "UPDATE_BYTES", 0)
    rows = plan_scaling.scaling(conditions, chosen)
    assert max(row.weak_efficiency for row in rows) == 1 and "over 100%" not in "\n".join(
        plan_scaling.scaling_lines(rows)
    )


def test_scaling_fills_nodes():
    conditions = replace(given(CONFIGS[0]), network=speed.Network(gpus_per_node=6))
    rows = plan_scaling.scaling(conditions, choice.candidate(conditions, zero(2), "none", 3))
    assert [row.gpus for row in rows] == [1, 2, 4, 6, 12, 24, 48, 96, 192, 384, 768]


def test_scaling_is_drawn(tmp_path, capsys):
    assert plan("--plot", str(tmp_path / "scaling.svg")) == 0
    assert "<svg" in (tmp_path / "scaling.svg").read_text()
    assert plan("--plot", "scaling.jpg") == 2
    assert "unknown kind of picture" in capsys.readouterr().err


# auto ---------------------------------------------------------------------------------------------------------------


def test_auto_is_what_plan_chooses_and_a_resume_keeps_it(shards, tmp_path):
    size = ModelSize(num_hidden_layers=2, hidden_size=768, num_attention_heads=12, intermediate_size=3072,
                     attention_window=128)  # fmt: skip
    config = RunConfig(run_dir=str(tmp_path / "run"), activation_checkpointing="auto")
    config = replace(
        config,
        model=ModelConfig(init="random", size=size),
        data=replace(config.data, shards=str(shards)),
        attention=replace(config.attention, dropout=0.0),
        batch=replace(config.batch, train_batch_size=4096, micro_batch_size_per_gpu=0),
    )
    card = replace(card_named("a100-40gb"), memory_gib=8)
    settled = auto.settle(config, 2, card)
    conditions, stage = auto.conditions(config, 2, card)
    chosen = choice.choose(choice.candidates(conditions, [stage]))
    assert chosen.fits and settled.activation_checkpointing == chosen.activation_checkpointing
    assert 1 < settled.batch.micro_batch_size_per_gpu == chosen.micro_batch_size < 2048
    one = auto.settle(config, 2, None)
    assert (one.batch.micro_batch_size_per_gpu, one.activation_checkpointing) == (1, "none")
    given_size = replace(config, batch=replace(config.batch, micro_batch_size_per_gpu=64))
    assert auto.settle(given_size, 2, card).batch.micro_batch_size_per_gpu == 64
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.write_run({})
    folder.config_file.write_text(settled.to_yaml())
    assert auto.as_before(config, 2) == settled == auto.settle(config, 2, replace(card, memory_gib=4))
    assert auto.as_before(config, 4096).batch.micro_batch_size_per_gpu == 0  # can't be shared so
    folder.run_file.unlink()
    with pytest.raises(UserError, match=r"auto: not even micro-batches of 1 fit: .* of 0\.1 GB"):
        auto.settle(config, 2, replace(card, memory_gib=0.1))
    message = auto.out_of_memory(replace(given_size, activation_checkpointing="none"), 2, replace(card, memory_gib=1))
    assert message.startswith("out of memory: micro-batches of 64 with activation_checkpointing none need about ")
    assert message.count(" GB") == 4 and "best first: --" in message


def test_auto_is_read_as_zero_and_written_back(tmp_path):
    config, _ = load_config(["--batch.micro_batch_size_per_gpu", "auto", "--activation_checkpointing", "auto"])
    assert auto.is_auto(config) and config.batch.micro_batch_size_per_gpu == 0
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    assert load_config(["--config", str(tmp_path / "run.yaml")])[0] == config
    assert config.accumulation_steps(6) == 3
    with pytest.raises(UserError, match="ranks can't share"):
        config.accumulation_steps(4)
