"""The stored results as tables, written into benchmarks/README.md, and as a picture, results/figures.png.

python benchmarks/report.py
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
BEGIN, END = "<!-- made by report.py: begin -->\n", "<!-- made by report.py: end -->\n"
MODELS = {"longformer": "Longformer", "bigbird": "BigBird"}
SIDES = {"hugging_face": "Hugging Face", "ours": "ours"}


def main() -> None:
    """See the module's docstring."""
    readme = FOLDER / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(before + BEGIN + "\n".join(sections()) + END + after)
    draw(RESULTS / "figures.png")


def read(name: str) -> dict[str, Any] | None:
    """A stored result, if it is there."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def matching(pattern: str) -> list[dict[str, Any]]:
    """Stored results whose name fits, in order."""
    names = [path.stem for path in RESULTS.glob("*.json") if re.fullmatch(pattern, path.stem)]
    return [json.loads((RESULTS / f"{name}.json").read_text()) for name in sorted(names, key=_natural)]


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def table(head: list[str], rows: Iterable[list[Any]]) -> Iterator[str]:
    """A Markdown table, and an empty line."""
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join(["---"] * len(head)) + " |"
    for row in rows:
        yield "| " + " | ".join(str(cell) for cell in row) + " |"
    yield ""


def sections() -> Iterator[str]:
    """All tables, each with the machine that it was measured on."""
    for title, pattern, head, row_of in (
        ("A whole training step", r"limit_.*", LIMIT_HEAD, limit_row),
        ("A training step, both sides in one process", r"train_step_.*", STEP_HEAD, step_row),
        ("A run's step by what allocates, on a CPU", r"allocators_.*", ALLOCATORS_HEAD, allocators_rows),
        ("A run's resident memory over 200 steps, on a CPU", r"resident_memory_.*", RESIDENT_HEAD, resident_row),
        ("What is computed again in the backward pass", r"checkpointing_.*", STEP_HEAD, step_row),
        ("A fine-tuning step, by accelerate_attention", r"finetune_step_.*", FINETUNE_HEAD, finetune_row),
        ("One layer's attention", r"attention_.*", ATTENTION_HEAD, attention_rows),
        ("By sequence length", r"lengths_.*", LENGTH_HEAD, length_rows),
        ("Memory by sequences", r"memory_.*", MEMORY_HEAD, memory_row),
        ("Estimated memory against measured peaks", r"plan_compared_.*", PLAN_HEAD, plan_rows),
        ("The largest micro-batches that should fit", r"plan_fit", FIT_HEAD, fit_rows),
        ("What a step asks of a GPU", r"launches_.*", LAUNCHES_HEAD, launches_row),
        ("The stock recipe under DeepSpeed", r"run_mlm_baseline_.*", BASELINE_HEAD, baseline_row),
        ("The same function", r"parity_.*", PARITY_HEAD, parity_rows),
        ("From notes to a model, on real corpora", r"(mtsamples|mts_dialog)_.*", MTSAMPLES_HEAD, mtsamples_row),
        ("Notes to shards", r"shards_.*", SHARDS_HEAD, shards_rows),
        ("Open tasks, with and without pretraining", r"open_tasks.*", OPEN_TASKS_HEAD, open_tasks_rows),
        ("Saving and loading a checkpoint", r"saving_.*", SAVING_HEAD, saving_row),
        ("Under faults", r"chaos.*", CHAOS_HEAD, chaos_rows),
    ):
        for where, prefix in (("", ""), (", on a GPU", "gpu_")):
            found = matching(prefix + pattern)
            if found:
                yield f"### {title}{where}\n"
                yield f"{machines(found)}\n"
                rows = [row for result in found for row in as_rows(row_of(result))]
                yield from table(head, rows)
    yield from training_runs()


def as_rows(made: list[Any]) -> list[list[Any]]:
    """One row or several."""
    return made if made and isinstance(made[0], list) else [made]


def machines(results: list[dict[str, Any]]) -> str:
    """Hardware, versions and date of results, which ought to be one of each."""
    said = []
    for result in results:
        versions = result["versions"]
        text = f"{result['hardware']}; torch {versions['torch']}, transformers {versions['transformers']}"
        if text not in said:
            said.append(text)
    return " / ".join(said) + "."


STEP_HEAD = ["model", "layers", "precision", "sequences", "computed again", "seconds, Hugging Face", "ours",
             "ratio (lowest to highest)", "head only / attention only", "peak MB, Hugging Face", "ours", "ratio",
             "losses differ by"]  # fmt: skip


RECOMPUTED = {"none": "nothing", "attention": "attention", "full": "layers"}


def value_of(settings: dict[str, Any], *names: str) -> Any:
    """A setting's value by its present name, or by the one that it had when the result was stored."""
    return next(settings[name] for name in names if name in settings)


