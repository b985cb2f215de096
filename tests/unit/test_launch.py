"""What can be known of jobs without a cluster; real ones are in tests/slurm."""

import json
import math
import re
import subprocess
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from conftest import REPOSITORY
from run_folders import write_metrics

from clinical_pretrain import exit_codes
from clinical_pretrain.cli import main
from clinical_pretrain.cluster.jobs import job_state, queued, refuse_queued
from clinical_pretrain.cluster.submit import expand_sweep, site_config
from clinical_pretrain.config.command_line import load_config
from clinical_pretrain.config.recovery import CheckpointConfig
from clinical_pretrain.config.slurm import SlurmConfig, seconds_of
from clinical_pretrain.observe.status import runs_in, status, table
from clinical_pretrain.release import facts_file
from clinical_pretrain.run_folder.paths import FORMAT_VERSION, RunFolder
from clinical_pretrain.slurm_environment import meeting_port, reset_try_count
from clinical_pretrain.training.checkpointer import Checkpointer
from tokenizer_tools.errors import UserError

DEMO = ["--config", str(REPOSITORY / "configs" / "demo_cpu.yaml")]


@pytest.mark.parametrize("recipe", ["longformer", "bigbird"])
def test_the_printed_examples_share_a_recipes_step_evenly(recipe):
    config, _ = load_config(["--config", str(REPOSITORY / "configs" / f"clinical_{recipe}.yaml")])
    gpus = SlurmConfig().gpus_per_node
    script = (REPOSITORY / "slurm" / "pretrain.sh").read_text()
    assert f"#SBATCH --nodes=1\n#SBATCH --gpus-per-node={gpus}\n" in script
    nodes = re.findall(r"submit .*--slurm.nodes (\d+)", (REPOSITORY / "slurm" / "README.md").read_text())
    for count in {1, *map(int, nodes)}:
        assert config.accumulation_steps(count * gpus) >= 1


def test_a_sites_file_is_read_and_overridden(tmp_path):
    file = tmp_path / "site.yaml"
    file.write_text("partition: a100\nsetup_file: my.sh\ncontainer: /images/a b.sif\n")
    slurm = site_config(str(file), ["--slurm.partition", "h100", "--slurm.nodes=2", "--slurm.options.exclude", "node7"])
    assert (slurm.partition, slurm.nodes, slurm.setup_file, slurm.options) == (
        "h100", 2, "my.sh", {"exclude": "node7"})  # fmt: skip
    file.write_text("partition:\naccount: 001234\ntime: 2:00:00\noptions: {exclusive: 'true'}\n")
    slurm = site_config(str(file), [])
    assert (slurm.partition, slurm.account, slurm.time) == ("", "001234", "2:00:00")
    file.write_text("partiton: a100\n")
    with pytest.raises(UserError, match=r"site.yaml: unknown partiton \(did you mean partition\?\)"):
        site_config(str(file), [])
    file.write_text("partition: [a, b]\n")
    with pytest.raises(UserError, match=r"site.yaml: partition must be text"):
        site_config(str(file), [])
    file.write_text("setup: |\n  module load cuda\n")
    with pytest.raises(UserError, match=r"site.yaml: move the lines of setup to slurm/site_setup.sh, or to a file"):
        site_config(str(file), [])
    with pytest.raises(UserError, match=r"nowhere.yaml: no such site file; there is slurm/site.yaml"):
        site_config("nowhere.yaml", [])
    with pytest.raises(UserError, match="slurm: nodes is 0, must be at least 1"):
        site_config("slurm/site.yaml", ["--slurm.nodes", "0"])
    with pytest.raises(UserError, match="nodes"):
        site_config("slurm/site.yaml", ["--slurm.nodes", "many"])
    for example in (REPOSITORY / "slurm" / "sites").glob("*.yaml"):
        slurm = site_config(str(example), [])
        assert slurm.partition and (REPOSITORY / slurm.setup_file).is_file()


