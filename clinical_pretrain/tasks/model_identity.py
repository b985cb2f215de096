"""Whether a model is still the one that a result was made with."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from tokenizer_tools.errors import UserError
from tokenizer_tools.files import file_sha256
from tokenizer_tools.hub_access import hub_arguments, not_found

FILES = (
    "config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "model*.safetensors*",
    "pytorch_model*.bin*",
)
"""Files of a model's folder that decide what it computes, by transformers' names."""


@cache
def model_identity(model: str) -> str:
    """What stays the same as long as a model computes the same.

    Returns:
        For a folder `sha256:` and a hash over the names and contents of its FILES, so that a copy is the same model and
        a model that was trained further isn't. For an id on the Hub the id and the commit that `main` stands for, which
        is known without the weights. It is computed once in a process: hashing takes about a second per GB.

    Raises:
        UserError: there is no such model.
    """
    folder = Path(model)
    if not folder.is_dir() and (folder.is_absolute() or model.endswith("/") or model.count("/") > 1):
        raise UserError(f"{model}: no such folder; name the folder of an export, or a model's id on the Hub")
    if not folder.is_dir():
        return f"{model}@{_hub_config(model).parent.name}"
    if not (folder / "config.json").is_file():
        raise UserError(f"{model}: no config.json, so this is not a Hugging Face model; name the folder of an export")
    digest = hashlib.sha256()
    for path in sorted({path for pattern in FILES for path in folder.glob(pattern)}):
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _hub_config(model: str) -> Path:
    """The file config.json of a model in the Hub's cache, `.../snapshots/COMMIT/config.json`, fetched if need be."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model, "config.json", **hub_arguments(model)))
    except (OSError, ValueError):  # of huggingface_hub: not there, no access, not the form of an id
        raise not_found(model, "model") from None
