"""Check everything that a run needs: on this machine, or in a job, with a process for each rank, on all its nodes."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.config.slurm import SlurmConfig
from clinical_pretrain.console import console
from clinical_pretrain.observe.doctor import machine
from clinical_pretrain.observe.doctor.findings import Finding, fault, in_order, merge, refused, warning, with_new
from clinical_pretrain.observe.doctor.folders import check_run_folder, check_space
from clinical_pretrain.observe.doctor.network import check_host_name, check_interfaces, check_port, listening
from clinical_pretrain.observe.doctor.ranks import Probe, check_all_reduce, check_answers, driver_version, torch_failed
from clinical_pretrain.observe.doctor.run_needs import check_run
from clinical_pretrain.observe.doctor.slurm import check_cluster, check_job
from clinical_pretrain.slurm_environment import slurm_job, warning_seconds

DEFAULT_FOLDER = Path("runs")
"""Folder of runs, if no config says where the run folder is."""


@dataclass(frozen=True)
class Question:
    """What is asked of this machine or of these nodes."""

    config: RunConfig | None = None
    """Of the run; None: only what all runs need."""
    launcher: tuple[str, ...] = ()
    """Options of DeepSpeed's launcher, as of `run`."""
    slurm: SlurmConfig | str | None = None
    """On a login node: settings of jobs, or the message that refuses their time limit. None where no jobs are
    submitted."""

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return Path(self.config.run_dir) if self.config else DEFAULT_FOLDER

    @property
    def warning_seconds(self) -> int:
        """How long before a time limit the run is told to save; 0 without SLURM."""
        return self.slurm.warning_seconds if isinstance(self.slurm, SlurmConfig) else warning_seconds()


@dataclass(frozen=True)
class Report:
    """What was found."""

    nodes: list[str]
    """Host names, in the order of ranks."""
    findings: list[Finding]
    """Of all nodes."""
    differences: list[Finding] = field(default_factory=list)
    """Between nodes."""

    def shown(self) -> list[Finding]:
        """In the order in which they are shown: differences between nodes, then faults, warnings, and what is ok."""
        return [*in_order(self.differences), *in_order(self.findings)]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"nodes": self.nodes, "findings": [asdict(finding) for finding in self.shown()]}


def examine_here(question: Question) -> Report:
    """Check this machine, with the ranks that `run` would start on it."""
    console.progress(["starting the ranks that a run would have here"])
    with tempfile.TemporaryDirectory() as folder:
        probe = Probe(Path(folder), question.config, question.launcher, {})
        try:
            answers = probe.alone()
            together = probe.together() if answers else []
            words = probe.last_words()
        finally:
            probe.close()
    ranks = answers[0]["world_size"] if answers else 1
    console.progress(["checking limits, folders and files"])
    findings = check_node(question, answers, ranks, ranks)
    findings += check_own_ports(question.launcher)
    if not answers:
        findings.append(torch_failed(words))
    else:
        findings = with_new(findings, check_answers(answers, question.config, question.slurm is not None))
        findings.append(check_all_reduce(together[0] if together else None, words))
    host = socket.gethostname()
    return Report([host], merge({host: findings}))


def check_own_ports(launcher: tuple[str, ...]) -> list[Finding]:
    """Whether ranks of this machine can reach each other's ports: at the port of --master_port, or a free one."""
    options = dict(zip(launcher[::2], launcher[1::2], strict=True))
    given = options.get("--master_port", "0")
    if not given.isdecimal() or int(given) > 65535:
        return [refused("ports", f"--master_port {given}: no port; give a number from 1024 to 65535")]
    port = int(given)
    try:
        with listening(port) as taken:
            return [check_port("127.0.0.1", taken, "a port of this machine")]
    except OSError as error:
        return [port_taken(port, error)]


def port_taken(port: int, error: OSError) -> Finding:
    return fault(
        "ports",
        f"port {port}, where the ranks meet, can't be opened ({error.strerror})",
        "wait for the end of the training that uses it, or choose another: --master_port N, or in jobs "
        "export MASTER_PORT=N in slurm/site_setup.sh",
    )


def check_node(question: Question, answers: list[dict[str, Any]], local_ranks: int, world_size: int) -> list[Finding]:
    """What one process checks for its node, without the others.

    Args:
        question: what is asked.
        answers: of the node's ranks; empty where they failed.
        local_ranks: ranks on this node.
        world_size: ranks of the run; where jobs are submitted from here, the jobs' number of ranks is taken.
    """
    config, slurm = question.config, question.slurm
    checkpoint_bytes = answers[0]["checkpoint_bytes"] if answers else None
    findings = [*machine.check_machine(local_ranks, world_size), *check_interfaces()]
    findings.append(check_host_name(world_size > local_ranks))
    if isinstance(slurm, SlurmConfig):
        world_size = slurm.nodes * slurm.ranks_per_node
    findings += check_run_folder(question.run_dir, question.warning_seconds, checkpoint_bytes)
    if config is not None:
        findings += [*check_run(config, world_size), check_space(config, checkpoint_bytes)]
    if isinstance(slurm, str):
        findings.append(fault("time limit", slurm, "a longer --slurm.time, or a shorter --slurm.warning_seconds"))
    elif slurm is not None:
        findings += check_cluster(slurm)
    elif job := slurm_job():
        findings += check_job(job)
    return findings


def node_facts(answers: list[dict[str, Any]]) -> dict[str, str]:
    """What should be the same on all nodes."""
    facts = machine.facts() | {"the GPU driver": driver_version()}
    if answers:
        first = answers[0]
        facts["torch and CUDA"] = f"{first['torch']}, {first['cuda']}"
        facts["GPUs"] = ", ".join(gpu["name"] for gpu in first["devices"]) or "none"
    return facts


def differences(by_node: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """What differs between nodes.

    Args:
        by_node: the facts of each node, by its host name.
    """
    findings = []
    for name in dict.fromkeys(name for facts in by_node.values() for name in facts):
        hosts: dict[str, list[str]] = {}
        for host, facts in by_node.items():
            hosts.setdefault(facts.get(name, "unknown"), []).append(host)
        if len(hosts) == 1:
            continue
        found = f"{name}: " + "; ".join(f"{value} on {', '.join(nodes[:5])}" for value, nodes in hosts.items())
        if name in machine.HARDWARE:
            remedy = "ranks wait for the slowest node: ask for equal ones, by --slurm.constraint or --slurm.partition"
            findings.append(warning("nodes differ", found, remedy))
        else:
            remedy = "give all nodes one Python environment, on a disk that they share"
            findings.append(fault("nodes differ", found, remedy))
    return findings
