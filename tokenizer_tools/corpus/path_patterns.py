"""Find the patient, and the admission, in the path of a note's file: `{patient}/s*.txt`, `{patient}-*.xml`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

from tokenizer_tools.errors import UserError

WORDS = {"path": "{patient}/*"}
"""Patterns that have a name. path: the folder that a file lies in."""
_WILDCARD = re.compile(r"\{patient\}|\{admission\}|\*")


@dataclass(frozen=True)
class PathPattern:
    """A pattern for the end of a file's path: as many folders, and the name, as it has.

    `{patient}` and `{admission}` stand for one or more characters, `*` for any number, and none for a slash.

    Raises:
        UserError: it names nobody, or where one part ends and the next begins can't be told.
    """

    text: str

    def __post_init__(self) -> None:
        fault = self._fault()
        if fault:
            raise UserError(
                f"--patient-from {self.text}: {fault}; write {{patient}}/* for a folder per patient, or a pattern such "
                "as {patient}-*.xml for file names"
            )

    def _fault(self) -> str:
        pattern = WORDS.get(self.text, self.text)
        named = _WILDCARD.findall(pattern)
        if "{patient}" not in named and "{admission}" not in named:
            return "has neither {patient} nor {admission}"
        if len(set(named) - {"*"}) < len([name for name in named if name != "*"]):
            return "names one of them twice"
        if re.search(r"[{}]", _WILDCARD.sub("", pattern)):
            return "has other braces than {patient} and {admission}"
        if any(not between for between in _WILDCARD.split(pattern)[1:-1]):
            return "has nothing between two of {patient}, {admission} and *, so that they can't be told apart"
        if "" in pattern.split("/"):
            return "has an empty part"
        return ""

    def find(self, path: PurePath) -> dict[str, str] | None:
        """What `{patient}` and `{admission}` stand for in a path; None if it doesn't match.

        Raises:
            ValueError: it matches in more than one way.
        """
        patterns = WORDS.get(self.text, self.text).split("/")
        parts = path.parts[-len(patterns) :]
        found: dict[str, str] = {}
        if len(parts) < len(patterns):
            return None
        for pattern, part in zip(patterns, parts, strict=True):
            names, between = _WILDCARD.findall(pattern), _WILDCARD.split(pattern)
            spans = _match(names, between, part)
            if spans is None:
                return None
            # From the other end each begins and ends as late as it can.
            latest = _match(names[::-1], [text[::-1] for text in between[::-1]], part[::-1]) or []
            for name, (start, end), reversed_span in zip(names, spans, latest[::-1], strict=True):
                if name == "*":
                    continue
                if (len(part) - end, len(part) - start) != reversed_span:
                    raise ValueError
                found[name[1:-1]] = part[start:end]
        return found


def _match(names: list[str], between: list[str], text: str) -> list[tuple[int, int]] | None:
    """Where each wildcard begins and ends if all do so as early as they can; None without a match. Takes linear time.

    Args:
        names: the wildcards.
        between: the texts before, between and after them.
        text: what is matched as a whole.
    """
    if not names:
        return [] if text == between[0] else None
    end = len(text) - len(between[-1])
    if not (text.startswith(between[0]) and text.endswith(between[-1])):
        return None
    spans: list[tuple[int, int]] = []
    position = len(between[0])
    for name, after in zip(names, between[1:], strict=True):
        is_last, least = len(spans) == len(names) - 1, position + (name != "*")
        found = end if is_last else text.find(after, least, end)
        if found < least:
            return None
        spans.append((position, found))
        position = found + len(after)
    return spans
