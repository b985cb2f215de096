"""doctor finds real faults that are planted on this machine. On two nodes of a real SLURM: tests/slurm."""

import errno
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import planted
import pytest
from conftest import REPOSITORY

from clinical_pretrain.config.command_line import load_config
from clinical_pretrain.config.slurm import SlurmConfig
from clinical_pretrain.observe.doctor import examine, folders, machine, network, run_needs, slurm
from clinical_pretrain.observe.doctor.findings import Finding, fault, in_order, merge, ok, table, warning
from clinical_pretrain.observe.doctor.meeting import Meeting, Place
from clinical_pretrain.observe.doctor.ranks import check_all_reduce, check_gpus
from clinical_pretrain.training import probe
from tokenizer_tools.manifest import Manifest


def only(findings, name):
    """The one finding of a check."""
    (finding,) = [finding for finding in findings if finding.name == name]
    return finding


def run_doctor(folder, *words, launcher=(), **environment):
    """The command, as a user types it. Returns its exit code, its findings by name, and what it printed."""
    python = [sys.executable, *launcher, "-m", "clinical_pretrain"]
    call = [*python, "doctor", "--json", "found.json", *map(str, words)]
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, env=variables, timeout=280)
    assert "Traceback" not in done.stderr, done.stderr
    findings = [Finding(**each) for each in json.loads((folder / "found.json").read_text())["findings"]]
    (folder / "found.json").unlink()
    return done.returncode, findings, done.stdout + done.stderr


@pytest.mark.slow
def test_a_machine_without_faults(shards, config_file, tmp_path):
    """Two ranks exchange data; nothing is left behind; the next command can be typed."""
    words = ["--num_gpus", "2", "--config", config_file, "--data.shards", shards]
    code, findings, said = run_doctor(tmp_path, *words)
    assert code == 0 and not [finding for finding in findings if finding.level == "fault"], said
    assert only(findings, "all-reduce").found.startswith("2 ranks over gloo: 4 kB: ")
    assert "needed for 4 checkpoints" in only(findings, "disk space").found
    assert only(findings, "compiler").found == "this run needs none"
    assert said.splitlines()[-1].endswith(f"run {' '.join(map(str, words))}")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ranks_that_torchrun_has_started(tmp_path):
    """Its own process listens at the port where they meet."""
    code, findings, said = run_doctor(tmp_path, launcher=["-m", "torch.distributed.run", "--nproc_per_node", "2"])
    assert code == 0 and not [finding for finding in findings if finding.level == "fault"], said
    assert only(findings, "all-reduce").found.startswith("2 ranks over gloo: 4 kB: ")


