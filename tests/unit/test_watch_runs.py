"""`watch`: reading a log that grows, the time left, and what the screen says of a run in every state."""

import json
import math
import os
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders import metrics_line, start_entry, train_line, validation_line, write_metrics, write_run

from clinical_pretrain.cli import main
from clinical_pretrain.observe import pace, watch_view
from clinical_pretrain.observe.events import of_stop
from clinical_pretrain.observe.pace import mean_shares, time_left
from clinical_pretrain.observe.sparkline import Curve, sparkline
from clinical_pretrain.observe.status import status
from clinical_pretrain.observe.watch import find_runs
from clinical_pretrain.observe.watched_run import WatchedRun
from clinical_pretrain.run_folder import metrics
from clinical_pretrain.run_folder.metrics import MetricsReader, cut_metrics, read_metrics
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError

SHARES = {"data": 0.02, "forward": 0.3, "backward": 0.6, "other": 0.08}
HERE = {"host": socket.gethostname(), "process": os.getpid()}


def shown(path: Path, width=80, height=24) -> str:
    return "\n".join(line.plain for line in watch_view.screen([WatchedRun(path).refresh()], width, height))


# Reading

WHOLE = "".join(map(metrics_line, (train_line(1), validation_line(1, by_category={"é\u2028": {}}), train_line(2))))
TORN = metrics_line(train_line(3))[:50]


@settings(max_examples=25)
@given(st.lists(st.integers(1, 200), max_size=12), st.booleans())
def test_a_log_is_read_as_it_grows(tmp_path_factory, pieces, is_torn):
    """In any pieces, with a line that a full disk has left incomplete; each line once."""
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    content = (WHOLE + (TORN + "\n" if is_torn else "") + metrics_line(train_line(4))).encode()
    reader, found, position = MetricsReader(folder), [], 0
    for length in [*pieces, len(content)]:
        with folder.metrics_file.open("ab") as stream:
            stream.write(content[position : position + length])
        position += length
        found += reader.new_lines(lambda: pytest.fail("the log was not replaced"))
    assert found == read_metrics(folder) and [line["step"] for line in found] == [1, 1, 2, 4]


def test_only_new_lines_are_parsed(tmp_path, monkeypatch):
    write_metrics(tmp_path, map(train_line, range(1000)))
    reader, parsed = MetricsReader(RunFolder(tmp_path)), []
    assert len(list(reader.new_lines())) == 1000
    loads = json.loads
    monkeypatch.setattr(metrics.json, "loads", lambda text, **options: parsed.append(text) or loads(text, **options))
    assert not list(reader.new_lines()) and not parsed
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write(metrics_line(train_line(1000)) + TORN)
    assert [line["step"] for line in reader.new_lines()] == [1000] and len(parsed) == 1


@pytest.mark.parametrize("steps_after", [[], [6, 7], [6, 7, 8, 9, 10, 11]])
def test_a_log_that_a_restart_has_cut_is_read_again(tmp_path, steps_after):
    """Also where it is as long as before, or longer, by the time it is looked at."""
    folder, forgotten = RunFolder(tmp_path), []
    write_metrics(tmp_path, map(train_line, range(1, 11)))
    reader = MetricsReader(folder)
    list(reader.new_lines())
    cut_metrics(folder, 5)
    with folder.metrics_file.open("a") as stream:
        stream.writelines(metrics_line(train_line(step, start=1, time=1.8e9 + step)) for step in steps_after)
    found = list(reader.new_lines(lambda: forgotten.append(True)))
    assert forgotten == [True] and [line["step"] for line in found] == [1, 2, 3, 4, 5, *steps_after]
    folder.metrics_file.unlink()
    assert not list(reader.new_lines(lambda: forgotten.append(True))) and len(forgotten) == 2


def test_a_log_of_another_version_stays_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"format_version": 1}\n')
    reader = MetricsReader(RunFolder(tmp_path))
    for _ in range(2):
        with pytest.raises(UserError, match="format_version 1"):
            list(reader.new_lines())


