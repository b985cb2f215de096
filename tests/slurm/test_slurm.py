"""Jobs on a real SLURM of two nodes: every way in which one can end, and what becomes of the run."""

import datetime
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from pathlib import Path

import planted
import pytest
import yaml
from two_nodes import REPOSITORY, STEPS, Cluster, Run, wait_for

from clinical_pretrain.tasks.results import find_results
from tokenizer_tools.files import file_sha256

pytestmark = pytest.mark.slurm
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "ip")
SCRIPT = REPOSITORY / "slurm" / "pretrain.sh"
ONE_NODE = ("--nodes=1", "--gpus-per-node=2", "--cpus-per-gpu=2")
TWO_NODES = ("--nodes=2", "--gpus-per-node=2", "--cpus-per-gpu=2")
SUBMIT = ("clinical-pretrain", "submit", "--slurm.gpus_per_node", "0", "--slurm.tasks_per_node", "2",
          "--slurm.cpus_per_task", "2")  # fmt: skip


def log_of(cluster, job):
    return (cluster.folder / f"slurm-clinical-pretrain-{job}.log").read_text()


def near_time_limit(cluster, job, seconds=40):
    """SLURM looks at limits every 30 s; the signal comes 20 s before the end, if there is still time for it."""
    end = (datetime.datetime.now() + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    cluster.ok("scontrol", "update", f"jobid={job}", f"EndTime={end}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing or os.getuid():
        message = f"needs root and {', '.join(missing) or 'nothing more'}: sudo tests/slurm/install.sh, then as root"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with tempfile.TemporaryDirectory(prefix="cp-") as root:
        Path(root).chmod(0o755)
        cluster = Cluster(Path(root), tmp_path_factory.mktemp("my runs"))
        cluster.control("start")
        try:
            yield cluster
        finally:
            cluster.control("stop")


@pytest.fixture(scope="module")
def config(cluster, shards):
    """A tiny run, under ZeRO 2, in the cluster's folder."""
    size = {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "attention_window": 32,
    }
    settings = {
        "max_steps": STEPS,
        "precision": "fp32",
        "activation_checkpointing": "none",
        "deepspeed": "ds_configs/zero2.json",
        "log_every_steps": 1,
        "model": {"init": "random", "family": "longformer", "size": size},
        "data": {"shards": str(shards)},
        "batch": {"train_batch_size": 8, "micro_batch_size_per_gpu": 2},
        "optim": {"learning_rate": 2e-3, "warmup_steps": 4},
        "validation": {"every_steps": 0, "max_sequences": 8},
        "checkpoint": {"every_steps": 40},
        "watchdog": {"heartbeat_timeout_seconds": 10},
    }
    path = cluster.folder / "a config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def alone(cluster, config):
    """An uninterrupted run of four ranks on one node, which all others are compared with."""
    job = cluster.sbatch(*ONE_NODE, SCRIPT, config, "--run_dir", "runs/alone", TASKS_PER_NODE="4")
    assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", log_of(cluster, job)
    return Run(cluster.folder / "runs" / "alone")


def same(run, alone):
    assert run.losses() == pytest.approx(alone.losses(), rel=1e-6) and len(run.losses()) == STEPS
    assert run.weights(STEPS) == alone.weights(STEPS)


def test_a_job_survives_whatever_happens_to_it(cluster, config, alone):
    """sbatch, two nodes: time limit, preemption, a limit without a warning, a lost node, a requeue by hand, and
    preemption without a word."""
    job = cluster.sbatch(*TWO_NODES, "--time=30", "--partition=scavenge", "--signal=USR1@20", SCRIPT, config,
                         "--run_dir", "runs/by sbatch")  # fmt: skip
    run, codes = Run(cluster.folder / "runs" / "by sbatch"), []

    def kill_node():
        cluster.control("kill-node", "node0")
        cluster.control("start-node", "node0")

    events = [
        (lambda: near_time_limit(cluster, job), "scavenge"),
        (cluster.urgent, "scavenge"),
        (lambda: near_time_limit(cluster, job, 1), "scavenge"),
        (kill_node, "scavenge"),
        (lambda: cluster.ok("scontrol", "requeue", job), "impatient"),
        (cluster.urgent, "impatient"),
    ]
    with cluster.slow():
        for number, (event, partition) in enumerate(events):
            run.wait_for_start(number)
            event()
            wait_for(lambda: cluster.state(job) == "PENDING", f"event {number} to end the job", 100)
            codes.append(run.stop()["exit_code"] if (run.folder / "stop.json").exists() else None)
            cluster.ok("scontrol", "update", f"jobid={job}", "TimeLimit=30", f"partition={partition}")
    assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", log_of(cluster, job)
    same(run, alone)
    log = log_of(cluster, job)
    assert len(re.findall("^(saved before )?the time limit; requeued", log, re.MULTILINE)) == 2, log
    assert codes[:2] == [75, 77], codes
    assert [start["slurm_job"] for start in run.starts()] == [job] * 7
    assert run.starts()[1]["from_step"] >= 15 and run.starts()[2]["from_step"] > run.starts()[1]["from_step"]
    logs = cluster.folder / f"slurm-clinical-pretrain-{job}"
    assert sorted(path.name for path in logs.glob("*.log")) == [f"rank-{rank}.log" for rank in range(4)]
    assert (logs / "rank-0.log").read_text().count("resuming from step") == 6
    written = [logs, *logs.iterdir(), cluster.folder / f"{logs.name}.log"]
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o077 for path in written)
    assert f"step {STEPS}/{STEPS}" in log


def test_the_same_through_submit(cluster, config, alone):
    """Preemption with a user signal, a killed rank, a time limit; then the export, in a job that waits for it."""
    with (cluster.root / "slurm.conf").open("a") as stream:
        stream.write("SlurmctldParameters=preempt_send_user_signal\n")
    cluster.ok("scontrol", "reconfigure")
    report = cluster.folder / "job.json"
    call = (*SUBMIT, "--slurm.nodes", 2, "--slurm.time", 30, "--slurm.partition", "scavenge",
            "--slurm.warning_seconds", 20, "--export", "the model", "--json", report,
            "--config", config, "--run_dir", "runs/by submit")  # fmt: skip
    said = cluster.ok(*call)
    job, export_job = (json.loads(report.read_text())["jobs"][0][name] for name in ("job", "export_job"))
    log = f"runs/by submit/slurm/{job}_0_log.out"
    assert said.splitlines() == [
        f"job {job}: runs/by submit, 2 x 2 ranks, up to 30 each; then job {export_job} exports it; log: {log}",
        "next: clinical-pretrain status 'runs/by submit'",
    ]
    again = cluster.run(*call)
    assert again.returncode == 2 and again.stderr == (
        f"error: runs/by submit: job {job} is queued or running; wait until it ends, or cancel it: scancel {job}\n"
    )
    run, codes = Run(cluster.folder / "runs" / "by submit"), []
    with cluster.slow():
        for number, event in enumerate((cluster.urgent, kill_a_rank, lambda: near_time_limit(cluster, job))):
            run.wait_for_start(number)
            event()
            wait_for(lambda: cluster.state(job) == "PENDING", f"event {number} to end the job", 100)
            codes.append(run.stop()["exit_code"])
            cluster.ok("scontrol", "update", f"jobid={job}", "TimeLimit=30")
        run.wait_for_start(3, 5)
        (run.folder / "slurm" / "job.json").rename(cluster.folder / "aside")  # as if it were sbatch's
        again = cluster.run(*call)
        assert again.returncode == 2 and f"job {job} is queued or running" in again.stderr
        (cluster.folder / "aside").rename(run.folder / "slurm" / "job.json")
        state = cluster.ok("clinical-pretrain", "status", "runs/by submit").splitlines()
    assert re.fullmatch(
        rf"runs/by submit +running \(job {job}\) +\d+/{STEPS} .* 0:0\d:\d\d +3 +stopped at step .*", state[1]
    )
    assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", (cluster.folder / log).read_text()
    same(run, alone)
    assert codes == [75, 76, 75], codes
    assert cluster.wait(export_job, "COMPLETED", "FAILED") == "COMPLETED"
    assert (cluster.folder / "the model" / "model.safetensors").exists()
    assert re.match(
        "runs/by submit +finished  ", cluster.ok("clinical-pretrain", "status", "runs/by submit").splitlines()[1]
    )


def kill_a_rank():
    """As the system does where memory is short."""
    ranks = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline")
             if b"run.py\0--config" in read_bytes(path) and b"by submit" in read_bytes(path)]  # fmt: skip
    assert len(ranks) == 4
    os.kill(ranks[-1], signal.SIGKILL)


