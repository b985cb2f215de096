"""The `clinical-pretrain` command. Each subcommand imports what it needs when it is called."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from clinical_pretrain.commands import completion
from clinical_pretrain.commands.run import run
from clinical_pretrain.config.command_line import one_line, version
from clinical_pretrain.config.fields import describe_type
from clinical_pretrain.config.other_names import refuse_unknown
from clinical_pretrain.config.reading import expand_home
from clinical_pretrain.console import make_output_lenient
from clinical_pretrain.resources import find_config
from tokenizer_tools.command_line import typed
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import write_report
from tokenizer_tools.manifest import MANIFEST_NAME
from tokenizer_tools.ranges import Range


def _add_notes_options(parser: Any, required: bool = True) -> None:
    """Add the options of all commands that read notes, but --split."""
    from tokenizer_tools.corpus.read_notes import InputOptions

    parser.add_argument(
        "--notes",
        nargs="+",
        required=required,
        help="CSV, JSONL or Parquet files, gzipped or not, or folders of files of one kind (.txt: a note in each)",
    )
    parser.add_settings(InputOptions)


def _notes(args: Any) -> list[Path]:
    notes = args.notes or []
    if not all(path.strip() for path in notes):
        raise UserError("--notes: an empty name; name a file or a folder")
    return [Path(path) for path in notes]


def _shards_parser(command: str, description: str | None) -> Any:
    from tokenizer_tools.shards.settings import BuildOptions, ShardSettings

    parser = _parser(command, description)
    _add_notes_options(parser)
    parser.add_argument("--tokenizer", required=True, help="tokenizer folder or Hub id, usually the base model's")
    parser.add_argument("--out", required=True, help="shard folder to create, or to resume an earlier build in")
    parser.add_settings(ShardSettings, skip={"reading"})
    parser.add_settings(BuildOptions, skip={"stage", "share"} if command == "submit-shards" else None)
    return parser


def _shard_settings(parser: Any, args: Any) -> Any:
    from tokenizer_tools.corpus.read_notes import InputOptions
    from tokenizer_tools.shards.settings import ShardSettings

    return parser.settings(ShardSettings, args, reading=parser.settings(InputOptions, args))


def build_shards(argv: Sequence[str]) -> dict[str, Any]:
    """Turn clinical notes into tokenised shards for pretraining."""
    from tokenizer_tools.shards import report
    from tokenizer_tools.shards.build import build_shards as build
    from tokenizer_tools.shards.settings import BuildOptions

    parser = _shards_parser("build-shards", build_shards.__doc__)
    args = _parse(parser, argv)
    out = Path(args.out)
    already_built = (out / MANIFEST_NAME).exists()
    options = parser.settings(BuildOptions, args)
    manifest = build(_notes(args), args.tokenizer, out, _shard_settings(parser, args), options)
    if manifest is None:
        print(f"{out}: stage {args.stage}{f' {args.share}' if args.stage == 'pack' else ''} is done")
        return _report(args, {"stage": args.stage})
    print("\n".join(report.describe(manifest, out, already_built)))
    return _report(args, report.summarise(manifest))


def make_notes(argv: Sequence[str]) -> dict[str, Any]:
    """Make synthetic notes in the form of MIMIC-III's NOTEEVENTS, to try things with."""
    from tokenizer_tools.corpus import synthetic_notes

    parser = _parser("make-notes", make_notes.__doc__)
    parser.add_argument("--out", required=True, help="CSV or CSV.GZ file to make")
    parser.add_argument("--patients", type=int, default=400, help="how many patients")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other notes")
    args = _parse(parser, argv, patients=Range(1, 10_000_000), seed=Range(0, 2**63 - 1))
    counts = synthetic_notes.make_notes(Path(args.out), patients=args.patients, seed=args.seed)
    print(f"{args.out}: " + ", ".join(f"{value:,} {name}" for name, value in counts.items()))
    return _report(args, dict(counts))


def train_tokenizer(argv: Sequence[str]) -> dict[str, Any]:
    """Train a byte-level BPE tokenizer on notes, for a model that is trained from scratch."""
    from tokenizer_tools.corpus.read_notes import InputOptions
    from tokenizer_tools.tokenizer import train as trainer

    parser = _parser("train-tokenizer", train_tokenizer.__doc__)
    _add_notes_options(parser)
    parser.add_argument("--out", required=True, help="tokenizer folder to create")
    parser.add_settings(trainer.TokenizerSettings, skip={"reading"})
    args = _parse(parser, argv)
    settings = parser.settings(trainer.TokenizerSettings, args, reading=parser.settings(InputOptions, args))
    result = trainer.train_tokenizer(_notes(args), Path(args.out), settings)
    print(f"{args.out}: {result['vocab_size']:,} entries, from {result['notes']:,} notes of the training split")
    return _report(args, result)