def step_row(result: dict[str, Any]) -> list[Any]:
    """Of train_step.py."""
    config, parts = result["config"], result.get("time_ratio_of_part")
    ratio = memory = "-"
    if "time_ratio" in result:
        lowest, highest = result["time_ratio_lowest"], result["time_ratio_highest"]
        ratio = f"**{result['time_ratio']:.2f}** ({lowest:.2f} to {highest:.2f})"
    if result.get("memory_ratio"):
        memory = f"**{result['memory_ratio']:.2f}**"
    return [
        MODELS[config["model"]], config["layers"], config["precision"], config["micro_batch"],
        RECOMPUTED[value_of(config, "activation_checkpointing", "checkpointing")],
        number(result.get("seconds_hugging_face"), 2) if "time_ratio" in result else result.get("hugging_face", "-"),
        number(result["seconds_ours"], 2), ratio,
        f"{parts['head']:.2f} / {parts['attention']:.2f}" if parts else "-",
        number(result.get("peak_megabytes_hugging_face")), number(result["peak_megabytes_ours"]), memory,
        f"{result['max_loss_difference']:.0e}" if "max_loss_difference" in result else "-",
    ]  # fmt: skip


LIMIT_HEAD = ["model", "layers", "precision", "dropout", "seconds, products", "ours", "over the products",
              "with memory returned", "Hugging Face's over ours", "with freed memory kept", "a run's step over ours",
              "peak MB"]  # fmt: skip


def limit_row(result: dict[str, Any]) -> list[Any]:
    """Of limit.py."""
    config, seconds = result["config"], result["seconds"]
    ratios = ("of_products", "of_products_memory_returned", "of_stock", "of_stock_at_best", "run_of_step")
    return [
        MODELS[config["model"]], config["layers"], config["precision"], config["dropout"],
        *(number(statistics.median(seconds[side]), 2) for side in ("products", "ours")),
        *(number(result[name], 2) for name in ratios), number(result["peak_mb"]),
    ]  # fmt: skip


ALLOCATORS_HEAD = ["model", "layers", "precision", "allocator", "seconds", "over glibc, keeping", "peak MB"]


def allocators_rows(result: dict[str, Any]) -> list[list[Any]]:
    """Of allocators.py."""
    config, names = result["config"], result["seconds"]
    return [
        [MODELS[config["model"]], config["layers"], config["precision"], name,
         number(statistics.median(names[name]), 2), number(result["over_glibc_keeping"][name], 2),
         number(result["peak_mb"][name])]
        for name in names
    ]  # fmt: skip


RESIDENT_HEAD = ["model", "layers", "precision", "steps", "MB when settled", "at the end"]


def resident_row(result: dict[str, Any]) -> list[Any]:
    """Of resident_memory.py."""
    config = result["config"]
    return [
        MODELS[config["model"]], config["layers"], config["precision"], config["steps"],
        number(result["megabytes_when_settled"]), number(result["megabytes_at_the_end"]),
    ]  # fmt: skip


FINETUNE_HEAD = ["model", "layers", "precision", "tokens", "dropout", "seconds, as it is", "accelerated",
                 "ratio (lowest to highest)", "peak MB, as it is", "accelerated", "outputs differ by"]  # fmt: skip


