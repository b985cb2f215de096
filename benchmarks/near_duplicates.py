"""Near-duplicates among synthetic notes with planted pairs, or among MTSamples': recall, precision, time and memory.

    python benchmarks/near_duplicates.py --json FILE
    python benchmarks/near_duplicates.py --corpus mtsamples --json FILE

The notes are those of `make-notes`. To some of them a changed copy is added elsewhere: a run of words is replaced, or
single words are, so that the similarity of the two lies between 0.6 and 1. Similarities are computed anew from sets of
words, without the code that is measured. Of MTSamples' 2,357 notes all but the shortest get such a copy, and what is
found is compared with all pairs of notes that share a run of words. `build-shards` does the same work in its scan and
for its keep list, on as many processes as it is given; here it is one. Where rensa is installed (pip install
rensa==0.5.0), its signatures and index of the same shingles are timed, too. It finds notes that share a band, and
verifies none.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import REPOSITORY, facts, peak_memory

from tokenizer_tools.corpus.clean_notes import CleaningRules, clean
from tokenizer_tools.corpus.input_options import InputOptions
from tokenizer_tools.corpus.near_duplicates import DuplicateRules
from tokenizer_tools.corpus.placeholders import Replacement
from tokenizer_tools.corpus.read_notes import read_notes
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.corpus.synthetic_notes import COLUMNS, notes_of
from tokenizer_tools.files import write_json
from tokenizer_tools.shards.near_duplicates import count_crowded, near_duplicates
from tokenizer_tools.shards.shingles import ShingleStore
from tokenizer_tools.shards.workers import Workers

DATA = REPOSITORY.parent / "shared" / "data"
PER_PART = 10_000
SHORTEST = 30
"""Words of a note that gets a copy, at least."""


def changed(words: list[str], rng: random.Random, ngram: int) -> list[str]:
    """A copy of a note with another run of words, or with single words replaced."""
    similarity = rng.uniform(0.6, 0.99)
    lost = len(words) * (1 - similarity) / (1 + similarity)  # shingles of each that the other doesn't have
    copy = list(words)
    if rng.random() < 0.5:
        length = max(1, round(lost) - ngram + 1)
        start = rng.randrange(len(words) - length)
        places = list(range(start, start + length))
    else:
        places = rng.sample(range(len(words)), max(1, round(lost / ngram)))
    for place in places:
        copy[place] = f"{copy[place]}{rng.randrange(10**6)}"
    return copy


def corpus(notes: int, pairs: int, rules: DuplicateRules) -> tuple[list[str], list[tuple[int, int]]]:
    """Different texts, and which of them are planted pairs."""
    rng, texts, place = random.Random(0), dict[str, None](), COLUMNS.index("TEXT")
    for row in notes_of(notes, seed=0):
        text = clean(row[place], CleaningRules(), Replacement("<unk>"))
        if text:
            texts[text] = None
        if len(texts) == notes - pairs:
            break
    originals = list(texts)
    long = [text for text in originals if len(text.split()) >= SHORTEST]
    chosen = rng.sample(long, pairs)
    copies = [" ".join(changed(text.split(), rng, rules.ngram)) for text in chosen]
    mixed = originals + copies
    rng.shuffle(mixed)
    where = {text: number for number, text in enumerate(mixed)}
    return mixed, [(where[first], where[second]) for first, second in zip(chosen, copies, strict=True)]


def real_corpus(rules: DuplicateRules) -> list[str]:
    """MTSamples' notes, and changed copies of them, in a random order."""
    notes = read_notes([DATA / "notes" / "mtsamples_unique.jsonl.gz"], InputOptions(), SplitRule(by="note"))
    texts, rng = [clean(note.text, CleaningRules(), Replacement("<unk>")) for note in notes], random.Random(0)
    long = [words for text in texts if len(words := text.split()) >= SHORTEST]
    texts += [" ".join(changed(words, rng, rules.ngram)) for words in long]
    rng.shuffle(texts)
    return texts


def pairs_of(texts: list[str], rules: DuplicateRules) -> set[tuple[int, int]]:
    """All pairs whose similarity reaches the threshold, by comparing all that share a run of words."""
    sets, holders = [set(shingles(text, rules.ngram)) for text in texts], defaultdict[str, list[int]](list)
    for number, own in enumerate(sets):
        for shingle in own:
            holders[shingle].append(number)
    shared = Counter(pair for numbers in holders.values() for pair in itertools.combinations(numbers, 2))
    return {
        (a, b) for (a, b), count in shared.items() if count / (len(sets[a]) + len(sets[b]) - count) >= rules.threshold
    }


def similarity(first: str, second: str, ngram: int) -> float:
    """Jaccard similarity of two texts' sets of runs of words, by its definition."""
    own, other = set(shingles(first, ngram)), set(shingles(second, ngram))
    return len(own & other) / len(own | other)


