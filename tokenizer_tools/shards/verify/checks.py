"""What a verification found: a list of checks, each with its faults."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

REBUILD = "build the shards again, in another folder"
COPY = f"copy it again from where the shards were built, or {REBUILD}"


@dataclass
class Fault:
    """One kind of fault of a check. Each kind is reported once, however often it occurs."""

    what: str
    place: str
    """Where it was seen first."""
    remedy: str
    count: int = 1

    def line(self) -> str:
        """Place, fault and remedy in one line."""
        more = f" ({self.count:,} times)" if self.count > 1 else ""
        return f"{self.place}: {self.what}{more}; {self.remedy}"


@dataclass
class Check:
    """One line of the table."""

    name: str
    found: str = ""
    """What was found, in words."""
    faults: list[Fault] = field(default_factory=list)
    not_checked: str = ""
    """Why it couldn't be checked; empty if it was."""

    @property
    def state(self) -> str:
        """ok, fault or not checked."""
        return "fault" if self.faults else "not checked" if self.not_checked else "ok"

    def fault(self, what: str, place: str, remedy: str = REBUILD, count: int = 1) -> None:
        """Record a fault; one of a known kind is only counted."""
        for known in self.faults:
            if known.what == what:
                known.count += count
                return
        self.faults.append(Fault(what, place, remedy, count))

    def compare(self, what: str, place: str, found: object, said: object, remedy: str = REBUILD) -> None:
        """Record a fault if what was found isn't what the manifest says."""
        if found != said:
            self.fault(f"{what}: {_figure(found)}, but the manifest says {_figure(said)}", place, remedy)


def _figure(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


@dataclass(frozen=True)
class Verification:
    """What `verify_shards` found."""

    shards: str
    checks: list[Check]

    @property
    def failed(self) -> list[Check]:
        """The checks with a fault."""
        return [check for check in self.checks if check.faults]

    def lines(self) -> list[str]:
        """The table to print: a line per check, and its faults below."""
        rows = [("check", "state", "found")]
        rows += [(check.name, check.state, check.not_checked or check.found) for check in self.checks]
        widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:2]]
        lines = [f"{name:<{widths[0]}}  {state:<{widths[1]}}  {found}".rstrip() for name, state, found in rows]
        for check in self.failed:
            lines += ["", f"{check.name}:", *(f"  {fault.line()}" for fault in check.faults)]
        return lines

    def summary(self) -> dict[str, Any]:
        """The same for --json."""
        checks = [{"state": check.state, **asdict(check)} for check in self.checks]
        return {"shards": self.shards, "ok": not self.failed, "checks": checks}
