"""Commands that submit jobs to SLURM: what they print. What they check and submit is in cluster/submit.py."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinical_pretrain.commands.corpus import shard_settings, shards_parser
from clinical_pretrain.commands.options import CommandParser, divide, make_parser, notes_paths, parse, report
from tokenizer_tools.command_line import typed
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    import jsonargparse

    from clinical_pretrain.cluster.submit import PlannedRun
    from clinical_pretrain.config.slurm import SlurmConfig


def submit(argv: Sequence[str]) -> dict[str, Any]:
    """Submit a training to SLURM, or a sweep of trainings, with the arguments of run.py."""
    parser = slurm_parser("submit", submit.__doc__)
    parser.add_argument(
        "--sweep", nargs="+", default=[], metavar="KEY=A,B,C", help="submit an array with one run per value"
    )
    parser.add_argument("--export", metavar="FOLDER", help="after the training, export the model in a job of its own")
    parser.add_argument("--doctor", action="store_true", help="submit no training, but a check of all its nodes")
    own, slurm_arguments, arguments = divide(argv, parser)
    args = parse(parser, own)
    from clinical_pretrain.cluster import submit as launch

    slurm = launch.site_config(args.site, slurm_arguments)
    if arguments and not arguments[0].startswith("-"):  # as for sbatch slurm/pretrain.sh
        arguments = ["--config", *arguments]
    runs = launch.expand_sweep(arguments, args.sweep)
    if args.doctor:
        return report(args, _submit_doctor(runs, slurm, args))
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
                print(f"# then, in another job: {job['export_command']}")
        return report(args, {"jobs": jobs})
    ranks = f"{slurm.nodes} x {slurm.ranks_per_node} ranks, up to {slurm.time} each"
    for job in jobs:
        export_job = f"; then job {job['export_job']} exports it" if "export_job" in job else ""
        print(f"job {job['job']}: {job['run_dir']}, {ranks}{export_job}; log: {job['log']}")
    folder = Path(jobs[0]["run_dir"]) if len(jobs) == 1 else Path(jobs[0]["run_dir"]).parent
    print(f"next: {typed()} status {shlex.quote(str(folder))}")
    return report(args, {"jobs": jobs})


def submit_shards(argv: Sequence[str]) -> dict[str, Any]:
    """Build shards on SLURM: a job prepares, an array tokenises, a job finishes; with the arguments of build-shards."""
    parser = slurm_parser("submit-shards", submit_shards.__doc__)
    own, slurm_arguments, arguments = divide(argv, parser)
    args = parse(parser, own)
    from clinical_pretrain.cluster import submit as launch
    from clinical_pretrain.cluster.checks import check_is_local
    from tokenizer_tools.shards.build import open_inputs

    slurm = launch.site_config(args.site, slurm_arguments)
    building_parser = shards_parser("submit-shards", None)
    building = parse(building_parser, arguments)
    settings = shard_settings(building_parser, building)
    open_inputs(notes_paths(building), settings)
    settings.split.lists.read()
    check_is_local(building.tokenizer)
    result = launch.submit_shards(arguments, Path(building.out), slurm, args.dry_run)
    if args.dry_run:
        for number, (stage, job) in enumerate(result.items(), start=1):
            which = "its first task" if stage == "scan" else "it"
            print(f"# job {number} of 3, {stage}:\n{job['script']}\n# {which} runs: {job['command']}\n")
    else:
        print(
            f"jobs {result['prepare']} (prepares), {result['scan']} (array of {slurm.tasks}, tokenises), "
            f"{result['finish']} (finishes) build {building.out}; logs: {result['logs']}\n"
            f"next: squeue --jobs {result['prepare']},{result['scan']},{result['finish']}"
        )
    return report(args, result)


def _submit_doctor(runs: Sequence[PlannedRun], slurm: SlurmConfig, args: jsonargparse.Namespace) -> dict[str, Any]:
    from clinical_pretrain.cluster.submit_doctor import submit_doctor

    if len(runs) > 1 or args.export:
        raise UserError("--doctor checks the nodes for one run; leave out --sweep and --export")
    job = submit_doctor(runs[0], slurm, args.dry_run)
    if args.dry_run:
        print(f"{job['script']}\n# each rank runs: {job['command']}")
    else:
        print(f"job {job['job']} checks {slurm.nodes} x {slurm.ranks_per_node} ranks; what it finds: {job['log']}")
        print(f"next, when it has ended (squeue --jobs {job['job']}): cat {shlex.quote(job['log'])}")
    return job


def slurm_parser(command: str, description: str | None) -> CommandParser:
    """A parser of a command that submits jobs."""
    parser = make_parser(command, description)
    parser.add_argument("--dry-run", action="store_true", help="print the sbatch script without submitting it")
    add_slurm_options(parser)
    return parser


def add_slurm_options(parser: CommandParser) -> None:
    """Add --site and --slurm.KEY."""
    from clinical_pretrain.cluster.submit import SITE
    from clinical_pretrain.config.slurm import SlurmConfig

    parser.add_argument("--site", default=SITE, help="YAML file with the settings of your cluster")
    parser.add_class_arguments(SlurmConfig, "slurm")
