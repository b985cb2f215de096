"""Nobody waits for ever: deaths, silence, hangs and lost launchers end all ranks within seconds, and say why."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from launching import ENVIRONMENT, WORKER, losses, saved_steps

from clinical_pretrain.distributed import free_port
from clinical_pretrain.exit_codes import ENDED, INTERRUPTED, LOST

WATCHED = WORKER.with_name("watched.py")
pytestmark = pytest.mark.timeout(150)  # each takes 30 s at most


def start(fault, shards, root, ranks=2):
    """Ranks without a launcher, so that nobody but they themselves ends them."""
    port, processes = str(free_port()), []
    for rank in range(ranks):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        variables = os.environ | ENVIRONMENT | {name: str(value) for name, value in names.items()}
        call = [sys.executable, str(WATCHED), fault, str(shards), str(root)]
        processes.append(subprocess.Popen(call, env=variables, text=True, stdout=subprocess.DEVNULL,
                                          stderr=(root / f"rank-{rank}.err").open("w")))  # fmt: skip
    return processes


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("fault", "codes", "cause"),
    [
        ("kill-1", [LOST, -signal.SIGKILL], "its process ended without a word, as by SIGKILL"),
        ("kill-0", [-signal.SIGKILL, LOST], "its process ended without a word, as by SIGKILL"),
        ("raise-1", [LOST, 1], "RuntimeError: no luck"),
        ("stop-1", [LOST, None], "not heard of for 4 s"),
        ("hang-1", [LOST, LOST], "no end of a step for"),
    ],
)
def test_one_message_names_the_rank_its_host_and_its_cause(fault, codes, cause, shards, tmp_path):
    processes = start(fault, shards, tmp_path)
    run_dir, rank = tmp_path / fault, int(fault[-1])
    try:
        wait_for(lambda: 5 in saved_steps(run_dir) or processes[1 - rank].poll() is not None)
        began = time.monotonic()
        ended = [code and process.wait(timeout=40) for process, code in zip(processes, codes, strict=True)]
    finally:
        for process in processes:
            process.kill()
    assert time.monotonic() - began < 30 and ended == codes
    said = "".join((tmp_path / f"rank-{r}.err").read_text() for r in range(2))
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    host = re.escape(socket.gethostname())
    who = "" if fault.startswith("hang") else rf"rank {rank} on {host} \(pid \d+\) is gone: "
    assert re.match(rf"error: {who}{re.escape(cause)}", errors[0]), errors
    assert said.count("Traceback") == (1 if fault.startswith("raise") else 0)
    stop = json.loads((run_dir / "stop.json").read_text())
    assert cause in stop["reason"] and stop["exit_code"] in (LOST, 1)
    assert saved_steps(run_dir) == [5]
    stacks = {path.name for path in (run_dir / "stacks").glob("*")}
    assert stacks == ({"rank-0.txt", "rank-1.txt"} if fault.startswith("hang") else set())
    if stacks:
        assert "meet_fate" in (run_dir / "stacks" / "rank-1.txt").read_text()


def test_a_second_interrupt_means_now(shards, tmp_path):
    """Also while the main thread hangs; two signals at once are one Ctrl-C."""
    process = start("hang-0", shards, tmp_path, ranks=1)[0]
    try:
        wait_for(lambda: losses(tmp_path / "hang-0")[5:])
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        time.sleep(1.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == INTERRUPTED
    finally:
        process.kill()
    assert "interrupted twice" in json.loads((tmp_path / "hang-0" / "stop.json").read_text())["reason"]


def test_a_second_run_in_a_folder_waits_for_the_first(shards, tmp_path):
    """And goes on where that one has stopped."""
    first = second = start("none-0", shards, tmp_path, ranks=1)[0]
    try:
        wait_for(lambda: 5 in saved_steps(tmp_path / "none-0"))
        port = str(free_port())
        names = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        call = [sys.executable, "-u", str(WATCHED), "none-0", str(shards), str(tmp_path)]
        second = subprocess.Popen(call, env=os.environ | ENVIRONMENT | names, text=True, stdout=subprocess.PIPE)
        assert any("another process is training here; waiting for it to end" in line for line in second.stdout)
        assert first.poll() is None
        first.terminate()
        assert first.wait(timeout=30) == ENDED
        stopped = json.loads((tmp_path / "none-0" / "stop.json").read_text())["step"]
        assert any(f"resuming from step {stopped:,}:" in line for line in second.stdout)
    finally:
        first.kill()
        second.kill()
        second.wait()


@pytest.mark.parametrize("how", ["SIGTERM to the outer process", "Ctrl-C", "a closed terminal"])
def test_under_the_deepspeed_launcher(how, shards, tmp_path):
    """SIGTERM ends the outer of its processes alone; Ctrl-C reaches all of them, and ranks by INT and TERM; a closed
    terminal sends SIGHUP to all."""
    run_dir = tmp_path / "none-0"
    call = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2", "--master_port",
            str(free_port()), str(WATCHED), "none-0", str(shards), str(tmp_path)]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    launcher = subprocess.Popen(call, env=os.environ | ENVIRONMENT, **quiet)
    try:
        wait_for(lambda: 5 in saved_steps(run_dir))
        if how == "Ctrl-C":
            os.killpg(launcher.pid, signal.SIGINT)
            assert launcher.wait(timeout=40) != 0
        elif how == "a closed terminal":
            os.killpg(launcher.pid, signal.SIGHUP)
            assert launcher.wait(timeout=10) == -signal.SIGHUP
        else:
            launcher.send_signal(signal.SIGTERM)
            assert launcher.wait(timeout=10) == -signal.SIGTERM
        wait_for(lambda: (run_dir / "stop.json").exists(), 30)
    finally:  # ranks are in the launcher's process group, also those that it left behind
        with suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
    stop = json.loads((run_dir / "stop.json").read_text())
    assert stop["exit_code"] == ENDED and re.match(
        r"stopped at step \d+ \((SIGTERM|SIGINT|SIGHUP|the launcher is gone)\)", stop["reason"]
    )
    assert saved_steps(run_dir)[-1] == stop["step"]
