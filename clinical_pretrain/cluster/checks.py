"""Find on the login node what would fail on the compute nodes, which don't go online."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.config.slurm import SlurmConfig
from clinical_pretrain.training.preflight import preflight
from tokenizer_tools.errors import UserError

SMALL_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def check_for_nodes(config: RunConfig, slurm: SlurmConfig) -> None:
    """Check everything that can be known of a run before it is submitted.

    Raises:
        UserError: the run can't work.
    """
    if config.model.init == "pretrained":
        check_base_model_is_local(config.model.name_or_path)
    preflight(config, slurm.nodes * slurm.ranks_per_node)


def check_base_model_is_local(name: str) -> None:
    """Check that a base model is a folder, or in the Hub's cache with its weights: building shards with its tokenizer
    leaves only small files there.

    Raises:
        UserError: it is neither.
    """
    check_is_local(name)
    if not Path(name).exists() and not _is_cached(name, WEIGHTS):
        raise UserError(
            f"{name}: its weights are not on this machine, and compute nodes don't go online; run first: hf download "
            f"{name}"
        )


def check_is_local(name: str) -> None:
    """Check that a model or tokenizer is a folder, or in the Hub's cache, as compute nodes don't go online.

    Raises:
        UserError: it is neither.
    """
    from huggingface_hub.errors import HFValidationError

    if Path(name).exists():
        return
    try:
        if not _is_cached(name, SMALL_FILES):
            raise UserError(
                f"{name}: not on this machine, and compute nodes don't go online; run first: hf download {name}"
            )
    except HFValidationError:
        raise UserError(
            f"{name}: no such folder, and not the name of a model on the Hub, such as allenai/longformer-base-4096"
        ) from None


def _is_cached(name: str, files: Sequence[str]) -> bool:
    """Whether one of these files of a model is in the Hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(name, file), str) for file in files)
