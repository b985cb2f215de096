"""What is looked at before a checkpoint is written."""

from types import SimpleNamespace

import pytest
import torch

from clinical_pretrain.checkpoint.pending_save import check_disk_space
from clinical_pretrain.checkpoint.state import FORMAT_VERSION
from clinical_pretrain.checkpoint.verify import verify
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import write_json


def test_a_disk_without_room_is_seen_before_anything_is_written(tmp_path):
    engine = SimpleNamespace(module=torch.nn.Linear(10, 10))
    check_disk_space(RunFolder(tmp_path), engine)
    engine.module = torch.nn.Linear(10**8, 10**8, device="meta")
    with pytest.raises(OSError, match=r"160,000.0 TB are needed, .* are free"):
        check_disk_space(RunFolder(tmp_path), engine)


def test_only_checkpoints_of_steps_count(tmp_path):
    for name in ("step-20", "step-3", "step-5.damaged", ".step-7.tmp", ".step-8.old", "step-x"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert RunFolder(tmp_path).saved_steps() == [3, 20]


def test_another_format_is_told_from_a_damaged_manifest(tmp_path):
    """The state beside it is of the same version, when both are whole."""
    for version in (FORMAT_VERSION, FORMAT_VERSION + 1):
        write_json(tmp_path / "state.json", {"format_version": version})
        write_json(tmp_path / "manifest.json", {"format_version": FORMAT_VERSION, "files": {}})
        assert verify(tmp_path) is None
        write_json(tmp_path / "manifest.json", {"format_version": FORMAT_VERSION + 1, "files": {}})
        if version == FORMAT_VERSION:
            assert verify(tmp_path).endswith("manifest.json: not the bytes that were written")
        else:
            with pytest.raises(UserError, match="resume with the version of clinical-pretrain that wrote it"):
                verify(tmp_path)
