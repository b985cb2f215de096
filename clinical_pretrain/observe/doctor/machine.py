"""What can be known of this machine without torch and without a run: versions, limits, memory, container."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from clinical_pretrain.observe.doctor.findings import Finding, fault, ok, warning
from clinical_pretrain.run_folder.starts import git_commit
from clinical_pretrain.slurm_environment import cores_of_task

PACKAGE = "clinical-pretrain"
SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_BYTES = 1 << 30
"""NCCL asks for some tens of MB for each pair of a node's GPUs. Docker gives a container 64 MB."""
MAIN_LIBRARIES = ("torch", "deepspeed", "transformers")


def check_machine(local_ranks: int, world_size: int) -> list[Finding]:
    """All checks of this module.

    Args:
        local_ranks: ranks on this machine.
        world_size: ranks of the run.
    """
    return [
        *check_versions(),
        *check_library_path(),
        check_shared_memory(),
        *check_limits(world_size),
        check_cores(local_ranks),
        check_container(),
    ]


def requirements() -> Iterator[tuple[str, str | None, SpecifierSet]]:
    """The libraries that this package needs here: name, installed version (None: missing), and tested range. Of a
    package that isn't installed itself nothing is known."""
    for line in (_installed(PACKAGE) and importlib.metadata.requires(PACKAGE)) or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name, _installed(requirement.name), requirement.specifier


def check_versions() -> list[Finding]:
    """Versions of Python and of all libraries, against the ranges of pyproject.toml."""
    if _installed(PACKAGE) is None:
        remedy = "pip install . in its folder, or use the Python that has it: .venv/bin/python after make setup"
        return [fault("versions", f"{PACKAGE} is not installed for {sys.executable}", remedy)]
    needed = [("Python", platform.python_version(), SpecifierSet(_python_range())), *requirements()]
    missing = [name for name, version, _ in needed if version is None]
    outside = [(name, version, tested) for name, version, tested in needed
               if version is not None and not tested.contains(version, prereleases=True)]  # fmt: skip
    findings = []
    if missing:
        remedy = f"install what {PACKAGE} needs into this Python: pip install {' '.join(missing)}"
        findings.append(fault("versions", f"not installed: {', '.join(missing)}", remedy))
    for name, version, tested in outside:
        remedy = "use another Python" if name == "Python" else f"pip install '{name}{tested}'"
        findings.append(warning("versions", f"{name} {version} is not tested, {tested} is", remedy))
    if not findings:
        versions = {name: version for name, version, _ in needed}
        main = ", ".join(f"{name} {versions[name]}" for name in ("Python", *MAIN_LIBRARIES))
        findings.append(ok("versions", f"{main}; all {len(needed)} are in their tested ranges"))
    return findings


def check_library_path() -> list[Finding]:
    """Folders of LD_LIBRARY_PATH that aren't there. What it does to torch is seen when torch is loaded (ranks.py)."""
    gone = [name for name in library_path() if not Path(name).is_dir()]
    if not gone:
        return []
    remedy = "correct it where it is set: slurm/site_setup.sh, a module, or your shell's profile"
    return [warning("LD_LIBRARY_PATH", f"names folders that aren't there: {', '.join(gone)}", remedy)]


def library_path() -> list[str]:
    """The folders in LD_LIBRARY_PATH."""
    return [name for name in os.environ.get("LD_LIBRARY_PATH", "").split(":") if name]


def check_shared_memory() -> Finding:
    """Room in /dev/shm, through which NCCL's ranks on one node exchange data."""
    if not SHARED_MEMORY.is_dir():
        return fault("shared memory", f"no {SHARED_MEMORY}", "mount a tmpfs there; NCCL needs it")
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free >= SHARED_MEMORY_BYTES:
        return ok("shared memory", f"{free / 1e9:,.1f} GB free in {SHARED_MEMORY}")
    return warning(
        "shared memory",
        f"{free / 1e6:,.0f} MB free in {SHARED_MEMORY}, too little for NCCL between several GPUs",
        "start the container with --shm-size=8g (docker), or delete what is left in the folder",
    )


def check_limits(world_size: int) -> list[Finding]:
    """Limits of this process, as `ulimit -a` shows them. Only those that can end a run are named."""
    limits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0]
              for name in ("NOFILE", "FSIZE", "AS", "MEMLOCK")}  # fmt: skip
    unlimited, findings = resource.RLIM_INFINITY, []
    files = 512 + 16 * world_size  # libraries' files, and sockets to each other rank in several groups
    if limits["NOFILE"] != unlimited and limits["NOFILE"] < files:
        remedy = f"ulimit -n {max(files, 4096)}, in slurm/site_setup.sh"
        findings.append(
            warning("limits", f"{limits['NOFILE']:,} open files, {world_size:,} ranks want {files:,}", remedy)
        )
    if limits["FSIZE"] != unlimited:
        found = f"a file can have {limits['FSIZE'] / 1e6:,.1f} MB at most, less than a checkpoint's may need"
        findings.append(warning("limits", found, "ulimit -f unlimited"))
    if limits["AS"] != unlimited:
        found = f"address space of {limits['AS'] / 1e9:,.1f} GB at most; CUDA reserves more than it uses"
        findings.append(warning("limits", found, "ulimit -v unlimited"))
    if limits["MEMLOCK"] != unlimited and Path("/sys/class/infiniband").is_dir():
        found = f"{limits['MEMLOCK'] / 1e6:,.1f} MB of locked memory; InfiniBand needs more"
        findings.append(warning("limits", found, "ulimit -l unlimited; ask for it where SLURM's daemon is configured"))
    return findings or [ok("limits", "open files, file size, address space and locked memory suffice")]


def check_cores(local_ranks: int) -> Finding:
    """CPU cores that the ranks of this machine may use, and memory."""
    of_task = cores_of_task()
    cores = of_task * local_ranks if of_task else len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = f"{cores} CPU cores for {local_ranks} rank{'s'[: local_ranks != 1]}, {memory / 1e9:,.0f} GB of memory"
    if cores >= local_ranks:
        return ok("cores", found)
    return warning("cores", found, "give each rank a core of its own: --slurm.cpus_per_task, or fewer ranks")


def check_container() -> Finding:
    """Whether this is a container, and by which program."""
    image = os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER")
    if image:
        return ok("container", f"Apptainer image {image}")
    for file, program in (("/.dockerenv", "Docker"), ("/run/.containerenv", "Podman")):
        if Path(file).exists():
            return ok("container", program)
    return ok("container", "none")


def facts() -> dict[str, str]:
    """What should be the same on all nodes, in words."""
    installed = {name: version or "missing" for name, version, _ in requirements()}
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "Python": platform.python_version(),
        PACKAGE: _installed(PACKAGE) or "missing",
        "the commit of this code": git_commit() or "none",
        **installed,
        "the processor": platform.machine(),
        "CPU cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 1e9:,.0f} GB",
        "LD_LIBRARY_PATH": ":".join(library_path()) or "empty",
    }


HARDWARE = ("CPU cores", "memory", "GPUs", "the GPU driver", "LD_LIBRARY_PATH")
"""Of the facts, those that may differ between nodes: a warning. A difference of the others is a fault."""


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python_range() -> str:
    return importlib.metadata.metadata(PACKAGE)["Requires-Python"]
