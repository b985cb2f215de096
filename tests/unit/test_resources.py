"""Files that come with the package are found from any folder, in a clone as in a wheel (test_wheel.py)."""

import json

import pytest
from conftest import REPOSITORY

from clinical_pretrain import resources
from tokenizer_tools.errors import UserError


@pytest.mark.parametrize("folder", ["configs", "ds_configs", "slurm"])
def test_the_package_links_to_the_clones_own_folders(folder):
    link = REPOSITORY / "clinical_pretrain" / "resources" / folder
    assert link.is_symlink() and resources.resource_path(folder) == REPOSITORY / folder


@pytest.mark.parametrize("name", ["demo_cpu.yaml", "configs/demo_cpu.yaml"])
def test_a_config_is_found_by_its_name(name, tmp_path, monkeypatch):
    """The user's own file of that name comes first."""
    monkeypatch.chdir(tmp_path)
    assert resources.find_config(name) == REPOSITORY / "configs" / "demo_cpu.yaml"
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("max_steps: 1\n")
    assert resources.find_config(name).read_text() == "max_steps: 1\n"


def test_what_is_not_there_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no such config file; there are configs/clinical_bigbird\.yaml, configs/"):
        resources.find_config("nowhere.yaml")
    with pytest.raises(UserError, match=r"zero9\.json: no such file in .*, and none of that name comes with"):
        resources.find_file("ds_configs/zero9.json")
    assert json.loads(resources.find_file("ds_configs/zero2.json").read_text())["zero_optimization"]["stage"] == 2


def test_a_clone_knows_its_commit(monkeypatch):
    assert resources.clone() == REPOSITORY
    monkeypatch.setattr(resources, "__file__", "/usr/lib/python3/clinical_pretrain/resources/__init__.py")
    assert resources.clone() is None
