import stat

import pytest

from tokenizer_tools.corpus.split_patients import SplitRule, default_key_path, load_patient_key, patient_hash
from tokenizer_tools.errors import UserError


def test_shares_are_about_what_was_asked():
    rule = SplitRule(validation=0.1, test=0.2)
    splits = [rule.split_of(f"patient {i}") for i in range(20_000)]
    assert abs(splits.count(1) / 20_000 - 0.1) < 0.01 and abs(splits.count(2) / 20_000 - 0.2) < 0.01


def test_a_split_is_a_function_of_the_patient_and_the_seed():
    assert SplitRule().split_of("patient 1") == SplitRule().split_of("patient 1")
    moved = [SplitRule(0.5).split_of(f"{i}") != SplitRule(0.5, seed=1).split_of(f"{i}") for i in range(200)]
    assert any(moved)


def test_growing_the_held_out_share_moves_no_held_out_patient_into_training():
    held_out = [i for i in range(2000) if SplitRule(0.05, 0).split_of(str(i)) == 1]
    assert all(SplitRule(0.1, 0).split_of(str(i)) == 1 for i in held_out)


def test_impossible_shares_are_refused():
    with pytest.raises(UserError, match="leave something to train on"):
        SplitRule(validation=0.6, test=0.4)


def test_the_key_is_made_once_and_private(tmp_path):
    path = tmp_path / "a" / "key"
    key = load_patient_key(path)
    assert load_patient_key(path) == key and len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert patient_hash(key, "patient 1") != patient_hash(load_patient_key(tmp_path / "other"), "patient 1")


def test_the_default_key_lies_in_the_users_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_key_path() == tmp_path / "clinical-pretrain" / "patient_key"


def test_a_file_that_is_no_key_is_refused(tmp_path):
    (tmp_path / "k").write_text("hello")
    with pytest.raises(UserError, match="--patient-key"):
        load_patient_key(tmp_path / "k")
