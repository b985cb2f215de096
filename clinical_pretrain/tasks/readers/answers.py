"""Find an answer in its document by the offset that the data set gives."""

from __future__ import annotations

from clinical_pretrain.tasks.records import Answer, ReadingReport

REACH = 5
"""By how many characters an offset may be wrong."""
STRIPPED = "blanks stripped from the ends of an answer"
AFTER_BLANK = "offset was of the text after the answer's leading blanks"
MOVED = f"offset moved by at most {REACH} characters"
NOT_FOUND = "answer not at its offset"


def locate(text: str, answer: str, start: int, place: str, report: ReadingReport) -> Answer | None:
    """Return an answer without blanks at its ends, at the place where it stands in the text.

    The first rule that holds is taken; all but the first are counted in the report:

    1. The answer stands at its offset.
    2. It does, and the blanks at its ends are stripped.
    3. Without its leading blanks it stands at its offset.
    4. Without the blanks at its ends it begins exactly once within `REACH` characters of its offset.
    5. It is left out: None.
    """
    bare = answer.strip()
    if not bare:
        report.leave_out("answer without text", place)
        return None
    if text.startswith(answer, start):
        if bare != answer:
            report.mend(STRIPPED, place)
        return Answer(start + answer.index(bare), bare)
    if text.startswith(bare, start):
        report.mend(AFTER_BLANK, place)
        return Answer(start, bare)
    near = range(max(0, start - REACH), start + REACH + 1)
    found = [position for position in near if text.startswith(bare, position)]
    if len(found) != 1:
        report.leave_out(NOT_FOUND, place)
        return None
    report.mend(MOVED, place)
    return Answer(found[0], bare)
