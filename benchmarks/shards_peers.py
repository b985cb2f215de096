"""What build-shards is compared with, each in a process of its own; shards.py starts them.

    python benchmarks/shards_peers.py NAME INPUT TOKENIZER WORKERS OUT

Prints the seconds of the work, without those of the imports. It needs nothing of this project, as datatrove has an
environment of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

SEQUENCE_LENGTH = 4096
_BATCH = 1000


def raw(texts: Path, tokenizer: Path, workers: int, out: Path) -> float:
    """`encode_batch_fast` of texts in memory, one JSON string a line; the ids are thrown away."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(workers)}
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    with texts.open() as stream:
        loaded = [json.loads(line) for line in stream]
    started = time.perf_counter()
    for start in range(0, len(loaded), _BATCH):
        backend.encode_batch_fast(loaded[start : start + _BATCH])
    return time.perf_counter() - started


def run_mlm(notes: Path, tokenizer: Path, workers: int, out: Path) -> float:
    """What `run_mlm.py` of transformers does before it trains: `load_dataset`, then one `map` that tokenises and one
    that cuts sequences of a fixed length."""
    import datasets
    from transformers import AutoTokenizer

    encode = AutoTokenizer.from_pretrained(tokenizer)
    datasets.disable_progress_bars()
    started = time.perf_counter()
    rows = datasets.load_dataset("csv", data_files=str(notes), cache_dir=str(out), split="train")
    rows = rows.filter(lambda row: bool(row["TEXT"]), num_proc=workers)  # it would stop at an empty note

    def tokenise(batch: dict[str, Any]) -> Any:
        return encode(batch["TEXT"], return_special_tokens_mask=True)

    def group(batch: dict[str, Any]) -> dict[str, Any]:
        joined = {name: list(itertools.chain(*lists)) for name, lists in batch.items()}
        length = len(joined["input_ids"]) // SEQUENCE_LENGTH * SEQUENCE_LENGTH
        return {
            name: [values[start : start + SEQUENCE_LENGTH] for start in range(0, length, SEQUENCE_LENGTH)]
            for name, values in joined.items()
        }

    tokens = rows.map(tokenise, batched=True, num_proc=workers, remove_columns=rows.column_names)
    tokens.map(group, batched=True, num_proc=workers)
    return time.perf_counter() - started


def datatrove(notes: Path, tokenizer: Path, workers: int, out: Path) -> float:
    """datatrove's reader and tokeniser. It shares work by files, so `notes` is a folder with a file for each worker."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import CSVReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    started = time.perf_counter()
    steps = [
        CSVReader(str(notes), text_key="TEXT", id_key="ROW_ID"),
        DocumentTokenizer(str(out / "tokens"), str(tokenizer / "tokenizer.json"), shuffle_documents=False),
    ]
    LocalPipelineExecutor(steps, tasks=workers, workers=workers, logging_dir=str(out / "logs")).run()
    return time.perf_counter() - started


def main() -> None:
    """See the module's docstring."""
    name, notes, tokenizer, workers, out = sys.argv[1:]
    work = {"raw": raw, "run_mlm": run_mlm, "datatrove": datatrove}[name]
    print(work(Path(notes), Path(tokenizer), int(workers), Path(out)))


if __name__ == "__main__":
    main()
