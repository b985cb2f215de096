"""build-shards compared with the raw tokenizer, run_mlm.py's preprocessing and datatrove's, in turn on the same notes.

    python benchmarks/shards.py --model longformer --megabytes 200 --json FILE

The notes have the form of MIMIC-III's NOTEEVENTS: those of `make-notes`, each with a paragraph of invented words whose
frequencies follow Zipf's law, as repeated phrases alone would flatter what remembers words. Ours is the whole command,
its start included. The raw tokenizer is `encode_batch_fast` on the cleaned texts in memory, and nothing else: the
ceiling of what leaves the encoding to `tokenizers`. run_mlm.py's preprocessing and datatrove's are measured without
their imports. datatrove takes part where --datatrove names the Python of an environment with it (pip install
"datatrove[io,processing]"); the processor time of its workers isn't known here. Memory is the resident memory of a
process and all its workers, summed every 0.1 s.
"""

from __future__ import annotations

import argparse
import bisect
import csv
import gzip
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import REPOSITORY, facts

from tokenizer_tools.corpus.clean_notes import CleaningRules, clean
from tokenizer_tools.corpus.placeholders import Replacement
from tokenizer_tools.corpus.synthetic_notes import COLUMNS, notes_of
from tokenizer_tools.files import write_json
from tokenizer_tools.tokenizer.load import load_tokenizer
from tokenizer_tools.tokenizer.unknown_characters import unknown_whitespace

TEXT = COLUMNS.index("TEXT")
DATA = REPOSITORY.parent / "shared" / "data"
SUBJECTS = ("raw", "ours", "ours_near", "ours_gz", "run_mlm", "datatrove")


class InventedWords:
    """Sentences of invented words, frequent and rare ones."""

    def __init__(self, words: int = 60_000) -> None:
        self.rng = random.Random(0)
        starts = ["b", "c", "d", "f", "g", "h", "l", "m", "n", "p", "r", "s", "t", "v", "st", "th"]
        syllables = [start + end for start in starts for end in ("a", "e", "i", "o", "u", "ia", "yl")]
        self.words = ["".join(self.rng.choices(syllables, k=self.rng.randrange(1, 5))) for _ in range(words)]
        self.weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(words)))

    def paragraph(self, length: int) -> str:
        """So many words, in sentences."""
        draws = (self.rng.random() * self.weights[-1] for _ in range(length))
        words = [self.words[bisect.bisect(self.weights, draw)] for draw in draws]
        for end in range(7, length, 9):
            words[end] += self.rng.choice((".", ",", f" {self.rng.randrange(1, 200)} mg.", ".\n"))
        return " ".join(words)


def rows(megabytes: int) -> Iterator[tuple[str, ...]]:
    """Rows of NOTEEVENTS whose texts have so many megabytes."""
    invented, characters = InventedWords(), 0
    for row in notes_of(10**9, seed=0):
        text = f"{row[TEXT]}\n{invented.paragraph(len(row[TEXT]) // 20)}\n" if row[TEXT] else ""
        yield (*row[:TEXT], text)
        characters += len(text)
        if characters >= megabytes * 10**6:
            return


@dataclass(frozen=True)
class Corpus:
    """The same notes in the form that each subject takes."""

    folder: Path
    notes: int
    megabytes: float

    @classmethod
    def write(cls, folder: Path, megabytes: int, tokenizer: Path, workers: int) -> Corpus:
        """Write notes.csv, notes.csv.gz, texts.jsonl (cleaned) and parts/ (a file for each worker)."""
        loaded = load_tokenizer(str(tokenizer))
        spaces = unknown_whitespace(loaded.backend_tokenizer, loaded.unk_token_id)
        (folder / "parts").mkdir()
        names = ["notes.csv", *(f"parts/{number}.csv" for number in range(workers))]
        notes, characters = 0, 0
        streams = [(folder / name).open("w", newline="") for name in names]
        writers = [csv.writer(stream) for stream in streams]
        for writer in writers:
            writer.writerow(COLUMNS)
        with (folder / "texts.jsonl").open("w") as texts:
            for notes, row in enumerate(rows(megabytes), start=1):
                writers[0].writerow(row)
                writers[1 + notes % workers].writerow(row)
                text = clean(row[TEXT], CleaningRules(), Replacement(loaded.unk_token), spaces)
                characters += len(row[TEXT])
                if text:
                    texts.write(json.dumps(text) + "\n")
        for stream in streams:
            stream.close()
        with (folder / "notes.csv").open("rb") as plain, gzip.open(folder / "notes.csv.gz", "wb", 6) as packed:
            shutil.copyfileobj(plain, packed)
        return cls(folder, notes, characters / 1e6)


