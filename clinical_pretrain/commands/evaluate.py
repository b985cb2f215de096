"""Commands that fine-tune and score models on tasks: their options, and what they print. The work is in tasks/."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinical_pretrain.commands.cluster import slurm_parser
from clinical_pretrain.commands.options import CommandParser, data_root, divide, make_parser, parse, report
from tokenizer_tools.command_line import typed
from tokenizer_tools.errors import UserError
from tokenizer_tools.ranges import Range

if TYPE_CHECKING:
    import jsonargparse

    from clinical_pretrain.tasks.trials import Evaluation, NamedModel, TaskFolder

MAX_SEEDS = 1000
RATES = "--learning-rates"


def finetune(argv: Sequence[str]) -> dict[str, Any]:
    """Fine-tune a model on one task with several seeds, and score it on the task's test split."""
    parser = make_parser("finetune", finetune.__doc__)
    parser.add_argument("--task", required=True, help="a name that `tasks` lists, or the YAML file of your own task")
    parser.add_argument("--data", required=True, help="folder of the task's data")
    parser.add_argument("--model", required=True, help="folder or Hub id of any encoder, such as one made by export")
    parser.add_argument("--name", help="the model's name in the results (default: the last part of --model)")
    parser.add_argument("--shards", help="shards that the model was pretrained on: count the test patients and texts "
                        "in them")  # fmt: skip
    parser.add_argument("--seed", type=int, help="only this seed, as a task of submit-evaluate does (default: all)")
    _add_common_options(parser)
    args = _parse(parser, argv)
    from clinical_pretrain.tasks.catalogue import TASKS, find_task
    from clinical_pretrain.tasks.evaluation import evaluate_one
    from clinical_pretrain.tasks.results import check_name
    from clinical_pretrain.tasks.trials import TaskFolder

    name = args.name or Path(args.model).absolute().name
    check_name(name, "--name")
    task = find_task(args.task)
    file = None if args.task in TASKS else str(Path(args.task).absolute())
    place = TaskFolder(task, Path(args.data), file)
    row = evaluate_one(_evaluation(parser, args, [place], [_named_model(name, args.model, args.shards)]))
    print(f"next: {typed()} table {shlex.quote(args.out)}")
    return report(args, row)


def evaluate(argv: Sequence[str]) -> dict[str, Any]:
    """Fine-tune and score models on a suite of tasks; what is in the results folder already isn't done again."""
    parser = evaluation_parser("evaluate", evaluate.__doc__)
    args = _parse(parser, argv)
    evaluation = read_evaluation(parser, args)
    from clinical_pretrain.tasks import evaluation as evaluating

    found = evaluating.evaluate(evaluation)
    print(f"{args.out}: {found.made} trials run, {found.found} done before, {len(found.missing)} left out")
    if found.rows:
        print(f"next: {typed()} table {shlex.quote(args.out)}")
    facts = {"results": found.rows, "run": found.made, "done_before": found.found, "missing": found.missing}
    report(args, facts)
    _refuse_missing(found.missing)
    return facts


def submit_evaluate(argv: Sequence[str]) -> dict[str, Any]:
    """Submit an evaluation to SLURM, an array with a task per trial; with the arguments of evaluate."""
    parser = slurm_parser("submit-evaluate", submit_evaluate.__doc__)
    own, slurm_arguments, arguments = divide(argv, parser)
    args = parse(parser, own)
    from clinical_pretrain.cluster.submit import site_config
    from clinical_pretrain.cluster.submit_evaluation import submit_evaluation

    slurm = site_config(args.site, slurm_arguments)
    evaluation_options = evaluation_parser("submit-evaluate", None)
    evaluating = _parse(evaluation_options, arguments)
    found = submit_evaluation(read_evaluation(evaluation_options, evaluating), slurm, args.dry_run)
    job = found.jobs[0].split("_")[0] if found.jobs else None
    if args.dry_run and found.commands:
        print(found.script)
        for number, command in enumerate(found.commands):
            print(f"# {f'task {number}' if len(found.commands) > 1 else 'it'} runs: {command}")
    elif found.jobs:
        print(f"job {job}: {len(found.jobs)} tasks, up to {slurm.time} each; logs: {found.logs}")
    counts = f"{len(found.commands)} trials to run, {found.done} done before, {found.queued} queued or running already"
    print(f"{evaluating.out}: {counts}, {len(found.missing)} left out")
    print(f"next: squeue --jobs {job}" if job else f"next: {typed()} table {shlex.quote(evaluating.out)}")
    facts = {"script": found.script, "commands": found.commands, "jobs": found.jobs, "done_before": found.done,
             "queued": found.queued, "missing": found.missing}  # fmt: skip
    report(args, facts)
    _refuse_missing(found.missing)
    return facts


