"""The settings of a run with their sources, and how to repeat it."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import yaml

from clinical_pretrain.config.reading import flatten
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.observe.report.run import SETTINGS, RecordedRun, decides_weights, is_path, shown_value
from clinical_pretrain.resources import resource_files, resource_path
from tokenizer_tools.pages.html import details, paragraph, table

_LOCAL = "MODEL_FOLDER"
"""Stands for a base model in a local folder."""


def recipe_section(run: RecordedRun) -> str:
    """Tables of the settings that decide the weights, and of all others, each value with its source."""
    values, recipe = run.settings(), recipe_of(run)
    rows = {
        key: [key, shown_value(value), source_of(key, value, recipe)]
        for key, value in values.items()
        if not _is_unused(key, values)
    }
    deciding = [key for key in rows if key == "seed" or decides_weights(SETTINGS[key])]
    decide, others = [rows[key] for key in deciding], [row for key, row in rows.items() if key not in deciding]
    header = ["setting", "value", "source"]
    changed = [f"{step:,}" for step, _ in run.training_settings(run.step)[:-1]]
    text = f"Settings were changed after step {', '.join(changed)}; these are the last. " if changed else ""
    text += (
        "A source in brackets is that of the paper's recipe, which this value follows: [paper] Li et al., JAMIA 30(2), "
        "2023; [issue 3] its author's command; [run_mlm] the default of transformers' run_mlm.py, which that command "
        "uses; [ours] a choice of this project. The paths of the run folder and of the shards are left out."
    )
    return (
        table("Settings that decide the weights", header, decide, "words")
        + details("The other settings", table("Settings that don't change the weights", header, others, "words"))
        + paragraph(text)
    )


def source_of(key: str, value: object, recipe: dict[str, tuple[Any, str]]) -> str:
    """Where a value comes from: the paper's recipe with its own source, the default, or this run."""
    if key in recipe:
        expected, source = recipe[key]
        return source if value == expected else f"this run (the recipe has {shown_value(expected)} {source})"
    default = flatten(RunConfig().to_dict())[key]
    return "default" if _is_default(key, value) else f"this run (default: {shown_value(default)})"


def recipe_of(run: RecordedRun) -> dict[str, tuple[Any, str]]:
    """The recipe of the paper's model of the run's family: values and sources, by dotted key."""
    with suppress(OSError, ValueError, KeyError):
        model_type = json.loads((run.folder.model_config / "config.json").read_text(encoding="utf-8"))["model_type"]
        path = resource_path(f"configs/clinical_{model_type.replace('_', '')}.yaml")
        return read_recipe(path.read_text(encoding="utf-8"))
    return {}


def read_recipe(text: str) -> dict[str, tuple[Any, str]]:
    """Values of a config with the sources in its comments, such as `[paper]`, by dotted key."""
    values, found, section = flatten(yaml.safe_load(text)), dict[str, tuple[Any, str]](), ""
    for line in text.splitlines():
        if not (parts := re.match(r"( *)(\w+):\s*([^#]*)(#.*)?$", line)):
            continue
        indent, name, value, comment = parts.groups()
        if not value.strip():
            section = name
            continue
        key = f"{section}.{name}" if indent else name
        if sources := re.findall(r"\[[a-z_]+(?: \d)?\]", comment or ""):
            shown = Path(values[key]).name if key == "deepspeed" else values[key]
            found[key] = (shown, " ".join(sources))
    return found


def repeat_section(run: RecordedRun) -> str:
    """The settings that differ from the defaults as a config, and the command that trains with it."""
    values = run.settings()
    changed = {
        key: value for key, value in values.items() if not _is_default(key, value) and not _is_unused(key, values)
    }
    if run.run["base_model"] is None and "model.name_or_path" in changed:
        changed["model.name_or_path"] = _LOCAL
    if f"ds_configs/{changed.get('deepspeed')}" in resource_files():
        changed["deepspeed"] = f"ds_configs/{changed['deepspeed']}"
    config = _nested(changed)
    ranks = run.last.get("world_size", 1)
    words = ["clinical-pretrain", "run", "--num_gpus", str(ranks), "--config", "config.yaml"]
    command = shlex.join([*words, "--data.shards", "SHARDS", "--run_dir", f"runs/{run.name}-again"])
    base = f"; {_LOCAL} is the base model, which lay in a folder" if _LOCAL in changed.values() else ""
    commit = run.last.get("git_commit")
    version = f"clinical-pretrain {run.last.get('versions', {}).get('clinical-pretrain', '')}".strip()
    return (
        paragraph(
            f"With {version}{f' at commit {commit}' if commit else ''}, as config.yaml (all other settings have their "
            "defaults; those of paths stand in the run folder's own config.yaml):"
        )
        + _block("config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        + paragraph(
            f"SHARDS are those with fingerprint {run.data['fingerprint'][:16]}{base}. With ranks on several nodes, "
            "clinical-pretrain submit takes the same options."
        )
        + _block("The command", command)
        + paragraph(_repeats(run))
    )


def _repeats(run: RecordedRun) -> str:
    """How near to the run's result the command comes."""
    unlike = ["changed settings on its way (see Recipe)"] if len(run.training_settings(run.step)) > 1 else []
    unlike += ["left out samples after a roll-back"] if run.run.get("skipped_samples") else []
    if unlike:
        return f"This run {' and '.join(unlike)}, which the command does not repeat."
    return (
        "The result is the same bit for bit on a CPU with the same number of ranks, and within rounding on GPUs, with "
        "another number of ranks or under another ZeRO stage."
    )


def _block(name: str, text: str) -> str:
    """Text to copy. It can be scrolled with the keyboard where it is too wide."""
    return f'<pre role="region" aria-label="{escape(name)}" tabindex="0">{escape(text)}</pre>'


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Sections of dotted keys; one level, as a run's settings have, or two."""
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return found


def _is_default(key: str, value: object) -> bool:
    """Whether a value, of a path its last part, is the setting's default."""
    default = flatten(RunConfig().to_dict())[key]
    is_file = is_path(SETTINGS[key]) and key != "model.name_or_path"
    return bool(value == (Path(default).name if is_file else default))


def _is_unused(key: str, values: dict[str, Any]) -> bool:
    """Whether a setting has no meaning in this run: the size of a pretrained model, the path of a random one."""
    if values["model.init"] == "random":
        return key == "model.name_or_path"
    return key == "model.family" or key.startswith("model.size.")
