"""Commands on notes: shards and their verification, what cleaning does, descriptions of sources, synthetic notes."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinical_pretrain.commands.options import (
    CommandParser,
    add_notes_options,
    make_parser,
    notes_paths,
    notes_settings,
    parse,
    report,
)
from clinical_pretrain.config.other_names import refuse_unknown
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import MANIFEST_NAME, REPORT_NAMES, Manifest
from tokenizer_tools.ranges import Range

if TYPE_CHECKING:
    import jsonargparse

    from tokenizer_tools.shards.settings import BuildOptions, ShardSettings


def shards_parser(command: str, description: str | None) -> CommandParser:
    """The options of build-shards. submit-shards chooses stages and shares itself, and doesn't append."""
    from tokenizer_tools.shards.settings import BuildOptions, ShardSettings

    parser = make_parser(command, description)
    add_notes_options(parser)
    parser.add_argument(
        "--tokenizer",
        required=command == "submit-shards",
        help="tokenizer folder or Hub id, usually the base model's"
        + ("; required, but for --append" if command == "build-shards" else ""),
    )
    parser.add_argument("--out", required=True, help="shard folder to create, or to resume an earlier build in")
    if command == "build-shards":
        parser.add_argument(
            "--append",
            action="store_true",
            help="append the notes to the finished shards in --out, with the settings that these were built with",
        )
    parser.add_settings(ShardSettings, skip={"reading"})
    parser.add_settings(BuildOptions, skip={"stage", "share"} if command == "submit-shards" else None)
    return parser


def shard_settings(parser: CommandParser, args: jsonargparse.Namespace) -> ShardSettings:
    """The shard settings among parsed options."""
    from tokenizer_tools.shards.settings import ShardSettings

    settings = notes_settings(parser, ShardSettings, args)
    if not getattr(args, "append", False):  # which takes the earlier shards' own
        settings.refuse_without_effect()
    return settings


def build_shards(argv: Sequence[str]) -> dict[str, Any]:
    """Turn clinical notes into tokenised shards for pretraining."""
    from tokenizer_tools.shards.build import build_shards as build
    from tokenizer_tools.shards.settings import BuildOptions
    from tokenizer_tools.shards.summary import appended_lines, summarise, summary_lines

    appends = "--append" in argv
    parser = shards_parser("build-shards", build_shards.__doc__)
    args = parse(parser, argv)
    out = Path(args.out)
    before = Manifest.load(out) if (out / MANIFEST_NAME).exists() else None
    if args.tokenizer is None and not appends:
        theirs = f"; to append to the finished shards in {out}, add --append" if before else ""
        raise UserError(f"missing: --tokenizer (see {parser.prog} --help){theirs}")
    options = parser.settings(BuildOptions, args)
    if appends:
        given = {
            argument.split("=")[0].removeprefix("--").replace("-", "_") for argument in argv if argument[:2] == "--"
        }
        manifest: Manifest | None = _append(out, shard_settings(parser, args), given, args, options)
    else:
        manifest = build(notes_paths(args), args.tokenizer, out, shard_settings(parser, args), options)
    if manifest is None:
        print(f"{out}: stage {args.stage}{f' {args.share}' if args.stage == 'scan' else ''} is done")
        return report(args, {"stage": args.stage})
    if appends:
        is_same = before is not None and before.fingerprint == manifest.fingerprint
        lines = appended_lines(manifest, out, args.sources or ", ".join(args.notes), is_same)
    else:
        lines = summary_lines(manifest, out, before is not None)
    print("\n".join(lines))
    if (out / REPORT_NAMES[0]).exists():
        print(f"  {out / REPORT_NAMES[0]} says more, without any text of a note")
    return report(args, summarise(manifest))


def _append(
    out: Path, settings: ShardSettings, given: Collection[str], args: jsonargparse.Namespace, options: BuildOptions
) -> Manifest:
    """Append to finished shards, after a look at the settings that were given."""
    from tokenizer_tools.shards.append.append import append_notes
    from tokenizer_tools.shards.append.settings import refuse_other_settings, settings_of

    refuse_other_settings(out, settings, given)
    theirs = settings_of(out, settings.reading, settings.patient_key, settings.split.lists)
    return append_notes(notes_paths(args), out, theirs, options, args.tokenizer)