def evaluation_parser(command: str, description: str | None) -> CommandParser:
    """The options of evaluate."""
    parser = make_parser(command, description)
    parser.add_argument("--suite", required=True, help="paper, open, or names and YAML files of tasks with commas")
    parser.add_argument("--data-root", required=True, help="folder with a folder of data for each task, by its name")
    parser.add_argument("--models", required=True, metavar="NAME=MODEL,...", help="the table's rows: a name, and a "
                        "folder or Hub id, of each")  # fmt: skip
    parser.add_argument("--shards", metavar="NAME=FOLDER,...", help="shards that a model was pretrained on: count the "
                        "test patients and texts in them")  # fmt: skip
    _add_common_options(parser)
    return parser


def read_evaluation(parser: CommandParser, args: jsonargparse.Namespace) -> Evaluation:
    """What the options of evaluate ask for.

    Raises:
        UserError: a name is unknown, given twice, or can't be a folder's; or there is no --data-root.
    """
    models = named_models(args.models, args.shards or "")
    from clinical_pretrain.tasks.trials import find_places

    evaluation = _evaluation(parser, args, find_places(args.suite, Path(args.data_root)), models)
    data_root(args.data_root)
    return evaluation


def named_models(models: str, shards: str) -> list[NamedModel]:
    """Read `NAME=MODEL,...` and the shards of some of them, `NAME=FOLDER,...`.

    Raises:
        UserError: one hasn't this form, a name is unknown, given twice, or can't be a folder's, or shards aren't those
            that the model was pretrained on.
    """
    from clinical_pretrain.tasks.results import check_name

    paths, folders = _pairs("--models", models), _pairs("--shards", shards)
    if not paths:
        raise UserError("--models names none; write NAME=MODEL of each, as in ours=model/")
    for name in paths:
        check_name(name, "--models")
    if unknown := sorted(folders.keys() - paths.keys()):
        raise UserError(f"--shards: {unknown[0]} is no name of --models, which has {', '.join(paths)}")
    return [_named_model(name, path, folders.get(name)) for name, path in paths.items()]


def _named_model(name: str, path: str, shards: str | None) -> NamedModel:
    """A model with its shards. An export says which it was pretrained on; of others' models nobody knows."""
    from clinical_pretrain.release.facts_file import FACTS_NAME, read_facts
    from clinical_pretrain.tasks.trials import NamedModel
    from tokenizer_tools.manifest import Manifest

    folder = None if shards is None else Path(shards)
    if folder is not None and (Path(path) / FACTS_NAME).is_file():
        own = [data["fingerprint"] for data in read_facts(Path(path))["data"]]
        if (given := Manifest.load(folder).fingerprint) not in own:
            raise UserError(
                f"--shards {shards}: fingerprint {given[:12]}, but {path} was pretrained on {own[-1][:12]}; name those "
                "shards, or none"
            )
    return NamedModel(name, path, folder)


def _pairs(option: str, text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for entry in filter(None, text.split(",")):
        name, _, value = entry.partition("=")
        if not name or not value:
            raise UserError(
                f"{option} {entry}: write a model's name and a folder, as in ours={option.removeprefix('--')}/"
            )
        if name in pairs:
            raise UserError(f"{option}: {name} is given twice; each needs a name of its own")
        pairs[name] = value
    return pairs


def _add_common_options(parser: CommandParser) -> None:
    from clinical_pretrain.tasks.finetune_settings import FinetuneSettings

    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--out", default="results", help="folder of results, also those of other evaluations")
    parser.add_argument("--patient-key", help="file with the key of build-shards, for --shards (default: your own)")
    parser.add_settings(FinetuneSettings)


def _parse(parser: CommandParser, argv: Sequence[str]) -> jsonargparse.Namespace:
    """Parse options. Learning rates may be written as other lists are: with commas, without brackets."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] == RATES:
            word = _in_brackets(word)
        elif word.startswith(f"{RATES}="):
            word = f"{RATES}={_in_brackets(word.removeprefix(f'{RATES}='))}"
        words.append(word)
    return parse(parser, words, seeds=Range(1, MAX_SEEDS))


def _in_brackets(text: str) -> str:
    return text if text.startswith("[") else f"[{text}]"


def _evaluation(
    parser: CommandParser, args: jsonargparse.Namespace, tasks: Sequence[TaskFolder], models: Sequence[NamedModel]
) -> Evaluation:
    from clinical_pretrain.tasks.finetune_settings import FinetuneSettings
    from clinical_pretrain.tasks.trials import Evaluation

    seed = args.get("seed")
    if seed is not None and (fault := Range(0, MAX_SEEDS - 1).fault(seed)):
        raise UserError(f"--seed is {seed}, {fault}")
    seeds = range(args.seeds) if seed is None else [seed]
    key = Path(args.patient_key) if args.patient_key else None
    return Evaluation(tasks, models, seeds, parser.settings(FinetuneSettings, args), Path(args.out), key)


def _refuse_missing(missing: Sequence[str]) -> None:
    """End with exit code 2 where something was left out, each of which has been said already."""
    if missing:
        raise UserError(f"{len(missing)} left out, as said above; mend that, and the same command does what is missing")
