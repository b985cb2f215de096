"""Losses and final weights of small runs, recorded once: a refactoring must reproduce them bit for bit.

GOLDEN=record make test PYTEST_ARGS='tests/distributed -k golden' records them anew, after a change that is meant to
change them.
"""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from launching import losses, validations
from safetensors.torch import load_file

from clinical_pretrain.release.export import export

FILE = Path(__file__).with_name("golden.json")


def assert_golden(name: str, run_dir: Path, out: Path) -> None:
    """The run's losses, and the weights of its export, are those that were recorded.

    Bit for bit, where torch and the CPU's instructions are those of the recording; elsewhere sums are rounded in
    another order, and the losses agree to 1e-4.
    """
    export(run_dir, out)
    found = {
        "train": losses(run_dir),
        "validation": validations(run_dir),
        "weights_sha256": sha256_of_weights(out),
    }
    golden = json.loads(FILE.read_text()) if FILE.exists() else {"made_on": made_on(), "runs": {}}
    if os.environ.get("GOLDEN") == "record":
        golden = {"made_on": made_on(), "runs": dict(sorted({**golden["runs"], name: found}.items()))}
        FILE.write_text(json.dumps(golden, indent=1) + "\n")
    expected = golden["runs"][name]
    if golden["made_on"] == made_on():
        assert found == expected
    else:
        for kind in ("train", "validation"):
            assert found[kind] == pytest.approx(expected[kind], rel=1e-4)


def sha256_of_weights(model: Path) -> str:
    """Of names and values, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(model / "model.safetensors").items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def made_on() -> dict[str, str]:
    """What decides how sums are rounded."""
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
              if line.startswith("model name")]  # fmt: skip
    return {"torch": torch.__version__, "instructions": torch.backends.cpu.get_cpu_capability(), "cpu": models[0]}
