"""The command that withdraws patients: it makes shards without them, and looks for runs that have seen them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinical_pretrain.commands.options import make_parser, parse, report
from tokenizer_tools.manifest import Manifest

if TYPE_CHECKING:
    from clinical_pretrain.observe.exposure import Exposure


def withdraw(argv: Sequence[str]) -> dict[str, Any]:
    """Make shards without a patient's notes, and say which runs and exported models have seen them."""
    from clinical_pretrain.observe.exposure import TracedNotes, exposures, find_runs_and_models
    from tokenizer_tools.shards.summary import summarise, withdrawn_lines
    from tokenizer_tools.shards.withdraw import read_patients
    from tokenizer_tools.shards.withdraw import withdraw as make_shards_without

    parser = make_parser("withdraw", withdraw.__doc__)
    parser.add_argument("shards", help="shard folder made by build-shards; it is only read")
    parser.add_argument("--out", required=True, help="shard folder to create")
    parser.add_argument(
        "--patient",
        nargs="+",
        action="extend",
        default=[],
        metavar="ID",
        help="identifiers, as in the notes; a shell remembers them, unlike those in --patients-file",
    )
    parser.add_argument("--patients-file", help="text file with one identifier per line")
    parser.add_argument(
        "--ignore-unknown",
        action="store_true",
        help="leave out, and count, identifiers without a note in the shards, as on a list of the whole hospital; "
        "without this they are an error",
    )
    parser.add_argument(
        "--runs",
        nargs="+",
        default=[],
        help="run folders and exported models, or folders of them, to check: have they seen these notes?",
    )
    parser.add_argument("--patient-key", help="file with the key of build-shards (default: your own)")
    args = parse(parser, argv)
    shards, out, runs = Path(args.shards), Path(args.out), [Path(path) for path in args.runs]
    patients = read_patients(args.patient, Path(args.patients_file) if args.patients_file else None)
    if runs:
        find_runs_and_models(runs)  # a wrong path shows before the shards are made
    key = Path(args.patient_key) if args.patient_key else None
    made = make_shards_without(shards, patients, out, key, args.ignore_unknown)
    print("\n".join([*withdrawn_lines(made.manifest, out), *_limits(made.before)]))
    withdrawal = made.withdrawal
    print(
        f"withdrawn: {withdrawal.notes:,} notes, {withdrawal.tokens:,} tokens, of "
        f"{'1 patient' if withdrawal.patients == 1 else f'{withdrawal.patients:,} patients'}; {shards} still holds "
        "them: delete it, its copies and its backups"
    )
    if made.unknown:
        print(f"{made.unknown:,} of {len(patients):,} patients that were named have no note in {shards}: left out")
    traced = TracedNotes(made.before, made.manifest.fingerprint, made.sequences)
    found = exposures(runs, traced) if runs else []
    print("\n".join(_describe_exposures(found, out, withdrawal.patients)))
    result = {
        **summarise(made.manifest),
        "withdrawn": asdict(withdrawal),
        "unknown_patients": made.unknown,
        "runs": [asdict(each) for each in found] if runs else None,
    }
    return report(args, result)


def _limits(before: Manifest) -> Iterator[str]:
    """What a withdrawal from shards can't do, where it could matter."""
    dropped = sum(before.counts.get(f"dropped_{how}", 0) for how in ("duplicate", "near_duplicate", "copied"))
    if dropped:
        yield (
            f"  {dropped:,} notes were dropped as duplicates earlier; if the note that one of them repeats is "
            "withdrawn now, only a new build brings it back"
        )
    if not before.names_each_patient:
        yield "  notes that name no patient, or only an admission, can't be told to be a withdrawn patient's, and stay"


def _describe_exposures(found: Sequence[Exposure], out: Path, patients: int) -> Iterator[str]:
    from clinical_pretrain.observe.exposure import TRAINED, UNKNOWN, table

    if not found:
        yield "no runs were checked; --runs runs/ says which have seen the withdrawn notes"
        return
    yield ""
    yield from table(found, patients)
    trained, unknown = (sum(each.seen == seen for each in found) for seen in (TRAINED, UNKNOWN))
    if trained:
        yield (
            f"{trained:,} of {len(found):,} trained on withdrawn notes: their checkpoints from that step on, and what "
            f"was made from these, can repeat the notes; delete them, and train again on {out}"
        )
    if unknown:
        yield f"{unknown:,} of {len(found):,} may have seen them, for the reason given"