def find(texts: list[str], rules: DuplicateRules) -> tuple[dict[int, int], dict[str, Any]]:
    """Find the near-duplicates in this process: note -> a similar one that stays; and what it took."""
    with tempfile.TemporaryDirectory() as folder:
        store, starts = ShingleStore(Path(folder) / "near", rules), [*range(0, len(texts), PER_PART), len(texts)]
        started, cpu_started = time.perf_counter(), time.process_time()
        for number, start in enumerate(starts[:-1]):
            store.write(number, texts[start : start + PER_PART])
        hashed = time.perf_counter()
        candidates, splits = np.ones(len(texts), dtype=bool), np.zeros(len(texts), np.uint8)
        with Workers(1) as workers:
            near = near_duplicates(store, starts, candidates, splits, workers)
        cost = {
            "seconds": round(time.perf_counter() - started, 2),
            "cpu_seconds": round(time.process_time() - cpu_started, 2),
            "seconds_hashing": round(hashed - started, 2),
            "megabytes_on_disk": round(sum(path.stat().st_size for path in store.folder.iterdir()) / 1e6),
            "not_fully_compared": count_crowded(store),
        }
    return dict(near.tolist()), cost


def index_with_rensa(texts: list[str], rules: DuplicateRules) -> dict[str, float]:
    """What rensa takes for as many permutations and bands; nothing if it isn't installed."""
    try:
        from rensa import RMinHash, RMinHashLSH
    except ImportError:
        return {}
    started, cpu_started = time.perf_counter(), time.process_time()
    permutations = rules.rows * rules.bands
    index = RMinHashLSH(rules.threshold, permutations, rules.bands)
    for start in range(0, len(texts), PER_PART):
        index.insert_matrix(
            RMinHash.digest_matrix_from_token_sets(
                [shingles(text, rules.ngram) for text in texts[start : start + PER_PART]], permutations, 0
            ),
            start,
        )
    return {
        "seconds_rensa_index": round(time.perf_counter() - started, 2),
        "cpu_seconds_rensa_index": round(time.process_time() - cpu_started, 2),
    }


def shingles(text: str, ngram: int) -> list[str]:
    """A text's runs of words, by their definition."""
    words = text.lower().split()
    return [" ".join(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=int, default=200_000)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--corpus", choices=["synthetic", "mtsamples"], default="synthetic")
    args = parser.parse_args()
    rules = DuplicateRules(near="drop")
    if args.corpus == "mtsamples":
        texts, what = real_corpus(rules), "near-duplicates among MTSamples' notes and changed copies, against all pairs"
        near, cost = find(texts, rules)
        result = judge_all(texts, near, rules)
    else:
        texts, planted = corpus(args.notes, args.pairs, rules)
        what = "near-duplicates among synthetic notes with planted pairs"
        near, cost = find(texts, rules)
        result = judge(texts, planted, near, rules)
    result |= cost | (rensa := index_with_rensa(texts, rules))
    result["load_average"] = os.getloadavg()[0]
    subjects: dict[str, Any] = {"": find} | ({"_rensa_index": index_with_rensa} if rensa else {})
    for name, subject in subjects.items():  # once more, because what measures memory slows it down
        peak = peak_memory(partial(subject, texts, rules))
        result[f"megabytes_of_memory{name}"] = None if peak is None else round(peak / 1e6)
    for name, value in result.items():
        print(f"{name:<28} {value}")
    about = {"what": what, "notes": len(texts)}
    write_json(
        args.json, {**about, "rules": asdict(rules), "bands": rules.bands, "rows": rules.rows, **result, **facts()}
    )


def judge(
    texts: list[str], planted: list[tuple[int, int]], near: dict[int, int], rules: DuplicateRules
) -> dict[str, Any]:
    """Recall of the planted pairs at the threshold and above, and precision over all notes."""
    above = below = missed = both = 0
    for first, second in planted:
        if similarity(texts[first], texts[second], rules.ngram) < rules.threshold:
            below += 1
        elif first in near and second in near:
            both += 1  # a third note stays in their place
        else:
            above += 1
            missed += first not in near and second not in near
    return {
        "pairs_above": above,
        "pairs_below": below,
        "pairs_of_which_neither_stays": both,
        "pairs_missed": missed,
        "recall": round(1 - missed / above, 5),
        **describe(texts, near, rules),
    }


def judge_all(texts: list[str], near: dict[int, int], rules: DuplicateRules) -> dict[str, Any]:
    """Recall of all pairs at the threshold and above, of which one must go, and precision."""
    pairs = pairs_of(texts, rules)
    missed = sum(first not in near and second not in near for first, second in pairs)
    return {
        "pairs_above": len(pairs),
        "pairs_missed": missed,
        "recall": round(1 - missed / len(pairs), 5),
        **describe(texts, near, rules),
    }


def describe(texts: list[str], near: dict[int, int], rules: DuplicateRules) -> dict[str, Any]:
    """What was dropped, and the share that was rightly dropped: for a note that stays and is as similar."""
    right = sum(
        similar not in near and similarity(texts[note], texts[similar], rules.ngram) >= rules.threshold
        for note, similar in near.items()
    )
    words = sum(len(text.split()) for text in texts)
    return {"dropped": len(near), "precision": right / len(near), "words": words}


if __name__ == "__main__":
    main()