def test_each_task_of_srun_has_cores_of_its_own(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    assert machine.check_cores(4).level == "warning" and machine.check_cores(2).found.startswith("2 CPU cores for 2 r")
    for name, value in (("PROCID", 0), ("LOCALID", 0), ("NTASKS", 4), ("CPUS_PER_TASK", 2)):
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert machine.check_cores(4).level == "ok" and machine.check_cores(4).found.startswith("8 CPU cores for 4 ranks, ")
    monkeypatch.setenv("WORLD_SIZE", "2")  # another launcher, in a task
    assert machine.check_cores(4).level == "warning"


def test_shards_on_a_slow_disk(shards, monkeypatch):
    """Small ones on a disk that answers slowly say nothing."""
    manifest = Manifest.load(shards)
    monkeypatch.setattr(folders, "SLOW_READING", 1e15)
    assert folders.check_reading(shards, manifest).level == "ok"
    monkeypatch.setattr(folders, "TRIAL_SECONDS", 0.0)
    assert folders.check_reading(shards, manifest).level == "warning"


def test_a_micro_batch_that_is_left_to_auto(shards, config_file):
    words = ["--data.shards", str(shards), "--batch.micro_batch_size_per_gpu", "auto"]
    findings = run_needs.check_run(load_config(["--config", str(config_file), *words])[0], 2)
    assert only(findings, "settings").found == "2 ranks, each 4 sequences per step, in micro-batches by GPU memory"


@pytest.mark.slow
def test_planted_faults_are_found_together(shards, config_file, tmp_path, monkeypatch):
    """No compiler for torch.compile, a run folder below a file, a base model that isn't cached, and a time limit that
    is shorter than its warning."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "notes.txt").touch()
    words = ["--config", config_file, "--data.shards", shards, "--compile", "on", "--run_dir", "notes.txt/run",
             "--model.init", "pretrained", "--model.name_or_path", "nobody/nothing", "--slurm.time", "4"]  # fmt: skip
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    code, findings, said = run_doctor(tmp_path, *words, PATH=str(tmp_path / "bin"))
    faults = {finding.name: finding for finding in findings if finding.level == "fault"}
    assert code == 2 and faults.keys() == {"compiler", "run folder", "base model", "time limit"}, said
    assert "No working C++ compiler found" in faults["compiler"].found and "install gcc" in faults["compiler"].remedy
    assert "notes.txt is a file" in faults["run folder"].found
    assert faults["base model"].remedy == "run first: hf download nobody/nothing"
    assert "time 4 must be longer than warning_seconds (300)" in faults["time limit"].found
    assert faults["time limit"].remedy == "a longer --slurm.time, or a shorter --slurm.warning_seconds"
    assert said.splitlines()[-1].startswith("error: 4 faults: do what stands after the arrows")


def test_a_wrong_ld_library_path(tmp_path):
    """A libstdc++ that isn't torch's own lies before it, as an old one of a module does."""
    planted.shared_object("int nothing;", tmp_path / "libstdc++.so.6")
    path = f"/nowhere:{tmp_path}"
    code, findings, said = run_doctor(tmp_path, LD_LIBRARY_PATH=path)
    broken, gone = (each for each in findings if each.name == "LD_LIBRARY_PATH")
    assert code == 2 and [broken.level, gone.level] == ["fault", "warning"], said
    assert "torch can't be loaded with it, but without it" in broken.found
    assert broken.remedy.startswith(f"take {path} out of it")
    assert gone.found == "names folders that aren't there: /nowhere"


ASK_RUN_FOLDER = """
from pathlib import Path
from clinical_pretrain.observe.doctor.folders import check_run_folder
for finding in check_run_folder(Path("{run_dir}"), 300, None):
    print(finding.level, finding.name, finding.found, finding.remedy, sep=" | ")
"""


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (
            "mount -t tmpfs -o size=2m none {0}",
            "fault | run folder | {0}/run: the disk is full, or a quota reached (No",
        ),
        ("mount -t tmpfs -o ro none {0}", "fault | run folder | {0}/run: its disk is mounted read-only on this node"),
    ],
)
def test_a_disk_that_is_full_or_read_only(prepare, said, tmp_path):
    printed = planted.python(ASK_RUN_FOLDER.format(run_dir=tmp_path / "run"), prepare.format(tmp_path))
    assert printed.startswith(said.format(tmp_path)) and "choose another --run_dir" in printed


def test_a_quota_of_file_sizes(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        (finding,) = folders.check_run_folder(tmp_path / "run", 0, None)
        limits = machine.check_limits(1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert finding.level == "fault" and os.strerror(errno.EFBIG) in finding.found and "ulimit -f" in finding.remedy
    assert only(limits, "limits").found.startswith("a file can have 0.1 MB at most")
    assert not list(tmp_path.iterdir())


def test_no_write_access(tmp_path):
    """Of another user, as root may write anywhere."""
    (tmp_path / "run").mkdir()
    is_root = os.getuid() == 0
    tmp_path.chmod(0o755)
    (tmp_path / "run").chmod(0o555)
    if is_root:
        os.seteuid(65534)
    try:
        (finding,) = folders.check_run_folder(tmp_path / "run", 0, None)
    finally:
        if is_root:
            os.seteuid(0)
    assert finding.level == "fault" and "can't be written (Permission denied)" in finding.found
    assert finding.remedy.startswith("ask the owner of ")


def test_space_for_the_checkpoints_that_a_run_keeps(tmp_path, config_file):
    config, _ = load_config(["--config", str(config_file), "--run_dir", str(tmp_path / "run")])
    free = shutil.disk_usage(tmp_path).free
    assert (
        config.checkpoints_kept(config.max_steps) == 4
    )  # of steps 10 and 20, the end's, and the one that is being written
    assert folders.check_space(config, 1000).level == "ok"
    few = folders.check_space(config, free // 2)
    assert few.level == "warning" and "keep_latest 1" in few.remedy
    assert folders.check_space(config, 2 * free).level == "fault"
    checkpoint = tmp_path / "run" / "checkpoints" / "step-10" / "weights"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    os.truncate(checkpoint, 4 * free)  # what is there need not be written again
    assert folders.check_space(config, free // 2).level == "ok"


def test_a_save_that_takes_longer_than_the_warning(tmp_path):
    slow = only(folders.check_run_folder(tmp_path, 300, int(1e15)), "run folder")
    assert slow.level == "warning" and "--slurm.warning_seconds" in slow.remedy


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (planted.NO_LOCKS, "warning | locks | this disk has no locks (No locks available): two trainings in one run"),
        (planted.CLOCK_AHEAD, "warning | clock | 90.0 s ahead of the disk of the run folder's | set it by NTP"),
    ],
)
def test_a_disk_without_locks_and_a_clock_that_is_off(source, said, tmp_path):
    preload = planted.shared_object(source, tmp_path / "planted.so")
    printed = planted.python(ASK_RUN_FOLDER.format(run_dir=tmp_path / "run"), LD_PRELOAD=preload)
    assert said in printed
    assert said not in planted.python(ASK_RUN_FOLDER.format(run_dir=tmp_path / "run"))


def test_a_lock_of_another_node_is_seen(tmp_path):
    with folders.holding_lock(tmp_path / "lock"):
        assert folders.check_shared_lock(tmp_path / "lock") == []
    assert only(folders.check_shared_lock(tmp_path / "lock"), "locks").level == "warning"


def test_a_port_that_a_firewall_closes():
    """A rule that refuses this port's packets, before the table that delivers within the machine."""
    code = "from clinical_pretrain.observe.doctor.examine import check_own_ports\n"
    code += "for port in ('23456', '23457'): print(check_own_ports(('--master_port', port))[0])"
    rules = "ip link set lo up; ip rule add pref 10 lookup local; ip rule del pref 0"
    closed, opened = planted.python(code, f"ip rule add pref 1 ipproto tcp dport 23456 prohibit; {rules}").splitlines()
    assert "level='fault', found=\"a port of this machine, 127.0.0.1:23456, can't be reached" in closed
    assert "a firewall closes them" in closed and "level='ok'" in opened


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        (finding,) = examine.check_own_ports(("--master_port", str(port)))
    assert finding.level == "fault" and f"port {port}" in finding.found and "--master_port N" in finding.remedy


def test_clocks_are_compared_over_the_network():
    with network.listening() as port:
        assert abs(network.ask_time("127.0.0.1", port)) < 0.5
    assert network.check_clock(-2.5, "node0").found == "2.5 s behind node0's"


@pytest.mark.parametrize(
    ("variable", "value", "level"),
    [("NCCL_SOCKET_IFNAME", "ib7", "fault"), ("NCCL_SOCKET_IFNAME", "l", "ok"), ("NCCL_SOCKET_IFNAME", "=l", "fault"),
     ("NCCL_SOCKET_IFNAME", "^docker", "ok"), ("GLOO_SOCKET_IFNAME", "l", "fault"), ("GLOO_SOCKET_IFNAME", "lo", "ok")],
)  # fmt: skip
def test_interfaces_that_variables_name(variable, value, level, monkeypatch):
    monkeypatch.setenv(variable, value)
    finding = only(network.check_interfaces(), "network interface")
    assert finding.level == level and value in finding.found


def test_a_base_model_without_its_weights(config_file, tmp_path):
    """Building shards leaves the tokenizer and the config in the cache."""
    name = f"nobody/{tmp_path.name}"
    config, _ = load_config(["--config", str(config_file), "--model.init", "pretrained", "--model.name_or_path", name])
    cache = Path(os.environ["HF_HOME"]) / "hub" / f"models--{name.replace('/', '--')}"
    for file, content in (("refs/main", "abc"), ("snapshots/abc/config.json", "{}")):
        (cache / file).parent.mkdir(parents=True, exist_ok=True)
        (cache / file).write_text(content)
    finding = run_needs.check_base_model(config)
    assert finding.level == "fault" and "its weights are not on this machine" in finding.found
    assert f"hf download {name}" in finding.remedy
    (cache / "snapshots/abc/model.safetensors").touch()
    assert run_needs.check_base_model(config).found == f"{name}: in the cache"


def test_missing_shards_are_one_fault(config_file):
    """The ranks, which need them for the size of a checkpoint, don't name it again."""
    config, _ = load_config(["--config", str(config_file), "--data.shards", "nowhere/"])
    findings = run_needs.check_run(config, 1)
    assert [finding.name for finding in findings if finding.level == "fault"] == ["files"]
    assert probe.ask_size(config) is None


def test_shards_that_are_cut_off(shards, config_file, tmp_path):
    shutil.copytree(shards, tmp_path / "shards")
    (file := tmp_path / "shards" / "train" / "part-00000.arrow").write_bytes(file.read_bytes()[:-100])
    config, _ = load_config(["--config", str(config_file), "--data.shards", str(tmp_path / "shards")])
    finding = only(run_needs.check_run(config, 1), "files")
    assert finding.level == "fault" and "part-00000.arrow: damaged" in finding.found and "again" in finding.remedy


def test_versions_are_compared_with_the_tested_ranges(tmp_path, monkeypatch):
    assert [finding.level for finding in machine.check_versions()] == ["ok"]
    other = tmp_path / "transformers-9.9.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Name: transformers\nVersion: 9.9.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    (finding,) = machine.check_versions()
    assert finding.level == "warning" and finding.found.startswith("transformers 9.9.0 is not tested, ")
    assert finding.remedy.startswith("pip install 'transformers")


def partition(**words):
    return {
        "PartitionName": "p",
        "State": "UP",
        "MaxTime": "1-00:00:00",
        "PreemptMode": "OFF",
        "GraceTime": "0",
        **words,
    }


@pytest.mark.parametrize(
    ("words", "level", "found"),
    [
        ({}, "ok", "24:00:00, and the run is told to save 300 s before it"),
        ({"MaxTime": "02:00:00"}, "fault", "24:00:00 is asked for, and partition p allows 02:00:00"),
        ({"MaxTime": "00:04:00"}, "fault", "partition p allows 00:04:00, not longer than the 300 s before"),
        ({"State": "DOWN"}, "fault", "partition p is DOWN"),
    ],
)
def test_a_partitions_time_limit(words, level, found):
    (finding,) = slurm._check_limit("p", partition(**words), SlurmConfig())
    assert finding.level == level and finding.found.startswith(found)


@pytest.mark.parametrize(
    ("words", "level"),
    [({}, "ok"), ({"PreemptMode": "REQUEUE", "GraceTime": "60"}, "ok"), ({"PreemptMode": "REQUEUE"}, "warning"),
     ({"PreemptMode": "CANCEL"}, "warning"), ({"PreemptMode": "GANG,SUSPEND"}, "warning")],
)  # fmt: skip
def test_what_a_partition_does_with_preempted_jobs(words, level):
    assert slurm._check_preemption("p", partition(**words)).level == level


def test_differences_between_nodes():
    facts = {"torch": "2.13.0", "GPUs": "A100"}
    found = examine.differences({"a": facts, "b": facts | {"torch": "2.12.0"}, "c": facts | {"GPUs": "V100"}})
    assert [(finding.level, finding.found) for finding in found] == [
        ("fault", "torch: 2.13.0 on a, c; 2.12.0 on b"),
        ("warning", "GPUs: A100 on a, b; V100 on c"),
    ]


def test_findings_of_nodes_are_one_table():
    full, fine = fault("disk", "full", "free it"), ok("disk", "fine")
    one = merge({"a": [fine, ok("x", "1")], "b": [full, ok("x", "2")], "c": [full]})
    assert one == [Finding("disk", "fault", "full", "free it", ("b", "c")), ok("x", "1")]
    assert merge({"a": [full], "b": [full]}) == [full]
    lines = table(in_order([ok("x", "1"), warning("y", "2", "3"), *one[:1]]))
    assert lines == ["FAULT    disk (b, c)  full", f"{'':<20}  -> free it", "warning  y            2",
                     f"{'':<20}  -> 3", "ok       x            1"]  # fmt: skip


def test_processes_of_a_job_meet_in_a_folder(tmp_path):
    places = [Place(rank, 3, 0, "host", True) for rank in range(2)]
    first, second = (Meeting(place, tmp_path / "runs" / "a" / "slurm") for place in places)
    second.tell("hello", {"host": "b"})
    first.tell("hello", {"host": "a"})
    assert first.hear("hello", range(3), 0) == {0: {"host": "a"}, 1: {"host": "b"}}
    second.close()
    first.close()
    assert not list(tmp_path.iterdir())


ANSWER = {"torch": "2.13.0", "cuda": "12.6", "nccl": "2.29.1", "devices": [], "uses_gpu": False, "cuda_error": None}


def test_gpus_that_torch_does_not_see(tmp_path, monkeypatch):
    """NVIDIA's driver lists its GPUs in /proc; torch was built for CPUs, or says why not."""
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13\n")
    monkeypatch.setattr("clinical_pretrain.observe.doctor.ranks.DRIVER", tmp_path)
    cpu_build = check_gpus(ANSWER | {"cuda": None}, None, is_login=False)
    assert cpu_build.level == "fault" and "torch 2.13.0 is a build for CPUs" in cpu_build.found
    old = check_gpus(ANSWER | {"cuda_error": "The NVIDIA driver on your system is too old"}, None, is_login=False)
    assert old.level == "fault" and old.found.startswith("1 here (driver 470.57.02), but torch sees none: The NVIDIA")


def test_wrong_sums_and_slow_networks_are_said():
    answer = {"world_size": 2, "backend": "nccl", "wrong": False,
              "all_reduce": [{"bytes": 64 << 20, "seconds": 1.0, "gb_per_second": 0.06}]}  # fmt: skip
    assert check_all_reduce(answer, "").level == "warning"
    assert check_all_reduce(answer | {"backend": "gloo"}, "").level == "ok"
    assert check_all_reduce(answer | {"wrong": True}, "").level == "fault"
    assert check_all_reduce(None, "DistNetworkError: timed out").found.endswith("DistNetworkError: timed out")