# Time left


def lines_of(speeds, seconds=10.0, first=0):
    """Ten steps a line, each of which takes `seconds`."""
    return [train_line(first + 10 * i, time=seconds * i, tokens_per_second=speed) for i, speed in enumerate(speeds)]


def test_time_left_counts_what_lies_between_the_lines():
    """A second a step, of which half is validation: the wall clock counts, not the speed of training."""
    left = time_left(lines_of([2000.0] * 20), 1000)
    assert (left.seconds, left.shortest, left.longest) == pytest.approx((810, 810, 810))
    assert time_left(lines_of([1.0] * 20), 100).seconds == 0  # the run has been extended since, or shortened


def test_the_range_is_that_of_the_slowest_and_fastest_tenth():
    """Speeds of 80 to 120: the range's ends are the times of a rest that runs at 84 and at 116 tokens a second."""
    speeds = [80.0 + i for i in range(41)]
    lines = [train_line(0, time=0.0)]
    for step, speed in enumerate(speeds, 1):
        lines.append(train_line(step, time=lines[-1]["time"] + 1000 / speed, tokens_per_second=speed))
    left = time_left(lines, 1041)
    assert left.seconds == pytest.approx(1000 * sum(1000 / speed for speed in speeds) / len(speeds))
    assert left.shortest == pytest.approx(1000 * 1000 / 116) and left.longest == pytest.approx(1000 * 1000 / 84)


def test_the_time_left_of_a_new_start_is_its_own():
    lines = lines_of([100.0] * 50) + [
        train_line(500 + 10 * i, start=1, time=9000.0 + 100 * i, tokens_per_second=10.0) for i in range(3)
    ]
    left = time_left(lines, 1520)
    assert left.seconds == pytest.approx(10 * 1000) and left.shortest is None is left.longest


@pytest.mark.parametrize(("lines", "max_steps"), [
    ([], 100), (lines_of([1.0]), 100), (lines_of([1.0] * 9), None), (lines_of([1.0] * 9, seconds=0.0), 100),
    ([{"step": step, "kind": "train"} for step in range(9)], 100),
])  # fmt: skip
def test_no_time_left_is_made_up(lines, max_steps):
    assert time_left(lines, max_steps) is None


# Curves, shares


def test_a_sparkline_shows_a_curve():
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8) == "██▇▆▅▃▂▁" and sparkline([3.0, 2.0], 9) == "█▁"
    assert sparkline([5.0, None, 1.0], 3) == "█ ▁" and sparkline([], 5) == "" and sparkline([None], 5) == " "
    assert sparkline([1.0] * 7, 3) == "▁▁▁"
    assert len(sparkline(list(range(1000)), 40)) == 40


def test_a_curve_of_any_length_is_small_and_true():
    curve = Curve(points=8)
    for i in range(10_000):
        curve.add(float(i) if i % 3 else None)
    values = curve.values
    assert 8 <= len(values) <= 17 and list(values) == sorted(values)
    assert values[0] < 1500 and values[-1] > 8000


def test_shares_are_weighted_by_time():
    """Of the clock; those of an earlier version by the time of their steps."""
    lines = [train_line(1), train_line(2, clock_seconds=1.0, shares={"data": 1.0}),
             train_line(3, clock_seconds=3.0, shares={"forward": 1.0})]  # fmt: skip
    assert mean_shares(lines) == {"forward": 0.75, "data": 0.25}
    assert mean_shares([train_line(2, seconds=1.0, shares={"data": 1.0}), lines[2]]) == {"forward": 0.75, "data": 0.25}
    assert mean_shares(lines[:1]) == {} == mean_shares([])
    assert list(mean_shares([train_line(1, shares=SHARES)])) == ["backward", "forward", "other", "data"]


# The screen


