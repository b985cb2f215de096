"""Find the tasks that models are evaluated on, and read their data. What each is stands in task_list.py."""

from __future__ import annotations

import difflib
from pathlib import Path

from clinical_pretrain.tasks.splits import DividedData, divide
from clinical_pretrain.tasks.task import ChoiceMethod, PaperProtocol, Task
from clinical_pretrain.tasks.task_file import read_task_file
from clinical_pretrain.tasks.task_list import TASKS
from tokenizer_tools.command_line import typed
from tokenizer_tools.errors import UserError

__all__ = ["SUITES", "TASKS", "ChoiceMethod", "PaperProtocol", "Task", "find_suite", "find_task", "read_task"]

SUITES = ("paper", "open")
FILE_ENDINGS = (".yaml", ".yml")
"""Of a user's own tasks."""


def read_task(task: Task, folder: Path) -> DividedData:
    """Read a task's data, with train, development and test; a task of multiple choice has no train.

    Args:
        task: of the catalogue, or a user's own.
        folder: where its data is.

    Raises:
        UserError: the data is missing or faulty, or a split would be empty.
    """
    if not folder.is_dir():
        needed = ", ".join(task.shown_files()) or "its data"
        raise UserError(f"{folder}: no such folder; {task.name} needs one with {needed} (from {task.source})")
    data = task.read(folder)
    if task.choices is None:
        return divide(data, task.name, task.shares)
    return DividedData(data, "development, which has the examples of prompts, and test are the data set's own.")


def find_task(name: str) -> Task:
    """Find a task.

    Args:
        name: one of the catalogue, or a YAML file; see task_file.py.

    Raises:
        UserError: there is no such task, or the file is faulty.
    """
    if name in TASKS:
        return TASKS[name]
    if name.endswith(FILE_ENDINGS):
        return read_task_file(Path(name))
    nearest = difflib.get_close_matches(name, [*TASKS, *SUITES], n=1)
    hint = f" (did you mean {nearest[0]}?)" if nearest else ""
    raise UserError(f"unknown task {name}{hint}; `{typed()} tasks` lists all, and one of your own is a .yaml file")


def find_suite(names: str) -> list[Task]:
    """Find the tasks of a suite.

    Args:
        names: a suite, a task or a YAML file, or several of them with commas.

    Returns:
        The tasks, each once, in the order of the names.

    Raises:
        UserError: one is unknown, or two different tasks have one name.
    """
    found: dict[str, Task] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        for task in [one for one in TASKS.values() if name in one.suites] or [find_task(name)]:
            if found.setdefault(task.name, task) != task:
                raise UserError(f"{name}: another task is named {task.name}, too; rename one")
    if not found:
        raise UserError(f"no task is named; name a suite ({', '.join(SUITES)}) or tasks with commas")
    return list(found.values())