def test_scancel_saves_and_is_the_end(cluster, config):
    job = cluster.sbatch(*TWO_NODES, "--time=30", SCRIPT, config, "--run_dir", "runs/cancelled")
    run = Run(cluster.folder / "runs" / "cancelled")
    with cluster.slow():
        run.wait_for_start(0)
        cluster.ok("scancel", job)
    cluster.wait(job, "CANCELLED")
    wait_for(lambda: (run.folder / "stop.json").exists(), "the run to save", 20)
    assert run.stop()["exit_code"] == 77 and "(SIGTERM)" in run.stop()["reason"]
    assert (run.folder / "checkpoints" / f"step-{run.stop()['step']}" / "manifest.json").exists()
    with pytest.raises(AssertionError, match="waited too long"):
        wait_for(lambda: cluster.state(job) != "CANCELLED" or len(run.starts()) > 1, "it to come back", 15)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a config.yaml", "--optim.learnin_rate", "1"], "error: unknown --optim.learnin_rate (did you mean"),
        (
            ["nowhere.yaml"],
            f"error: nowhere.yaml: no such config file; there are {REPOSITORY}/configs/clinical_bigbird.yaml",
        ),
        (["a config.yaml", "--batch.train_batch_size", "6"], "error: 4 ranks can't share 3 micro-batches per step"),
        ([], "error: no config; type: sbatch slurm/pretrain.sh CONFIG.yaml"),
    ],
)
def test_a_mistake_fails_at_once_with_one_line_and_is_not_queued_again(words, said, cluster, config):
    job = cluster.sbatch(*TWO_NODES, SCRIPT, *words)
    cluster.wait(job, "FAILED", seconds=60)
    facts = cluster.facts(job)
    assert facts["ExitCode"] == "2:0" and facts["Restarts"] == "0"
    errors = [line for line in log_of(cluster, job).splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and errors[0].startswith(said), log_of(cluster, job)
    assert "Traceback" not in log_of(cluster, job)


def test_a_sweep_is_an_array_with_a_run_folder_each(cluster, config):
    report = cluster.folder / "sweep.json"
    cluster.ok("clinical-pretrain", "submit", "--slurm.gpus_per_node", 0, "--slurm.cpus_per_task", 2,
               "--config", config, "--run_dir", "runs/sweep", "--max_steps", 10, "--export", "models",
               "--sweep", "optim.learning_rate=1e-3,2e-3,4e-3", "--json", report)  # fmt: skip
    found = json.loads(report.read_text())["jobs"]
    jobs, exports = ([job[name] for job in found] for name in ("job", "export_job"))
    occupied = cluster.folder / "models" / "learning_rate=4e-3"
    occupied.mkdir(parents=True)
    (occupied / "thesis.docx").touch()
    assert [job.split("_")[1] for job in jobs] == ["0", "1", "2"]
    for job in jobs:
        assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED"
    for job in exports:
        cluster.wait(job, "COMPLETED", "FAILED")
    lines = cluster.ok("clinical-pretrain", "status", "runs/sweep").splitlines()
    assert "finished, export failed  10/10" in lines[3]
    assert lines[3].endswith(f"see runs/sweep/learning_rate=4e-3/slurm/{exports[2]}_0_log.out")
    lines[3] = lines[3].replace(", export failed", "")
    names = [f"runs/sweep/learning_rate={value}" for value in ("1e-3", "2e-3", "4e-3")]
    assert [line.split()[:3] for line in lines[1:]] == [[name, "finished", "10/10"] for name in names]
    assert len({Run(cluster.folder / name).losses()[-1] for name in names}) == 3


def test_shards_are_built_by_an_array_and_one_task_is_retried_alone(cluster, corpus):
    """The bytes are those of one machine."""
    words = ["--notes", corpus / "notes.csv", "--tokenizer", corpus / "tokenizer", "--sequence-length", 256,
             "--notes-per-part", 100, "--workers", 1, "--patient-key", "key"]  # fmt: skip
    cluster.ok("clinical-pretrain", "build-shards", *words, "--out", "alone", HF_HUB_OFFLINE="0")
    report = cluster.folder / "shards.json"
    call = ("clinical-pretrain", "submit-shards", *words, "--out", "by array", "--slurm.tasks", 3,
            "--slurm.cpus_per_task", 1, "--json", report)  # fmt: skip
    cluster.ok(*call)
    jobs = json.loads(report.read_text())
    again = cluster.run(*call)
    assert again.returncode == 2 and f"{jobs['scan']}, {jobs['finish']} is queued or running" in again.stderr, (
        again.stderr
    )

    def of_share_one():
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline")
                if b"--share\x001/3" in read_bytes(path)]  # fmt: skip

    os.kill(wait_for(of_share_one, "the array's second task")[0], signal.SIGKILL)
    assert cluster.wait(jobs["finish"], "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED"
    assert [cluster.facts(f"{jobs['scan']}_{task}")["Restarts"] for task in range(3)] == ["0", "1", "0"]
    hashes = [
        {path.relative_to(folder): file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
        for folder in (cluster.folder / "alone", cluster.folder / "by array")
    ]
    assert hashes[0] == hashes[1] and len(hashes[0]) > 8


@pytest.fixture(scope="module")
def tiny_model(cluster, corpus):
    """An encoder with random weights."""
    from transformers import LongformerConfig, LongformerForMaskedLM

    folder = cluster.folder / "tiny model"
    shutil.copytree(corpus / "tokenizer", folder)
    config = LongformerConfig(vocab_size=1000, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                              intermediate_size=32, attention_window=[32], max_position_embeddings=130, pad_token_id=1,
                              bos_token_id=0, eos_token_id=2, sep_token_id=2)  # fmt: skip
    LongformerForMaskedLM(config).save_pretrained(folder)
    return folder


def test_an_evaluation_is_an_array_and_submitted_again_does_what_is_missing(cluster, tiny_model):
    """One task is killed; the others, and what they wrote, stay."""
    data = cluster.folder / "task data" / "bc5cdr"
    data.mkdir(parents=True)
    for split in ("train", "devel", "test"):
        (data / f"{split}.tsv").write_text(
            "\n".join(f"takes\tO\naspirin\tB-Chemical\n{number}\tO\n" for number in range(12))
        )
    report, results = cluster.folder / "evaluation.json", cluster.folder / "my results"
    call = ("clinical-pretrain", "submit-evaluate", "--suite", "bc5cdr", "--data-root", "task data",
            "--models", f"tiny={tiny_model}", "--seeds", 3, "--epochs", 1, "--max-steps", 2, "--max-length", 64,
            "--learning-rates", "[0.001]", "--out", "my results", "--slurm.gpus_per_node", 0,
            "--slurm.cpus_per_task", 1, "--json", report)  # fmt: skip
    cluster.ok(*call, MAX_LOSSES="1")
    jobs = json.loads(report.read_text())["jobs"]

    def of_seed_one():
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline")
                if b"finetune\0" in read_bytes(path) and b"--seed\x001\0" in read_bytes(path)]  # fmt: skip

    os.kill(wait_for(of_seed_one, "the array's second task")[0], signal.SIGKILL)
    assert cluster.wait(jobs[1], "COMPLETED", "FAILED") == "FAILED"
    cluster.ok(*call)
    again = json.loads(report.read_text())
    assert len(again["jobs"]) == 1 and again["queued"] + again["done_before"] == 2
    assert "--seed 1 " in again["commands"][0]
    logs = results / "slurm"
    for job in (jobs[0], jobs[2]):
        assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", (logs / f"{job}_0_log.out").read_text()
    untouched = {path: path.stat().st_mtime_ns for path in results.rglob("seed-[02]/*")}
    (job,) = again["jobs"]
    assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", (logs / f"{job}_0_log.out").read_text()
    assert {path: path.stat().st_mtime_ns for path in results.rglob("seed-[02]/*")} == untouched
    assert [folder.read().subject.seed for folder in find_results(results)] == [0, 1, 2]
    said = cluster.ok(*call)
    assert "my results: 0 trials to run, 3 done before, 0 queued or running already, 0 left out" in said
    assert said.splitlines()[-1] == "next: clinical-pretrain table 'my results'"


def submit_job(cluster, command, site, setup, words, **environment):
    """Submit a job by sbatch or by submit, with a site's files. Returns its number and its log."""
    setup_file = cluster.folder / "a site's setup.sh"
    setup_file.write_text(setup)
    if command == "sbatch":
        job = cluster.sbatch(*ONE_NODE, SCRIPT, *words, SITE_SETUP=str(setup_file), PYTHON="", **environment)
        return job, f"slurm-clinical-pretrain-{job}.log"
    report, site_file = cluster.folder / "job.json", cluster.folder / "a site.yaml"
    site_file.write_text(yaml.safe_dump(site | {"setup_file": str(setup_file)}))
    cluster.ok(*SUBMIT, "--site", site_file, "--config", *words, "--json", report, **environment)
    facts = json.loads(report.read_text())["jobs"][0]
    return facts["job"], facts["log"]


@pytest.mark.parametrize("command", ["sbatch", "submit"])
def test_a_job_that_loses_a_rank_each_time_ends(command, cluster, config):
    """Though nobody gets as far as to train: by a site's Python, after its setup."""
    deadly = cluster.folder / "my python"
    deadly.write_text('#!/bin/bash\necho "modules: $MODULES"\nkill -9 $$\n')
    deadly.chmod(0o755)
    setup = f'false\nexport MODULES="cuda and more$UNSET$*"\npython=("{deadly}")\n'
    words = [config, "--run_dir", f"runs/lost by {command}"]
    job, log = submit_job(cluster, command, {"python": str(deadly)}, setup, words, WARNING_SECONDS="100000")
    assert cluster.wait(job, "FAILED", "COMPLETED") == "FAILED"
    said = (cluster.folder / log).read_text()
    assert cluster.facts(job)["Restarts"] == "2", said
    assert said.count("a task was lost; requeued") == 2
    assert said.count("a task was lost 3 times without a new checkpoint; see the log") == 1
    assert said.count("modules: cuda and more\n") >= 3
    if command == "sbatch":
        assert re.search(
            r"note: this job has \d+ s, but is told to stop 100000 s ahead of its end, that is, at once", said
        )
    else:
        standing = cluster.ok("clinical-pretrain", "status", f"runs/lost by {command}").splitlines()[1]
        assert f"failed (job {job})" in standing and f"job {job} ended before training began; see {log}" in standing


@pytest.mark.parametrize("command", ["sbatch", "submit"])
def test_ranks_start_in_a_sites_container(command, cluster, config):
    """Of Apptainer there is a stand-in, which starts what it's given: so this tests the words, not the container."""
    image, tools = cluster.folder / "an image.sif", cluster.folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "apptainer").write_text(
        '#!/bin/bash\necho "apptainer: $*"\nuntil [[ $1 == *.sif ]]; do shift; done\nshift\nexec "$@"\n'
    )
    (tools / "apptainer").chmod(0o755)
    image.touch()
    python = cluster.environment["PYTHON"]
    site = {"python": python, "container": str(image), "container_options": "--bind /data"}
    setup = f'python=(apptainer exec --nv --bind /data "{image}" "{python}")\n'
    path = f"{tools}:{cluster.environment['PATH']}"
    words = [config, "--run_dir", f"runs/contained by {command}", "--max_steps", "4"]
    job, log = submit_job(cluster, command, site, setup, words, PATH=path)
    assert cluster.wait(job, "FAILED", "COMPLETED") == "COMPLETED", (cluster.folder / log).read_text()
    assert f"apptainer: exec --nv --bind /data {image} {python} -u" in (cluster.folder / log).read_text()
    assert len(Run(cluster.folder / "runs" / f"contained by {command}").losses()) == 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, ["ok time limit 24:00:00, and", "warning preemption partition debug requeues jobs without a",
              "ok SLURM takes a job of 1 node with 2 GPUs"]),
        ({"partition": "scavenge"}, ["ok preemption partition scavenge requeues jobs, 20 s after a warning"]),
        ({"partition": "urgent,nowhere"}, ["fault SLURM no partition nowhere choose one by --slurm.partition"]),
        ({"nodes": 3}, ["fault SLURM a job of 3 nodes with 2 GPUs, 24:00:00 would be refused: "]),
        ({"gpus_per_node": 4}, ["fault SLURM a job of 1 node with 4 GPUs, 24:00:00 would be refused: "]),
        ({"partition": "impatient"}, ["fault time limit partition impatient allows 00:04:00, not longer than the 300"]),
    ],
)  # fmt: skip
def test_doctor_asks_slurm_on_a_login_node(settings, said, cluster):
    """A partition whose limit is shorter than the warning, and jobs that SLURM wouldn't take."""
    code = "from clinical_pretrain.config.slurm import SlurmConfig\n"
    code += "from clinical_pretrain.observe.doctor.slurm import check_cluster\n"
    code += f"for finding in check_cluster(SlurmConfig(**{settings})):\n"
    code += "    print(finding.level, finding.name, finding.found, finding.remedy)"
    cluster.ok("scontrol", "update", "partitionname=impatient", "MaxTime=4")
    try:
        printed = cluster.ok(cluster.environment["PYTHON"], "-c", code)
    finally:
        cluster.ok("scontrol", "update", "partitionname=impatient", "MaxTime=UNLIMITED")
    assert all(each in printed for each in said), printed