@pytest.fixture
def running(tmp_path):
    """A run that this process pretends to train, of two starts."""
    now = time.time()
    gpu = {"shares": SHARES, "mfu": 0.381, "memory_gb": 61.25, "padding_share": 0.031, "loss_scale": 65536.0}
    lines = [train_line(step, time=now - 1000 + step, start=int(step > 400), **gpu) for step in range(10, 1000, 10)]
    at = {"time": now - 5, "start": 1}
    lines += [validation_line(900, general={"loss": 2.5}, **at), validation_line(950, loss=8.5, **at)]
    lines += [{"step": 950, "kind": "save", "seconds_until_whole": 12.3, "bytes": 1.9e9, **at},
              {"step": 980, "kind": "save", "seconds_until_whole": 1.0, "failures": 2, **at},
              {"step": 980, "kind": "rollback", "first_sample": 9, "samples": 80, **at}]  # fmt: skip
    starts = [start_entry(timestamp=now - 1000, to_step=450),
              start_entry(timestamp=now - 590, from_step=400, changes=["seed was 1, now 2"], **HERE)]  # fmt: skip
    write_run(tmp_path / "run", lines, starts)
    return tmp_path / "run"


def test_a_running_run_at_80_by_24(running):
    screen = shown(running)
    assert len(screen.splitlines()) == 24 and all(len(line) <= 80 for line in screen.splitlines())
    for text in (
        "  running", " 49.5%  990/2,000", "time left  0:16:50 · 0:16:50 to 0:16:50 · done ", "loss       8.0100 █",
        "validation 8.5000 ", "lowest 8.2000 at step 900", "8,192 tokens/s · 4,096 per GPU · MFU 38%",
        "peak 61.2 GB of the first GPU · padding 3.1%",
        "3 skipped · loss scale 65,536 · learning rate 1.00e-04", "restarts   1",
        "time in    backward 60% · forward 30% · other 8% · data 2%",
        " started on 2 x NVIDIA H100", "resumed from step 400 (50 steps lost) on 2 x NVIDIA H100; changed",
        "settings: seed was 1, now 2",
        "step 900: validation loss 8.2000, accuracy 50.0%; general text",
        "step 950: saved, 1,900 MB in 12.3 s",
        "step 980: not saved, 2 failures in a row; earlier checkpoints are",
        "rolled back to step 980, skipping 80 sequences",
    ):  # fmt: skip
        assert text in screen, text


@pytest.mark.parametrize("count", [1, 2, 3, 12])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (20, 6), (38, 24), (132, 50), (300, 10), (80, 1)])
def test_every_screen_has_its_size(running, count, width, height):
    view = WatchedRun(running).refresh()
    view.status["run_dir"] = "runs/naïve\x1b[31m_病院\n" * 9
    lines = [watch_view.fit(line, width) for line in watch_view.screen([view] * count, width, height)]
    assert len(lines) == height and all(line.cell_len <= width and line.plain.isprintable() for line in lines)
    if (count, width, height) == (2, 80, 24):
        assert sum("990/2,000 │" in line.plain and line.plain.count("990/2,000") == 2 for line in lines) == 1
    if (count, width, height) == (12, 80, 24):
        assert sum("990/2,000" in line.plain for line in lines) == 12


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "cp437"])
def test_a_terminal_without_unicode_gets_other_characters(running, encoding):
    for line in watch_view.screen([WatchedRun(running).refresh()], 80, 24):
        plain = watch_view.fit(line, 80, encoding).plain
        assert plain.encode(encoding).decode(encoding) == plain and "?" not in plain


def test_a_run_that_has_not_begun(tmp_path, monkeypatch, capsys):
    """Before run.json: a submitted job, and a start that still builds its model; then a start without a step."""
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "a" / "slurm").mkdir(parents=True)
    (tmp_path / "a" / "slurm" / "job.json").write_text('{"job": "5", "log": "a.out"}')
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "lock").touch()
    assert find_runs([tmp_path / "b", tmp_path, tmp_path / "a"]) == [tmp_path / "b", tmp_path / "a"]
    assert "job 5 ended before training began; see a.out" in shown(tmp_path / "a", 200)
    assert "not started" in shown(tmp_path / "b")
    write_run(tmp_path / "b", starts=[start_entry(**HERE)])
    screen = shown(tmp_path / "b", 200)
    assert "  starting" in screen and " 0.0%  0/2,000" in screen and "time left  not known yet" in screen
    with pytest.raises(UserError, match="no run here"):
        find_runs([tmp_path / "nothing"])


