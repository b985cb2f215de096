"""The model to train: a pretrained or random Longformer or BigBird that fits the shards."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, BigBirdConfig, LongformerConfig

from clinical_pretrain.config.model import ModelConfig
from clinical_pretrain.config.run_config import RunConfig, refuse_missing_folder
from clinical_pretrain.distributed import uses_gpu
from clinical_pretrain.models.attention.bigbird import shortest_sparse
from clinical_pretrain.models.encoder import Encoder, HuggingFaceEncoder, use_fused_gelu
from clinical_pretrain.models.mlm_head import BigBirdForMaskedPositions, LongformerForMaskedPositions, pad_vocabulary
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest, TokenizerInfo
from tokenizer_tools.tokenizer.hub_access import hub_arguments, not_found
from tokenizer_tools.tokenizer.identity import vocab_sha256

MODEL_CLASSES: dict[str, Any] = {
    "longformer": LongformerForMaskedPositions,
    "big_bird": BigBirdForMaskedPositions,
}

COMPILER = "inductor"


def build_model(config: RunConfig, manifest: Manifest, zero_stage: int = 0) -> Any:
    """Make the model, in fp32, in training mode, with what the loss never reaches frozen and attention by the backend
    that the config asks for.

    Raises:
        UserError: the base model isn't there or lacks weights, or doesn't fit the shards' tokenizer or length.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(config.seed)
    if config.model.init == "random":
        model_config = random_config(config.model, manifest)
        check_fit(model_config, manifest, config.model.family)
        model = MODEL_CLASSES[model_config.model_type](model_config)
    else:
        model_config = load_model_config(config.model.name_or_path)
        longer = config.model.position_embeddings == "tile"
        check_fit(model_config, manifest, config.model.name_or_path, longer)
        _check_tokenizer(config.model.name_or_path, manifest.tokenizer)
        model = _load_pretrained(config.model.name_or_path, model_config)
        if longer:
            model = _tile_positions(model, manifest.sequence_length)
    if config.attention.global_tokens != "none" and model_config.model_type != "longformer":
        raise UserError("attention.global_tokens: only a Longformer has global tokens that can be chosen; use none")
    _freeze_unused(model, config)
    _set_attention_dropout(model, config.attention.dropout)
    install_encoder(model, config, zero_stage)
    return model.train()


def random_config(config: ModelConfig, manifest: Manifest) -> Any:
    """Configuration of a random model of the wanted size, for the shards' vocabulary and length.

    Raises:
        UserError: Longformer's window reaches beyond the rows.
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
    if config.family == "longformer":
        if size.attention_window > 2 * manifest.sequence_length:
            raise UserError(
                f"model.size.attention_window {size.attention_window}: rows of {manifest.sequence_length:,} tokens are "
                f"seen whole with {2 * manifest.sequence_length}; use that or less"
            )
        # Longformer numbers positions from pad_token_id + 1.
        positions = manifest.sequence_length + info.pad_id + 1
        return LongformerConfig(
            **common,
            attention_window=size.attention_window,
            max_position_embeddings=positions,
            type_vocab_size=1,
        )
    return BigBirdConfig(
        **common,
        block_size=size.block_size,
        num_random_blocks=size.num_random_blocks,
        max_position_embeddings=_whole_blocks(manifest.sequence_length, size.block_size),
        attention_type="block_sparse",
    )


def load_model_config(name_or_path: str) -> Any:
    """A base model's configuration.

    Raises:
        UserError: it isn't to be had, or is neither Longformer nor BigBird.
    """
    model_config = _from_hub_or_folder(AutoConfig.from_pretrained, name_or_path)
    if model_config.model_type not in MODEL_CLASSES:
        raise UserError(
            f"{name_or_path}: a {model_config.model_type} model; this trains {' and '.join(sorted(MODEL_CLASSES))}"
        )
    return model_config


def check_fit(model_config: Any, manifest: Manifest, name: str, longer: bool = False) -> None:
    """Refuse a model that can't take the shards' ids, padding or length; `longer`: its positions will be tiled."""
    info, length = manifest.tokenizer, manifest.sequence_length
    longformer = model_config.model_type == "longformer"
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
    positions = model_config.max_position_embeddings - _first_position(model_config)
    needed = length if longformer else _whole_blocks(length, model_config.block_size)
    if needed > positions and not longer:
        raise UserError(
            f"{name}: rows of {length:,} tokens, but the model has {positions:,} positions; build the shards with "
            f"--sequence-length {positions} or less, or repeat its positions with --model.position_embeddings tile"
        )
    if not longformer and model_config.attention_type == "block_sparse":
        shortest = shortest_sparse(model_config.block_size, model_config.num_random_blocks)
        if length <= shortest:
            raise UserError(
                f"{name}: rows of {length:,} tokens are too short for BigBird's block-sparse attention (it needs more "
                f"than {shortest:,}: blocks of {model_config.block_size}); build longer rows or use smaller blocks"
            )


def _first_position(model_config: Any) -> int:
    """Longformer numbers positions from pad_token_id + 1."""
    return model_config.pad_token_id + 1 if model_config.model_type == "longformer" else 0


def _whole_blocks(length: int, block_size: int) -> int:
    """BigBird fills rows up to whole blocks, whose positions it must have."""
    return -(-length // block_size) * block_size


def _tile_positions(model: Any, length: int) -> Any:
    """The model for rows of `length` tokens: its position embeddings again and again (Beltagy et al. 2020, section 5:
    how Longformer's 4,096 were made from RoBERTa's 512)."""
    config, name = copy.deepcopy(model.config), f"{model.base_model_prefix}.embeddings.position_embeddings.weight"
    first = _first_position(config)
    have = config.max_position_embeddings - first
    if config.model_type == "big_bird":
        length = _whole_blocks(length, config.block_size)
    if length <= have:
        return model
    config.max_position_embeddings = first + length
    weights = model.state_dict()
    places = torch.cat([torch.arange(first), first + torch.arange(length) % have])
    weights[name] = weights[name][places]
    longer = type(model)(config)
    longer.load_state_dict(weights)
    return longer


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
    model, report = _from_hub_or_folder(
        MODEL_CLASSES[model_config.model_type].from_pretrained,
        name_or_path,
        config=model_config,
        dtype=torch.float32,
        output_loading_info=True,
    )
    fresh = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    fresh = {name for name in fresh if ".pooler." not in name}  # never trained, never used by the masked-LM head
    if fresh:
        raise UserError(
            f"{name_or_path}: no pretrained weights for {', '.join(sorted(fresh)[:5])}"
            f"{f' and {len(fresh) - 5} more' if len(fresh) > 5 else ''}; they would start at random: use a checkpoint "
            "with its masked-LM head"
        )
    return model


def _from_hub_or_folder(load: Any, name_or_path: str, **arguments: Any) -> Any:
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
    """Without a gradient, weight decay would still shrink them."""
    for name, parameter in model.named_parameters():
        unused_global = "_global." in name and config.attention.global_tokens == "none"
        if ".pooler." in name or unused_global:
            parameter.requires_grad_(False)


def _set_attention_dropout(model: Any, dropout: float | None) -> None:
    """In the modules alone: the exported config stays the base model's."""
    if dropout is None:
        return
    longformer = model.config.model_type == "longformer"
    if dropout and not longformer:
        raise UserError("attention.dropout: BigBird's block-sparse attention has none; leave it out or set it to 0")
    for layer in model.base_model.encoder.layer:
        if longformer:
            layer.attention.self.dropout = dropout
        elif model.config.attention_type != "block_sparse":
            layer.attention.self.dropout.p = dropout


