"""Is a model any better for its pretraining? The whole road on open data: pretrain, fine-tune, score, compare.

    python benchmarks/open_tasks.py --out runs/open_tasks

Trains a tokenizer on the tasks' texts, without those of their test splits, and on CRAFT; makes a small Longformer with
random weights; pretrains it on two CPU ranks; evaluates it before and after on four open tasks with three seeds; and
writes the table and the pretraining's losses. Each step is a command that a user types; what is done isn't done again.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from common import REPOSITORY, facts, pairs
from finetune_step import LABELS, step_of
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    LongformerConfig,
    LongformerForMaskedLM,
    set_seed,
)

from clinical_pretrain import accelerate_attention
from clinical_pretrain.distributed import free_port
from clinical_pretrain.tasks.catalogue import TASKS, read_task
from tokenizer_tools.files import write_json

DATA = REPOSITORY.parent / "shared" / "data"
FOLDERS = {
    "bc5cdr": "tasks/BC5CDR-IOB",
    "maccrobat": "tasks/maccrobat2020",
    "covid_qa": "tasks/covid_qa",
    "mtsamples": "notes",
}
"""Where each task's files are, below DATA."""
OPTIONS = {
    "bc5cdr": ["--epochs", 2, "--learning-rates", "1e-3"],
    "maccrobat": ["--epochs", 10, "--learning-rates", "1e-3", "--batch-size", 8],
    "covid_qa": ["--epochs", 2, "--learning-rates", "5e-4", "--development-documents", 3],
    "mtsamples": ["--epochs", 1, "--learning-rates", "1e-3"],
}
"""Few steps, as two CPU cores train them; of a larger learning rate than models of base size take. Of COVID-QA's 16
development articles, 13,291 windows, three choose the epoch: all would take longer than the training."""
SEQUENCE_LENGTH = 512
SEEDS = 3


def run(*command: object) -> None:
    """Run a command as a user types it, with one thread for each of its processes."""
    words = [str(word) for word in command]
    print("$", " ".join(words), flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([str(Path(sys.executable).parent / words[0]), *words[1:]], check=True, env=environment)


def write_notes(path: Path, tasks: Iterable[str]) -> None:
    """The texts of tasks but those of their test splits, and the articles of CRAFT."""
    texts = [article.read_text() for article in sorted((DATA / "longdocs" / "craft").glob("*.txt"))]
    for task in tasks:
        splits = read_task(TASKS[task], DATA / FOLDERS[task]).data.splits
        texts += [document.text for name in ("train", "development") for document in splits[name]]
    path.write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))


def make_model(out: Path, tokenizer_folder: Path) -> None:
    """A Longformer with random weights that learns in minutes: a narrow window below a wide one, positions that begin
    as sines, and no dropout."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "sep")}
    set_seed(0)
    config = LongformerConfig(
        vocab_size=len(tokenizer), num_hidden_layers=3, hidden_size=128, num_attention_heads=4, intermediate_size=512,
        attention_window=[16, 256, 32], max_position_embeddings=SEQUENCE_LENGTH + 2, type_vocab_size=1,
        layer_norm_eps=1e-5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.08,
        **special,
    )  # fmt: skip
    model = LongformerForMaskedLM(config)
    positions = model.longformer.embeddings.position_embeddings.weight
    count, size = positions.shape
    angles = torch.arange(count)[:, None] * 1e4 ** (-torch.arange(0, size, 2) / size)
    scale = 2**0.5 * config.initializer_range  # the standard deviation that the other weights have
    positions.data = scale * torch.cat([angles.sin(), angles.cos()], dim=1)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def pretrain(out: Path, tasks: Iterable[str]) -> dict[str, Any]:
    """From the notes of tasks to a model with random weights, `random`, and that model after pretraining, `pretrained`.
    Returns the run's losses and steps."""
    if not (out / "pretrained").is_dir():
        _pretrain(out, tasks)
    summary = json.loads((out / "run" / "summary.json").read_text())
    return {key: summary[key] for key in ("validation_loss_before", "validation_loss_after", "steps")}


def _pretrain(out: Path, tasks: Iterable[str]) -> None:
    notes, tokenizer, shards, run_dir = (out / name for name in ("notes.jsonl", "tokenizer", "shards", "run"))
    of_notes = ["--notes", notes, "--split.by", "note", "--split.validation", 0.05, "--split.test", 0]
    if not (out / "random").is_dir():
        write_notes(notes, tasks)
        run("clinical-pretrain", "train-tokenizer", *of_notes, "--out", tokenizer, "--vocab-size", 4096)
        make_model(out / "random", tokenizer)
    run("clinical-pretrain", "build-shards", *of_notes, "--tokenizer", tokenizer, "--out", shards, "--sequence-length",
        SEQUENCE_LENGTH)  # fmt: skip
    entry, config = REPOSITORY / "clinical_pretrain" / "run.py", REPOSITORY / "benchmarks" / "open_tasks.yaml"
    run("deepspeed", "-q", "--num_gpus", 2, "--master_port", free_port(), entry, "--config", config,
        "--model.name_or_path", out / "random", "--data.shards", shards, "--run_dir", run_dir)  # fmt: skip
    run("clinical-pretrain", "export", run_dir, "--out", out / "pretrained")


def link_data(folder: Path) -> None:
    """Make a --data-root with a folder per task."""
    folder.mkdir(exist_ok=True)
    for task, path in FOLDERS.items():
        if not (folder / task).is_symlink():
            (folder / task).symlink_to(DATA / path)


def evaluate(out: Path, options: dict[str, list[Any]], seeds: int = SEEDS) -> None:
    """Evaluate both models on tasks with the options of each, two trials at a time, each on one core."""

    def one(trials: tuple[str, str]) -> None:
        task, model = trials
        shards = ["--shards", f"{model}={out / 'shards'}"] if model == "pretrained" else []
        run("clinical-pretrain", "evaluate", "--suite", task, "--data-root", out / "data", "--models",
            f"{model}={out / model}", *shards, "--out", out / "results", "--seeds", seeds, "--micro-batch-size", 8,
            "--prediction-precision", "bf16", *options[task])  # fmt: skip

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, itertools.product(options, ("random", "pretrained"))))


def step_time(model: Path) -> dict[str, float]:
    """A fine-tuning step of a model for entities, eight windows without padding, by accelerate_attention and without
    it, in turn."""
    network = AutoModelForTokenClassification.from_pretrained(model, num_labels=LABELS)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, network.config.vocab_size, (8, SEQUENCE_LENGTH), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids % LABELS}
    theirs, ours = (step_of(each.train(), inputs) for each in (copy.deepcopy(network), accelerate_attention(network)))
    theirs(), ours()
    return pairs(theirs, ours, 15)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/open_tasks"))
    parser.add_argument("--json", type=Path, default=REPOSITORY / "benchmarks" / "results" / "open_tasks.json")
    args = parser.parse_args()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    pretraining = pretrain(out, FOLDERS)
    link_data(out / "data")
    evaluate(out, OPTIONS)
    run("clinical-pretrain", "table", out / "results", "--baseline", "random", "--json", out / "table.json")
    found: dict[str, Any] = {
        "what": "a small model pretrained on the tasks' texts and CRAFT, and one with random weights"
    }
    found |= facts() | {
        "pretraining": pretraining,
        "finetuning_step": step_time(out / "pretrained"),
        "table": json.loads((out / "table.json").read_text()),
    }
    write_json(args.json, found)


if __name__ == "__main__":
    main()