def verify(argv: Sequence[str]) -> dict[str, Any]:
    """Verify finished shards from their files alone: hashes, counts, splits, duplicates, who may read them."""
    from tokenizer_tools.shards.verify.verify import verify_shards

    parser = make_parser("verify", verify.__doc__)
    parser.add_argument("shards", help="shard folder made by build-shards")
    args = parse(parser, argv)
    found = verify_shards(Path(args.shards))
    print("\n".join(found.lines()))
    result = report(args, found.summary())
    if found.failed:
        names = ", ".join(check.name for check in found.failed)
        raise UserError(f"{args.shards}: {len(found.failed)} of {len(found.checks)} checks failed ({names}), see above")
    return result


def describe_shards(argv: Sequence[str]) -> dict[str, Any]:
    """Describe finished shards without any text: a page, a picture and JSON, as build-shards writes them."""
    from tokenizer_tools.shards.describe.describe import describe_shards as describe

    parser = make_parser("describe-shards", describe_shards.__doc__)
    parser.add_argument("shards", help="shard folder made by build-shards, also by an earlier version")
    args = parse(parser, argv)
    described = describe(Path(args.shards))
    print("\n".join(str(Path(args.shards) / name) for name in REPORT_NAMES))
    return report(args, described.to_json())


def clean(argv: Sequence[str]) -> dict[str, Any]:
    """Show what each cleaning rule does to notes, before and after, and count what it changes."""
    from tokenizer_tools.corpus.clean_report import CleanSettings, describe_counts, describe_examples, report_cleaning
    from tokenizer_tools.corpus.input_options import find_sources
    from tokenizer_tools.corpus.read_notes import check_first_notes, read_notes

    parser = make_parser("clean", clean.__doc__)
    add_notes_options(parser)
    parser.add_settings(CleanSettings, skip={"reading"})
    parser.add_argument(
        "--allow-output", action="store_true", help="let --show print text of notes where no terminal is"
    )
    args = parse(parser, argv)
    settings = notes_settings(parser, CleanSettings, args)
    if settings.show and not (args.allow_output or sys.stdout.isatty()):
        raise UserError(
            "--show prints text of notes, and the output is no terminal, so it could land in a log: leave out --show, "
            "or add --allow-output"
        )
    inputs = find_sources(notes_paths(args), settings.reading)
    check_first_notes(inputs, settings.reading)
    found = report_cleaning(read_notes(inputs, settings.reading), settings)
    print("\n".join([*describe_examples(found), *describe_counts(found)]))
    result = report(args, found.to_json())
    if broken := [rule for rule in found.rules if rule.broke_its_promise]:
        names = ", ".join(f"{rule.name} ({rule.first_unfaithful})" for rule in broken)
        raise UserError(
            f"rules that must change no number, unit, sign or negation did, first in {names}: switch them off "
            "(--cleaning.NAME false), and report this fault"
        )
    return result


def make_notes(argv: Sequence[str]) -> dict[str, Any]:
    """Make synthetic notes in the form of MIMIC-III's NOTEEVENTS, to try things with."""
    from tokenizer_tools.corpus.synthetic_notes import make_notes as make

    parser = make_parser("make-notes", make_notes.__doc__)
    parser.add_argument("--out", required=True, help="CSV or CSV.GZ file to create")
    parser.add_argument("--patients", type=int, default=400, help="number of patients; 400 give about 4 MB")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other notes")
    args = parse(parser, argv, patients=Range(1, 10_000_000), seed=Range(0, 2**63 - 1))
    counts = make(Path(args.out), patients=args.patients, seed=args.seed)
    print(f"{args.out}: " + ", ".join(f"{value:,} {name}" for name, value in counts.items()))
    return report(args, dict(counts))


def sources(argv: Sequence[str]) -> dict[str, Any]:
    """List ready descriptions of sources for --sources, or print one, to edit."""
    from tokenizer_tools.corpus.presets import PRESETS

    parser = make_parser("sources", sources.__doc__)
    parser.add_argument("name", nargs="?", help="such as mimic3; without it all are listed")
    args = parse(parser, argv)
    if args.name is None:
        print("\n".join(f"{name:<16} {preset.title}" for name, preset in PRESETS.items()))
        return report(args, {"sources": {name: preset.title for name, preset in PRESETS.items()}})
    refuse_unknown([args.name], list(PRESETS))
    print(PRESETS[args.name].text, end="")
    return report(args, {"name": args.name, "text": PRESETS[args.name].text})
