"""Copied-forward paragraphs among synthetic notes with planted copies: what is left out, seconds and peak memory.

    python benchmarks/copied_paragraphs.py --model longformer --json FILE

The notes are those of `make-notes`. Half of them get paragraphs of the patient's earlier notes, some with another word.
Which ones are copies is computed anew from the texts, without the code that is measured. Shards are built in turn with
and without `--duplicates.copied drop`.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import facts
from shards import DATA, TEXT, measured

from tokenizer_tools.corpus.clean_notes import CleaningRules, clean
from tokenizer_tools.corpus.placeholders import Replacement
from tokenizer_tools.corpus.synthetic_notes import COLUMNS, notes_of
from tokenizer_tools.corpus.times import parse_time, sort_key
from tokenizer_tools.files import write_json
from tokenizer_tools.manifest import Manifest

PATIENT, DAY, TIME = map(COLUMNS.index, ("SUBJECT_ID", "CHARTDATE", "CHARTTIME"))
WORDS = 20


def when(row: tuple[str, ...]) -> bytes:
    """Where a note stands in time."""
    return sort_key(parse_time(row[TIME] or row[DAY]) or "")


def corpus(patients: int) -> list[tuple[str, ...]]:
    """Rows of notes, with planted copies."""
    rng, rows = random.Random(0), []
    for _, own in itertools.groupby(notes_of(patients, seed=0), key=lambda row: row[PATIENT]):
        earlier: list[str] = []
        for row in sorted(own, key=when):
            paragraphs = [each for each in row[TEXT].split("\n\n") if len(each.split()) >= WORDS]
            copies = rng.sample(earlier, min(len(earlier), rng.randint(1, 4))) if rng.random() < 0.5 else []
            changed = [each.replace(" ", " again ", 1) if rng.random() < 0.3 else each for each in copies]
            rows.append((*row[:TEXT], "\n\n".join([row[TEXT], *changed]), *row[TEXT + 1 :]))
            earlier += paragraphs
    rng.shuffle(rows)  # input order isn't time
    return rows


def copies_in(rows: list[tuple[str, ...]]) -> dict[str, int]:
    """Copied paragraphs and the notes that have them, by the definition alone."""
    texts: dict[str, tuple[str, bytes, int]] = {}
    for number, row in enumerate(rows):
        text = clean(row[TEXT], CleaningRules(), Replacement("<unk>"))
        if text:
            texts.setdefault(text, (row[PATIENT], when(row), number))
    notes = paragraphs = 0
    rests: list[tuple[int, int, str]] = []
    by_patient = sorted((*key, text) for text, key in texts.items())
    for _, own in itertools.groupby(by_patient, key=lambda entry: entry[0]):
        earlier: set[tuple[str, ...]] = set()
        for _, _, number, text in own:
            words = [(each, tuple(each.split())) for each in text.split("\n\n")]
            left = [each for each, key in words if len(key) < WORDS or key not in earlier]
            rests.append((number, len(words) - len(left), "\n\n".join(left)))
            earlier.update(key for _, key in words)
    known = {rest for _, gone, rest in rests if not gone} | {""}
    for _, gone, rest in sorted(rests):
        if gone and rest not in known:
            known.add(rest)
            notes, paragraphs = notes + 1, paragraphs + gone
    return {"paragraphs": paragraphs, "notes": notes}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["longformer", "bigbird"], default="longformer")
    parser.add_argument("--patients", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tokenizer", type=Path, help="default: the model's, of the shared data")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    tokenizer, rows = args.tokenizer or DATA / "tokenizers" / args.model, corpus(args.patients)
    times: dict[str, list[dict[str, float]]] = {"keep": [], "drop": []}
    with tempfile.TemporaryDirectory() as folder:
        with (path := Path(folder) / "notes.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([COLUMNS, *rows])
        for repeat, what in itertools.product(range(args.repeats), times):
            out = Path(folder) / f"{what}-{repeat}"
            call = [sys.executable, "-m", "clinical_pretrain", "build-shards", "--notes", str(path), "--out", str(out)]
            call += ["--tokenizer", str(tokenizer), "--workers", "1", "--duplicates.copied", what]
            times[what].append(measured(call, whole=True))
        left_out = Manifest.load(out).copied
        before = sum(split.tokens for split in Manifest.load(Path(folder) / "keep-0").splits.values())
    assert left_out is not None
    expected = copies_in(rows)
    result: dict[str, Any] = {
        "notes": len(rows),
        "paragraphs": left_out.paragraphs,
        "paragraphs_expected": expected["paragraphs"],
        "notes_cut": left_out.notes,
        "notes_cut_expected": expected["notes"],
        "cannot_be_cut": left_out.cannot_be_cut,
        "tokens_left_out": left_out.tokens,
        "share_of_tokens": round(left_out.tokens / before, 4),
        "load_average": os.getloadavg()[0],
    }
    for name in ("seconds", "cpu_seconds", "peak_mb"):
        medians = {what: statistics.median(each[name] for each in runs) for what, runs in times.items()}
        result |= {f"{name}_{what}": round(value, 1) for what, value in medians.items()}
    result["cpu_ratio"] = round(result["cpu_seconds_drop"] / result["cpu_seconds_keep"], 2)
    for name, value in result.items():
        print(f"{name:<22} {value}")
    write_json(args.json, {"what": "copied paragraphs", "model": args.model, **result, **facts()})


if __name__ == "__main__":
    main()
