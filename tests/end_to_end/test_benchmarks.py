"""The benchmarks' scripts run and find what they claim of exactness; how fast they find it is not tested."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BENCHMARKS = REPOSITORY / "benchmarks"
SMALL = ("--layers", "1", "--sequence-length", "1024")


@pytest.fixture
def bench(tmp_path):
    def run(script, *options):
        report = tmp_path / "report.json"
        call = [sys.executable, str(BENCHMARKS / script), *map(str, options), "--json", str(report)]
        # One thread: with several, products are summed in an order that changes with what else the machine does.
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        result = json.loads(report.read_text())
        assert result["hardware"] and result["versions"]["torch"] and result["command"].startswith("python benchmarks/")
        return result

    return run


def test_train_step(bench):
    result = bench("train_step.py", "--model", "bigbird", *SMALL, "--precision", "fp32", "--repeats", 1)
    assert result["max_loss_difference"] < 1e-4 and 0 < result["memory_ratio"] < 1 and result["time_ratio"] > 0
    assert result["config"]["layers"] == 1 and result["config"]["sequence_length"] == 1024


def test_finetune_step(bench):
    result = bench("finetune_step.py", "--model", "longformer", *SMALL, "--repeats", 1)
    assert result["largest_difference"] < 1e-5 < result["largest_output"] and result["time_ratio"] > 0


def test_parity(bench):
    by_precision = bench("parity.py", "--model", "bigbird", *SMALL)["by_precision"]
    exact, half = by_precision["fp32"]["blocked"], by_precision["bf16"]["blocked"]
    assert exact["loss_difference"] < 1e-5 and exact["largest_gradient_difference"] < 1e-4
    assert half["gradient_error_over_hugging_faces"] < 1.1 and half["loss_difference"] < 1e-2


def test_limit(bench):
    result = bench("limit.py", *SMALL, "--precision", "bf16", "--rounds", 1, "--sides", "products", "ours")
    assert result["of_products"] > 0 and result["peak_mb"] > 0 and result["of_stock"] is None


def test_attention(bench):
    backends = bench("attention.py", "--model", "longformer", *SMALL[2:], "--repeats", 1)["backends"]
    assert list(backends) == ["hugging_face", "blocked"] and backends["blocked"]["largest_difference"] < 1e-5


@pytest.mark.shared
def test_shards(bench):
    result = bench("shards.py", "--megabytes", 1, "--repeats", 1, "--subjects", "raw", "ours_near")
    assert result["of_ceiling_near"] > 0 and result["peak_mb"] > 0 and result["notes"] > 100


def test_near_duplicates(bench):
    result = bench("near_duplicates.py", "--notes", 2000, "--pairs", 200)
    assert result["recall"] >= 0.99 and result["precision"] == 1 and result["pairs_above"] > 50 < result["pairs_below"]


def test_copied_paragraphs(bench, corpus):
    result = bench("copied_paragraphs.py", "--patients", 40, "--repeats", 1, "--tokenizer", corpus / "tokenizer")
    assert result["paragraphs"] == result["paragraphs_expected"] > 50 and result["cannot_be_cut"] == 0
    assert result["notes_cut"] == result["notes_cut_expected"] > 20 and result["tokens_left_out"] > 1000


@pytest.mark.shared
def test_folds_hold_their_test_articles_out(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from covid_qa_folds import write_folds

    tested: list[int] = []
    for file in write_folds(tmp_path):
        parts = {path.stem: json.loads(path.read_text())["data"] for path in file.with_suffix("").glob("*.json")}
        of = {split: {each["paragraphs"][0]["document_id"] for each in part} for split, part in parts.items()}
        assert not of["test"] & (of["train"] | of["dev"]) and len(set.union(*of.values())) == 98
        tested += of["test"]
    assert len(tested) == len(set(tested)) == 98


def test_lengths(tmp_path, monkeypatch):
    """One short step for real; what is made of times and peaks with made-up ones."""
    sys.path.insert(0, str(BENCHMARKS))
    import lengths

    args = argparse.Namespace(model="longformer", layers=1, precision="fp32", activation_checkpointing="none")
    assert lengths.peak(args, "ours", 256) > 0
    monkeypatch.setattr(lengths, "peak", lambda args, side, length: length)
    monkeypatch.setattr(lengths, "seconds", lambda args, side, all_lengths: {each: [2.0] for each in all_lengths})
    monkeypatch.setattr(sys, "argv", ["lengths.py", "--json", str(tmp_path / "report.json")])
    lengths.main()
    result = json.loads((tmp_path / "report.json").read_text())
    assert result["config"] == {**vars(args), "layers": 12} and result["by_sequence_length"].keys() == {
        str(length) for length in lengths.LENGTHS
    }


def test_run_mlm_baseline(bench, shards):
    tiny = {
        "num_hidden_layers": 1,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "attention_window": 32,
    }
    options = {"model.init": "random", "precision": "fp32", "activation_checkpointing": "none", "data.shards": shards,
               "batch.train_batch_size": 4, "batch.micro_batch_size_per_gpu": 2, "optim.warmup_steps": 0,
               "optim.learning_rate": 3e-3, "max_steps": 20}  # fmt: skip
    options |= {f"model.size.{name}": value for name, value in tiny.items()}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    result = bench("run_mlm_baseline.py", "--steps", 5, "--repeats", 2, "--stock-micro-batch", 4, *words)
    for first, last in result["first_and_last_loss"].values():
        assert last < first - 0.1
    both = result["first_and_last_loss"]
    assert both["ours"][1] == pytest.approx(both["hugging_face"][1], abs=0.3)


def test_the_tables_are_those_of_the_stored_results():
    sys.path.insert(0, str(BENCHMARKS))
    import report

    text = (BENCHMARKS / "README.md").read_text()
    assert text.split(report.BEGIN)[1].split(report.END)[0] == "\n".join(report.sections())


def test_gpu_script_says_how_it_is_used():
    done = subprocess.run([str(BENCHMARKS / "gpu.sh")], capture_output=True, text=True)
    assert done.returncode == 2 and "benchmarks/gpu.sh PART MODEL" in done.stdout
    environment = os.environ | {"PYTHON": sys.executable, "PACKED": "nowhere"}
    done = subprocess.run([str(BENCHMARKS / "gpu.sh"), "parity"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "run 'benchmarks/gpu.sh pack'" in done.stderr


@pytest.mark.parametrize("model", ["longformer", "bigbird"])
def test_what_recipes_say_of_memory_was_measured(model):
    sys.path.insert(0, str(BENCHMARKS))
    import report

    text = (REPOSITORY / "configs" / f"clinical_{model}.yaml").read_text()
    kind, rows, gigabytes = re.search(r"checkpointing: (\w+) .* (\d) sequences at once take ([\d.]+) GB", text).groups()
    assert f"micro_batch_size_per_gpu: {rows} " in text
    peaks = [result["peak_bytes_by_rows"] for result in report.matching(rf"memory_{model}_.*_{kind}")]
    assert max(peak[rows]["reserved"] for peak in peaks if rows in peak) / 1e9 == pytest.approx(
        float(gigabytes), abs=0.05
    )


def test_max_sequences():
    sys.path.insert(0, str(BENCHMARKS))
    import report

    peaks = {1: 5.0, 3: 7.0, 6: 13.0}
    assert [report.max_sequences(peaks, gigabytes) for gigabytes in (5, 6, 8, 10, 12, 14, 16)] == [0, 1, 3, 4, 4, 5, 6]
