"""The command that prints files of the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clinical_pretrain.commands.options import make_parser, parse, report
from clinical_pretrain.resources import resource_files, resource_path
from tokenizer_tools.errors import UserError


def show(argv: Sequence[str]) -> dict[str, Any]:
    """List the configs and scripts that come with the package, or print one of them, to copy and change."""
    parser = make_parser("show", show.__doc__)
    parser.add_argument("file", nargs="?", help="such as configs/clinical_longformer.yaml or slurm/site.yaml")
    args = parse(parser, argv)
    files = resource_files()
    if args.file is None:
        print("\n".join(files))
        return report(args, {"files": files})
    if args.file not in files:
        raise UserError(f"{args.file}: no such file comes with the package; there are {', '.join(files)}")
    path = resource_path(args.file)
    print(path.read_text(encoding="utf-8"), end="")
    return report(args, {"file": str(path)})