def finetune_row(result: dict[str, Any]) -> list[Any]:
    """Of finetune_step.py."""
    config, lowest, highest = result["config"], result["time_ratio_lowest"], result["time_ratio_highest"]
    return [
        MODELS[config["model"]], config["layers"], config["precision"], f"{config['sequence_length']:,}",
        config["dropout"], number(result["seconds_hugging_face"], 2), number(result["seconds_ours"], 2),
        f"**{result['time_ratio']:.2f}** ({lowest:.2f} to {highest:.2f})",
        number(result["peak_megabytes_hugging_face"]), number(result["peak_megabytes_ours"]),
        f"{result['largest_difference']:.0e}",
    ]  # fmt: skip


ATTENTION_HEAD = ["model", "precision", "backend", "ms", "ratio", "peak MB", "differs by"]


def attention_rows(result: dict[str, Any]) -> list[list[Any]]:
    """Of attention.py."""
    config = result["config"]
    return [
        [MODELS[config["model"]], config["precision"], SIDES.get(name, name), number(row["milliseconds"]),
         f"{row['time_ratio']:.2f}", number(row["peak_megabytes"]), f"{row['largest_difference']:.0e}"]
        for name, row in result["backends"].items()
    ]  # fmt: skip


LENGTH_HEAD = ["model", "layers", "tokens per sequence", "tokens/s, Hugging Face", "ours",
               "peak MB of a sequence, Hugging Face", "ours", "time per token, 4,096 to 16,384"]  # fmt: skip


def length_rows(result: dict[str, Any]) -> list[list[Any]]:
    """Of lengths.py."""
    growth = f"{result['growth_of_time_per_token_from_4096_to_16384']:+.1%}"
    return [
        [MODELS[result["config"]["model"]], result["config"]["layers"], f"{int(length):,}",
         number(row["tokens_per_second_hugging_face"]), number(row["tokens_per_second_ours"]),
         number(row["peak_megabytes_of_a_row_hugging_face"]), number(row["peak_megabytes_of_a_row_ours"]),
         growth if length == "16384" else ""]
        for length, row in result["by_sequence_length"].items()
    ]  # fmt: skip


GIGABYTES = {16: "sm_70", 32: "sm_70", 40: "sm_90", 80: "sm_90", 141: "sm_90"}
"""GPUs by their memory, and which of those measured each is like."""
MEMORY_HEAD = ["model", "GPU", "precision", "attention", "computed again", "sequences: GB",
               *(f"sequences in {gigabytes} GB" for gigabytes in GIGABYTES)]  # fmt: skip


def memory_row(result: dict[str, Any]) -> list[Any]:
    """Of gpu_memory.py."""
    config = result["config"]
    peaks = {int(count): peak["reserved"] / 1e9 for count, peak in result["peak_bytes_by_rows"].items()}
    gpu = result["hardware"].removeprefix("no GPU: a stand-in for an ")
    return [
        MODELS[config["model"]["family"]], gpu,
        config["precision"], result["attention"] + (", compiled" if result["compiled"] else ""),
        RECOMPUTED[value_of(config, "activation_checkpointing", "checkpointing")],
        " · ".join(f"{count}: {peak:.1f}" for count, peak in peaks.items()),
        *(max_sequences(peaks, size) if gpu == kind or "sm_" not in gpu else "" for size, kind in GIGABYTES.items()),
    ]  # fmt: skip


def max_sequences(peaks: dict[int, float], gigabytes: float) -> int:
    """Largest micro-batch whose peak leaves a tenth of the memory free; peaks between those measured are interpolated
    linearly."""
    measured = sorted(peaks.items())
    sequences = 0
    while True:
        (x, y), (next_x, next_y) = next(
            (pair for pair in itertools.pairwise(measured) if sequences + 1 <= pair[1][0]), measured[-2:]
        )
        if y + (sequences + 1 - x) * (next_y - y) / (next_x - x) > 0.9 * gigabytes:
            return sequences
        sequences += 1


PLAN_HEAD = ["model", "on", "precision", "computed again", "ZeRO stage", "tokens", "GPUs", "sequences", "GB, measured",
             "estimated", "differs by", "at the peak", "GB held by torch"]  # fmt: skip
FIT_HEAD = ["model", "card", "precision", "computed again", "ZeRO stage", "sequences", "GB, at the peak",
            "held by torch", "of the card", "trained"]  # fmt: skip