def test_a_job_begins_with_the_sites_setup(tmp_path):
    """Whose commands may fail, and read unset variables, as modules and conda do; a missing file is refused."""
    setup = tmp_path / "my setup.sh"
    script = f"set -euo pipefail; . {REPOSITORY}/slurm/begin.sh; python3 -c 'import os; print(os.environ[\"X\"])'"
    variables = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "71", "TRIES_FILE": str(tmp_path / "tries")}

    def begin():
        return subprocess.run(
            ["bash", "-c", script], env=variables | {"SITE_SETUP": str(setup)}, capture_output=True, text=True
        )

    done = begin()
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: {setup}: no such file; set SITE_SETUP (sbatch) or setup_file (submit)")
    setup.write_text("false | true\nexport X=$UNSET$((1 + 1))\n")
    assert begin().stdout == "2\n"
    setup.write_text("false || exit 3\n")
    assert begin().returncode == 3


def test_the_doctor_tries_the_port_at_which_the_ranks_meet(tmp_path, monkeypatch):
    """That of begin.sh, not one that a job has from where it was submitted; the site's setup may choose another."""
    (setup := tmp_path / "setup.sh").touch()
    variables = {"SLURM_JOB_ID": "123456", "TRIES_FILE": str(tmp_path / "tries"), "SITE_SETUP": str(setup)}

    def begin():
        return subprocess.run(
            ["bash", "-c", f". {REPOSITORY}/slurm/begin.sh; echo $MASTER_PORT"],
            env=variables | {"PATH": "/usr/bin:/bin", "MASTER_PORT": "9"}, capture_output=True, text=True,
        ).stdout  # fmt: skip

    monkeypatch.setenv("SLURM_JOB_ID", "123456")
    assert begin() == f"{meeting_port()}\n" == "13456\n"
    setup.write_text("export MASTER_PORT=23456\n")
    assert begin() == "23456\n"


def test_a_setup_file_that_is_missing_is_refused_at_once(shards, capsys):
    words = [*DEMO, "--data.shards", str(shards), "--slurm.gpus_per_node", "0", "--slurm.setup_file", "my.sh"]
    assert main(["submit", *words, "--dry-run"]) == 2
    assert capsys.readouterr().err.endswith("my.sh: no such file; setup_file names a shell snippet like "
                                            "slurm/site_setup.sh\n")  # fmt: skip


def test_the_protocol_names_each_variable_and_exit_code():
    """Of the scripts; and Python reads SLURM's variables in one module, but for what goes into a job's script."""
    protocol, end = ((REPOSITORY / "slurm" / name).read_text() for name in ("PROTOCOL.md", "end.sh"))
    scripts = [(REPOSITORY / "slurm" / name).read_text() for name in ("begin.sh", "pretrain.sh", "end.sh")]
    named = {name for text in scripts for name in re.findall(r"\$\{?([A-Z][A-Z_]{4,})", text)}
    assert not {name for name in named - {"STOPPED", "ENDED"} if f"`{name}`" not in protocol}
    for name in ("STOPPED", "LOST", "ENDED"):
        assert f"{name}={getattr(exit_codes, name)}" in end
    for name, code in vars(exit_codes).items():
        assert not isinstance(code, int) or f"| {code} | `{name}` |" in protocol
    for path in (REPOSITORY / "clinical_pretrain").rglob("*.py"):
        if path.name != "slurm_environment.py" and path.parent.name != "cluster":
            assert "SLURM_" not in path.read_text().replace("_SLURM", ""), path


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("90:30", 5430), ("1:30:00", 5400), ("1-12", 129600), ("1-12:30", 131400), ("1-0:0:1", 86401),
     ("UNLIMITED", math.inf), ("0", math.inf), ("1h", None), ("", None), ("1:2:3:4", None)],
)  # fmt: skip
def test_time_limits_are_read_as_slurm_writes_them(time, seconds):
    assert seconds_of(time) == seconds


def test_a_time_limit_must_be_longer_than_the_warning():
    with pytest.raises(UserError, match=r"time 5 must be longer than warning_seconds \(300\)"):
        site_config("slurm/site.yaml", ["--slurm.time", "5"])
    assert site_config("slurm/site.yaml", ["--slurm.time", "5", "--slurm.warning_seconds", "60"]).time == "5"
    with pytest.raises(UserError, match=r"time 1h: write minutes"):
        site_config("slurm/site.yaml", ["--slurm.time", "1h"])


