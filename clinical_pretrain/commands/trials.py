"""Commands that try the whole project on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinical_pretrain.commands.options import add_notes_options, divide, make_parser, notes_paths, parse, report
from clinical_pretrain.resources import find_config
from tokenizer_tools.errors import UserError
from tokenizer_tools.ranges import Range


def demo(argv: Sequence[str]) -> dict[str, Any]:
    """Run the whole pipeline on this machine's CPU: notes, shards, training, export."""
    from clinical_pretrain.commands.demo import run_demo
    from tokenizer_tools.corpus.input_options import InputOptions
    from tokenizer_tools.corpus.split_patients import SplitRule

    parser = make_parser("demo", demo.__doc__)
    parser.add_argument("--out", help="folder for all output (default: demo, or demo-NAME of your notes)")
    input_arguments = divide(argv, parser)[2]
    add_notes_options(parser)
    parser.add_class_arguments(SplitRule, "split")
    args = parse(parser, argv)
    notes, reading = notes_paths(args), parser.settings(InputOptions, args)
    options = {"notes": notes, "reading": reading, "split": parser.instantiate(args).split}
    named = notes or ([Path(reading.sources)] if reading.sources else [])
    out = args.out or (f"demo-{named[0].name.split('.')[0]}" if named else "demo")
    return report(args, run_demo(Path(out), options, input_arguments))


def chaos(argv: Sequence[str]) -> dict[str, Any]:
    """Train under random faults, resume after each, and compare with a run without faults (on synthetic notes)."""
    parser = make_parser("chaos", chaos.__doc__)
    parser.add_argument("--config", default="configs/demo_cpu.yaml", help="a run that is small enough for a CPU")
    parser.add_argument("--out", default="chaos", help="new folder for all output")
    parser.add_argument("--faults", type=int, default=50, help="number of faults; each takes about 15 s")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random faults")
    parser.add_argument("--ranks", type=int, default=2, help="number of ranks")
    parser.add_argument("--elastic", action="store_true", help="another number of ranks and ZeRO stage at each start")
    args = parse(parser, argv, faults=Range(1, 1_000_000), ranks=Range(1, 1000), seed=Range(0, 2**63 - 1))
    config = find_config(args.config)
    from clinical_pretrain.commands import chaos as trial

    result = trial.chaos(config, Path(args.out), args.faults, args.seed, args.ranks, args.elastic)
    print("\n".join(["", *trial.table(result)]))
    report(args, result)
    if result["survived"] < result["faults"] or not result["agrees"]:
        raise UserError(f"the run with faults didn't recover, or differs from the one without; see {args.out}/log.txt")
    return result
