"""What the checks have found, the same findings of several nodes put together, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from clinical_pretrain.console import wrapped
from tokenizer_tools.errors import UserError

Level = Literal["ok", "warning", "fault"]
LEVELS: tuple[Level, ...] = ("fault", "warning", "ok")
"""In the order in which findings are shown."""


@dataclass(frozen=True)
class Finding:
    """What one check has found."""

    name: str
    level: Level
    """ok: nothing to do. warning: a run starts, but read it. fault: a run can't work."""
    found: str
    remedy: str = ""
    nodes: tuple[str, ...] = ()
    """Host names of the nodes where it was found; empty: all."""


def ok(name: str, found: str) -> Finding:
    return Finding(name, "ok", found)


def warning(name: str, found: str, remedy: str) -> Finding:
    return Finding(name, "warning", found, remedy)


def fault(name: str, found: str, remedy: str) -> Finding:
    return Finding(name, "fault", found, remedy)


def refused(name: str, message: UserError | str, remedy: str = "correct this first") -> Finding:
    """The fault of a message that training itself would end with: what was found, and after a semicolon what to do.

    Args:
        name: of the check.
        message: training's.
        remedy: what to do where the message doesn't say.
    """
    found, _, after = str(message).partition("; ")
    return fault(name, found, after or remedy)


def with_new(findings: Sequence[Finding], more: Sequence[Finding]) -> list[Finding]:
    """Add findings, without faults of a check that has one already: they say the same in other words."""
    faulty = {finding.name for finding in findings if finding.level == "fault"}
    return [*findings, *(finding for finding in more if finding.level != "fault" or finding.name not in faulty)]


def merge(by_node: Mapping[str, Sequence[Finding]]) -> list[Finding]:
    """Put the findings of all nodes together, in the order of the checks.

    Args:
        by_node: the findings of each node by its host name.

    Returns:
        One finding where a check is ok on all nodes, that of the first node; else one for each distinct warning or
        fault, with the nodes that have it.
    """
    if len(by_node) == 1:
        return [*next(iter(by_node.values()))]
    names = dict.fromkeys(finding.name for findings in by_node.values() for finding in findings)
    merged = []
    for name in names:
        of_name = [(node, each) for node, findings in by_node.items() for each in findings if each.name == name]
        bad = [(node, each) for node, each in of_name if each.level != "ok"]
        if not bad:
            merged.append(of_name[0][1])
        for each in dict.fromkeys(finding for _, finding in bad):
            nodes = tuple(node for node, finding in bad if finding == each)
            merged.append(replace(each, nodes=() if len(nodes) == len(by_node) else nodes))
    return merged


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Faults first, then warnings, then what is ok; differences between nodes stay first among their level."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def count(findings: Sequence[Finding], level: Level) -> int:
    """Number of findings of a level."""
    return sum(finding.level == level for finding in findings)


def table(findings: Sequence[Finding]) -> list[str]:
    """Lines for a terminal: one for each finding, and one below for its remedy."""
    titles = [_title(finding) for finding in findings]
    width = max(map(len, titles), default=0)
    lines = []
    for finding, title in zip(findings, titles, strict=True):
        mark = "FAULT" if finding.level == "fault" else finding.level
        lines.append(wrapped(f"{mark:<7}  {title:<{width}}  {finding.found}", width + 11))
        if finding.remedy:
            lines.append(f"{'':<7}  {'':<{width}}  -> {finding.remedy}")  # a command can be copied in one piece
    return lines


def _title(finding: Finding) -> str:
    """A check's name, and the nodes that it concerns."""
    if not finding.nodes:
        return finding.name
    more = f" and {len(finding.nodes) - 3} more" if len(finding.nodes) > 3 else ""
    return f"{finding.name} ({', '.join(finding.nodes[:3])}{more})"