def export(argv: Sequence[str]) -> dict[str, Any]:
    """Make a Hugging Face folder of a run's checkpoint, and see that it gives the same logits."""
    parser = _parser("export", export.__doc__)
    parser.add_argument("run", help="run folder, such as runs/NAME")
    parser.add_argument("--out", required=True, help="folder to make")
    parser.add_argument("--step", help="which checkpoint: a number, or best: of the lowest validation loss (default: "
                                       "the newest)")  # fmt: skip
    args = _parse(parser, argv)
    from clinical_pretrain.observe.status import no_run

    if not Path(args.run, "run.json").exists():  # before the seconds that PyTorch takes
        raise no_run(Path(args.run))
    step = str(args.step or "")
    if step not in ("", "best") and not step.isdecimal():
        raise UserError(f"--step {step}: must be a number, or best")
    from clinical_pretrain.release import export as exporting

    result = exporting.export(Path(args.run), Path(args.out), int(step) if step.isdecimal() else step or None)
    print(
        f"{args.out}: step {result['step']:,} of {args.run}; reloaded with plain transformers, "
        f"logits differ by at most "
        f"{result['max_logit_difference']:.1e}"
    )
    if result["kept"]:
        print(f"left as they are, not made by export: {', '.join(result['kept'])}")
    print(f"next: {typed()} push {shlex.quote(args.out)} --repo-id YOUR_NAME/MODEL")
    return _report(args, result)


def push(argv: Sequence[str]) -> dict[str, Any]:
    """Put an exported model on the Hugging Face Hub, privately unless told otherwise."""
    from clinical_pretrain.release import push as hub

    parser = _parser("push", push.__doc__)
    parser.add_argument("model", help="folder made by export")
    parser.add_argument("--repo-id", required=True, help="org/name on the Hub")
    parser.add_argument("--private", type=bool, default=True, help="false: everybody may see it")
    parser.add_argument("--license", help="licence in the model card that is made (default: other)")
    parser.add_argument("--revision", help="branch to push to")
    parser.add_argument("--dry-run", action="store_true", help="say what would be pushed, and don't")
    args = _parse(parser, argv)
    result = hub.push(
        Path(args.model),
        args.repo_id,
        private=args.private,
        license=args.license,
        revision=args.revision,
        dry_run=args.dry_run,
    )
    return _report(args, result)


def plot(argv: Sequence[str]) -> dict[str, Any]:
    """Draw a run's training and validation loss to a PNG."""
    parser = _parser("plot", plot.__doc__)
    parser.add_argument("run", help="run folder, such as runs/NAME")
    parser.add_argument("--out", help="PNG file (default: loss.png in the run folder)")
    args = _parse(parser, argv)
    from clinical_pretrain.observe.plot import plot_loss

    result = plot_loss(Path(args.run), Path(args.out) if args.out else None)
    print(f"{result['picture']}: {result['train_points']} training and {result['validation_points']} validation losses")
    return _report(args, result)


def demo(argv: Sequence[str]) -> dict[str, Any]:
    """Run the whole job on this machine's CPU: notes, shards, training, export."""
    from clinical_pretrain.commands.demo import run_demo
    from tokenizer_tools.corpus.read_notes import InputOptions
    from tokenizer_tools.corpus.split_patients import SplitRule

    parser = _parser("demo", demo.__doc__)
    parser.add_argument("--out", help="folder for everything that is made (default: demo, or demo-NAME of your notes)")
    input_arguments = _divide(argv, parser)[2]
    _add_notes_options(parser, required=False)
    parser.add_class_arguments(SplitRule, "split")
    args = _parse(parser, argv)
    notes = _notes(args)
    options = {"notes": notes, "reading": parser.settings(InputOptions, args), "split": parser.instantiate(args).split}
    out = args.out or (f"demo-{notes[0].name.split('.')[0]}" if notes else "demo")
    return _report(args, run_demo(Path(out), options, input_arguments))


def chaos(argv: Sequence[str]) -> dict[str, Any]:
    """Train under random faults, resume after each, and compare with the same run left alone (on notes of its own)."""
    parser = _parser("chaos", chaos.__doc__)
    parser.add_argument("--config", default="configs/demo_cpu.yaml", help="a run that is small enough for a CPU")
    parser.add_argument("--out", default="chaos", help="new folder for everything that is made")
    parser.add_argument("--faults", type=int, default=50, help="how many faults; each takes about 15 s")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other faults")
    parser.add_argument("--ranks", type=int, default=2, help="processes of a run")
    parser.add_argument("--elastic", action="store_true", help="other numbers of ranks and ZeRO stages at each start")
    args = _parse(parser, argv, faults=Range(1, 1_000_000), ranks=Range(1, 1000), seed=Range(0, 2**63 - 1))
    config = find_config(args.config)
    from clinical_pretrain.commands import chaos as harm

    result = harm.chaos(config, Path(args.out), args.faults, args.seed, args.ranks, args.elastic)
    print("\n".join(["", *harm.table(result)]))
    _report(args, result)
    if result["survived"] < result["faults"] or not result["agrees"]:
        raise UserError(f"the run didn't come through as it should; see {args.out}/log.txt")
    return result


