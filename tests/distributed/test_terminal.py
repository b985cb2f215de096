"""A terminal that is closed, a reader that has gone, Ctrl-C: nothing of it costs what has been trained."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from launching import ENVIRONMENT, REPOSITORY, saved_steps
from test_watch import wait_for

from clinical_pretrain.distributed import free_port
from clinical_pretrain.exit_codes import ENDED, INTERRUPTED

RUN = REPOSITORY / "clinical_pretrain" / "run.py"
LONG = ("--max_steps", "100000", "--checkpoint.every_steps", "5")


@pytest.fixture
def start(config_file, shards, tmp_path):
    """Starts the tiny run, in tmp_path/run; what is still there at the end is killed."""
    processes = []

    def start(*options, before=(), **how):
        call = [*before, sys.executable, "-u", str(RUN), "--config", str(config_file), "--data.shards", str(shards),
                "--run_dir", str(tmp_path / "run"), *options]  # fmt: skip
        processes.append(subprocess.Popen(call, env=os.environ | ENVIRONMENT, text=True, **how))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_reader_that_has_gone_does_not_end_a_run(start, tmp_path):
    """As `… | head -1` for both streams, or both closed from the start."""
    process = start(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout.readline().startswith("loading PyTorch")
    process.stdout.close()
    assert process.wait(timeout=100) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 20
    again = start(before=("sh", "-c", 'exec "$@" >&- 2>&-', "sh"))
    assert again.wait(timeout=100) == 0
    command = 'from clinical_pretrain.cli import main; raise SystemExit(main(["--help"]))'
    done = subprocess.run(["bash", "-c", f"{sys.executable} -c '{command}' | true; echo ${{PIPESTATUS[0]}}"], text=True,
                          env=os.environ | ENVIRONMENT, capture_output=True)  # fmt: skip
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_full_disk_under_the_log_does_not_end_a_command():
    """What can't be written is dropped; the log isn't given up, as the disk may have room again."""
    command = "; ".join([
        "import sys, os",
        "from clinical_pretrain.console import console, make_output_lenient",
        "make_output_lenient()",
        "console.say('x' * 100_000)",
        "console.progress(['step 1/2', 'loss 1.0'])",
        "console.say('y' * 100_000, error=True)",
        "assert {os.readlink(f'/proc/self/fd/{n}') for n in (1, 2)} == {'/dev/full'}",
        "from clinical_pretrain.cli import main",
        "main(['--help'])",
    ])  # fmt: skip
    with Path("/dev/full").open("w") as full:
        call = [sys.executable, "-c", command]
        assert subprocess.run(call, env=os.environ | ENVIRONMENT, stdout=full, stderr=full).returncode == 0


def test_a_closed_terminal_is_a_stop_and_nohup_is_respected(start, tmp_path):
    """SIGHUP; the second start resumes what was saved, and outlives its terminal, which then can't be written to."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = start(*LONG, **quiet)
    wait_for(lambda: 5 in saved_steps(tmp_path / "run"))
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == ENDED
    stop = json.loads((tmp_path / "run" / "stop.json").read_text())
    assert f"stopped at step {stop['step']} (SIGHUP)" in stop["reason"] and stop["exit_code"] == ENDED
    assert saved_steps(tmp_path / "run")[-1] == stop["step"]
    terminal, inner = pty.openpty()
    process = start(*LONG, before=("sh", "-c", 'trap "" HUP; exec "$@"', "nohup"), stdout=inner, stderr=inner)
    os.close(inner)
    read_until(terminal, "/100,000")
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: saved_steps(tmp_path / "run")[-1] >= stop["step"] + 10)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == ENDED


