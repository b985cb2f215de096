"""What a run has cost: goodput, where the time went, speed, and the machines and versions that it ran on."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from clinical_pretrain.observe.pace import mean_shares
from clinical_pretrain.observe.report.run import RecordedRun
from clinical_pretrain.run_folder.metrics import duration
from tokenizer_tools.pages.html import figure, paragraph, table
from tokenizer_tools.pages.svg import MAIN, bars, page_svg, plot_style
from tokenizer_tools.pages.wording import percent


def goodput(run: RecordedRun) -> dict[str, Any]:
    """As `starts.goodput` has computed it last: at the end, or at the last save. Empty before the first save."""
    summary = run.folder.read_summary()
    if summary and summary["steps"] >= run.step:
        return summary
    lines = [line for line in run.lines if line["kind"] == "goodput"]
    return lines[-1] if lines else {}


def goodput_section(run: RecordedRun) -> str:
    """Restarts, lost steps, saves, the share of training in all time; each start."""
    found = goodput(run)
    rows = [
        ["Time of all processes, from their start", duration(found.get("seconds_running", 0))],
        ["… in training steps that count", duration(found.get("seconds_in_training", 0))],
        ["… in which training waited for a save", duration(found.get("seconds_in_save", 0))],
        ["Share of training in all of it", percent(found.get("effective_training_time"))],
        ["Restarts", f"{found.get('restarts', 0):,}"],
        ["Steps trained again after a restart", f"{found.get('lost_steps', 0):,}"],
        ["Roll-backs after NaN or infinite losses", f"{len(run.rollbacks):,}"],
        ["Updates skipped", f"{run.train[-1].get('skipped_updates', 0):,}" if run.train else "–"],
    ]
    total = table("Goodput: what the time went into, and what was lost", ["", "value"], rows, "words")
    if not found:
        total = paragraph("Goodput is known from the first save on.")
    starts = [
        [
            f"{number:,}",
            start.get("time", "–")[:16].replace("T", " "),
            f"{start['from_step']:,}",
            f"{start.get('world_size', 0):,} × {start.get('device', '–')}",
            str(start.get("zero_stage", "–")),
            "; ".join(start.get("changes", [])) or "none",
        ]
        for number, start in enumerate(run.starts, 1)
    ]
    header = ["start", "time", "from step", "ranks", "ZeRO stage", "changed settings"]
    return total + table("Starts of the run", header, starts)


def time_section(run: RecordedRun) -> str:
    """The shares of data, forward, backward and the others, over the whole run; speed, memory and padding."""
    shares = mean_shares(run.train)
    parts = []
    if shares:
        with plot_style("none") as figure_class:
            drawing = figure_class(figsize=(4.2, 0.6 + 0.19 * len(shares)), facecolor="none")
            axes = drawing.subplots()
            axes.set_facecolor("none")
            values = [100 * share for share in shares.values()]
            bars(axes, list(shares), values, [percent(share) for share in shares.values()], [MAIN] * len(shares))
            axes.set(xlabel="% of the time between lines of metrics")
            svg = page_svg(drawing, "time")  # the table beside it says the same
        rows = [[name, percent(share)] for name, share in shares.items()]
        parts.append(
            f'<div class="pair">{figure(svg, "Where the time went.")}'
            f"{table('Where the time went, over the whole run', ['part', 'share of the time'], rows)}</div>"
        )
    else:
        parts.append(paragraph("The metrics of this run have no shares of the time: an earlier version wrote them."))
    if rows := _speed(run):
        parts.append(table("Speed and memory", ["", "value"], rows))
    return "".join(parts)


def _speed(run: RecordedRun) -> list[list[str]]:
    """Rows on what lines of training say of speed and memory, where they do."""
    figures: list[tuple[str, str, Callable[[list[float]], float], str]] = [
        ("tokens_per_second", "Tokens per second, all ranks (median)", statistics.median, ",.0f"),
        ("tokens_per_second_per_gpu", "Tokens per second and rank (median)", statistics.median, ",.0f"),
        ("mfu", "Model FLOPs utilisation (median)", statistics.median, ".1%"),
        ("memory_gb", "Largest memory of the first rank, GB", max, ".2f"),
        ("padding_share", "Share of padding (mean)", statistics.fmean, ".1%"),
    ]
    rows = []
    for key, label, summarise, form in figures:
        if values := [line[key] for line in run.train if isinstance(line.get(key), int | float)]:
            rows.append([label, f"{summarise(values):{form}}"])
    return rows


def environment_section(run: RecordedRun) -> str:
    """Devices, backends and versions of the last start, and those of earlier ones where they differ. Neither a host's
    name nor a path."""
    described: dict[str, Callable[[dict[str, Any]], object]] = {
        "Device": lambda start: start.get("device"),
        "Ranks": lambda start: start.get("world_size"),
        "ZeRO stage": lambda start: start.get("zero_stage"),
        "Precision": lambda start: start["config"]["precision"],
        "Attention": lambda start: start.get("attention_backend"),
        "Compiled": lambda start: "yes" if start.get("compiled") else "no",
        "SLURM": lambda start: "yes" if start.get("slurm_job") else "no",
        "Commit of the source": lambda start: start.get("git_commit") or "not a clone",
    }
    rows = [[name, _all_values([choose(start) for start in run.starts])] for name, choose in described.items()]
    names = dict.fromkeys(name for start in run.starts for name in start.get("versions", {}))
    rows += [[name, _all_values([start.get("versions", {}).get(name) for start in run.starts])] for name in names]
    return table("Machines and versions of all starts", ["", "value"], rows, "words")


def _all_values(values: list[Any]) -> str:
    """The last value, and earlier others."""
    distinct = [str(value) for value in dict.fromkeys(reversed(values)) if value is not None]
    return distinct[0] + (f" (before: {', '.join(distinct[1:])})" if len(distinct) > 1 else "") if distinct else "–"