def test_a_sweep_has_a_run_for_each_combination():
    runs = expand_sweep(DEMO, ["optim.learning_rate=1e-4,2e-4", "seed=1,2"])
    assert [(run.config.optim.learning_rate, run.config.seed) for run in runs] == [
        (1e-4, 1), (1e-4, 2), (2e-4, 1), (2e-4, 2)]  # fmt: skip
    assert str(runs[1].folder) == "runs/demo/learning_rate=1e-4-seed=2"
    assert [str(run.folder) for run in expand_sweep(DEMO, [])] == ["runs/demo"]
    with pytest.raises(UserError, match=r"unknown --optim.learning_rat \(did you mean --optim.learning_rate"):
        expand_sweep(DEMO, ["optim.learning_rat=1,2"])
    with pytest.raises(UserError, match="a value is given twice"):
        expand_sweep(DEMO, ["seed=1,2,1"])


def test_the_script_can_be_seen_without_a_cluster(shards, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    words = [*DEMO, "--data.shards", str(shards), "--batch.train_batch_size", "8", "--run_dir", "my run"]
    slurm = [
        "--slurm.gpus_per_node",
        "4",
        "--slurm.nodes",
        "2",
        "--slurm.container",
        "a b.sif",
        "--slurm.memory",
        "200G",
    ]
    assert main(["submit", *words, *slurm, "--dry-run"]) == 0
    said = capsys.readouterr().out
    for line in ("#SBATCH --gpus-per-node=4", "#SBATCH --ntasks-per-node=4", "#SBATCH --nodes=2", "#SBATCH --requeue",
                 "#SBATCH --signal=USR2@300", "#SBATCH --mem=200G", f". {REPOSITORY}/slurm/begin.sh",
                 "apptainer exec --nv  'a b.sif' python3 -u -m submitit.core._submit"):  # fmt: skip
        assert line in said, said
    assert "slurm/end.sh $?" in said.splitlines()[-2] and "wckey" not in said
    assert said.splitlines()[-1].startswith(
        f"# each rank runs: python -u {REPOSITORY}/clinical_pretrain/run.py --config"
    )
    assert not (tmp_path / "my run").exists()
    assert main(["submit", *words]) == 2
    assert capsys.readouterr().err.startswith("error: sbatch: not found; run this on a login node of the cluster")


def test_the_three_scripts_of_a_shard_build_can_be_seen(corpus, tmp_path, capsys):
    words = ["submit-shards", "--notes", str(corpus / "notes.csv"), "--tokenizer", str(corpus / "tokenizer")]
    assert main([*words, "--out", str(tmp_path / "s"), "--slurm.tasks", "3", "--dry-run"]) == 0
    said = capsys.readouterr().out
    for line in ("# job 1 of 3, prepare:", "# it runs: python -m clinical_pretrain build-shards", "--array=0-2",
                 "--dependency=afterok:PREPARE", "--stage scan --share 0/3", "--dependency=afterok:SCAN"):  # fmt: skip
        assert line in said, said
    assert not list(tmp_path.iterdir())


def test_a_shard_build_is_not_submitted_with_what_it_would_refuse_at_once(corpus, tmp_path, capsys):
    """A list with somebody on two lists, and notes without a column that a filter or a role names."""
    listed = tmp_path / "ids.txt"
    listed.write_text("1\n")
    words = ["submit-shards", "--notes", str(corpus / "notes.csv"), "--tokenizer", str(corpus / "tokenizer"),
             "--out", str(tmp_path / "s"), "--slurm.tasks", "3", "--dry-run"]  # fmt: skip
    for more, message in (
        (["--split.lists.test", str(listed), "--split.lists.train", str(listed)], "the same patient on two lists"),
        (["--split.lists.test", str(tmp_path / "no.txt")], "no.txt: No such file or directory (--split.lists.test)"),
        (["--columns.patient", "mrn"], "no column 'mrn'"),
    ):
        assert main([*words, *more]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and len(error.splitlines()) == 1


def test_a_base_model_that_nodes_cannot_fetch_is_named(shards, capsys):
    words = ["--config", str(REPOSITORY / "configs" / "clinical_longformer.yaml"), "--data.shards", str(shards)]
    assert main(["submit", *words, "--slurm.gpus_per_node", "2", "--dry-run"]) == 2
    assert "run first: hf download allenai/longformer-base-4096" in capsys.readouterr().err
    assert main(["submit", *words, "--slurm.gpus_per_node=2", "--model.name_or_path", "/no/such/model"]) == 2
    assert "/no/such/model: no such folder, and not the name of a model on the Hub" in capsys.readouterr().err


def test_a_base_model_that_does_not_fit_the_shards_is_refused_at_once(shards, tmp_path, capsys):
    from transformers import LongformerConfig

    LongformerConfig(vocab_size=900).save_pretrained(tmp_path / "base")
    words = ["--config", str(REPOSITORY / "configs" / "clinical_longformer.yaml"), "--data.shards", str(shards)]
    words += ["--model.name_or_path", str(tmp_path / "base"), "--run_dir", str(tmp_path / "run")]
    assert main(["submit", *words, "--slurm.gpus_per_node", "2", "--dry-run"]) == 2
    assert "base: the model knows 900 tokens, but the shards' tokenizer" in capsys.readouterr().err


def test_what_only_the_end_would_refuse_is_refused_at_once(shards, tmp_path, capsys):
    """A folder of another run or of something else, for the run or for its export."""
    words = ["submit", *DEMO, "--data.shards", str(shards), "--slurm.gpus_per_node", "0", "--dry-run"]
    full, run = tmp_path / "full", ["--run_dir", str(tmp_path / "new")]
    full.mkdir()
    (full / "thesis.docx").touch()
    for more in (["--run_dir", str(full)], [*run, "--export", str(full)]):
        assert main([*words, *more]) == 2
        assert re.match(rf"error: {full}: not empty, and (holds no run|not an earlier export)", capsys.readouterr().err)
    (full / "pretraining.json").write_text(
        json.dumps({"format_version": facts_file.FORMAT_VERSION, "run_id": "another", "files": {}})
    )
    assert main([*words, *run, "--export", str(full)]) == 2
    assert "holds the model of another run" in capsys.readouterr().err
    assert main([*words, *run, "--export", str(tmp_path / "model")]) == 0
    assert "# then, in another job: python -m clinical_pretrain export" in capsys.readouterr().out


def test_a_warning_that_is_too_short_is_said_once(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("WARNING_SECONDS", "300")
    ranks, watchdog = SimpleNamespace(is_first=True), SimpleNamespace(longest_step=200.0)
    checkpointer = Checkpointer(RunFolder(tmp_path), CheckpointConfig(), ranks, watchdog, None)
    checkpointer._warn_of_late_signal(45.0)
    assert not capsys.readouterr().out
    for _ in range(2):
        checkpointer._warn_of_late_signal(55.0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and "may take 310 s" in lines[0] and "announced only 300 s ahead" in lines[0]


def test_status_tells_how_runs_stand(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="runs: no run here"):
        runs_in([tmp_path / "runs"])
    for name, stop in (("done", "finished"), ("asked", "stopped at step 7 (SIGTERM)"), ("gone", None)):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(
            json.dumps(
                {"format_version": FORMAT_VERSION, "starts": [{"host": "elsewhere", "process": 1}, {"from_step": 3}]}
            )
        )
        (folder / "config.yaml").write_text("max_steps: 2000\n")
        lines = [{"step": step, "kind": "train", "loss": 9.0 / step, "seconds": 2.0} for step in (6, 7)]
        write_metrics(folder, lines)
        if stop:
            (folder / "stop.json").write_text(
                json.dumps({"format_version": FORMAT_VERSION, "reason": stop, "exit_code": 77})
            )
    found = [status(run) for run in runs_in([tmp_path / "runs"])]
    assert [run["state"] for run in found] == ["stopped", "finished", "lost"]
    assert found[0] | {"step": 7, "max_steps": 2000, "restarts": 1, "loss": 9 / 7} == found[0]
    # SLURM's job came before a start by hand; then one that never came to train.
    folder = tmp_path / "runs" / "asked"
    (folder / "slurm").mkdir()
    (folder / "slurm" / "job.json").write_text(json.dumps({"job": "5", "log": "runs/asked/slurm/5_0_log.out"}))
    monkeypatch.setenv("PATH", "/nowhere")
    for timestamp, state, stop in (
        (time.time() + 9, "lost", "stopped"),
        (time.time() - 9, "gone", "job 5 ended before"),
    ):
        (folder / "run.json").write_text(
            json.dumps(
                {"format_version": FORMAT_VERSION, "starts": [{"host": "x", "timestamp": timestamp, "slurm_job": None}]}
            )
        )
        assert status(folder)["state"] == state and status(folder)["last_stop"].startswith(stop)
    (folder / "run.json").write_text('{"format_version": 1}')
    assert status(folder)["state"] == "unreadable" and "run.json: format_version 1, but" in status(folder)["last_stop"]
    lines = table(found)
    assert lines[0].split()[:3] == ["run", "state", "step"] and "7/2,000" in lines[1]
    assert main(["status"]) == 0
    assert capsys.readouterr().out.count("7/2,000") == 2  # and one that can't be read


@pytest.mark.parametrize(
    ("squeue", "sacct", "state", "is_queued"),
    [
        ("echo PENDING", "exit 1", "pending", True),
        ("echo COMPLETED; echo RUNNING", "exit 1", "running", True),  # tasks of an array
        ("echo FAILED", "exit 1", "failed", False),
        (
            "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
            "echo CANCELLED by 1",
            "cancelled",
            False,
        ),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "exit 1", None, False),
        ("exit 0", "echo RUNNING", None, False),
        (
            "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1",
            "echo COMPLETED",
            "unknown",
            True,
        ),
    ],
)
def test_what_slurm_says_of_a_job(squeue, sacct, state, is_queued, tmp_path, monkeypatch):
    """By stand-ins: a real SLURM has its memory of ended jobs, its accounts and its moods."""
    for name, script in (("squeue", squeue), ("sacct", sacct)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert job_state("7") == state and bool(queued("7")) == is_queued
    message = (
        "SLURM doesn't answer" if state == "unknown" else "it: job 7 is queued or running; .* cancel it: scancel 7"
    )
    with pytest.raises(UserError, match=message) if is_queued else nullcontext():
        refuse_queued(["7"], "it")


@pytest.mark.parametrize(
    ("code", "facts", "requeues"),
    [
        (0, "", False),
        (75, "JobState=RUNNING", True),
        (75, "JobState=COMPLETING Reason=None", False),
        (75, "JobState=COMPLETING Reason=TimeLimit", True),
        (77, "JobState=COMPLETING Reason=TimeLimit", True),
        (77, "JobState=COMPLETING PreemptTime=2026-01-01T00:00:00", False),
        (77, "JobState=RUNNING PreemptTime=None", False),
        (77, "JobState=RUNNING PreemptTime=2026-01-01T00:00:00", True),
        (143, "JobState=RUNNING PreemptTime=2026-01-01T00:00:00", True),
        (143, "JobState=COMPLETING PreemptTime=None", False),
        (76, "JobState=RUNNING", True),
        (137, "JobState=COMPLETING", False),
        (139, "JobState=RUNNING", True),
        (253, "JobState=RUNNING", True),
        (140, "JobState=RUNNING", True),
        (2, "JobState=RUNNING", False),
        (1, "JobState=RUNNING", False),
        (130, "JobState=RUNNING", False),
    ],
)
def test_what_becomes_of_a_job(code, facts, requeues, tmp_path):
    """By its exit code, and what SLURM says of it (a scontrol of the test's); of an array, the task alone."""
    fake = tmp_path / "scontrol"
    fake.write_text(
        f'#!/bin/sh\nif [ "$1" = requeue ]; then echo "requeue $2" >> {tmp_path}/calls; else echo "{facts}"; fi\n'
    )
    fake.chmod(0o700)
    array = {"SLURM_JOB_ID": "70", "SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "3"}
    for environment, job in (({"SLURM_JOB_ID": "71"}, "71"), (array, "70_3")):
        (tmp_path / "calls").write_text("")
        (tmp_path / "tries").unlink(missing_ok=True)
        variables = environment | {"PATH": f"{tmp_path}:/usr/bin:/bin", "TRIES_FILE": str(tmp_path / "tries")}
        call = [REPOSITORY / "slurm" / "end.sh", str(code)]
        assert subprocess.run(call, env=variables, capture_output=True).returncode == code
        assert (tmp_path / "calls").read_text() == (f"requeue {job}\n" if requeues else "")
        subprocess.run(call, env=variables | {"SLURM_RESTART_COUNT": "500"}, capture_output=True)
        assert (tmp_path / "calls").read_text().count("requeue") == int(requeues)


def test_a_job_of_which_slurm_does_not_speak_is_not_queued_again(tmp_path):
    """It might have been cancelled. It's asked more than once."""
    fake = tmp_path / "scontrol"
    variables = {
        "SLURM_JOB_ID": "71",
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "PAUSE": "0",
        "TRIES_FILE": str(tmp_path / "t"),
    }
    for answers, said in ((5, "so it isn't requeued"), (4, "saved before the time limit; requeued")):
        (tmp_path / "calls").write_text("")
        fake.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls; [ $(wc -l < {tmp_path}/calls) -gt {answers} ]\n')
        fake.chmod(0o700)
        done = subprocess.run([REPOSITORY / "slurm" / "end.sh", "75"], env=variables, capture_output=True, text=True)
        assert done.returncode == 75 and said in done.stdout
        assert ("requeue 71" in (tmp_path / "calls").read_text()) == (answers == 4)


def test_a_refused_job_takes_those_with_it_that_it_belongs_to(shards, tmp_path, capsys, monkeypatch):
    """By a stand-in for sbatch: it takes the training, and refuses the export. Files of the job that runs stay."""
    run = tmp_path / "my run"
    (tmp_path / "sbatch").write_text(
        f"#!/bin/sh\ncd {tmp_path}; echo x >> calls\n"
        "[ $(wc -l < calls) -eq 1 ] || { echo 'sbatch: error: QOS' >&2; exit 1; }\n"
        f"echo log > '{run}/slurm/101_0_log.out'; echo 'Submitted batch job 101'\n"
    )
    (tmp_path / "scancel").write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/cancelled\n')
    (tmp_path / "srun").write_text("")
    for name in ("sbatch", "scancel", "srun"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    words = [*DEMO, "--data.shards", str(shards), "--run_dir", str(run), "--slurm.gpus_per_node", "0"]
    assert main(["submit", *words, "--export", str(tmp_path / "model")]) == 2
    assert capsys.readouterr().err == "error: SLURM refused the job: QOS\n"
    assert (tmp_path / "cancelled").read_text() == "101\n"
    left = {path.name for path in (run / "slurm").iterdir() if not path.is_symlink()}
    assert left == {"101_0_log.out", "101_submitted.pkl", "101_submission.sh", "job.json"}
    assert main(["submit", *words[:-4], "--run_dir", str(tmp_path / "other"), *words[-2:]]) == 2
    assert not (tmp_path / "other").exists()


def test_a_job_that_comes_no_further_is_not_started_for_ever(tmp_path, monkeypatch):
    """Three losses of ranks, or ten starts, since the training last saved."""
    fake, tries = tmp_path / "scontrol", tmp_path / "my tries"
    fake.write_text("#!/bin/sh\necho JobState=RUNNING >&2; [ $1 = requeue ] || echo JobState=RUNNING\n")
    fake.chmod(0o700)
    monkeypatch.setenv("TRIES_FILE", str(tries))
    variables = {"SLURM_JOB_ID": "71", "PATH": f"{tmp_path}:/usr/bin:/bin", "TRIES_FILE": str(tries)}
    variables["SITE_SETUP"] = str(REPOSITORY / "slurm" / "site_setup.sh")

    def job(code):
        """A start and an end; what is said."""
        script = f". {REPOSITORY}/slurm/begin.sh; {REPOSITORY}/slurm/end.sh {code}"
        return subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True)

    for _ in range(2):
        assert [job(76).stdout for _ in range(2)] == ["a task was lost; requeued\n"] * 2
        reset_try_count()  # a checkpoint is saved
    assert all("requeued" in job(code).stdout for code in (76, 75, 137))
    assert job(76).stdout.startswith("a task was lost 3 times without a new checkpoint")
    reset_try_count()
    for _ in range(10):
        assert "requeued" in job(75).stdout
    done = job(75)
    assert done.returncode == 2 and re.fullmatch(r"error: started 10 times without a new checkpoint; .*\n", done.stderr)
