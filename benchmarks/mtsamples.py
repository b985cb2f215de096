"""Notes to model on a real corpus, MTSamples, with a real vocabulary: does the loss fall below the unigram entropy?

    python benchmarks/mtsamples.py --family longformer --notes mtsamples_all.jsonl.gz --tokenizer DIR --json FILE

Builds the shards, trains a 2-layer model with random weights on two CPU ranks under ZeRO 2 at 4,096 tokens, exports
it, and writes the losses and the entropy of the held-out notes' own token frequencies: the loss of a model that knows
those frequencies and nothing else. A BigBird is also measured with the random blocks of its training instead of those
of transformers' eval mode.

MTSamples has lost its line breaks, and more than half of its notes repeat another's text: the build drops them.
`--corpus mts_dialog` does the same on the dialogues of MTS-Dialog, which have a line break after each utterance:
BigBird's vocabulary has no token for it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from common import REPOSITORY, processor

from clinical_pretrain.config.command_line import load_config
from clinical_pretrain.data.collator import Collator
from clinical_pretrain.data.masking import Vocabulary
from clinical_pretrain.data.shards import Split
from clinical_pretrain.distributed import free_port, initialise
from clinical_pretrain.models.build import build_model
from clinical_pretrain.run_folder.metrics import read_metrics
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.training.validation import Validation
from tokenizer_tools.files import write_json
from tokenizer_tools.manifest import TOKENIZER_FOLDER, Manifest

DATA = REPOSITORY.parent / "shared" / "data"
CORPORA = {
    "mtsamples": (["notes/mtsamples_all.jsonl.gz"], ["--columns.category", "specialty"]),
    "mts_dialog": (
        [f"notes/mts_dialog/MTS-Dialog-{name}.csv" for name in ("TrainingSet", "ValidationSet",
         "TestSet-1-MEDIQA-Chat-2023", "TestSet-2-MEDIQA-Sum-2023")],
        ["--columns.text", "dialogue", "--columns.category", "section_header"],
    ),
}  # fmt: skip
"""Files, and what build-shards must be told of them. Neither names patients."""


def unigram_entropy(shards: Path, split: str) -> float:
    """Entropy, in nats, of the frequencies of a split's maskable tokens (those that masking may choose)."""
    manifest = Manifest.load(shards)
    maskable = Vocabulary.load(shards / TOKENIZER_FOLDER / "tokenizer.json", manifest.tokenizer).maskable
    sequences = Split(shards, manifest, split)
    counts = np.zeros(manifest.tokenizer.vocab_size)
    for number in range(len(sequences)):
        counts += np.bincount(sequences[number].input_ids, minlength=len(counts))
    counts = counts[maskable & (counts > 0)]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def loss_with(random_blocks: str, options: list[str], shards: Path, model: Path) -> float:
    """Of the exported model on the validation split, by one way to choose BigBird's random blocks."""
    more = ["--model.init", "pretrained", "--model.name_or_path", str(model.resolve())]
    config, _ = load_config([*options, *more, "--validation.random_blocks", random_blocks])
    manifest = Manifest.load(shards)
    vocabulary = Vocabulary.load(shards / TOKENIZER_FOLDER / "tokenizer.json", manifest.tokenizer)
    collator = Collator(manifest.sequence_length, config.masking, vocabulary)
    built = build_model(config, manifest)
    split = Split(shards, manifest, "validation")
    found = Validation(config, shards, split, collator, initialise()).run(built)
    assert found
    return float(found["loss"])


def run(*command: object) -> None:
    """Run a command as a user types it."""
    words = [str(word) for word in command]
    print("$", " ".join(words), flush=True)
    subprocess.run([str(Path(sys.executable).parent / words[0]), *words[1:]], check=True)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=["longformer", "bigbird"], default="longformer")
    parser.add_argument("--corpus", choices=list(CORPORA), default="mtsamples")
    parser.add_argument("--notes", nargs="+", type=Path, help="default: the corpus's files")
    parser.add_argument("--tokenizer", type=Path, help="default: the real one of --family beside the notes")
    parser.add_argument("--out", type=Path, help="default: runs/CORPUS")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/CORPUS_FAMILY.json")
    parser.add_argument("overrides", nargs="*", help="after --: dotted options for the run config")
    args = parser.parse_args()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    tokenizer = args.tokenizer or DATA / "tokenizers" / args.family
    files, columns = CORPORA[args.corpus]
    out = args.out or Path("runs") / args.corpus
    shards, run_dir, model = (out / f"{part}_{args.family}" for part in ("shards", "run", "model"))
    run("clinical-pretrain", "build-shards", "--notes", *(args.notes or [DATA / file for file in files]), "--tokenizer",
        tokenizer, "--out", shards, "--split.by", "note", *columns)  # fmt: skip
    report = args.json or REPOSITORY / "benchmarks" / "results" / f"{args.corpus}_{args.family}.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    options = ["--config", str(REPOSITORY / "benchmarks" / "mtsamples.yaml"), "--model.family", args.family,
               "--data.shards", str(shards), "--run_dir", str(run_dir), *args.overrides]  # fmt: skip
    entry = REPOSITORY / "clinical_pretrain" / "run.py"
    run("deepspeed", "-q", "--num_gpus", 2, "--master_port", free_port(), entry, *options)
    run("clinical-pretrain", "export", run_dir, "--out", model)
    found: dict[str, Any] = {"what": f"masked-LM loss on held-out notes of {args.corpus}, nats per masked token"}
    found |= {"command": f"python benchmarks/mtsamples.py --corpus {args.corpus} --family {args.family}"}
    found |= result(options, shards, run_dir, model)
    if args.family == "bigbird":
        found["validation_loss_after_with_random_blocks_of"] = {
            kind: loss_with(kind, options, shards, model) for kind in ("evaluation", "training")
        }
    write_json(report, found)


def result(options: list[str], shards: Path, run_dir: Path, model: Path) -> dict[str, Any]:
    """The figures, with all that they depend on."""
    summary = json.loads((run_dir / "summary.json").read_text())
    start = json.loads((run_dir / "run.json").read_text())["starts"][0]
    manifest = Manifest.load(shards)
    splits = manifest.splits
    return {
        "validation_loss_before": summary["validation_loss_before"],
        "validation_loss_after": summary["validation_loss_after"],
        "validation_accuracy_after": summary["validation_accuracy_after"],
        "unigram_entropy_of_validation_split": unigram_entropy(shards, "validation"),
        "curve": [[line["step"], line["loss"]] for line in read_metrics(RunFolder(run_dir), "validation")],
        "steps": summary["steps"],
        "max_logit_difference": json.loads((model / "pretraining.json").read_text())["max_logit_difference"],
        "unknown": asdict(manifest.unknown),
        "train_tokens": splits["train"].tokens,
        "validation_tokens": splits["validation"].tokens,
        "hardware": f"{processor()}, {os.cpu_count()} cores, two ranks of one thread each",
        "versions": start["versions"],
        "git_commit": start["git_commit"],
        "config": load_config(options)[0].to_dict() | {"run_dir": "", "data": {"shards": ""}},
    }


if __name__ == "__main__":
    main()
