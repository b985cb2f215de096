"""The model to train: a pretrained or random model of one of the families, which fits the shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer

from clinical_pretrain.config.model import ModelConfig
from clinical_pretrain.config.run_config import RunConfig, refuse_missing_folder
from clinical_pretrain.distributed import uses_gpu
from clinical_pretrain.models.backends import choose_backend
from clinical_pretrain.models.encoder import Encoder, HuggingFaceEncoder, use_fused_gelu
from clinical_pretrain.models.families import FAMILIES, family_named, family_of
from clinical_pretrain.models.mlm_head import pad_vocabulary
from clinical_pretrain.models.positions import available_positions, tile_positions
from tokenizer_tools.errors import UserError
from tokenizer_tools.hub_access import hub_arguments, not_found
from tokenizer_tools.manifest import Manifest, TokenizerInfo
from tokenizer_tools.tokenizer.identity import vocab_sha256

COMPILER = "inductor"


def build_model(config: RunConfig, manifest: Manifest, zero_stage: int = 0) -> Any:
    """Make the model, in fp32, in training mode, with the weights that the loss never reaches frozen, and attention by
    the backend that the config asks for.

    Raises:
        UserError: the base model isn't there or lacks weights, or doesn't fit the shards' tokenizer or length.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(config.seed)
    if config.model.init == "random":
        model_config = random_config(config.model, manifest)
        check_fit(model_config, manifest, config.model.family)
        model = family_of(model_config).model_class(model_config)
    else:
        model_config = load_model_config(config.model.name_or_path)
        tile = config.model.position_embeddings == "tile"
        check_fit(model_config, manifest, config.model.name_or_path, tile)
        _check_tokenizer(config.model.name_or_path, manifest.tokenizer)
        model = _load_pretrained(config.model.name_or_path, model_config)
        if tile:
            model = tile_positions(model, manifest.sequence_length)
    family = family_of(model_config)
    if config.attention.global_tokens != "none" and not family.has_global_tokens:
        those = " or ".join(each.title for each in FAMILIES if each.has_global_tokens)
        raise UserError(f"attention.global_tokens: only a {those} has global tokens that can be chosen; use none")
    _freeze_unused(model, config)
    if config.attention.dropout is not None:
        family.set_attention_dropout(model, config.attention.dropout)
    install_encoder(model, config, zero_stage)
    return model.train()


def random_config(config: ModelConfig, manifest: Manifest) -> Any:
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


def load_model_config(name_or_path: str) -> Any:
    """A base model's transformers config.

    Raises:
        UserError: it can't be loaded, or is of no known family.
    """
    model_config = _from_hub_or_folder(AutoConfig.from_pretrained, name_or_path)
    try:
        family_of(model_config)
    except UserError as error:
        raise UserError(f"{name_or_path}: {error}") from None
    return model_config


def check_fit(model_config: Any, manifest: Manifest, name: str, tile: bool = False) -> None:
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
    """If the base model brings a tokenizer, the shards must have been made with the same vocabulary."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **hub_arguments(name_or_path))
        vocabulary = tokenizer.backend_tokenizer.get_vocab()
    except Exception:
        return  # a folder with weights alone; the sizes have been compared
    if len(vocabulary) > 100 and vocab_sha256(vocabulary) != info.vocab_sha256:
        raise UserError(
            f"{name_or_path}: its tokenizer gives other ids than {info.name}, which the shards were built with; "
            f"build them with --tokenizer {name_or_path}"
        )


def _load_pretrained(name_or_path: str, model_config: Any) -> Any:
    family = family_of(model_config)
    model, report = _from_hub_or_folder(
        family.model_class.from_pretrained,
        name_or_path,
        config=model_config,
        dtype=torch.float32,
        output_loading_info=True,
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


def _from_hub_or_folder(load: Callable[..., Any], name_or_path: str, **arguments: Any) -> Any:
    folder = Path(name_or_path)
    refuse_missing_folder(name_or_path)
    try:
        return load(name_or_path, **hub_arguments(name_or_path), **arguments)
    except (OSError, ValueError) as error:
        if folder.is_dir():
            reason = (str(error).strip().splitlines() or ["unreadable"])[0][:200]
            raise UserError(f"{name_or_path}: no model could be loaded from this folder ({reason})") from None
        raise not_found(name_or_path, "model") from None


def _freeze_unused(model: Any, config: RunConfig) -> None:
    """Freeze what gets no gradient: weight decay would still shrink it."""
    family = family_of(model.config)
    unused = family.unused_weights + (family.global_weights if config.attention.global_tokens == "none" else ())
    for name, parameter in model.named_parameters():
        if any(part in name for part in unused):
            parameter.requires_grad_(False)


def compiles(config: RunConfig, zero_stage: int) -> bool:
    """Whether the layers and the head are compiled, which wants micro-batches of one shape."""
    wanted = config.compile == "on" or (config.compile == "auto" and uses_gpu() and zero_stage < 3)
    return wanted and config.attention.backend != "hf"


def install_encoder(model: Any, config: RunConfig, zero_stage: int) -> None:
    """Give a model its encode(): attention by the backend that the config asks for, activation checkpointing and
    compilation."""
    backend = choose_backend(model, config, uses_gpu())
    settings = {
        "activation_checkpointing": config.activation_checkpointing,
        "global_tokens": config.attention.global_tokens,
    }
    if backend == "hf":
        model.encode = HuggingFaceEncoder(model, **settings)
        return
    use_fused_gelu(model)
    compiled = COMPILER if compiles(config, zero_stage) else None
    model.encode = Encoder(model, backend, **settings, dropout=config.attention.dropout, compile_backend=compiled)
    if compiled:
        model.predict = torch.compile(model.predict, backend=compiled, dynamic=False)
    elif uses_gpu() and config.precision != "fp32":
        pad_vocabulary(model)