def resident_memory(pid: int) -> int:
    """Bytes of a process and all that it has started."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = [
            child for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
        ]
    except (OSError, IndexError):  # it has just ended
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident_memory(int(child)) for child in children)


def measured(command: list[str], whole: bool) -> dict[str, float]:
    """Run a command: seconds (those that it prints, or of the whole), CPU seconds of all its processes, peak memory."""
    before, started, peak = os.times(), time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors, cwd=REPOSITORY)
        while process.poll() is None:
            peak = max(peak, resident_memory(process.pid))
            time.sleep(0.1)
        seconds, after = time.perf_counter() - started, os.times()
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}\n{errors.read()[-2000:]}")
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        printed = seconds if whole else float(output.read().split()[-1])
        return {"seconds": printed, "cpu_seconds": cpu, "peak_mb": peak / 1e6}


def commands(args: argparse.Namespace, corpus: Corpus, tokenizer: Path) -> dict[str, Callable[[Path], list[str]]]:
    """Each subject's command, given a folder for what it writes."""
    folder, workers = corpus.folder, str(args.workers)

    def ours(name: str, *options: str) -> Callable[[Path], list[str]]:
        return lambda out: [
            *(sys.executable, "-m", "clinical_pretrain", "build-shards", "--notes", str(folder / name)),
            *("--tokenizer", str(tokenizer), "--out", str(out / "shards"), "--workers", workers),
            *("--patient-key", str(folder / "key"), *options),
        ]

    def peer(name: str, python: str, source: str) -> Callable[[Path], list[str]]:
        script = str(Path(__file__).with_name("shards_peers.py"))
        return lambda out: [python, script, name, str(folder / source), str(tokenizer), workers, str(out)]

    found = {
        "raw": peer("raw", sys.executable, "texts.jsonl"),
        "ours": ours("notes.csv"),
        "ours_near": ours("notes.csv", "--duplicates.near", "drop"),
        "ours_gz": ours("notes.csv.gz"),
        "run_mlm": peer("run_mlm", sys.executable, "notes.csv"),
    }
    if args.datatrove:
        found["datatrove"] = peer("datatrove", args.datatrove, "parts")
    return {name: command for name, command in found.items() if name in args.subjects}


def compare(args: argparse.Namespace, corpus: Corpus, tokenizer: Path) -> dict[str, list[dict[str, float]]]:
    """Measure all subjects in turn, `repeats` times."""
    subjects = commands(args, corpus, tokenizer)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in subjects}
    for _ in range(args.repeats):
        for name, command in subjects.items():
            with tempfile.TemporaryDirectory(dir=args.folder) as out:
                found[name].append(measured(command(Path(out)), whole=name.startswith("ours")))
            print(name, {key: round(value, 2) for key, value in found[name][-1].items()}, file=sys.stderr)
    return found


def summary(found: dict[str, list[dict[str, float]]], corpus: Corpus) -> dict[str, Any]:
    """Medians, and medians of the ratios within each round."""
    result: dict[str, Any] = {}
    for name, runs in found.items():
        medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        result |= {f"{key}_{name}": round(value, 2) for key, value in medians.items()}
        result[f"notes_per_second_{name}"] = round(corpus.notes / medians["seconds"])
        result[f"mb_per_second_{name}"] = round(corpus.megabytes / medians["seconds"], 2)
    for peer, label in (("raw", "ceiling"), ("run_mlm", "run_mlm"), ("datatrove", "datatrove")):
        for ours in ("ours", "ours_near", "ours_gz"):
            for key, prefix in (("seconds", ""), ("cpu_seconds", "cpu_"))[: 1 if peer == "datatrove" else 2]:
                pairs = zip(found.get(peer, []), found.get(ours, []), strict=False)
                if ratios := [theirs[key] / own[key] for theirs, own in pairs]:
                    result[f"{prefix}of_{label}{ours.removeprefix('ours')}"] = round(statistics.median(ratios), 3)
    result.pop("cpu_seconds_datatrove", None)  # without that of its workers, which aren't waited for
    result["peak_mb"] = round(max(run["peak_mb"] for name in found if name[:4] == "ours" for run in found[name]), 1)
    return result


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["longformer", "bigbird"], default="longformer")
    parser.add_argument("--tokenizers", type=Path, default=DATA / "tokenizers", help="folder with one of each model")
    parser.add_argument("--megabytes", type=int, default=200, help="of text")
    parser.add_argument("--workers", type=int, default=2, help="processes, on as many cores")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    parser.add_argument("--datatrove", help="Python of an environment with datatrove")
    parser.add_argument("--folder", type=Path, help="where files are written; default: the system's temporary folder")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = args.tokenizers / args.model
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.workers])
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        corpus = Corpus.write(Path(folder), args.megabytes, tokenizer, args.workers)
        result = summary(compare(args, corpus, tokenizer), corpus)
    for name, value in result.items():
        print(f"{name:<28} {value}")
    if not args.datatrove:
        print("datatrove wasn't compared: no --datatrove")
    about = {"what": "notes to shards", "model": args.model, "notes": corpus.notes, "megabytes": args.megabytes}
    about |= {"workers": args.workers, "repeats": args.repeats, "load_average": os.getloadavg()[0]}
    write_json(args.json, {**about, **result, **facts()})


if __name__ == "__main__":
    main()
