"""Whether the cluster lets a training save before its time limit, and be requeued."""

from __future__ import annotations

import math
from pathlib import Path

from clinical_pretrain.cluster.site_facts import SlurmSilentError, has_slurm, job_facts, partition_facts, refusal
from clinical_pretrain.config.slurm import SlurmConfig, seconds_of
from clinical_pretrain.observe.doctor.findings import Finding, fault, ok, refused, warning
from clinical_pretrain.slurm_environment import warning_seconds
from tokenizer_tools.errors import UserError


def check_cluster(slurm: SlurmConfig) -> list[Finding]:
    """On a login node: the partitions that jobs will be in, and whether SLURM would take one.

    Args:
        slurm: settings of the jobs.
    """
    if not has_slurm():
        return [fault("SLURM", "sbatch: not found", "type this on a login node of the cluster")]
    try:
        partitions = [partition_facts(name) for name in slurm.partition.split(",")]
    except UserError as error:
        return [refused("SLURM", error)]
    except SlurmSilentError as error:
        return [fault("SLURM", f"doesn't answer ({error})", "try again when it does (see sinfo)")]
    findings = []
    for partition in partitions:
        name = partition["PartitionName"]
        findings += [*_check_limit(name, partition, slurm), _check_preemption(name, partition)]
    if slurm.container and not Path(slurm.container).exists():
        remedy = "give the image's path as nodes see it: container in slurm/site.yaml"
        findings.append(warning("container", f"{slurm.container}: not on this machine", remedy))
    if not any(finding.level == "fault" for finding in findings):
        reason = refusal(slurm)
        remedy = "correct --slurm.KEY or slurm/site.yaml; sinfo shows what there is"
        asked = f"{slurm.nodes} node{'s'[: slurm.nodes != 1]} with {slurm.gpus_per_node} GPUs, {slurm.time}"
        findings.insert(0, fault("SLURM", f"a job of {asked} would be refused: {reason}", remedy) if reason else
                        ok("SLURM", f"takes a job of {asked}"))  # fmt: skip
    return findings


def _check_limit(name: str, partition: dict[str, str], slurm: SlurmConfig) -> list[Finding]:
    """The time limit that is asked for against the partition's, and whether that leaves time for the warning."""
    longest = seconds_of(partition.get("MaxTime", "UNLIMITED")) or math.inf
    if partition.get("State", "UP") != "UP":
        return [fault("SLURM", f"partition {name} is {partition['State']}", "choose another by --slurm.partition")]
    if longest <= slurm.warning_seconds:
        return [fault(
            "time limit",
            f"partition {name} allows {partition['MaxTime']}, not longer than the {slurm.warning_seconds} s before "
            "the limit at which a run is told to save: it would save at once, again and again",
            "choose another --slurm.partition, or a lower --slurm.warning_seconds and --slurm.time",
        )]  # fmt: skip
    if longest < (seconds_of(slurm.time) or 0):
        found = f"{slurm.time} is asked for, and partition {name} allows {partition['MaxTime']}: the job would wait"
        return [fault("time limit", found, f"--slurm.time {partition['MaxTime']}; it is requeued until it is done")]
    found = f"{slurm.time}, and the run is told to save {slurm.warning_seconds} s before it"
    return [ok("time limit", found)]


def _check_preemption(name: str, partition: dict[str, str]) -> Finding:
    """What becomes of a job in this partition when a more urgent one needs its nodes."""
    mode, grace = partition.get("PreemptMode", "OFF"), int(partition.get("GraceTime", "0") or 0)
    if "CANCEL" in mode:
        found = f"partition {name} cancels jobs, {grace} s after a warning, and doesn't requeue them"
        return warning("preemption", found, "choose another partition, or submit the same command again")
    if "SUSPEND" in mode or "GANG" in mode:
        found = f"partition {name} suspends jobs; ranks that stand still look lost to each other"
        return warning("preemption", found, "choose another partition")
    if "REQUEUE" in mode and grace == 0:
        found = f"partition {name} requeues jobs without a warning: steps since the last checkpoint are lost"
        return warning("preemption", found, "save often: a low --checkpoint.every_steps")
    if "REQUEUE" in mode:
        return ok("preemption", f"partition {name} requeues jobs, {grace} s after a warning")
    return ok("preemption", f"none in partition {name}")


def check_job(job: str) -> list[Finding]:
    """In a job: its own time limit against the warning, and whether it can be requeued.

    Args:
        job: its number.
    """
    try:
        facts = job_facts(job)
    except SlurmSilentError as error:
        return [warning("SLURM", f"doesn't answer ({error})", "see sinfo; a job is requeued only if it answers then")]
    limit, before = seconds_of(facts.get("TimeLimit", "UNLIMITED")) or math.inf, warning_seconds()
    findings = []
    if limit <= before:
        found = f"this job's {facts['TimeLimit']} is not longer than the {before} s before the limit at which a run is "
        remedy = "ask for more (sbatch --time, --slurm.time), or warn later (--signal=USR1@60 with WARNING_SECONDS=60)"
        findings.append(fault("time limit", f"{found}told to save", remedy))
    else:
        warned = f", a run is told to save {before} s before" if before else ""
        findings.append(ok("time limit", f"job {job}: {facts.get('TimeLimit')}{warned}"))
    if facts.get("Requeue") == "0":
        remedy = "submit with --requeue, as slurm/pretrain.sh and submit do"
        findings.append(warning("requeue", f"job {job} can't be requeued after its time limit", remedy))
    return findings
