"""Everything that can be checked before a run starts, without a GPU and without other ranks: files, settings, shards,
whether the base model fits them, and the run folder.

Training, and `run` and `submit` before they start one, ask the same functions, so that a mistake has one message. Free
disk space is checked at each save (checkpoint/pending_save.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinical_pretrain.config.model import refuse_missing_folder
from clinical_pretrain.config.run_config import NO_ZERO, RunConfig
from clinical_pretrain.data.validation_files import read_general_text, read_words
from clinical_pretrain.engine.deepspeed_config import resolve, zero_stage
from clinical_pretrain.resources import find_file
from clinical_pretrain.run_folder.compatibility import check_ownership, refuse_file
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.training.auto import as_before, is_auto
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import TOKENIZER_FOLDER, Manifest
from tokenizer_tools.tokenizer.identity import tokenizer_sha256


@dataclass(frozen=True)
class RunSpec:
    """What a run is: settings, data, and how they are spread over ranks."""

    config: RunConfig
    resolved: dict[str, Any]
    """DeepSpeed's config, without any "auto"."""
    manifest: Manifest
    """Of the shards."""
    world_size: int

    @property
    def zero_stage(self) -> int:
        """ZeRO stage, 0 to 3."""
        return zero_stage(self.resolved)

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return RunFolder(Path(self.config.run_dir))

    @property
    def shards(self) -> Path:
        """The shard folder."""
        return Path(self.config.data.shards)

    @property
    def tokenizer_file(self) -> Path:
        """The shards' tokenizer."""
        return self.shards / TOKENIZER_FOLDER / "tokenizer.json"

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches per rank and step."""
        return self.config.accumulation_steps(self.world_size)


def preflight(config: RunConfig, world_size: int) -> RunSpec:
    """Check everything. Takes some seconds, as it imports transformers.

    Raises:
        UserError: something can't work.
    """
    check_files(config)
    spec = make_spec(config, world_size)
    if not is_auto(spec.config):  # else it is known on the GPU alone
        check_folder(spec)
    from clinical_pretrain.models.base_model import fitting_model_config  # imports torch: other mistakes come first

    fitting_model_config(config, spec.manifest)
    return spec


def check_files(config: RunConfig) -> None:
    """Check that a run's files are there, as far as that takes less than a second.

    Raises:
        UserError: the shards, a file that the settings name, or the base model's folder isn't there; or the run folder
            is a file.
    """
    refuse_file(RunFolder(Path(config.run_dir)))
    Manifest.load(config.data.shards)
    if config.validation.words:
        read_words(config.validation.words)
    if config.validation.general_text:
        read_general_text(config.validation.general_text)
    if config.deepspeed != NO_ZERO:
        find_file(config.deepspeed)
    if config.model.init == "pretrained":
        refuse_missing_folder(config.model.name_or_path)


def make_spec(config: RunConfig, world_size: int) -> RunSpec:
    """Settings and shards alone: the run folder is to be checked by rank 0, and the model when it is built.

    Raises:
        UserError: something in files, settings or shards can't work.
    """
    manifest = load_shards(Path(config.data.shards))
    config = as_before(config, world_size)
    return RunSpec(config, resolve(config, world_size), manifest, world_size)


def check_folder(spec: RunSpec) -> list[str]:
    """Check that the run folder is new or holds this very run.

    Returns:
        Differences from the folder's run that are accepted.

    Raises:
        UserError: it holds something else.
    """
    return check_ownership(spec.folder, spec.config, spec.resolved, spec.manifest)


def load_shards(shards: Path) -> Manifest:
    """Load the manifest of a shard folder.

    Raises:
        UserError: it is not a finished shard folder, its tokenizer is not the one that it was built with, or a file of
            it is missing or cut off.
    """
    from tokenizers import Tokenizer

    from clinical_pretrain.data.shards import Split

    manifest = Manifest.load(shards)
    path = shards / TOKENIZER_FOLDER / "tokenizer.json"
    try:
        found = tokenizer_sha256(Tokenizer.from_file(str(path)))
    except Exception:  # tokenizers raises no narrower one
        found = None
    if found != manifest.tokenizer.sha256:
        raise UserError(f"{path}: not the tokenizer that these shards were built with; build the shards again")
    for name in manifest.splits:
        Split(shards, manifest, name)  # refuses a file that is cut off
    return manifest