def choose_backend(model: Any, config: RunConfig, on_gpu: bool) -> str:
    """The attention backend that attention.backend names, or the fastest one that can compute what is asked.

    Raises:
        UserError: the one it names can't, with the reason.
    """
    wanted = config.attention.backend
    if wanted != "auto":
        obstacle = _obstacle(wanted, model, config, on_gpu)
        if obstacle:
            raise UserError(f"attention.backend {wanted}: {obstacle}; use auto")
        return wanted
    return next(name for name in ("varlen", "flex", "blocked") if not _obstacle(name, model, config, on_gpu))


def _obstacle(backend: str, model: Any, config: RunConfig, on_gpu: bool) -> str | None:
    """Why a backend can't do it."""
    longformer = model.config.model_type == "longformer"
    if backend == "hf" and not longformer and config.data.document_attention == "isolate":
        return "transformers' BigBird can't keep documents apart (data.document_attention isolate)"
    if backend == "hf" and not longformer and config.validation.random_blocks == "training":
        return "transformers' BigBird has evaluation's random blocks alone there (validation.random_blocks training)"
    if backend not in ("flex", "varlen"):
        return None
    width = model.config.hidden_size // model.config.num_attention_heads
    if not on_gpu:
        return "has no backward pass on a CPU" if backend == "flex" else "needs a GPU"
    if torch.cuda.get_device_capability() < (8, 0):
        return "needs a GPU of Ampere's generation or later"
    if longformer and any(layer.attention.self.dropout for layer in model.base_model.encoder.layer):
        return "takes no attention dropout, and this model has some (attention.dropout 0 switches it off)"
    if backend == "flex":
        if width < 16:
            return f"needs heads of width 16 or more, and this model's have {width}"
        if not longformer and model.config.block_size % 64:
            return f"needs blocks that are a multiple of 64, and this model's have {model.config.block_size} tokens"
        return None
    if not longformer:
        return "is for Longformer's windows"
    if width % 8 or width > 256:
        return f"needs heads whose width is a multiple of 8 up to 256, and this model's have {width}"
    if config.attention.global_tokens != "none":
        return "takes no global tokens"
    if config.precision == "fp32":
        return "computes in bf16 and fp16 alone"
    return None


def compiles(config: RunConfig, zero_stage: int) -> bool:
    """Whether layers and head are compiled, and want micro-batches of one shape."""
    wanted = config.compile == "on" or (config.compile == "auto" and uses_gpu() and zero_stage < 3)
    return wanted and config.attention.backend != "hf"


def install_encoder(model: Any, config: RunConfig, zero_stage: int) -> None:
    """Give a model its encode(): attention by the backend that the config asks for, recomputation and compilation."""
    backend = choose_backend(model, config, uses_gpu())
    settings = {"checkpointing": config.activation_checkpointing, "global_tokens": config.attention.global_tokens}
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
