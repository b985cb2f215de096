"""The commands of the documentation.

README.md and docs/tutorial.md are run, with an installed wheel: each block marked ```bash, in the page's order, as it
stands, in one folder with tiny notes, a tiny base model and a tiny config under the names that the page uses. A block
isn't run where a comment `<!-- not run: reason -->` stands above it. Of all pages, every option of our commands must
exist.
"""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import REPOSITORY

from clinical_pretrain.cli import COMMANDS
from clinical_pretrain.config.fields import keys_of
from clinical_pretrain.config.run_config import RunConfig

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "slurm" / "README.md",
         *sorted((REPOSITORY / "docs").rglob("*.md"))]  # fmt: skip
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"--[a-z][\w.-]*")
YAML = re.compile(r"`([\w.]+\.yaml)`:\n\n```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(corpus, tmp_path):
    """What the README takes for granted: notes, a base model, and a config."""
    from transformers import LongformerConfig, LongformerForMaskedLM

    (tmp_path / "NOTEEVENTS.csv.gz").write_bytes(gzip.compress((corpus / "notes.csv").read_bytes()))
    base = tmp_path / "allenai" / "longformer-base-4096"
    shutil.copytree(corpus / "tokenizer", base)
    tiny = LongformerConfig(vocab_size=1000, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                            intermediate_size=32, attention_window=[64], max_position_embeddings=4098, pad_token_id=1,
                            bos_token_id=0, eos_token_id=2, sep_token_id=2)  # fmt: skip
    LongformerForMaskedLM(tiny).save_pretrained(base)
    config = yaml.safe_load((REPOSITORY / "configs" / "clinical_longformer.yaml").read_text())
    config |= {"max_steps": 2, "precision": "fp32", "log_every_steps": 1}
    config["batch"] = {"train_batch_size": 2, "micro_batch_size_per_gpu": 1}
    config["optim"]["warmup_steps"] = 1
    config["validation"] = {"max_sequences": 1}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "clinical_longformer.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_commands_run(page, folder, installed):
    text = (REPOSITORY / page).read_text()
    for name, content in YAML.findall(text):
        (folder / name).write_text(content)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PATH": f"{installed}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    blocks = [block for reason, block in BLOCK.findall(text) if not reason]
    assert blocks
    for block in blocks:
        done = subprocess.run(["bash", "-euc", block], cwd=folder, env=environment, capture_output=True, text=True,
                              timeout=300)  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert (folder / "model" / "model.safetensors").exists()
    (run,) = (json.loads(path.read_text()) for path in folder.glob("runs/*/run.json"))
    assert all(start["git_commit"] is None for start in run["starts"])  # an installed package lies in no clone


@pytest.fixture(scope="module")
def options():
    """Every option by command, from the commands' own help."""
    found = {}
    for name in COMMANDS:
        call = [sys.executable, "-m", "clinical_pretrain", name, "--help"]
        found[name] = set(OPTION.findall(subprocess.run(call, capture_output=True, text=True, check=True).stdout))
    for name in ("submit", "plan", "doctor"):
        found[name] |= found["run"]
    found["submit-shards"] |= found["build-shards"]
    found["submit-evaluate"] |= found["evaluate"]
    return found


def code_of(text):
    """The lines of a page's blocks, and what stands in backticks elsewhere."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    elsewhere = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [*(line.split("  #")[0] for line in lines), *re.findall(r"`([^`\n]+)`", elsewhere)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_options_exist(page, options):
    """Of our commands; an option or a key of the config by itself must be one of any command."""
    every, keys = set().union(*options.values()), keys_of(RunConfig)
    for line in code_of(page.read_text()):
        if command := re.match(r"(?:\$ )?clinical-pretrain ([a-z][\w-]*)(.*)", line):
            assert set(OPTION.findall(command[2])) <= options[command[1]], line
        elif (option := OPTION.match(line)) and "." in option[0] and not option[0].endswith((".", ".key")):
            assert option[0] in every, line
        elif re.fullmatch(r"\w+\.\w+", line) and line.split(".")[0] in keys:
            assert line in keys, line
