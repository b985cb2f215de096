"""Files that come with the package: configs, DeepSpeed configs and SLURM scripts.

In a clone `configs`, `ds_configs` and `slurm` beside this module are links to the repository's folders; a wheel holds
copies. Both are found in the same way, so every command works from any folder, with or without a clone.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from tokenizer_tools.errors import UserError

CONFIGS = "configs"
_FOLDER = Path(str(importlib.resources.files(__name__)))


def resource_path(name: str) -> Path:
    """Path of a file or folder that comes with the package, such as `slurm/begin.sh`."""
    return (_FOLDER / name).resolve()


def resource_files() -> list[str]:
    """Names of all files, such as `configs/demo_cpu.yaml`."""
    folders = [(name, resource_path(name)) for name in (CONFIGS, "ds_configs", "slurm")]
    files = [f"{name}/{path.relative_to(folder)}" for name, folder in folders for path in folder.rglob("*.*")]
    return sorted(files)


def config_names() -> str:
    """Names of the configs, for messages."""
    return ", ".join(name for name in resource_files() if Path(name).parent == Path(CONFIGS))


def find_config(name: str) -> Path:
    """A run's config: a path, or the name of a config that comes with the package.

    Raises:
        UserError: there is none.
    """
    for path in (Path(name), resource_path(name), resource_path(f"{CONFIGS}/{name}")):
        if path.exists():
            return path
    raise UserError(f"{name}: no such config file; there are {config_names()}")


def find_file(name: str) -> Path:
    """A path as given, else the file of that name that comes with the package, such as `ds_configs/zero2.json`.

    Raises:
        UserError: there is none.
    """
    for path in (Path(name), resource_path(name)):
        if path.exists():
            return path
    where = "" if Path(name).is_absolute() else f" in {Path.cwd()}, and none of that name comes with the package"
    raise UserError(f"{name}: no such file{where}")


def clone() -> Path | None:
    """The git clone that this package lies in; None where it was installed from a wheel."""
    folder = Path(__file__).resolve().parents[2]
    return folder if (folder / ".git").exists() else None