def submit(argv: Sequence[str]) -> dict[str, Any]:
    """Submit a training to SLURM, or a sweep of them; the words are those of run.py."""
    parser = _slurm_parser("submit", submit.__doc__)
    parser.add_argument("--sweep", nargs="+", default=[], metavar="KEY=A,B,C", help="a run for each value: an array")
    parser.add_argument(
        "--export", metavar="FOLDER", help="once it has ended well, export the model, in a job of its own"
    )
    mine, slurm_words, words = _divide(argv, parser)
    args = _parse(parser, mine)
    from clinical_pretrain.cluster import submit as launch

    slurm = launch.site_config(args.site, slurm_words)
    if words and not words[0].startswith("-"):  # as sbatch slurm/pretrain.sh takes it
        words = ["--config", *words]
    runs = launch.trainings(words, args.sweep)
    export_to = Path(args.export) if args.export else None
    if export_to:
        from clinical_pretrain.release.export import check_out

        for run, out in zip(runs, launch.export_folders(runs, export_to), strict=True):
            check_out(out, run.folder)
    jobs = launch.submit(runs, slurm, export_to, args.dry_run)
    if args.dry_run:
        print(jobs[0]["script"])
        for number, job in enumerate(jobs):
            print(f"# {f'task {number}' if len(jobs) > 1 else 'each rank'} runs: {job['command']}")
            if "export_command" in job:
                print(f"# then, in a job of its own: {job['export_command']}")
        return _report(args, {"jobs": jobs})
    ranks = f"{slurm.nodes} x {slurm.ranks_per_node} ranks, up to {slurm.time} each"
    for job in jobs:
        export_job = f"; then job {job['export_job']} exports it" if "export_job" in job else ""
        print(f"job {job['job']}: {job['run_dir']}, {ranks}{export_job}; log: {job['log']}")
    folder = Path(jobs[0]["run_dir"]) if len(jobs) == 1 else Path(jobs[0]["run_dir"]).parent
    print(f"next: {typed()} status {shlex.quote(str(folder))}")
    return _report(args, {"jobs": jobs})


def submit_shards(argv: Sequence[str]) -> dict[str, Any]:
    """Build shards on SLURM: a job reads, an array packs, a job finishes; the words are those of build-shards."""
    parser = _slurm_parser("submit-shards", submit_shards.__doc__)
    mine, slurm_words, words = _divide(argv, parser)
    args = _parse(parser, mine)
    from clinical_pretrain.cluster import submit as launch
    from tokenizer_tools.corpus.input_files import find_inputs

    slurm = launch.site_config(args.site, slurm_words)
    shards_parser = _shards_parser("submit-shards", None)
    building = _parse(shards_parser, words)
    settings = _shard_settings(shards_parser, building)
    find_inputs(_notes(building), settings.reading.files)
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
    return _report(args, result)


def status(argv: Sequence[str]) -> dict[str, Any]:
    """Say how runs stand: state, step, loss, time left, restarts, why they last stopped."""
    parser = _parser("status", status.__doc__)
    parser.add_argument("runs", nargs="*", default=["runs"], help="run folders, or folders of them (default: runs)")
    args = _parse(parser, argv)
    from clinical_pretrain.observe import status as standing

    found = [standing.status(run) for run in standing.runs_in([Path(path) for path in args.runs])]
    print("\n".join(standing.table(found)))
    return _report(args, {"runs": found})


COMMANDS: dict[str, Callable[[Sequence[str]], dict[str, Any]]] = {
    "build-shards": build_shards,
    "run": run,
    "export": export,
    "push": push,
    "plot": plot,
    "submit": submit,
    "submit-shards": submit_shards,
    "status": status,
    "demo": demo,
    "chaos": chaos,
    "make-notes": make_notes,
    "train-tokenizer": train_tokenizer,
}


