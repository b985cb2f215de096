"""Shards without a patient equal those of notes without the patient."""

import csv
import json
import os
import shutil
from dataclasses import asdict

import pyarrow as pa
import pytest

from clinical_pretrain.cli import main
from clinical_pretrain.data.shards import Split
from tokenizer_tools.corpus.split_patients import SplitRule, default_key_path, load_patient_key
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS, Manifest
from tokenizer_tools.shard_reading import record_batches
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.shards.verify.verify import verify_shards
from tokenizer_tools.shards.withdraw import read_patients, withdraw


def write_notes(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["SUBJECT_ID", "CHARTDATE", "CATEGORY", "TEXT"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def build(notes, tokenizer, out, **settings):
    before = os.umask(0o077)  # as the command sets it
    try:
        settings = {"sequence_length": 64, "split": SplitRule(0.2, 0.2)} | settings
        build_shards([notes], str(tokenizer), out, ShardSettings(**settings), BuildOptions(workers=1))
    finally:
        os.umask(before)
    return out


def key():
    return load_patient_key(default_key_path())


@pytest.fixture(scope="module")
def rows(corpus):
    """Different texts of many patients, without empty ones."""
    with (corpus / "notes.csv").open(newline="") as stream:
        first = {}
        for row in csv.DictReader(stream):
            if text := " ".join(row["TEXT"].split()):
                first.setdefault(text, row)
    return list(first.values())


@pytest.fixture(scope="module")
def shards(rows, corpus, tmp_path_factory):
    root = tmp_path_factory.mktemp("withdraw")
    return build(write_notes(root / "notes.csv", rows), corpus / "tokenizer", root / "shards")


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def shard_files(folder):
    return {name: data for name, data in content(folder).items() if name.startswith(SPLITS)}


def notes_table(folder):
    return pa.Table.from_batches(record_batches(folder / "notes.arrow")).to_pydict()


def withdrawn(shards, out, *patients):
    before = os.umask(0o077)
    try:
        return withdraw(shards, read_patients(patients), out, key())
    finally:
        os.umask(before)


def test_equals_a_build_without_the_patient(shards, rows, corpus, tmp_path):
    patients = sorted({row["SUBJECT_ID"] for row in rows})
    for number, patient in enumerate([patients[0], patients[7], patients[-1]]):
        new = tmp_path / f"new-{number}"
        found = withdrawn(shards, new, patient)
        left = write_notes(tmp_path / "left.csv", [row for row in rows if row["SUBJECT_ID"] != patient])
        rebuilt = build(left, corpus / "tokenizer", tmp_path / f"rebuilt-{number}")
        assert shard_files(new) == shard_files(rebuilt)
        assert notes_table(new) == notes_table(rebuilt)
        manifest = Manifest.load(rebuilt)
        assert found.manifest.splits == manifest.splits and found.manifest.fingerprint == manifest.fingerprint
        assert found.manifest == Manifest.load(new)
        assert not verify_shards(new).failed
