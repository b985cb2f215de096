"""An installed wheel works from an empty folder, without the clone.

Training and export with it are tested in test_commands.py, the demo in test_road.py.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY


@pytest.fixture
def call(installed, tmp_path):
    """Runs a program of the installed wheel in an empty folder, and returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}

    def call(program, *arguments):
        done = subprocess.run([str(installed / program), *map(str, arguments)], cwd=tmp_path, env=environment,
                              capture_output=True, text=True, timeout=120)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_both_ways_to_call_it_say_the_version(call):
    said = call("clinical-pretrain", "--version")
    assert re.fullmatch(r"clinical-pretrain \d+\.\d+\.\d+\n", said)
    assert call("python", "-m", "clinical_pretrain", "--version") == said


@pytest.mark.parametrize("name", sorted(path.name for path in (REPOSITORY / "configs").glob("*.yaml")))
def test_configs_are_found_by_their_names(call, name):
    printed = yaml.safe_load(call("clinical-pretrain", "run", "--config", name, "--print_config"))
    written = yaml.safe_load((REPOSITORY / "configs" / name).read_text())
    assert printed["max_steps"] == written["max_steps"] and printed["deepspeed"] == written["deepspeed"]


def test_every_file_of_the_clones_folders_is_there(call):
    """And scripts that a job calls may be executed."""
    code = "from clinical_pretrain.resources import resource_path; print(resource_path('slurm').parent)"
    resources = Path(call("python", "-c", code).strip())
    for folder in ("configs", "ds_configs", "slurm"):
        for path in (REPOSITORY / folder).rglob("*"):
            copy = resources / folder / path.relative_to(REPOSITORY / folder)
            assert copy.exists() and os.access(copy, os.X_OK) == os.access(path, os.X_OK), copy
            assert path.is_dir() or copy.read_bytes() == path.read_bytes()


def test_show_prints_files_to_copy(call):
    files = call("clinical-pretrain", "show").splitlines()
    assert {"configs/demo_cpu.yaml", "ds_configs/zero2.json", "slurm/pretrain.sh", "slurm/site.yaml"} <= set(files)
    assert call("clinical-pretrain", "show", "slurm/site.yaml") == (REPOSITORY / "slurm/site.yaml").read_text()


def test_submit_names_scripts_that_are_there(call, shards, config_file, installed):
    said = call("clinical-pretrain", "submit", "--config", config_file, "--data.shards", shards, "--dry-run")
    scripts = re.findall(r"[^\s=]+/slurm/\w+\.sh", said)
    assert len(scripts) >= 3 and all(Path(script).is_relative_to(installed.parent) for script in scripts)
    assert all(Path(script).exists() for script in scripts)
