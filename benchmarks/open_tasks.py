"""Is a model any better for its pretraining? The whole road on open data: pretrain, fine-tune, score, compare.

    python benchmarks/open_tasks.py --out runs/open_tasks

Trains a tokenizer and a small Longformer on MTSamples and CRAFT, without the notes of MTSamples' test split, on two CPU
ranks; makes a model of the same architecture with random weights; evaluates both on four open tasks with three seeds;
and writes the table and the pretraining's losses. Each step is a command that a user types; what is done isn't done
again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common import REPOSITORY, facts
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, set_seed

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
    "bc5cdr": ["--epochs", 2],
    "maccrobat": ["--epochs", 15, "--batch-size", 4],
    "covid_qa": ["--max-steps", 60],
    "mtsamples": ["--max-steps", 120],
}
"""Few steps, as two CPU cores train them; of a larger learning rate than models of base size take."""
SEEDS = 3


def run(*command: object) -> None:
    """Run a command as a user types it."""
    words = [str(word) for word in command]
    print("$", " ".join(words), flush=True)
    subprocess.run([str(Path(sys.executable).parent / words[0]), *words[1:]], check=True)


def write_notes(path: Path) -> None:
    """MTSamples without the test split of its task, and the articles of CRAFT."""
    splits = read_task(TASKS["mtsamples"], DATA / FOLDERS["mtsamples"]).data.splits
    texts = [document.text for name in ("train", "development") for document in splits[name]]
    texts += [article.read_text() for article in sorted((DATA / "longdocs" / "craft").glob("*.txt"))]
    path.write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))


def pretrain(out: Path) -> None:
    """From notes to a model, and the same architecture with random weights."""
    notes, tokenizer, shards, run_dir = (out / name for name in ("notes.jsonl", "tokenizer", "shards", "run"))
    if not (out / "pretrained").is_dir():
        write_notes(notes)
        of_notes = ["--split.by", "note", "--split.validation", 0.05, "--split.test", 0]
        run(
            "clinical-pretrain",
            "train-tokenizer",
            "--notes",
            notes,
            "--out",
            tokenizer,
            "--vocab-size",
            8192,
            *of_notes,
        )
        run("clinical-pretrain", "build-shards", "--notes", notes, "--tokenizer", tokenizer, "--out", shards,
            "--sequence-length", 1024, *of_notes)  # fmt: skip
        entry, config = REPOSITORY / "clinical_pretrain" / "run.py", REPOSITORY / "benchmarks" / "open_tasks.yaml"
        run("deepspeed", "-q", "--num_gpus", 2, "--master_port", free_port(), entry, "--config", config,
            "--data.shards", shards, "--run_dir", run_dir)  # fmt: skip
        run("clinical-pretrain", "export", run_dir, "--out", out / "pretrained")
    set_seed(0)
    AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(out / "pretrained")).save_pretrained(out / "random")
    AutoTokenizer.from_pretrained(out / "pretrained").save_pretrained(out / "random")


def link_data(folder: Path) -> None:
    """Make a --data-root with a folder per task."""
    folder.mkdir(exist_ok=True)
    for task, path in FOLDERS.items():
        if not (folder / task).is_symlink():
            (folder / task).symlink_to(DATA / path)


def evaluate(out: Path, tasks: Iterable[str]) -> None:
    """Evaluate both models on tasks. Several processes can do this side by side."""
    models = f"random={out / 'random'},pretrained={out / 'pretrained'}"
    for task in tasks:
        run("clinical-pretrain", "evaluate", "--suite", task, "--data-root", out / "data", "--models", models, "--out",
            out / "results", "--seeds", SEEDS, "--shards", f"pretrained={out / 'shards'}", "--learning-rates", "1e-3",
            *OPTIONS[task])  # fmt: skip


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/open_tasks"))
    parser.add_argument("--json", type=Path, default=REPOSITORY / "benchmarks" / "results" / "open_tasks.json")
    args = parser.parse_args()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    pretrain(out)
    link_data(out / "data")
    evaluate(out, OPTIONS)
    run("clinical-pretrain", "table", out / "results", "--baseline", "random", "--json", out / "table.json")
    summary = json.loads((out / "run" / "summary.json").read_text())
    found: dict[str, Any] = {"what": "a small model pretrained on MTSamples and CRAFT, and one with random weights"}
    found |= facts() | {
        "pretraining": {key: summary[key] for key in ("validation_loss_before", "validation_loss_after", "steps")},
        "table": json.loads((out / "table.json").read_text()),
    }
    write_json(args.json, found)


if __name__ == "__main__":
    main()
