"""The command that lists tasks. What each is stands in tasks/task_list.py."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinical_pretrain.commands.options import data_root, make_parser, parse, report
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    from clinical_pretrain.tasks.catalogue import Task

INDENT = " " * 4
WIDEST = 120


def tasks(argv: Sequence[str]) -> dict[str, Any]:
    """List the tasks that models are evaluated on: what each needs, where to get it, what is there."""
    parser = make_parser("tasks", tasks.__doc__)
    parser.add_argument("--suite", help="paper, open, or names and YAML files of tasks with commas (default: all)")
    parser.add_argument("--data-root", help="folder with a folder of data for each task: say what is found there")
    parser.add_argument("--read", action="store_true", help="also read the data that is found, and count its documents")
    args = parse(parser, argv)
    if args.read and not args.data_root:
        raise UserError("--read needs --data-root, the folder with the data")
    root = data_root(args.data_root) if args.data_root else None
    from clinical_pretrain.tasks.catalogue import SUITES, find_suite

    found = []
    for task in find_suite(args.suite or ",".join(SUITES)):
        facts = _facts(task)
        if root:
            facts |= look_for(task, root, args.read)
        print("\n".join(_lines(facts)) + "\n", flush=True)
        found.append(facts)
    if root:
        there = sum(facts["state"] in ("found", "read") for facts in found)
        print(f"{args.data_root}: {there} of {len(found)} tasks found")
    result = report(args, {"tasks": found})
    if unreadable := [facts["task"] for facts in found if facts.get("state") == "unreadable"]:
        raise UserError(f"{', '.join(unreadable)}: what was found can't be used, as said above")
    return result


def look_for(task: Task, root: Path, read: bool) -> dict[str, Any]:
    """What there is of a task's data.

    Args:
        task: of the catalogue, or a user's own.
        root: the folder with a folder for each task.
        read: whether to read what is found.

    Returns:
        `folder`; `state`: no folder, incomplete, found, read, or unreadable; then `missing` files, the reader's
        `refusal`, or the numbers of documents by split, the rule of the splits, and what reading mended or left out.
    """
    from clinical_pretrain.tasks.catalogue import read_task

    folder = task.folder(root)
    facts: dict[str, Any] = {"folder": str(folder), "state": "found"}
    if not folder.is_dir():
        return facts | {"state": "no folder"}
    if missing := task.missing_files(folder):
        return facts | {"state": "incomplete", "missing": missing}
    if not read:
        return facts
    try:
        divided = read_task(task, folder)
    except UserError as error:
        return facts | {"state": "unreadable", "refusal": str(error)}
    data = divided.data
    return facts | {
        "state": "read",
        "documents": {split: len(documents) for split, documents in data.splits.items()},
        "split_rule": divided.rule,
        "mended": dict(data.report.mended),
        "left_out": dict(data.report.left_out),
        "places": data.report.places,
    }


def _facts(task: Task) -> dict[str, Any]:
    return {
        "task": task.name,
        "title": task.title,
        "kind": task.kind,
        "metric": task.metric,
        "suites": list(task.suites),
        "source": task.source,
        "folder_name": task.folder(Path()).name,
        "files": task.shown_files(),
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    suites = ", ".join(facts["suites"]) or "your own"
    lines = [facts["task"], facts["title"], f"{facts['kind']}, {facts['metric']}; {suites}"]
    lines += [
        f"from {facts['source']}",
        f"needs in {facts['folder_name']}/: {', '.join(facts['files']) or 'its files'}",
    ]
    lines += _found_lines(facts) if "state" in facts else []
    width = max(80, min(WIDEST, shutil.get_terminal_size((100, 24)).columns)) - 1
    wrap = textwrap.TextWrapper(
        width, initial_indent=INDENT, subsequent_indent=INDENT * 2, break_long_words=False, break_on_hyphens=False
    )
    return [lines[0], *(part for line in lines[1:] for part in wrap.wrap(line))]


def _found_lines(facts: dict[str, Any]) -> list[str]:
    folder = facts["folder"]
    if facts["state"] == "no folder":
        return [f"not found: no folder {folder}"]
    if facts["state"] == "incomplete":
        return [f"not found: {folder} lacks {', '.join(facts['missing'])}"]
    if facts["state"] == "found":
        return [f"found in {folder}"]
    if facts["state"] == "unreadable":
        return [f"found, but it can't be used: {facts['refusal']}"]
    counts = ", ".join(f"{number:,} {split}" for split, number in facts["documents"].items())
    lines = [f"found in {folder}: {counts} ({facts['split_rule'].rstrip('.')})"]
    for what, rules in (("mended", facts["mended"]), ("left out", facts["left_out"])):
        lines += [f"{what}: {rule}, {number:,} (first: {facts['places'][rule][0]})" for rule, number in rules.items()]
    return lines
