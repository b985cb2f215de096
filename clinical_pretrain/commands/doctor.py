"""`clinical-pretrain doctor`: its options, and what it prints. The checks are in observe/doctor/."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clinical_pretrain.commands.cluster import add_slurm_options
from clinical_pretrain.commands.options import divide, make_parser, parse, report
from clinical_pretrain.commands.run import divide as divide_launcher
from tokenizer_tools.command_line import typed
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    from clinical_pretrain.config.slurm import SlurmConfig


def doctor(argv: Sequence[str]) -> dict[str, Any]:
    """Check what a run (--config FILE, as for run) needs on this machine or, under srun, on each node."""
    parser = make_parser("doctor", doctor.__doc__)
    add_slurm_options(parser)
    own, slurm_arguments, arguments = divide(argv, parser)
    args = parse(parser, own)
    launcher, arguments = divide_launcher(arguments)
    from clinical_pretrain.config.command_line import load_config
    from clinical_pretrain.observe.doctor.examine import Question, examine_here
    from clinical_pretrain.observe.doctor.findings import count, table
    from clinical_pretrain.observe.doctor.meeting import Place
    from clinical_pretrain.observe.doctor.nodes import examine_nodes

    config = load_config(arguments, needs_file=True)[0] if arguments else None
    place = Place.of_this_process()
    if place.has_launcher:
        found = examine_nodes(Question(config, tuple(launcher)), place)
    else:
        jobs = None if launcher else _jobs(args.site, slurm_arguments)
        found = examine_here(Question(config, tuple(launcher), jobs))
    if found is None:
        return {}
    if len(found.nodes) > 1:
        print(f"{len(found.nodes)} nodes: {', '.join(found.nodes[:8])}{' …' if len(found.nodes) > 8 else ''}")
    print("\n".join(table(found.shown())))
    result = report(args, found.to_dict())
    faults, warnings = count(found.shown(), "fault"), count(found.shown(), "warning")
    if faults:
        many = "fault" if faults == 1 else "faults"
        raise UserError(f"{faults} {many}: do what stands after the arrows, from the top, then type this command again")
    after = ["submit", *slurm_arguments] if slurm_arguments else ["run", *launcher]
    words = [*after, *arguments] if arguments else ["doctor", "--config", "CONFIG.yaml"]
    read = f"no fault, {warnings} warning{'s'[: warnings != 1]}" if warnings else "all is well"
    print(f"{read}; next: {typed()} {shlex.join(words)}")
    return result


def _jobs(site: str, overrides: Sequence[str]) -> SlurmConfig | str | None:
    """Settings of the jobs that are submitted from this machine, or the message that refuses their time limit; None
    where there are none.

    Raises:
        UserError: other settings are refused.
    """
    from clinical_pretrain.cluster.site_facts import slurm_answers
    from clinical_pretrain.cluster.submit import SITE, site_config
    from clinical_pretrain.slurm_environment import slurm_job

    if slurm_job() or not (overrides or site != SITE or slurm_answers()):
        return None
    try:
        return site_config(site, overrides)
    except UserError as error:
        if "longer than warning_seconds" not in str(error):
            raise
        return str(error)
