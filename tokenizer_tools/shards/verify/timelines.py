"""The check of shards with pack timeline: each sequence is of one patient, whose notes are in time order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenizer_tools.manifest import SPLITS
from tokenizer_tools.shards.verify.checks import Check
from tokenizer_tools.shards.verify.notes import NotesTable, run_starts
from tokenizer_tools.shards.verify.sequences import AFTER_SHORT, WITHIN, FoundNotes


def check_timelines(table: NotesTable, notes: FoundNotes, begins: npt.NDArray[np.int8]) -> Check:
    """Compare the order of the notes in the shard files with the patients and times of the notes table.

    Args:
        table: the notes table.
        notes: those of the shard files, of which each is one row of the table.
        begins: (notes,), where each begins: see `SequenceChecks.begins`.
    """
    groups, order = table.groups[notes.numbers], table.time_order[notes.numbers]
    is_first = run_starts(groups, notes.splits)  # of a patient in a split
    firsts = np.flatnonzero(is_first)
    keys = np.lexsort((firsts, groups[firsts, 1], groups[firsts, 0], notes.splits[firsts]))
    again = np.zeros(len(groups), dtype=bool)
    again[firsts[keys]] = ~run_starts(groups[firsts[keys]], notes.splits[firsts[keys]])
    check = Check("timelines", f"one patient in each sequence, {len(firsts):,} timelines")
    faults = {
        "in a sequence with the note of another patient": is_first & (begins == WITHIN),
        "apart from the patient's other notes of the split": again,
        "in another sequence than the patient's note before, which isn't full": ~is_first & (begins == AFTER_SHORT),
        "not in time order among the patient's notes": ~is_first & (np.diff(order, prepend=-1) <= 0),
    }
    for what, wrong in faults.items():
        if wrong.any():
            place = int(np.argmax(wrong))
            where = f"{SPLITS[notes.splits[place]]}, note {notes.numbers[place]:,}"
            check.fault(what, where, count=int(wrong.sum()))
    return check