def plan_rows(result: dict[str, Any]) -> list[list[Any]]:
    """Of plan.py compare: of GPUs, or of passes on a CPU, where a name has fewer parts."""
    rows = []
    for peak in result["peaks"]:
        name, _, sequences = peak["setting"].partition(" ")
        parts = name.split("_")
        if sequences:
            model, capability, precision, kind, stage, length, gpus = parts
            where, reserved = f"sm_{capability.replace('.', '')}", f"{peak['reserved'] / 1e9:.2f}"
        else:
            model, layers, precision, kind, length = parts
            where, stage, gpus, sequences, reserved = f"CPU, {layers} layers", "-", "-", "1", "-"
        rows.append([
            MODELS[model], where, precision, RECOMPUTED[kind], stage, f"{int(length):,}", gpus, sequences,
            f"{peak['measured'] / 1e9:.2f}", f"{peak['predicted'] / 1e9:.2f}", f"{peak['error']:+.1%}", peak["phase"],
            reserved,
        ])  # fmt: skip
    return rows


def fit_rows(result: dict[str, Any]) -> list[list[Any]]:
    """Of plan.py fit."""
    rows = []
    for run in result["runs"]:
        peaks = run["peak_bytes"] or {}
        rows.append([
            MODELS[run["model"]], run["card"], run["precision"], RECOMPUTED[run["activation_checkpointing"]],
            run["zero_stage"], run["sequences"], *(f"{peak / 1e9:.2f}" for peak in peaks.values()),
            *(["-"] * (2 - len(peaks))), run["gigabytes"], "yes" if run["trained"] else "no",
        ])  # fmt: skip
    return rows


LAUNCHES_HEAD = ["model", "sequences", "ZeRO stage", "launches", "copies", "fills", "waits", "collectives",
                 "launches by origin, the five most"]  # fmt: skip


def launches_row(result: dict[str, Any]) -> list[Any]:
    """Of gpu_launches.py."""
    counts = result["counts"]
    origins = [(sum(names.values()), origin) for origin, names in result["origins"]["launch"].items()]
    most = [f"{count:,} {re.split(r'[:.] ?', origin)[-1]}" for count, origin in sorted(origins, reverse=True)[:5]]
    return [
        MODELS[result["model"]], result["sequences"], result["deepspeed"]["zero_optimization"]["stage"],
        *(f"{counts[kind]:,}" for kind in ("launch", "copy", "fill", "wait", "collective")),
        " · ".join(most),
    ]  # fmt: skip


BASELINE_HEAD = ["model", "layers x width", "ZeRO file", "tokens/s, stock", "ours", "ratio"]


def baseline_row(result: dict[str, Any]) -> list[Any]:
    """Of run_mlm_baseline.py."""
    model = result["config"]["model"]
    size = model["size"]
    return [
        MODELS[model["family"]], f"{value_of(size, 'num_hidden_layers', 'layers')} x {size['hidden_size']}",
        result["config"]["deepspeed"], number(result["tokens_per_second_hugging_face"]),
        number(result["tokens_per_second_ours"]), f"**{result['time_ratio']:.2f}**",
    ]  # fmt: skip


PARITY_HEAD = ["model", "precision", "backend", "loss differs by", "largest gradient difference",
               "gradients' error over Hugging Face's", "waits for the GPU", "compiled later"]  # fmt: skip


def parity_rows(result: dict[str, Any]) -> list[list[Any]]:
    """Of parity.py."""
    return [
        [MODELS[result["config"]["model"]], precision, SIDES.get(name, name), f"{row['loss_difference']:.0e}",
         f"{row['largest_gradient_difference']:.0e}" if precision == "fp32" else "-",
         number(row.get("gradient_error_over_hugging_faces"), 3), number(row.get("waits_for_the_gpu")),
         number(row.get("graphs_compiled_later"))]
        for precision, rows in result["by_precision"].items()
        for name, row in rows.items()
    ]  # fmt: skip


MTSAMPLES_HEAD = ["corpus", "model", "steps", "loss before", "after", "unigram entropy", "accuracy",
                  "loss with the random blocks of training", "logits of the export differ by"]  # fmt: skip


