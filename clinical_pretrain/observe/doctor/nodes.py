"""Check all nodes of a job: each of its processes runs this, one for each rank, and the first one reports."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from clinical_pretrain.console import console
from clinical_pretrain.observe.doctor.examine import Question, Report, check_node, differences, node_facts, port_taken
from clinical_pretrain.observe.doctor.findings import Finding, fault, merge, warning, with_new
from clinical_pretrain.observe.doctor.folders import check_shared_lock, holding_lock
from clinical_pretrain.observe.doctor.meeting import Meeting, Place
from clinical_pretrain.observe.doctor.network import ask_time, check_clock, check_port, listening
from clinical_pretrain.observe.doctor.ranks import (
    PROBE_SECONDS,
    Probe,
    check_all_reduce,
    check_answers,
    torch_failed,
)
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.slurm_environment import meeting_port

MEET_SECONDS = 120
"""How long to wait for the processes of other nodes: a network disk may show new files late."""
CHECK_SECONDS = 300


def examine_nodes(question: Question, place: Place) -> Report | None:
    """Check this process's rank, and, once for each node, the node.

    Returns:
        On rank 0 the report on all nodes; where nodes can't tell each other anything, one on each node; else None.
    """
    parent = RunFolder(question.run_dir).jobs if question.config else Path()
    try:
        meeting = Meeting(place, parent)
    except OSError as error:
        if not place.leads:
            return None
        finding = fault("nodes", f"{parent}: can't be written ({error.strerror}), so each node reports for itself",
                        "see the finding on the run folder")  # fmt: skip
        return Report([place.host], merge({place.host: [finding, *check_node(question, [], 1, place.world_size)]}))
    try:
        return _examine(question, meeting)
    finally:
        meeting.close()


def _examine(question: Question, meeting: Meeting) -> Report | None:
    place = meeting.place
    if place.rank == 0:
        console.progress([f"checking {place.world_size} ranks"])
    ranks, findings = _check_network(meeting)
    reached = not any(finding.level == "fault" for finding in findings)
    local_ranks = sum(each["host"] == place.host for each in ranks.values())
    address = {"MASTER_ADDR": ranks[0]["host"], "MASTER_PORT": str(ranks[0]["meeting"])} if 0 in ranks else {}
    with tempfile.TemporaryDirectory() as folder:
        probe = Probe(Path(folder), question.config, None, place.environment | address | _given(address))
        try:
            answers = probe.alone()
            meeting.tell("ready", {"ready": bool(answers) and reached})
            ready = meeting.hear("ready", ranks, PROBE_SECONDS)
            can_meet = len(ready) == place.world_size and all(each["ready"] for each in ready.values())
            together = probe.together() if can_meet else []
            words = probe.last_words()
        finally:
            probe.close()
    if place.leads:
        findings += check_node(question, answers, local_ranks, place.world_size)
    asked = check_answers(answers, question.config, is_login=False) if answers else [torch_failed(words)]
    findings = with_new(findings, asked)
    if place.leads and can_meet:
        findings.append(check_all_reduce(together[0] if together else None, words))
    elif place.leads:
        found = "not tried, as not all ranks can start or reach each other"
        findings.append(warning("all-reduce", found, "correct the faults first"))
    facts = node_facts(answers) if place.leads else {}
    meeting.tell("report", {"findings": [asdict(finding) for finding in findings], "facts": facts})
    return _report(meeting, ranks) if place.rank == 0 else None


def _given(address: Mapping[str, str]) -> dict[str, str]:
    """What the user or launcher has set of these variables, which a training would use."""
    return {name: os.environ[name] for name in address if os.environ.get(name)}


def _check_network(meeting: Meeting) -> tuple[dict[int, dict[str, Any]], list[Finding]]:
    """Find out which ranks there are, and whether this node reaches the others.

    Returns:
        For each rank that is there: host, leads, port (where the node answers), meeting (where the ranks meet).
    """
    place, findings = meeting.place, []
    lock = meeting.folder / "lock"
    with ExitStack() as stack:
        port = stack.enter_context(listening()) if place.leads else 0
        meets_at = 0
        if place.rank == 0:
            stack.enter_context(holding_lock(lock))
            try:
                meets_at = agents_port() or stack.enter_context(listening(meeting_port() or 0))
            except OSError as error:
                findings.append(port_taken(meeting_port() or 0, error))
        meeting.tell("hello", {"host": place.host, "leads": place.leads, "port": port, "meeting": meets_at})
        ranks = meeting.hear("hello", range(place.world_size), MEET_SECONDS)
        if missing := sorted(set(range(place.world_size)) - ranks.keys()):
            findings.append(_silent(missing, meeting))
        elif place.leads and place.rank > 0:
            findings += _reach(meeting, ranks)
            findings += check_shared_lock(lock)
        meeting.tell("network", {})
        meeting.hear("network", ranks, MEET_SECONDS)  # until then others may want to connect
    return ranks, findings


def agents_port() -> int:
    """The port at which the ranks meet if torchrun has started them: its own process listens there. Else 0."""
    has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return int(os.environ["MASTER_PORT"]) if has_agent else 0


def _silent(missing: list[int], meeting: Meeting) -> Finding:
    some = f"{', '.join(map(str, missing[:5]))}{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}"
    return fault(
        "nodes",
        f"nothing from ranks {some} of {meeting.place.world_size} in {meeting.folder.parent} for {MEET_SECONDS} s",
        "start this once for each rank (srun clinical-pretrain doctor …); if it was, their nodes don't see this "
        "folder: choose a --run_dir on a disk that all nodes share",
    )


def _reach(meeting: Meeting, ranks: Mapping[int, Mapping[str, Any]]) -> list[Finding]:
    """From this node to where the ranks meet, to a port that the system chose on the node before, and its clock."""
    rank = meeting.place.rank
    first = ranks[0]
    before = ranks[max(other for other in ranks if ranks[other]["leads"] and other < rank)]
    findings = []
    if first["meeting"]:
        host = os.environ.get("MASTER_ADDR") or first["host"]
        findings.append(check_port(host, first["meeting"], "where the ranks meet"))
    findings.append(check_port(before["host"], before["port"], "a port of another node"))
    try:
        findings.append(check_clock(ask_time(first["host"], first["port"]), first["host"]))
    except OSError:
        findings.append(warning("clock", "not compared: the first node can't be reached", "see ports"))
    return findings


def _report(meeting: Meeting, ranks: Mapping[int, Mapping[str, Any]]) -> Report:
    """Put together what all ranks have found."""
    told = meeting.hear("report", ranks, CHECK_SECONDS)
    by_node: dict[str, list[Finding]] = {str(each["host"]): [] for each in ranks.values()}
    facts: dict[str, dict[str, str]] = {}
    for rank, report in told.items():
        host = str(ranks[rank]["host"])
        found = [Finding(**{**finding, "nodes": ()}) for finding in report["findings"]]
        by_node[host] += [finding for finding in found if finding not in by_node[host]]
        if report["facts"]:
            facts[host] = report["facts"]
    silent = [str(ranks[rank]["host"]) for rank in ranks if rank not in told]
    findings = merge(by_node)
    if silent:
        lost = fault("nodes", f"no report within {CHECK_SECONDS} s", "see this node's log; exclude it if it is down")
        findings.append(replace(lost, nodes=tuple(dict.fromkeys(silent))))
    clocks = [finding for finding in findings if finding.name == "clock" and finding.level != "ok"]
    rest = [finding for finding in findings if finding not in clocks]
    return Report(list(by_node), rest, [*differences(facts), *clocks])
