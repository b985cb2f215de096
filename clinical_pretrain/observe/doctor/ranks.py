"""Start the ranks that ask torch (training/probe.py), and what their answers mean."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.observe.doctor.findings import Finding, fault, ok, refused, warning
from clinical_pretrain.observe.doctor.machine import library_path

PROBE_SECONDS = 300
"""How long the ranks may take to load torch, and again to meet."""
SLOW_ALL_REDUCE = 1.0
"""GB/s between GPUs: less than 10 Gbit/s Ethernet gives."""
DRIVER = Path("/proc/driver/nvidia")
COMPILER_REMEDY = (
    "install gcc and g++ and Python's headers (apt-get install g++ python3-dev), load the cluster's module of gcc in "
    "slurm/site_setup.sh, or train without: --compile off"
)


class Probe:
    """The process that asks torch, for one rank, or for all ranks of this machine.

    Args:
        folder: an empty folder of this process for the answers.
        config: of the run.
        launcher: options of DeepSpeed's launcher, which starts the ranks of this machine; None: the process is a rank
            itself.
        environment: further variables.
    """

    def __init__(
        self, folder: Path, config: RunConfig | None, launcher: Sequence[str] | None, environment: Mapping[str, str]
    ) -> None:
        self._folder, self._log, self._launches = folder, folder / "log", launcher is not None
        if config is not None:
            (folder / "config.yaml").write_text(config.to_yaml())
        call = [sys.executable, "-m", "clinical_pretrain.training.probe", str(folder)]
        call += [] if launcher is None else ["--launcher", json.dumps(list(launcher))]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                call, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                env=os.environ | dict(environment),
            )  # fmt: skip

    def alone(self) -> list[dict[str, Any]]:
        """The answers that ranks give without each other, in the order of ranks; empty where one of them failed."""
        return self._wait_for("local")

    def together(self) -> list[dict[str, Any]]:
        """Let the ranks meet, and return their answers; empty where one of them failed."""
        (self._folder / "go").touch()
        return self._wait_for("ranks")

    def _wait_for(self, name: str) -> list[dict[str, Any]]:
        deadline = time.monotonic() + PROBE_SECONDS
        while time.monotonic() < deadline:
            ended = self._process.poll() is not None
            files = sorted(self._folder.glob(f"{name}-*.json"), key=lambda path: int(path.stem.split("-")[1]))
            answers = [json.loads(path.read_text()) for path in files]
            if answers and len(answers) == (answers[0]["world_size"] if self._launches else 1):
                return answers
            if ended:
                return []
            time.sleep(0.1)
        return []

    def last_words(self) -> str:
        """The last line of what the process has said that looks like an error, or the last one."""
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"(\[rank\d+\]: )?[\w.]*(Error|Exception)\b", line)]
        return (errors or lines or ["it said nothing"])[-1][:400]

    def close(self) -> None:
        """End the process and what it has started; gently where it has given all its answers."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10 if any(self._folder.glob("ranks-*.json")) else 0)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def torch_failed(words: str) -> Finding:
    """Why torch couldn't be loaded, or a rank couldn't start: tries again without LD_LIBRARY_PATH."""
    if library_path() and not _loads_torch(os.environ) and _loads_torch(os.environ, without="LD_LIBRARY_PATH"):
        return fault(
            "LD_LIBRARY_PATH",
            f"torch can't be loaded with it, but without it: {words}",
            f"take {':'.join(library_path())} out of it, where it is set: slurm/site_setup.sh, a module, your shell's "
            "profile; torch brings its own libraries",
        )
    remedy = "install the versions of the first line again; the message is torch's or DeepSpeed's own"
    return fault("torch", f"a rank can't start: {words}", remedy)


def _loads_torch(environment: Mapping[str, str], without: str = "") -> bool:
    variables = {name: value for name, value in environment.items() if name != without}
    call = [sys.executable, "-c", "import torch, tokenizers"]
    with suppress(subprocess.TimeoutExpired):
        return not subprocess.run(call, env=variables, capture_output=True, timeout=PROBE_SECONDS).returncode
    return False


