"""The `clinical-pretrain` command: its subcommands, which import what they need when they are called."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from clinical_pretrain.commands import completion
from clinical_pretrain.commands.cluster import submit, submit_shards
from clinical_pretrain.commands.corpus import build_shards, clean, describe_shards, make_notes, sources, verify
from clinical_pretrain.commands.doctor import doctor
from clinical_pretrain.commands.evaluate import evaluate, finetune, submit_evaluate
from clinical_pretrain.commands.files import show
from clinical_pretrain.commands.observe import plot, status
from clinical_pretrain.commands.plan import plan
from clinical_pretrain.commands.release import export, push
from clinical_pretrain.commands.report import compare, report
from clinical_pretrain.commands.run import run
from clinical_pretrain.commands.table import table
from clinical_pretrain.commands.tasks import tasks
from clinical_pretrain.commands.tokenizer import extend_vocabulary, inspect_tokenizer, train_tokenizer
from clinical_pretrain.commands.trials import chaos, demo
from clinical_pretrain.commands.watch import sync, watch
from clinical_pretrain.commands.withdraw import withdraw
from clinical_pretrain.config.command_line import version
from clinical_pretrain.config.other_names import refuse_unknown
from clinical_pretrain.config.reading import expand_home
from clinical_pretrain.console import NO_ACCESS, make_output_lenient
from clinical_pretrain.exit_codes import INTERRUPTED, USER_ERROR
from tokenizer_tools.command_line import typed
from tokenizer_tools.errors import UserError
from tokenizer_tools.garbage import leave_garbage_at_exit

COMMANDS: dict[str, Callable[[Sequence[str]], dict[str, Any]]] = {
    "build-shards": build_shards,
    "verify": verify,
    "describe-shards": describe_shards,
    "withdraw": withdraw,
    "clean": clean,
    "sources": sources,
    "plan": plan,
    "doctor": doctor,
    "run": run,
    "export": export,
    "push": push,
    "tasks": tasks,
    "finetune": finetune,
    "evaluate": evaluate,
    "submit-evaluate": submit_evaluate,
    "table": table,
    "plot": plot,
    "report": report,
    "compare": compare,
    "submit": submit,
    "submit-shards": submit_shards,
    "status": status,
    "watch": watch,
    "sync": sync,
    "demo": demo,
    "chaos": chaos,
    "make-notes": make_notes,
    "train-tokenizer": train_tokenizer,
    "inspect-tokenizer": inspect_tokenizer,
    "extend-vocabulary": extend_vocabulary,
    "show": show,
}

STOPPED = "stopped; the same command resumes from here"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand. A user's mistake ends in one line and exit code 2."""
    os.umask(0o077)
    make_output_lenient()
    if argv is None:
        leave_garbage_at_exit()
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
        return USER_ERROR
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.filename is None:
            raise
        remedy = "; ask its owner for access, or name another place" if error.errno in NO_ACCESS else ""
        print(f"error: {error.filename}: {error.strerror}{remedy}", file=sys.stderr)
        return USER_ERROR
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but amid an import end at once: libraries lose it there, or make an error of their own
    of it."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, f"{STOPPED}\n".encode())
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


def _overview() -> str:
    lines = [
        "usage: clinical-pretrain COMMAND [options]      (clinical-pretrain COMMAND --help says more; --version)",
        "",
        "Continued masked-LM pretraining of Longformer and BigBird on clinical notes.",
        "",
    ]
    lines += [f"  {name:<17} {(command.__doc__ or '').rstrip('.')}" for name, command in COMMANDS.items()]
    lines += [
        "",
        "The whole pipeline:",
        f"  {typed()} build-shards --notes NOTEEVENTS.csv.gz --tokenizer allenai/longformer-base-4096 --out shards/",
        f"  {typed()} run --config configs/clinical_longformer.yaml --data.shards shards/",
        f"  {typed()} export runs/clinical_longformer --out model/",
        f"  {typed()} push model/ --repo-id YOUR_NAME/MODEL",
    ]
    return "\n".join(lines)
