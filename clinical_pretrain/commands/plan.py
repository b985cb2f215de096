"""`clinical-pretrain plan`: its options, and what it prints. The facts come from observe/plan.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinical_pretrain.commands.options import divide, make_parser, parse, report
from clinical_pretrain.console import wrapped
from tokenizer_tools.errors import UserError
from tokenizer_tools.ranges import Range


def plan(argv: Sequence[str]) -> dict[str, Any]:
    """Estimate memory, time, energy and disk of a run (--config FILE and further settings, as for run)."""
    parser = make_parser("plan", plan.__doc__)
    parser.add_argument("--gpus", type=int, default=1, help="number of GPUs")
    parser.add_argument("--gpu", default="h100-80gb", help="model of GPU, such as v100-32gb or a100-80gb")
    parser.add_argument(
        "--data.shards",  # as run and doctor name it
        "--shards",
        dest="shards",
        help="shard folder: its length, vocabulary and number of sequences count",
    )
    parser.add_argument("--sequence_length", type=int, help="tokens per sequence, without --shards (default: 4096)")
    parser.add_argument(
        "--gpus_per_node",
        type=int,
        default=8,
        help="number of GPUs in a node; of more GPUs than that all nodes are full",
    )
    parser.add_argument("--network_gbit", type=float, default=200.0, help="Gbit/s of a node to others, each direction")
    parser.add_argument("--measured", metavar="RUN", help="run folder whose speed on this GPU scales the times")
    parser.add_argument("--plot", metavar="FILE", help="draw the speed by number of GPUs, as PNG, PDF or SVG")
    own, slurm, of_run = divide(argv, parser)
    args = parse(
        parser,
        own,
        gpus=Range(1, 100_000),
        sequence_length=Range(64, 1_000_000),
        gpus_per_node=Range(1, 1000),
        network_gbit=Range(above=0, maximum=1_000_000),
    )
    _check_nodes(args.gpus, args.gpus_per_node)
    if args.shards and args.sequence_length:
        raise UserError("--sequence-length: shards have their own; give it or --shards")
    from clinical_pretrain.config.command_line import load_config
    from clinical_pretrain.estimate.cards import card_named
    from clinical_pretrain.estimate.speed import Network
    from clinical_pretrain.observe import plan as planning
    from clinical_pretrain.observe.plan_scaling import draw
    from clinical_pretrain.observe.plot import check_picture

    card, network = card_named(args.gpu), Network(args.gpus_per_node, args.network_gbit)
    config, _ = load_config([*of_run, *slurm], needs_file=True)
    shards, measured, plot = (Path(path) if path else None for path in (args.shards, args.measured, args.plot))
    if plot:
        check_picture(plot, "--plot")
    asked = planning.Asked(config, card, args.gpus, network, args.sequence_length or 4096, shards, measured)
    made = planning.make_plan(asked)
    for line in planning.report(made):
        print(line if line.startswith(planning.OPTIONS) else wrapped(line, 12 if line[10:12] == "  " else 4))
    if plot:
        draw(made.scaling, plot)
        print(f"{plot}: drawn")
    return report(args, planning.facts(made))


def _check_nodes(gpus: int, gpus_per_node: int) -> None:
    """Refuse GPUs that don't fill their nodes: all nodes of a run have as many.

    Raises:
        UserError: it says which numbers would.
    """
    if gpus <= gpus_per_node or gpus % gpus_per_node == 0:
        return
    fewer = gpus // gpus_per_node * gpus_per_node
    divisor = max(count for count in range(1, gpus_per_node) if gpus % count == 0)
    raise UserError(
        f"--gpus {gpus} don't fill nodes of --gpus-per-node {gpus_per_node}: give {fewer:,} or "
        f"{fewer + gpus_per_node:,} GPUs, or --gpus-per-node {divisor}"
    )