def check_answers(answers: Sequence[dict[str, Any]], config: RunConfig | None, is_login: bool) -> list[Finding]:
    """What the ranks of a node found alone.

    Args:
        answers: of its ranks; see training/probe.py.
        config: of the run.
        is_login: whether this is a login node, from which jobs are submitted: it needs no GPU.
    """
    first = answers[0]
    findings = [check_gpus(first, config, is_login), *check_libraries(first)]
    for answer in answers:
        findings += [refused(name, message) for name, message in answer["faults"].items()]
    errors = [answer["compiler_error"] for answer in answers if answer["compiler_error"] != "unused"]
    if errors:
        findings.append(check_compiler(errors[0]))
    elif config is not None:
        findings.append(ok("compiler", "this run needs none"))
    return list(dict.fromkeys(findings))


def check_gpus(answer: dict[str, Any], config: RunConfig | None, is_login: bool) -> Finding:
    """GPUs and driver against the build of torch."""
    names = [gpu["name"] for gpu in answer["devices"]]
    version = f"torch {answer['torch']}"
    if names and answer["uses_gpu"]:
        of_cuda = f", CUDA {answer['cuda']}, NCCL {answer['nccl']}" if answer["cuda"] else ""
        kinds = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
        return ok("GPUs", f"{kinds}, driver {driver_version()}, {version}{of_cuda}")
    there = len(list((DRIVER / "gpus").glob("*")))
    if names:
        return warning("GPUs", f"{len(names)}, but DS_ACCELERATOR=cpu keeps training from them", "unset DS_ACCELERATOR")
    if there and not answer["cuda"]:
        remedy = "install a CUDA build of torch that fits the driver: see Install in the README"
        return fault("GPUs", f"{there} here, but {version} is a build for CPUs", remedy)
    if there:
        reason = answer["cuda_error"] or f"CUDA_VISIBLE_DEVICES is {os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')!r}"
        remedy = "install a build of torch for an older CUDA, or a newer driver; ask SLURM for GPUs (--gpus-per-node)"
        return fault("GPUs", f"{there} here (driver {driver_version()}), but torch sees none: {reason}", remedy)
    if is_login or (config is not None and config.precision == "fp32"):
        return ok("GPUs", f"none on this machine; {version}")
    return warning("GPUs", f"none: training would run on the CPU; {version}", "start this on a machine with GPUs")


def driver_version() -> str:
    """Of NVIDIA's kernel module."""
    with suppress(OSError):
        if found := re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", (DRIVER / "version").read_text()):
            return found[1]
    return "unknown"


def check_libraries(answer: dict[str, Any]) -> list[Finding]:
    """Libraries that LD_LIBRARY_PATH has put in the place of those that torch brings."""
    libraries = answer["foreign_libraries"]
    if not libraries:
        return []
    remedy = "take the folder out of LD_LIBRARY_PATH, unless you know that torch should use its libraries"
    return [warning("LD_LIBRARY_PATH", f"torch's process takes from it: {', '.join(libraries[:5])}", remedy)]


def check_compiler(error: str | None) -> Finding:
    """Whether torch.compile works, where the run uses it."""
    if error is None:
        return ok("compiler", "torch.compile works")
    return fault("compiler", f"torch.compile doesn't work: {error}", COMPILER_REMEDY)


def check_all_reduce(answer: dict[str, Any] | None, words: str) -> Finding:
    """How fast ranks exchange data.

    Args:
        answer: of a rank; None if they didn't meet.
        words: what was said then.
    """
    name = "all-reduce"
    if answer is None:
        remedy = "NCCL_DEBUG=INFO shows what NCCL tries; NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name the network"
        return fault(name, f"the ranks can't exchange data: {words}", remedy)
    ranks = answer["world_size"]
    if ranks == 1:
        return ok(name, "one rank has nothing to exchange; --num_gpus 2 tries two")
    speeds = ", ".join(f"{_size(each['bytes'])}: {each['seconds'] * 1e3:,.1f} ms" for each in answer["all_reduce"])
    speed = answer["all_reduce"][-1]["gb_per_second"]
    found = f"{ranks} ranks over {answer['backend']}: {speeds} ({speed:,.1f} GB/s)"
    if answer["wrong"]:
        remedy = "the network or a GPU corrupts data: exclude the node (--slurm.options.exclude), and tell its owner"
        return fault(name, f"{found}; sums are wrong", remedy)
    if answer["backend"] == "nccl" and speed < SLOW_ALL_REDUCE:
        remedy = "NCCL_DEBUG=INFO shows which network NCCL takes; NCCL_SOCKET_IFNAME in slurm/site_setup.sh chooses"
        return warning(name, f"{found}: slow for GPUs", remedy)
    return ok(name, found)


def _size(count: int) -> str:
    return f"{count >> 20} MB" if count >= 1 << 20 else f"{count >> 10} kB"
