import os
from pathlib import Path

import pytest

from tokenizer_tools.errors import UserError
from tokenizer_tools.files import check_output_file, read_json, write_json


def test_json_is_read_as_it_was_written(tmp_path):
    content = {"format_version": 3, "name": "é", "counts": [1, 2]}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json", 3, "make it again") == content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file; make it again"),
        (b"", "damaged, not a JSON object; make it again"),
        (b'{"format_version": 3, ', "damaged, not a JSON object; make it again"),
        (b"\xff\xfe", "damaged, not a JSON object; make it again"),
        (b"[3]", "damaged, not a JSON object; make it again"),
        (b"[" * 100_000, "damaged, not a JSON object; make it again"),
        (b"{}", "format_version None, but this version of clinical-pretrain reads 3; make it again"),
        (b'{"format_version": 4}', "format_version 4, but this version of clinical-pretrain reads 3; make it again"),
    ],
)
def test_json_that_cannot_be_used_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(UserError) as caught:
        read_json(path, 3, "make it again")
    assert str(caught.value) == f"{path}: {message}"


def test_json_that_is_a_folder_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\); make it again"):
        read_json(tmp_path, 3, "make it again")


def test_a_file_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    """Nothing is made. The last one as another user, as root may write anywhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    path = Path("folder/a.json")
    check_output_file(path, "--json")
    for name, message in (
        ("folder", "folder: a folder; name a file by --json"),
        ("no/a.json", "no/a.json: there is no folder no; make it first"),
        ("file/a.json", "file/a.json: there is no folder file; make it first"),
    ):
        with pytest.raises(UserError) as caught:
            check_output_file(Path(name), "--json")
        assert str(caught.value) == message
    is_root = os.getuid() == 0
    tmp_path.chmod(0o755)
    path.parent.chmod(0o555)
    if is_root:
        os.seteuid(65534)
    try:
        with pytest.raises(UserError) as caught:
            check_output_file(path, "--json")
    finally:
        if is_root:
            os.seteuid(0)
    assert str(caught.value) == ("folder/a.json: the folder folder can't be written; name a file in another by --json")
    assert {path.name for path in tmp_path.rglob("*")} == {"folder", "file"}
