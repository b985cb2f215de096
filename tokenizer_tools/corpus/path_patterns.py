"""Find the patient, and the admission, in the path of a note's file: `{patient}/s*.txt`, `{patient}-*.xml`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
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
        shortest, longest = self._expressions
        end = "/".join(path.parts[-(WORDS.get(self.text, self.text).count("/") + 1) :])
        found, other = shortest.fullmatch(end), longest.fullmatch(end)
        if found is None or other is None:
            return None
        if found.groupdict() != other.groupdict():
            raise ValueError
        return found.groupdict()

    @cached_property
    def _expressions(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """The pattern as regular expressions: one that takes few characters first, one that takes many."""
        pattern = WORDS.get(self.text, self.text)
        texts, names = _WILDCARD.split(pattern), _WILDCARD.findall(pattern)
        made = []
        for lazy in ("?", ""):
            parts = [f"[^/]*{lazy}" if name == "*" else f"(?P<{name[1:-1]}>[^/]+{lazy})" for name in names]
            ends = [*parts, ""]
            made.append(re.compile("".join(re.escape(text) + end for text, end in zip(texts, ends, strict=True)), re.S))
        return made[0], made[1]
