"""The base model's config, and whether the model and its tokenizer fit the shards: asked before a run starts, and when
the model is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from clinical_pretrain.config.model import ModelConfig, refuse_missing_folder
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.models.families import FAMILIES, family_named, family_of
from clinical_pretrain.models.positions import available_positions
from tokenizer_tools.errors import UserError
from tokenizer_tools.hub_access import hub_arguments, not_found
from tokenizer_tools.manifest import Manifest, TokenizerInfo
from tokenizer_tools.tokenizer.identity import vocab_sha256

if TYPE_CHECKING:
    import torch
    from transformers import AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel


def fitting_model_config(config: RunConfig, manifest: Manifest) -> PreTrainedConfig:
    """The transformers config of the model that a run begins with.

    Raises:
        UserError: the base model can't be found, is of no known family, doesn't fit the shards' tokenizer or length, or
            has no global tokens where they are asked for.
    """
    if config.model.init == "random":
        model_config = random_config(config.model, manifest)
        check_fit(model_config, manifest, config.model.family)
    else:
        model_config = load_model_config(config.model.name_or_path)
        check_fit(model_config, manifest, config.model.name_or_path, tile=config.model.position_embeddings == "tile")
        _check_tokenizer(config.model.name_or_path, manifest.tokenizer)
    if config.attention.global_tokens != "none" and not family_of(model_config).has_global_tokens:
        those = " or ".join(each.title for each in FAMILIES if each.has_global_tokens)
        raise UserError(f"attention.global_tokens: only a {those} has global tokens that can be chosen; use none")
    return model_config


def random_config(config: ModelConfig, manifest: Manifest) -> PreTrainedConfig:
    """The transformers config of a random model of the wanted size, for the shards' vocabulary and length.

    Raises:
        UserError: the size doesn't fit the length.
    """
    size, info = config.size, manifest.tokenizer
    common = {
        "vocab_size": info.vocab_size,
        "num_hidden_layers": size.num_hidden_layers,
        "hidden_size": size.hidden_size,
        "num_attention_heads": size.num_attention_heads,
        "intermediate_size": size.intermediate_size,
        "pad_token_id": info.pad_id,
        "bos_token_id": info.begin_id,
        "eos_token_id": info.end_id,
        "sep_token_id": info.end_id,
    }
    return family_named(config.family).random_config(size, common, manifest.sequence_length)


def load_model_config(name_or_path: str) -> PreTrainedConfig:
    """A base model's transformers config.

    Raises:
        UserError: it can't be loaded, or is of no known family.
    """
    model_config = from_hub_or_folder(AutoConfig.from_pretrained, name_or_path)
    try:
        family_of(model_config)
    except UserError as error:
        raise UserError(f"{name_or_path}: {error}") from None
    return model_config


def load_pretrained(
    name_or_path: str,
    model_config: PreTrainedConfig,
    model_class: type[PreTrainedModel] | type[AutoModelForMaskedLM],
    dtype: torch.dtype | Literal["auto"],
) -> PreTrainedModel:
    """Load a base model with its masked-LM head, in a dtype, or as it is stored (`auto`).

    Raises:
        UserError: it isn't there, or lacks weights.
    """
    family = family_of(model_config)
    model, report = from_hub_or_folder(
        model_class.from_pretrained, name_or_path, config=model_config, dtype=dtype, output_loading_info=True
    )
    missing = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    missing = {name for name in missing if not any(part in name for part in family.unused_weights)}
    if missing:
        raise UserError(
            f"{name_or_path}: no pretrained weights for {', '.join(sorted(missing)[:5])}"
            f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}; they would start at random: use a "
            "checkpoint with its masked-LM head"
        )
    return model


def check_fit(model_config: PreTrainedConfig, manifest: Manifest, name: str, tile: bool = False) -> None:
    """Refuse a model that can't take the shards' ids, padding or length.

    Args:
        model_config: the model's transformers config.
        manifest: of the shards.
        name: of the model, for messages.
        tile: whether its position embeddings will be repeated as far as needed.

    Raises:
        UserError: it can't take them.
    """
    info, length, family = manifest.tokenizer, manifest.sequence_length, family_of(model_config)
    if info.vocab_size > model_config.vocab_size:
        raise UserError(
            f"{name}: the model knows {model_config.vocab_size:,} tokens, but the shards' tokenizer {info.name} has "
            f"{info.vocab_size:,}; build the shards with the model's own tokenizer"
        )
    if model_config.pad_token_id != info.pad_id:
        raise UserError(
            f"{name}: the model pads with id {model_config.pad_token_id}, but the shards' tokenizer {info.name} with "
            f"{info.pad_id}; build the shards with the model's own tokenizer"
        )
    positions = available_positions(model_config)
    if family.padded(model_config, length) > positions and not tile:
        raise UserError(
            f"{name}: sequences of {length:,} tokens, but the model has {positions:,} positions; build the shards with "
            f"--sequence-length {positions} or less, or repeat its positions with --model.position_embeddings tile"
        )
    if obstacle := family.length_obstacle(model_config, length):
        raise UserError(f"{name}: {obstacle}")


def _check_tokenizer(name_or_path: str, info: TokenizerInfo) -> None:
    if not brings_no_other_tokenizer(name_or_path, info.vocab_sha256):
        raise UserError(
            f"{name_or_path}: its tokenizer gives other ids than {info.name}, which the shards were built with; "
            f"build them with --tokenizer {name_or_path}"
        )


def brings_no_other_tokenizer(name_or_path: str, expected_sha256: str) -> bool:
    """Whether the tokenizer that a base model brings, if any, has this vocabulary (`vocab_sha256`)."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **hub_arguments(name_or_path))
        vocabulary = tokenizer.backend_tokenizer.get_vocab()
    except Exception:
        return True  # a folder with weights alone; the sizes have been compared
    return len(vocabulary) <= 100 or vocab_sha256(vocabulary) == expected_sha256


def from_hub_or_folder(load: Callable[..., Any], name_or_path: str, **arguments: Any) -> Any:
    """Call a `from_pretrained` of transformers.

    Raises:
        UserError: nothing of that name can be loaded.
    """
    folder = Path(name_or_path)
    refuse_missing_folder(name_or_path)
    try:
        return load(name_or_path, **hub_arguments(name_or_path), **arguments)
    except (OSError, ValueError, SafetensorError) as error:
        if folder.is_dir():
            reason = (str(error).strip().splitlines() or ["unreadable"])[0][:200]
            raise UserError(f"{name_or_path}: no model could be loaded from this folder ({reason})") from None
        raise not_found(name_or_path, "model") from None
