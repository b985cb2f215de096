"""Count what came of each source: notes read, kept and dropped, and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np

from tokenizer_tools.manifest import SourceInfo
from tokenizer_tools.shards.keep_list import KeepList
from tokenizer_tools.shards.scan import Outcome


def count_sources(
    keep: KeepList, inputs: Sequence[dict[str, Any]], tokens_by_input: Sequence[Sequence[int]], first: int = 0
) -> list[SourceInfo]:
    """Count by source, in the order of the inputs.

    Args:
        keep: what became of each note.
        inputs: as the manifest's settings describe them.
        tokens_by_input: for each part the tokens of each input, by the input's number less `first`.
        first: the number of the first input that is counted; those before it get zeros.
    """
    outcomes = np.zeros((len(inputs), len(Outcome)), np.int64)
    for number in range(keep.scanned.parts):
        found = np.asarray(keep.outcomes[keep.scanned.notes_of(number)])
        np.add.at(outcomes, (keep.scanned.column(number, "sources") + first, found), 1)
    tokens = np.zeros(len(inputs), np.int64)
    for part in tokens_by_input:
        tokens[first : first + len(part)] += np.array(part, np.int64)
    sources = []
    for name, numbers in _numbers_by_name(inputs).items():
        by_outcome = outcomes[numbers].sum(axis=0)
        counts = {"read": int(by_outcome.sum())}
        counts |= {outcome.name.lower(): int(by_outcome[outcome]) for outcome in Outcome}
        sources.append(SourceInfo(name, numbers, counts["kept"], int(tokens[numbers].sum()), counts))
    return sources


def _numbers_by_name(inputs: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """The inputs of each source. A path of --notes is a source by itself; the second one of a name is numbered."""
    numbers: dict[str, list[int]] = {}
    for number, entry in enumerate(inputs):
        if "source" in entry:
            numbers.setdefault(entry["source"]["name"], []).append(number)
        else:
            names = (entry["name"] if again == 1 else f"{entry['name']} ({again})" for again in count(1))
            numbers[next(name for name in names if name not in numbers)] = [number]
    return numbers