def mtsamples_row(result: dict[str, Any]) -> list[Any]:
    """Of mtsamples.py."""
    family = result["config"]["model"]["family"]
    by_blocks = result.get("validation_loss_after_with_random_blocks_of", {})
    corpus = "MTS-Dialog" if "mts_dialog" in result["command"] else "MTSamples"
    return [
        corpus, MODELS[family], result["steps"], number(result["validation_loss_before"], 3),
        f"**{result['validation_loss_after']:.3f}**", number(result["unigram_entropy_of_validation_split"], 3),
        f"{result['validation_accuracy_after']:.1%}", number(by_blocks.get("training"), 3),
        f"{result['max_logit_difference']:.0e}",
    ]  # fmt: skip


OPEN_TASKS_HEAD = ["task", "measure", "test documents", "random weights", "pretrained", "difference (95 % interval)",
                   "p (Holm)"]  # fmt: skip


def open_tasks_rows(result: dict[str, Any]) -> list[Any]:
    """Of open_tasks.py: means of the seeds, in per cent; in bold where they differ."""
    rows = result["table"]["rows"]
    random = {row["task"]: row for row in rows if row["model"] == "random"}
    return [
        [row["task"], row["metric"], f"{row['documents']:,}", f"{100 * random[row['task']]['score']:.1f}",
         f"{bold(row)} ({100 * row['low']:.1f} to {100 * row['high']:.1f})",
         f"{100 * row['difference']:+.1f} ({100 * row['difference_low']:.1f} to {100 * row['difference_high']:.1f})",
         f"{row['adjusted_p_value']:.4f}"]
        for row in rows if row["model"] == "pretrained"
    ]  # fmt: skip


def bold(row: dict[str, Any]) -> str:
    """A score in per cent, in bold if the difference is told from chance."""
    marks = "**" if row["adjusted_p_value"] < 0.05 else ""
    return f"{marks}{100 * row['score']:.1f}{marks}"


SHARDS_HEAD = ["model", "MB of text", "what", "seconds", "MB/s", "CPU seconds", "peak MB",
               "raw tokenizer's time / this"]  # fmt: skip
SHARDS_SUBJECTS = {
    "raw": "raw tokenizer, on cleaned texts",
    "ours": "build-shards",
    "ours_near": "… with near-duplicates dropped",
    "ours_gz": "… from .csv.gz",
    "run_mlm": "run_mlm.py's preprocessing",
    "datatrove": "datatrove",
}


def shards_rows(result: dict[str, Any]) -> list[list[Any]]:
    """Of shards.py."""
    rows = []
    for name, what in SHARDS_SUBJECTS.items():
        if f"seconds_{name}" in result:
            ratio = result.get(f"of_ceiling{name.removeprefix('ours')}") if name.startswith("ours") else None
            rows.append([
                MODELS[result["model"]], result["megabytes"], what,
                *(number(result.get(f"{figure}_{name}"), 1) for figure in ("seconds", "mb_per_second", "cpu_seconds")),
                number(result[f"peak_mb_{name}"]), f"**{ratio:.2f}**" if ratio else "-",
            ])  # fmt: skip
    return rows


SAVING_HEAD = ["model", "layers", "ZeRO", "ranks", "precision", "MB", "s to save, DeepSpeed", "and flushed", "ours",
               "of these, training stands still", "s to load, DeepSpeed", "ours"]  # fmt: skip


def saving_row(result: dict[str, Any]) -> list[Any]:
    """Of checkpointing.py."""
    config = result["config"]
    return [
        MODELS[config["model"]], config["layers"], config["zero_stage"], config["ranks"], config["precision"],
        number(result["megabytes_ours"]), number(result["save_seconds_plain"], 2),
        number(result["save_seconds_plain_flushed"], 2), number(result["save_seconds_ours"], 2),
        number(result["stall_seconds_ours"], 2),
        number(result["load_seconds_plain"], 2), number(result["load_seconds_ours"], 2),
    ]  # fmt: skip


CHAOS_HEAD = ["run", "fault", "times", "survived", "steps done again", "s to resume, median"]


