"""Every article of COVID-QA as a test article once: open_tasks.py's comparison in five folds.

    python benchmarks/covid_qa_folds.py --out runs/covid_qa_folds

The 21 articles of one test split are too few to tell a small difference from chance. Here each fold's fine-tuning sees
none of the fold's articles, and pretraining sees none at all: it has the texts of the other tasks and CRAFT. The
predictions of all folds are scored together.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import REPOSITORY, facts
from open_tasks import DATA, FOLDERS, OPTIONS, SEEDS, evaluate, pretrain

from clinical_pretrain.tasks.catalogue import find_task, read_task
from clinical_pretrain.tasks.records import Document
from clinical_pretrain.tasks.results import ResultFolder
from clinical_pretrain.tasks.scores.bootstrap import compare, score
from clinical_pretrain.tasks.scores.by_kind import measures_of
from clinical_pretrain.tasks.scores.measure import Measure, mean
from clinical_pretrain.tasks.scores.predictions import texts_sha256
from tokenizer_tools.files import write_json

TASK = "covid_qa"
FOLDS = 5
DEVELOPMENT_ARTICLES = 3
METRIC = "f1"


def write_folds(folder: Path) -> list[Path]:
    """Make each fold's data and its task file, which are returned."""
    articles = json.loads(next((DATA / FOLDERS[TASK]).glob("*.json")).read_text())["data"]
    random.Random(0).shuffle(articles)
    return [_write_fold(folder / f"{TASK}_{number + 1}", articles, number) for number in range(FOLDS)]


def _write_fold(folder: Path, articles: list[Any], number: int) -> Path:
    others = [article for index, article in enumerate(articles) if index % FOLDS != number]
    development, train = others[:DEVELOPMENT_ARTICLES], others[DEVELOPMENT_ARTICLES:]
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", train), ("dev", development), ("test", articles[number::FOLDS])):
        write_json(folder / f"{name}.json", {"data": part})
    file = folder.with_suffix(".yaml")
    file.write_text(f"name: {folder.name}\nreader: squad\n")
    return file


def pooled_rows(out: Path, folds: list[Path], seeds: int) -> list[dict[str, Any]]:
    """Both models on the test articles of all folds, the mean of the seeds, as rows of `clinical-pretrain table`."""
    documents: list[Document] = []
    for file in folds:
        documents += read_task(find_task(str(file)), file.with_suffix("")).data.splits["test"]

    def measure(model: str, seed: int) -> Measure:
        parts = [ResultFolder.of(out / "results", file.stem, model, seed).read_predictions() for file in folds]
        predicted = tuple(prediction for part in parts for prediction in part.documents)
        whole = replace(parts[0], documents=predicted, texts_sha256=texts_sha256(documents))
        return measures_of(documents, whole)[METRIC]

    measures = {model: [measure(model, seed) for seed in range(seeds)] for model in ("random", "pretrained")}
    pooled = {model: mean(of_seeds) for model, of_seeds in measures.items()}
    once = np.ones((1, len(documents)))
    rows = [
        {
            "task": f"{TASK}, {len(folds)} folds", "model": model, "metric": METRIC, "documents": found.documents,
            "score": found.value, "low": found.low, "high": found.high,
            "seed_scores": [float(each.values(once)[0]) for each in measures[model]],
        }
        for model, found in score(pooled, documents).items()
    ]  # fmt: skip
    comparison = compare(pooled["pretrained"], pooled["random"], documents)
    rows[-1] |= {
        "difference": comparison.difference, "difference_low": comparison.low,
        "difference_high": comparison.high, "adjusted_p_value": comparison.p_value,
    }  # fmt: skip
    return rows


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/covid_qa_folds"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--json", type=Path, default=REPOSITORY / "benchmarks" / "results" / "open_tasks_folds.json")
    args = parser.parse_args()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    pretraining = pretrain(out, [task for task in FOLDERS if task != TASK])
    folds = write_folds(out / "data")
    evaluate(out, {str(file): OPTIONS[TASK] for file in folds}, args.seeds)
    found: dict[str, Any] = {
        "what": "a small model pretrained on other texts and one with random weights, on COVID-QA in folds"
    }
    found |= facts() | {"pretraining": pretraining, "table": {"rows": pooled_rows(out, folds, args.seeds)}}
    write_json(args.json, found)


if __name__ == "__main__":
    main()
