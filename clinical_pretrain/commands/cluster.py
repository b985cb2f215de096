"""Commands that submit jobs to SLURM."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinical_pretrain.commands.corpus import shard_settings, shards_parser
from clinical_pretrain.commands.options import divide, make_parser, notes_paths, parse, report
from tokenizer_tools.command_line import typed


def submit(argv: Sequence[str]) -> dict[str, Any]:
    """Submit a training to SLURM, or a sweep of them; the words are those of run.py."""
    parser = slurm_parser("submit", submit.__doc__)
    parser.add_argument("--sweep", nargs="+", default=[], metavar="KEY=A,B,C", help="a run for each value: an array")
    parser.add_argument(
        "--export", metavar="FOLDER", help="once it has ended well, export the model, in a job of its own"
    )
    own, slurm_words, words = divide(argv, parser)
    args = parse(parser, own)
    from clinical_pretrain.cluster import submit as launch

    slurm = launch.site_config(args.site, slurm_words)
    if words and not words[0].startswith("-"):  # as sbatch slurm/pretrain.sh takes it
        words = ["--config", *words]
    runs = launch.expand_sweep(words, args.sweep)
    export_to = Path(args.export) if args.export else None
    if export_to:
        from clinical_pretrain.release.replace import check_out

        for run, out in zip(runs, launch.export_folders(runs, export_to), strict=True):
            check_out(out, run.folder)
    jobs = launch.submit(runs, slurm, export_to, args.dry_run)
    if args.dry_run:
        print(jobs[0]["script"])
        for number, job in enumerate(jobs):
            print(f"# {f'task {number}' if len(jobs) > 1 else 'each rank'} runs: {job['command']}")
            if "export_command" in job:
                print(f"# then, in a job of its own: {job['export_command']}")
        return report(args, {"jobs": jobs})
    ranks = f"{slurm.nodes} x {slurm.ranks_per_node} ranks, up to {slurm.time} each"
    for job in jobs:
        export_job = f"; then job {job['export_job']} exports it" if "export_job" in job else ""
        print(f"job {job['job']}: {job['run_dir']}, {ranks}{export_job}; log: {job['log']}")
    folder = Path(jobs[0]["run_dir"]) if len(jobs) == 1 else Path(jobs[0]["run_dir"]).parent
    print(f"next: {typed()} status {shlex.quote(str(folder))}")
    return report(args, {"jobs": jobs})


def submit_shards(argv: Sequence[str]) -> dict[str, Any]:
    """Build shards on SLURM: a job reads, an array packs, a job finishes; the words are those of build-shards."""
    parser = slurm_parser("submit-shards", submit_shards.__doc__)
    own, slurm_words, words = divide(argv, parser)
    args = parse(parser, own)
    from clinical_pretrain.cluster import submit as launch
    from tokenizer_tools.corpus.input_files import find_inputs

    slurm = launch.site_config(args.site, slurm_words)
    building_parser = shards_parser("submit-shards", None)
    building = parse(building_parser, words)
    settings = shard_settings(building_parser, building)
    find_inputs(notes_paths(building), settings.reading.files)
    launch.check_is_here(building.tokenizer)
    result = launch.submit_shards(words, Path(building.out), slurm, args.dry_run)
    if args.dry_run:
        print(result["script"])
    else:
        print(
            f"jobs {result['scan']} (reads), {result['pack']} (array of {slurm.tasks}, packs), {result['finish']} "
            f"(finishes) build {building.out}; logs: {result['logs']}\n"
            f"next: squeue --jobs {result['scan']},{result['pack']},{result['finish']}"
        )
    return report(args, result)


def slurm_parser(command: str, description: str | None) -> Any:
    from clinical_pretrain.cluster.submit import SITE
    from clinical_pretrain.config.slurm import SlurmConfig

    parser = make_parser(command, description)
    parser.add_argument("--site", default=SITE, help="YAML with what is particular to the cluster")
    parser.add_argument("--dry-run", action="store_true", help="print the sbatch script, and submit nothing")
    parser.add_class_arguments(SlurmConfig, "slurm")
    return parser