def chaos_rows(result: dict[str, Any]) -> list[list[Any]]:
    """Of `clinical-pretrain chaos`: a line per kind of fault, and the whole."""
    run = "other ranks and stages" if result["elastic"] else "the same ranks"
    rows = []
    for kind in sorted({fault["kind"] for fault in result["each"]}):
        own = [fault for fault in result["each"] if fault["kind"] == kind]
        seconds = statistics.median(value_of(fault, "seconds_to_resume", "seconds_to_go_on") for fault in own)
        survived, lost = (sum(fault[name] for fault in own) for name in ("survived", "lost_steps"))
        rows.append([run, kind, len(own), survived, lost, number(seconds, 1)])
    outcome = "identical weights" if result["identical"] else (
        f"losses within {result['largest_relative_loss_difference']:.0e}")  # fmt: skip
    whole = f"**all: {outcome}**, training {result['effective_training_time']:.0%} of the time"
    rows.append([run, whole, result["faults"], result["survived"], result["lost_steps"],
                 number(value_of(result, "median_seconds_to_resume", "median_seconds_to_go_on"), 1)])  # fmt: skip
    return rows


def training_runs() -> Iterator[str]:
    """Of gpu.sh train: the metrics of a real run."""
    rows = []
    for model, name in MODELS.items():
        path, export = RESULTS / f"gpu_train_{model}.jsonl", read(f"gpu_export_{model}")
        if not path.exists() or export is None:
            continue
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        train = [line for line in lines if line["kind"] == "train"]
        speed = statistics.median(line["tokens_per_second"] for line in train[1:])
        mfu = statistics.median(line["mfu"] for line in train[1:]) if "mfu" in train[-1] else None
        rows.append([name, train[-1]["step"], number(speed), f"{mfu:.1%}" if mfu else "-", number(train[0]["loss"], 2),
                     number(train[-1]["loss"], 2), f"{export['max_logit_difference']:.0e}"])  # fmt: skip
    if rows:
        yield "### A real training run, on a GPU\n"
        yield from table(["model", "steps", "tokens/s (median)", "MFU", "first loss", "last", "logits differ by"], rows)


def number(value: Any, digits: int = 0) -> str:
    """With thousands separated; what is no number as it is."""
    return "-" if value is None else f"{value:,.{digits}f}" if isinstance(value, (int, float)) else str(value)


def draw(path: Path) -> None:
    """Ratios of whole steps, and tokens per second by length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6))
    results = [result for result in matching(r"limit_.*") if result["of_stock"]]
    configs = [result["config"] for result in results]
    labels = [f"{MODELS[config['model']]}, {config['layers']} layers, {config['precision']}" for config in configs]
    bars = (("of_stock", 0.2, "as its users run it", None), ("of_stock_at_best", -0.2, "at its best", "lightsteelblue"))
    for name, offset, label, color in bars:
        places = [place + offset for place in range(len(results))]
        left.barh(places, [result[name] for result in results], 0.4, label=label, color=color)
    left.set_yticks(range(len(labels)), labels, fontsize=8)
    left.axvline(1, color="grey", linewidth=0.8)
    left.set_xlabel("time of a training step, Hugging Face's over ours")
    left.legend(fontsize=8)
    highest = 0.0
    for result in matching(r"lengths_.*"):
        for side, style in (("ours", "-"), ("hugging_face", ":")):
            points = {
                int(length): row[f"tokens_per_second_{side}"]
                for length, row in result["by_sequence_length"].items()
                if not isinstance(row[f"tokens_per_second_{side}"], str)
            }
            if points:
                name = MODELS[result["config"]["model"]]
                right.plot(list(points), list(points.values()), style, marker="o", label=f"{name}, {SIDES[side]}")
                highest = max([highest, *points.values()])
    right.set_xscale("log", base=2)
    right.set_xticks([1024, 2048, 4096, 8192, 16384], ["1,024", "2,048", "4,096", "8,192", "16,384"], fontsize=8)
    right.set_ylim(0, 1.1 * highest or 1)
    right.set_xlabel("tokens per sequence")
    right.set_ylabel("tokens/s")
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
