"""How a run's speed grows with the number of GPUs, by the estimate of time, to 1,024 of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from clinical_pretrain.estimate.choice import Candidate, Conditions
from clinical_pretrain.estimate.speed import step_time

MOST_GPUS = 1024


@dataclass(frozen=True)
class ScalingRow:
    """One number of GPUs. Weak: each has as many sequences a step as now. Strong: the step has as many as now."""

    gpus: int
    weak_tokens_per_second: int
    weak_efficiency: float
    """Speed of a GPU over that of one alone."""
    weak_communication: float
    """Share of a step that waits for it."""
    strong_tokens_per_second: int | None
    """None where a step has too few sequences for so many."""
    strong_efficiency: float | None
    strong_communication: float | None


def scaling(given: Conditions, chosen: Candidate) -> list[ScalingRow]:
    """For 1, 2, 4 … GPUs of a node, then for 1, 2, 4 … full nodes."""
    rows, alone, strong_alone = [], 0.0, 0.0
    for gpus in _numbers_of_gpus(given.network.gpus_per_node):
        weak, waits = _speed(given, chosen, gpus, chosen.micro_batch_size, chosen.accumulation_steps)
        alone = alone or weak
        strong: tuple[float, float] | None = None
        each, left = divmod(given.config.batch.train_batch_size, gpus)
        if each and not left:
            size = max(size for size in range(1, min(chosen.micro_batch_size, each) + 1) if each % size == 0)
            strong = _speed(given, chosen, gpus, size, each // size)
            strong_alone = strong_alone or strong[0]
        rows.append(
            ScalingRow(
                gpus,
                round(weak),
                round(weak / gpus / alone, 3),
                round(waits, 3),
                round(strong[0]) if strong else None,
                round(strong[0] / gpus / strong_alone, 3) if strong else None,
                round(strong[1], 3) if strong else None,
            )
        )
    return rows


def _numbers_of_gpus(per_node: int) -> list[int]:
    powers = [1 << power for power in range(MOST_GPUS.bit_length())]
    counts = [power for power in powers if power < per_node] + [per_node * power for power in powers]
    return [count for count in counts if count <= MOST_GPUS]


def _speed(given: Conditions, chosen: Candidate, gpus: int, size: int, steps: int) -> tuple[float, float]:
    """Tokens per second of all GPUs, and the share of a step that waits for communication."""
    batch = replace(given, world_size=gpus).micro_batch(size, chosen.activation_checkpointing, chosen.zero.stage)
    time = step_time(batch, chosen.zero, given.card, given.network, gpus, steps).times(given.slowdown)
    return gpus * size * steps * given.length / time.total, time.communication / time.total


def dominated_from(rows: list[ScalingRow]) -> int | None:
    """The fewest GPUs of which more than half a step waits for communication, as the batch grows with them."""
    return next((row.gpus for row in rows if row.weak_communication > 0.5), None)


def draw(rows: list[ScalingRow], out: Path) -> None:
    """Speed against the number of GPUs, weak and strong, and the number from which communication dominates."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), dpi=120)
    gpus = [row.gpus for row in rows]
    axes.plot(gpus, [rows[0].weak_tokens_per_second * count for count in gpus], ":", color="grey", label="ideal")
    axes.plot(gpus, [row.weak_tokens_per_second for row in rows], marker="o", markersize=4, label="weak")
    strong = [(row.gpus, row.strong_tokens_per_second) for row in rows if row.strong_tokens_per_second is not None]
    axes.plot(*zip(*strong, strict=True), marker="s", markersize=4, label="strong")
    dominated = dominated_from(rows)
    if dominated:
        axes.axvline(dominated, color="#b2182b", linewidth=0.8, label="communication: over half of a step")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(gpus, [f"{count:,}" for count in gpus], fontsize=8)
    axes.set(xlabel="GPUs", ylabel="tokens/s (estimate)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(out)
    pyplot.close(figure)


def scaling_lines(rows: list[ScalingRow]) -> list[str]:
    """A table in lines, what its columns mean, and from where on communication dominates."""
    lines = [
        "by number of GPUs: sequences per GPU as now (weak), or per step (strong)",
        "                               weak                    strong",
        "  GPUs     tokens/s  efficiency  waits       tokens/s  efficiency",
    ]
    for row in rows:
        strong = "-" if row.strong_tokens_per_second is None else f"{row.strong_tokens_per_second:,}"
        share = "-" if row.strong_efficiency is None else f"{row.strong_efficiency:.0%}"
        lines.append(
            f"  {row.gpus:>4}  {row.weak_tokens_per_second:>11,}  {row.weak_efficiency:>10.0%}  "
            f"{row.weak_communication:>5.0%}    {strong:>11}  {share:>10}"
        )
    lines.append(
        "  efficiency: speed of a GPU over that of one alone; waits: share of a step that waits for communication"
    )
    if any(round(row.weak_efficiency, 2) > 1 for row in rows):
        lines.append("  over 100%: ZeRO divides the optimizer's update among the GPUs, so each has less to do")
    first = dominated_from(rows)
    dominates = (
        f"more than half of a step from {first:,} GPUs on" if first else "less than half of a step on all of them"
    )
    return [*lines, f"communication takes {dominates}"]
