"""Commands that turn a run into a model on the Hub."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinical_pretrain.commands.options import make_parser, parse, report
from tokenizer_tools.command_line import typed
from tokenizer_tools.errors import UserError


def export(argv: Sequence[str]) -> dict[str, Any]:
    """Export a run's checkpoint as a Hugging Face model, and verify that it gives the same logits."""
    parser = make_parser("export", export.__doc__)
    parser.add_argument("run", help="run folder, such as runs/NAME")
    parser.add_argument("--out", required=True, help="folder to create")
    parser.add_argument(
        "--step", help="checkpoint to export: a step, or best (lowest validation loss); default: the newest"
    )
    args = parse(parser, argv)
    from clinical_pretrain.observe.status import no_run
    from clinical_pretrain.run_folder.paths import RunFolder

    if not RunFolder(Path(args.run)).exists:  # before PyTorch is loaded, which takes seconds
        raise no_run(Path(args.run))
    step = str(args.step or "")
    if step not in ("", "best") and not step.isdecimal():
        raise UserError(f"--step {step}: must be a number, or best")
    from clinical_pretrain.release import export as exporting

    result = exporting.export(Path(args.run), Path(args.out), int(step) if step.isdecimal() else step or None)
    print(
        f"{args.out}: step {result['step']:,} of {args.run}; reloaded with plain transformers, "
        f"logits differ by at most {result['max_logit_difference']:.1e}"
    )
    if result["kept"]:
        print(f"left unchanged, not written by export: {', '.join(result['kept'])}")
    print(f"next: {typed()} push {shlex.quote(args.out)} --repo-id YOUR_NAME/MODEL")
    return report(args, result)


def push(argv: Sequence[str]) -> dict[str, Any]:
    """Upload an exported model to the Hugging Face Hub, as a private repository by default."""
    from clinical_pretrain.release import push as hub

    parser = make_parser("push", push.__doc__)
    parser.add_argument("model", help="folder made by export")
    parser.add_argument("--repo-id", required=True, help="org/name on the Hub")
    parser.add_argument("--private", type=bool, default=True, help="false makes the repository public")
    parser.add_argument("--license", help="licence in the generated model card (default: other)")
    parser.add_argument("--revision", help="branch to push to")
    parser.add_argument("--dry-run", action="store_true", help="print what would be pushed, and push nothing")
    args = parse(parser, argv)
    result = hub.push(
        Path(args.model),
        args.repo_id,
        private=args.private,
        license=args.license,
        revision=args.revision,
        dry_run=args.dry_run,
    )
    return report(args, result)