def test_a_run_that_is_restarted(running):
    """Stopped, started again, cut to its checkpoint, and the first line of the new start."""
    watched = WatchedRun(running)
    assert watched.refresh().status["state"] == "running"
    reason = "stopped at step 990 (SIGUSR1); the same command resumes from step 990"
    lines, starts = read_metrics(RunFolder(running)), RunFolder(running).starts()
    write_run(running, lines, [*starts[:-1], {**starts[-1], "process": 2**22 + 1}], stop=(reason, 75))
    view = watched.refresh()
    assert view.status["state"] == "stopped" and view.events[-1].text == reason and not view.events[-1].is_trouble
    again = start_entry(timestamp=time.time() + 1, from_step=600, **HERE)
    write_run(running, lines, [*starts, again])
    view = watched.refresh()
    assert view.is_resuming and "resuming from step 600" in watch_view.panel(view, 80)[0].plain
    assert view.time_left is None and status(running)["seconds_left"] is None  # of the start before
    cut_metrics(RunFolder(running), 600)
    with (running / "metrics.jsonl").open("a") as stream:
        stream.write(metrics_line(train_line(610, start=2, time=time.time())))
    view = watched.refresh()
    assert not view.is_resuming and view.status["step"] == 610 and len(view.losses) == 61
    assert not any("rolled back" in event.text for event in view.events) and view.status["restarts"] == 2


def test_ends_of_runs(tmp_path):
    failed = "runs/x: 4 saves in a row failed; free disk space"
    write_run(tmp_path / "failed", [train_line(7)], stop=(failed, 2))
    assert "  failed" in shown(tmp_path / "failed") and f"last stop  {failed}" in shown(tmp_path / "failed")
    write_run(tmp_path / "done", [train_line(2000)], stop=("finished", 0))
    summary = {"format_version": 4, "seconds_running": 7000.0, "effective_training_time": 0.93, "lost_steps": 9}
    (tmp_path / "done" / "summary.json").write_text(json.dumps(summary))
    assert "finished   in 1:56:40 · 93% of it in steps that count · 9 steps lost" in shown(tmp_path / "done")
    write_run(tmp_path / "lost", [train_line(7)])
    assert "  lost" in shown(tmp_path / "lost")


def test_silence_is_said(running):
    lines = [line | {"time": line["time"] - 3600} for line in read_metrics(RunFolder(running))]
    write_metrics(running, lines)
    starts = RunFolder(running).starts()
    write_run(running, lines, [*starts[:-1], starts[-1] | {"timestamp": starts[-1]["timestamp"] - 3600}])
    assert "no new figures for 1:00:" in shown(running)
    write_run(running, lines, [*starts, start_entry(timestamp=time.time() - 30, **HERE)])
    assert "no new figures" not in shown(running)


def test_files_that_cannot_be_read_are_tried_again(running):
    watched, run_file = WatchedRun(running), running / "run.json"
    content = run_file.read_text()
    run_file.write_text("{")
    view = watched.refresh()
    assert view.status["state"] == "unreadable" and "run.json: damaged" in view.status["last_stop"]
    run_file.write_text(content)
    assert watched.refresh().status["state"] == "running"
    (running / "metrics.jsonl").unlink()
    (running / "metrics.jsonl").mkdir()
    assert "metrics.jsonl: Is a directory" in watched.refresh().status["last_stop"]


def test_a_terminal_that_says_it_has_no_columns(running, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "0")
    assert main(["watch", str(running)]) == 0
    assert "990/2,000" in capsys.readouterr().out