def test_torchrun_ends_at_a_closed_terminal_also_under_nohup(config_file, shards, tmp_path):
    """It tells its ranks by SIGHUP, and kills them after half a minute."""
    call = ["nohup", sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port",
            str(free_port()), str(RUN), "--config", str(config_file), "--data.shards", str(shards), "--run_dir",
            str(tmp_path / "run"), *LONG]  # fmt: skip
    environment, log = os.environ | ENVIRONMENT | {"DEEPSPEED_LOG_LEVEL": "info"}, tmp_path / "log.txt"
    with log.open("w") as stream:
        launcher = subprocess.Popen(call, env=environment, stdout=stream, stderr=stream)
    try:
        wait_for(lambda: 5 in saved_steps(tmp_path / "run"))
        launcher.send_signal(signal.SIGHUP)
        assert launcher.wait(timeout=60) != 0
    finally:
        launcher.kill()
    assert "[INFO]" in log.read_text()  # DeepSpeed's, for which this environment asks
    stop = json.loads((tmp_path / "run" / "stop.json").read_text())
    assert "SIGHUP" in stop["reason"] and saved_steps(tmp_path / "run")[-1] == stop["step"]


@pytest.mark.parametrize(("moment", "code", "said"), [
    ("loading PyTorch", INTERRUPTED, "interrupted before the first step; nothing to save"),
    ("/100,000", ENDED, "the same command resumes from step"),
])  # fmt: skip
def test_ctrl_c_on_a_terminal_is_no_error(start, moment, code, said):
    """The terminal is 60 characters wide, and its line moves between two lines of metrics, and in a validation."""
    terminal, inner = pty.openpty()
    termios.tcsetwinsize(inner, (24, 60))
    process = start(
        *LONG, "--log_every_steps", "99999", stdin=inner, stdout=inner, stderr=inner, start_new_session=True
    )
    os.close(inner)
    seen = read_until(terminal, moment)
    os.killpg(process.pid, signal.SIGINT)
    seen += read_until(terminal)
    assert process.wait(timeout=60) == code
    assert said in seen and "Traceback" not in seen and "error" not in seen and "[INFO]" not in seen
    if code == ENDED:
        drawn = [line.removeprefix("\x1b[K") for line in re.split("[\r\n]+", seen)]
        assert any(re.fullmatch(r"step \d+/100,000 · loss \d.\d+ · [\d:]+ left", line) for line in drawn)
        assert any(line.startswith("step 0 · validation: ") for line in drawn)
    os.close(terminal)


@pytest.mark.parametrize("is_killed", [False, True])
def test_the_end_of_clinical_pretrain_run(is_killed, config_file, shards, tmp_path):
    """At Ctrl-C, which all processes get, the launcher waits until its ranks have saved; they also save if it is killed
    alone. The folder isn't the clone."""
    call = [sys.executable, "-m", "clinical_pretrain", "run", "--num_gpus", "2", "--config", str(config_file),
            "--data.shards", str(shards), "--run_dir", "run", *LONG]  # fmt: skip
    process = subprocess.Popen(call, env=os.environ | ENVIRONMENT, cwd=tmp_path, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, start_new_session=True)  # fmt: skip
    try:
        wait_for(lambda: 5 in saved_steps(tmp_path / "run") or process.poll() is not None)
        process.kill() if is_killed else os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)  # until its ranks have ended, too
    finally:
        process.kill()
    stop = json.loads((tmp_path / "run" / "stop.json").read_text())
    assert stop["exit_code"] == ENDED and saved_steps(tmp_path / "run")[-1] == stop["step"]
    assert "Traceback" not in said and f"the same command resumes from step {stop['step']}" in said


def read_until(terminal, moment=None):
    """What a terminal shows until then, or to the end."""
    seen = ""
    while moment is None or moment not in seen:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # nobody writes any more
            piece = b""
        if not piece:
            break
        seen += piece.decode(errors="replace")
    return seen


def test_ctrl_c_in_building_shards_is_no_error(corpus, tmp_path):
    """In none of its processes; and the same command does what is missing."""
    call = [sys.executable, "-m", "clinical_pretrain", "build-shards", "--notes", str(corpus / "notes.csv"),
            "--tokenizer", str(corpus / "tokenizer"), "--out", str(tmp_path / "shards"), "--workers", "2",
            "--notes-per-part", "20", "--sequence-length", "256"]  # fmt: skip
    process = subprocess.Popen(call, env=os.environ | ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)  # fmt: skip
    wait_for(lambda: list(tmp_path.rglob("*00000*")) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == INTERRUPTED
    said = process.stderr.read()
    assert said.endswith("stopped; the same command resumes from here\n") and "Traceback" not in said
    assert subprocess.run(call, env=os.environ | ENVIRONMENT, capture_output=True).returncode == 0