def test_doctor_names_what_differs_between_nodes(cluster, config):
    """node1 has another version of a library, and its clock is ahead; the warning is longer than the time limit. Then
    a firewall closes the port where the ranks meet."""
    clock = planted.shared_object(planted.CLOCK_AHEAD, cluster.root / "clock.so")
    other = cluster.folder / "other versions" / "transformers-5.0.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Name: transformers\nVersion: 5.0.9\n")
    python = cluster.folder / "a node's python"
    python.write_text(
        f'#!/bin/bash\n[ "$(hostname)" = node0 ] || export LD_PRELOAD={clock} PYTHONPATH="{other.parent}:$PYTHONPATH"\n'
        f'exec "{cluster.environment["PYTHON"]}" "$@"\n'
    )
    python.chmod(0o755)
    site = cluster.folder / "doctor.yaml"
    (cluster.folder / "doctor.sh").write_text("export WARNING_SECONDS=100000\n")
    site.write_text(yaml.safe_dump({"python": str(python), "setup_file": str(cluster.folder / "doctor.sh")}))
    report = cluster.folder / "doctor.json"
    said = cluster.ok(*SUBMIT, "--doctor", "--slurm.nodes", 2, "--site", site, "--config", config,
                      "--run_dir", "runs/not begun", "--json", report)  # fmt: skip
    job = json.loads(report.read_text())
    assert said.splitlines()[0] == f"job {job['job']} checks 2 x 2 ranks; what it finds: {job['log']}"
    assert cluster.wait(job["job"], "FAILED", "COMPLETED") == "FAILED"
    log = (cluster.folder / job["log"]).read_text()
    lines = log[log.index("2 nodes: node0, node1\n") :].splitlines()
    assert re.match(r"FAULT +nodes differ +transformers: 5\.\S+ on node0; 5\.0\.9 on node1", lines[1]), log
    assert re.match(r"warning  clock \(node1\) +(89\.9|90\.\d) s ahead of node0's", lines[3]), log
    found = json.loads((cluster.folder / job["report"]).read_text())
    faults = [finding["name"] for finding in found["findings"] if finding["level"] == "fault"]
    assert found["nodes"] == ["node0", "node1"] and faults == ["nodes differ", "time limit"], log
    assert "not longer than the 100000 s before the limit" in log
    assert re.search(r"ok +all-reduce +4 ranks over gloo: 4 kB: ", log)
    assert "error: 2 faults: do what stands" in log and cluster.facts(job["job"])["Restarts"] == "0"
    assert [path.name for path in (cluster.folder / "runs" / "not begun").iterdir()] == ["slurm"]

    rule = ["ip", "-n", f"cp{cluster.environment['CLUSTER_PORT']}-node1", "rule"]
    closed = ["pref", "1", "ipproto", "tcp", "dport", "23456", "prohibit"]
    subprocess.run([*rule, "add", *closed], check=True)
    try:
        done = cluster.run(
            "srun", "--nodes=2", "--ntasks-per-node=1", "clinical-pretrain", "doctor", MASTER_PORT="23456"
        )
    finally:
        subprocess.run([*rule, "del", *closed], check=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert re.search(r"FAULT +ports \(node1\) +where the ranks meet, node0:23456, can't be reached \(Perm", done.stdout)
    assert re.search(r"warning +all-reduce +not tried, as not all ranks can start or reach", done.stdout), done.stdout
    assert not list(cluster.folder.glob(".doctor*"))


def read_bytes(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["--slurm.partition", "nowhere"], {}, "error: SLURM refused the job: Batch job submission failed: "
         "Invalid partition name specified"),
        (["--run_dir", "a config.yaml/run"], {}, "error: .*a config.yaml/run/slurm: cannot be written"),
        (["--slurm.partitoin", "debug"], {}, "error: unknown --slurm.partitoin .did you mean --slurm.partition"),
        (["--slurm.nodes", "3"], {}, "error: 6 ranks can't share 4 micro-batches"),
        (["--site", "nowhere.yaml"], {}, "error: nowhere.yaml: no such"),
        (["--sweep", "optim.learning_rate"], {}, "error: --sweep optim.learning_rate: give a key and its values"),
        ([], {"PATH": "/nowhere"}, "error: sbatch: not found; run this on a login node of the cluster"),
    ],
)  # fmt: skip
def test_what_cannot_be_submitted_is_said_in_one_line(words, environment, said, cluster, config):
    command = Path(cluster.environment["PYTHON"]).with_name("clinical-pretrain")
    done = cluster.run(command, *SUBMIT[1:], "--config", config, "--run_dir", "runs/never", *words, **environment)
    assert done.returncode == 2 and re.match(said, done.stderr) and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (cluster.folder / "runs" / "never").exists()


def test_without_slurm_the_script_says_what_to_type():
    done = subprocess.run(["bash", SCRIPT, "x.yaml"], capture_output=True, text=True)
    assert done.returncode == 2 and re.fullmatch(r"error: this is a SLURM job; type: sbatch .*\n", done.stderr)