STOPPED = "stopped; the same command goes on from here"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand. A user's mistake ends in one line and exit code 2."""
    os.umask(0o077)
    make_output_lenient()
    if argv is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    argv = [expand_home(word) for word in (sys.argv[1:] if argv is None else argv)]
    try:
        if completion.is_asked():
            completion.complete(COMMANDS)
        if not argv or argv[0] in ("-h", "--help"):
            print(_overview())
            return 0
        if argv[0] == "--version":
            print(version())
            return 0
        if argv[0] not in COMMANDS:
            refuse_unknown([argv[0]], list(COMMANDS))
        COMMANDS[argv[0]](argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return 130
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but amid an import end at once: libraries lose it there, or make an error of their own
    of it."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, f"{STOPPED}\n".encode())
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def _overview() -> str:
    lines = [
        "usage: clinical-pretrain COMMAND [options]      (clinical-pretrain COMMAND --help says more; --version)",
        "",
        "Continued masked-LM pretraining of Longformer and BigBird on clinical notes.",
        "",
    ]
    lines += [f"  {name:<16} {(command.__doc__ or '').rstrip('.')}" for name, command in COMMANDS.items()]
    lines += [
        "",
        "The whole way:",
        f"  {typed()} build-shards --notes NOTEEVENTS.csv.gz --tokenizer allenai/longformer-base-4096 --out shards/",
        f"  {typed()} run --config configs/clinical_longformer.yaml --data.shards shards/",
        f"  {typed()} export runs/clinical_longformer --out model/",
        f"  {typed()} push model/ --repo-id YOUR_NAME/MODEL",
    ]
    return "\n".join(lines)


def _parser(command: str, description: str | None) -> Any:
    import jsonargparse

    from clinical_pretrain.commands.options import CommandParser

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = CommandParser(
        prog=f"clinical-pretrain {command}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--json", help="also write what is reported to this JSON file")
    return parser


def _slurm_parser(command: str, description: str | None) -> Any:
    from clinical_pretrain.cluster.submit import SITE
    from clinical_pretrain.config.slurm import SlurmConfig

    parser = _parser(command, description)
    parser.add_argument("--site", default=SITE, help="YAML with what is particular to the cluster")
    parser.add_argument("--dry-run", action="store_true", help="print the sbatch script, and submit nothing")
    parser.add_class_arguments(SlurmConfig, "slurm")
    return parser


def _divide(argv: Sequence[str], parser: Any) -> tuple[list[str], list[str], list[str]]:
    """The parser's own words, those of --slurm, and all others, which are another command's."""
    own = [option for action in parser._actions for option in action.option_strings]
    mine: list[str] = []
    slurm: list[str] = []
    others: list[str] = []
    target = others
    for word in argv:
        if word.startswith("-"):
            name = word.split("=")[0]
            target = slurm if name.startswith("--slurm.") else mine if name in own else others
        target.append(word)
    return mine, slurm, others


def _parse(parser: Any, argv: Sequence[str], **ranges: Range) -> Any:
    """The options' values; `ranges` says of numbers, by name, what they may be."""
    import jsonargparse

    given = [argument.split("=")[0] for argument in argv if argument.startswith("--")]
    refuse_unknown(given, [option for action in parser._actions for option in action.option_strings])
    names = {action.dest: (action.option_strings or [action.dest])[-1] for action in parser._actions}
    try:
        args = parser.parse_args(list(argv))
    except jsonargparse.ArgumentError as error:
        raise UserError(f"{_plain(one_line(str(error)), names)} (see {parser.prog} --help)") from None
    if empty := [names[name] for name, value in vars(args).items() if value == ""]:
        raise UserError(f"{', '.join(empty)}: empty; is a variable of the shell unset?")
    wrong = {name: ranges[name].fault(getattr(args, name)) for name in ranges}
    if faults := [f"{names[name]} is {getattr(args, name)}, {fault}" for name, fault in wrong.items() if fault]:
        raise UserError("; ".join(faults))
    return args


def _plain(message: str, names: dict[str, str]) -> str:
    """Rewrite a message of jsonargparse in terms of the command line. `names` maps keys to options."""
    if missing := re.fullmatch(r"the following arguments are required: (.*)", message):
        return f"missing: {', '.join(names.get(key, key) for key in missing[1].split(', '))}"
    key = re.search(r'^Parser key "([^"]+)"', message)
    value = re.search(r"(?:Got|Given) value: ?(.*)$", message)
    if key is None or value is None:
        return message
    if choices := re.search(r"Literal\[(.*?)\]", message):
        wanted = "one of " + choices[1].replace("'", "")
    elif kind := re.search(r"<class '(int|float|bool|str)'>", message):
        wanted = describe_type({"int": int, "float": float, "bool": bool, "str": str}[kind[1]])
    else:
        return message
    return f"{names.get(key[1], key[1])} is {value[1] or 'empty'}, must be {wanted}"


def _report(args: Any, result: dict[str, Any]) -> dict[str, Any]:
    if args.json:
        write_report(args.json, result)
    return result