def test_damaged_lines_are_left_out_and_said(running, capsys):
    before, before_lines = shown(running), (running / "metrics.jsonl").read_text().splitlines()
    with (running / "metrics.jsonl").open("a") as log:
        log.write('{"format_version": 2, "st\n{"step": 1}\n' + metrics_line(train_line(991))[:-9])
    assert "lines of metrics.jsonl that can't be read: 2" in shown(running) and "can't be read" not in before
    assert status(running)["step"] == 990
    assert main(["status", str(running)]) == 0
    first = len(before_lines) + 1
    warning = f"warning: {running}/metrics.jsonl: left out 2 lines that can't be read (first: line {first})\n"
    assert capsys.readouterr().err == warning


@pytest.mark.parametrize("change", [
    {"step": "ten"}, {"loss": "low"}, {"loss": float("nan")}, {"loss": float("inf")}, {"time": "noon"},
])  # fmt: skip
def test_lines_without_numbers_where_they_belong_are_damaged(running, change, capsys):
    with (running / "metrics.jsonl").open("a") as log:
        log.write(metrics_line(train_line(991) | change))
    assert "lines of metrics.jsonl that can't be read: 1" in shown(running) and status(running)["step"] == 990
    assert main(["status", str(running)]) == 0 and "left out 1 line" in capsys.readouterr().err


def test_the_stop_is_the_last_event_of_its_second():
    """stop.json has whole seconds."""
    assert 9.9 < of_stop({"time": "1970-01-01T00:00:09+0000", "reason": "finished", "exit_code": 0}).time < 10


def test_a_run_that_only_gets_worse_has_its_lowest_loss_at_step_0(tmp_path):
    write_run(tmp_path / "run", [validation_line(0, loss=7.8), train_line(40), validation_line(40, loss=85.7)])
    assert "lowest 7.8000 at step 0" in shown(tmp_path / "run")


def test_a_run_that_cannot_be_opened_is_one_of_several(running, monkeypatch, capsys):
    write_run(running.parent / "closed", [train_line(1)])
    (running.parent / "closed" / "metrics.jsonl").unlink()
    (running.parent / "closed" / "metrics.jsonl").mkdir()
    assert main(["status", str(running.parent)]) == 0
    out = capsys.readouterr().out
    assert "unreadable" in out and "closed/metrics.jsonl: Is a directory" in out and "990/2,000" in out


def test_other_validation_sets_are_no_curve(running):
    starts = RunFolder(running).starts()
    lines = read_metrics(RunFolder(running))
    write_run(running, lines, [*starts, start_entry(validation_set={"masks": 2}, **HERE)])
    assert WatchedRun(running).refresh().validations == ()


@pytest.mark.parametrize(("age", "stop", "state"), [
    (5, None, "running"), (500, None, "lost"), (5, ("stopped at step 9 (SIGTERM)", 77), "stopped"),
])  # fmt: skip
def test_a_run_on_another_machine_is_running_while_it_writes(tmp_path, age, stop, state):
    """As in a container: its process isn't one of this machine's."""
    write_run(tmp_path / "run", [train_line(7, time=time.time() - age)], stop=stop)
    assert status(tmp_path / "run")["state"] == state


def test_status_and_watch_agree(running, capsys):
    told = status(running)
    view = WatchedRun(running).refresh()
    assert math.isclose(view.status.pop("seconds_left"), told.pop("seconds_left")) and view.status == told
    assert len(read_metrics(RunFolder(running), "train")) < pace.LINES
    assert main(["watch", str(running), "--json", str(running.parent / "seen.json")]) == 0
    assert "\x1b" not in (out := capsys.readouterr().out) and "49.5%  990/2,000" in out
    (seen,) = json.loads((running.parent / "seen.json").read_text())["runs"]
    assert seen["state"] == "running" and seen["mfu"] == 0.381 and seen["shares"]["backward"] == pytest.approx(0.6)
    assert seen["events"][-1]["text"].startswith("rolled back")
