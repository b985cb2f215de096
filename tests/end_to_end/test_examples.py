"""The scripts under examples/ run, one after the other in one folder; then patients are withdrawn from its shards."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY

from clinical_pretrain.cli import main
from clinical_pretrain.data.sampler import Sampler
from clinical_pretrain.data.shards import Split, note_patients
from tokenizer_tools.corpus.split_patients import load_patient_key, patient_hash
from tokenizer_tools.manifest import Manifest

EXAMPLES = ["notes_to_shards.py", "masked_batch.py", "train_and_export.py"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder in which all have run, and what each has printed."""
    folder, printed = tmp_path_factory.mktemp("examples"), []
    for name in EXAMPLES:
        call = [sys.executable, str(REPOSITORY / "examples" / name), str(folder)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(call, env=environment, cwd=folder, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-3000:]
        printed.append(done.stdout)
    return folder, printed


def test_examples(ran):
    assert sorted(path.name for path in (REPOSITORY / "examples").glob("*.py")) == sorted(EXAMPLES)
    printed = ran[1]
    assert "train: " in printed[0] and "to be predicted" in printed[1] and "validation loss: " in printed[2]


def test_who_of_these_shards_was_trained_on(ran, tmp_path, capsys):
    """A withdrawal tells of the run and of its exported model what the sampler says of their 20 steps of 8."""
    folder, _ = ran
    shards, key = folder / "shards", load_patient_key(folder / "patient_key")
    manifest = Manifest.load(shards)
    train, sampler = Split(shards, manifest, "train"), Sampler(manifest.splits["train"].sequences, seed=42)
    sequences = [train[sampler.sample(number).sequence] for number in range(20 * 8)]
    trained = note_patients(shards, np.concatenate([sequence.segment_notes for sequence in sequences]))
    validation = note_patients(shards, np.array([note for note, _ in Split(shards, manifest, "validation").notes()]))
    with (folder / "notes.csv").open(newline="") as stream:
        patients = sorted({row["SUBJECT_ID"] for row in csv.DictReader(stream)})
    hashes = {patient: patient_hash(key, f"patient {patient}") for patient in patients}
    seen = {patient: "trained on" if hashed in trained else "validation only" if hashed in validation else "not seen"
            for patient, hashed in hashes.items()}  # fmt: skip
    for kind in set(seen.values()):
        patient = next(each for each in patients if seen[each] == kind)
        call = ["withdraw", shards, "--patient", patient, "--patient-key", folder / "patient_key", "--runs", folder,
                "--out", tmp_path / kind, "--json", tmp_path / f"{kind}.json"]  # fmt: skip
        assert main(list(map(str, call))) == 0
        report = json.loads((tmp_path / f"{kind}.json").read_text())
        found = {run["path"]: (run["seen"], run["steps"]) for run in report["runs"]}
        assert found == {str(folder / name): (kind, 20) for name in ("run", "model")}
        assert main(["verify", str(tmp_path / kind)]) == 0
        if kind == "trained on":
            of_patient = [hashes[patient] in note_patients(shards, sequence.segment_notes) for sequence in sequences]
            (run,) = (run for run in report["runs"] if run["path"] == str(folder / "run"))
            assert (run["sequences"], run["first_step"]) == (sum(of_patient), of_patient.index(True) // 8 + 1)
            assert "2 of 2 trained on withdrawn notes" in capsys.readouterr().out
    assert {"trained on", "validation only", "not seen"} <= set(seen.values())
