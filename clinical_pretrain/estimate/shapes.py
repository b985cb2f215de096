"""The shape of a model, from a config alone: its parameters, without torch and without its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from clinical_pretrain.config.model import ModelConfig, refuse_missing_folder
from tokenizer_tools.errors import UserError


class Parameter(NamedTuple):
    """One parameter of a model."""

    numel: int
    is_trained: bool
    is_decayed: bool
    """Whether it belongs to the optimizer's group with weight decay: it has two dimensions or more."""


@dataclass(frozen=True)
class ModelShape:
    """What decides how large a model's tensors are, by transformers' names."""

    family: str
    """longformer or bigbird."""
    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int = 1
    attention_window: int = 512
    """Longformer: tokens in a token's window, the most of any layer."""
    block_size: int = 64
    num_random_blocks: int = 3
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    """Longformer's own; BigBird's block-sparse attention has none."""

    @property
    def has_windows(self) -> bool:
        """Longformer's attention, and RoBERTa's positions."""
        return self.family == "longformer"

    @property
    def has_blocks(self) -> bool:
        """BigBird's attention."""
        return self.family == "bigbird"

    @property
    def head_width(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_attention_heads

    def first_position(self, pad_id: int = 1) -> int:
        """Index of a document's first position embedding; RoBERTa's come after the padding's."""
        return pad_id + 1 if self.has_windows else 0


LONGFORMER_BASE = ModelShape("longformer", 12, 768, 12, 3072, 50265, 4098)
BIGBIRD_BASE = ModelShape("bigbird", 12, 768, 12, 3072, 50358, 4096, type_vocab_size=2)
KNOWN = {
    "allenai/longformer-base-4096": LONGFORMER_BASE,
    "google/bigbird-roberta-base": BIGBIRD_BASE,
}
"""The recipes' base models, whose shape is known without a download; source: the config.json of each on the Hub."""


def shape_of(config: ModelConfig, length: int, vocab_size: int | None = None) -> ModelShape:
    """The shape of the model that a run trains.

    Args:
        config: its settings.
        length: tokens per sequence.
        vocab_size: of the shards' tokenizer; None: the base model's own.

    Raises:
        UserError: the base model's config.json can't be found, or is of another family.
    """
    if config.init == "random":
        base, size = (LONGFORMER_BASE if config.family == "longformer" else BIGBIRD_BASE), config.size
        return ModelShape(
            config.family,
            size.num_hidden_layers,
            size.hidden_size,
            size.num_attention_heads,
            size.intermediate_size,
            vocab_size or base.vocab_size,
            _padded(length, 1 if config.family == "longformer" else size.block_size) + base.first_position(),
            base.type_vocab_size,
            size.attention_window,
            size.block_size,
            size.num_random_blocks,
        )
    shape = _read(config.name_or_path)
    needed = _padded(length, shape.block_size if shape.has_blocks else 1) + shape.first_position()
    if needed <= shape.max_position_embeddings:
        return shape
    if config.position_embeddings == "tile":
        return replace(shape, max_position_embeddings=needed)
    raise UserError(
        f"{config.name_or_path}: sequences of {length:,} tokens, but the model has "
        f"{shape.max_position_embeddings - shape.first_position():,} positions; repeat them with "
        "--model.position_embeddings tile"
    )


_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)
"""What every config.json says, by transformers' names."""


def _padded(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _read(name_or_path: str) -> ModelShape:
    """From the config.json of a folder, or of the Hub's cache; that of a recipe's base model is known without."""
    refuse_missing_folder(name_or_path)
    path = Path(name_or_path) / "config.json"
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache

        cached = None if Path(name_or_path).is_dir() else try_to_load_from_cache(name_or_path, "config.json")
        if not isinstance(cached, str):
            if name_or_path in KNOWN:
                return KNOWN[name_or_path]
            raise UserError(
                f"{name_or_path}: its config.json isn't here; download the model, or give its folder as "
                "--model.name_or_path"
            )
        path = Path(cached)
    return read_shape(path)


def read_shape(path: Path) -> ModelShape:
    """The shape of a model from its config.json.

    Raises:
        UserError: the file is missing, damaged, or of another family.
    """
    try:
        return from_transformers(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a Longformer's or a BigBird's config ({error})") from None


def from_transformers(config: dict[str, Any]) -> ModelShape:
    """The shape that a config.json describes.

    Raises:
        ValueError: it is of another family.
        KeyError: it lacks something.
    """
    families = {"longformer": "longformer", "big_bird": "bigbird"}
    if config.get("model_type") not in families:
        raise ValueError(f"model_type {config.get('model_type')}")
    family = families[config["model_type"]]
    base = LONGFORMER_BASE if family == "longformer" else BIGBIRD_BASE
    window = config.get("attention_window", base.attention_window)
    sizes: dict[str, Any] = {name: int(config[name]) for name in _SIZES}
    return replace(
        base,
        **sizes,
        type_vocab_size=int(config.get("type_vocab_size", base.type_vocab_size)),
        attention_window=int(max(window) if isinstance(window, list) else window),
        block_size=int(config.get("block_size", base.block_size)),
        num_random_blocks=int(config.get("num_random_blocks", base.num_random_blocks)),
        hidden_dropout=float(config.get("hidden_dropout_prob", base.hidden_dropout)),
        attention_dropout=float(config.get("attention_probs_dropout_prob", base.attention_dropout)),
    )


def parameters(shape: ModelShape) -> list[Parameter]:
    """All parameters in the order of transformers' modules. The head's decoder is the word embeddings.

    Without global tokens, Longformer's weights of global attention are frozen; so is BigBird's pooler.
    """
    width, inner = shape.hidden_size, shape.intermediate_size
    found = [Parameter(rows * width, True, True) for rows in (shape.vocab_size, shape.max_position_embeddings,
                                                              shape.type_vocab_size)]  # fmt: skip
    found += _norm(width)
    for _ in range(shape.num_hidden_layers):
        found += [each for _ in range(3) for each in _linear(width, width)]
        if shape.has_windows:
            found += [each for _ in range(3) for each in _linear(width, width, is_trained=False)]
        found += [*_linear(width, width), *_norm(width), *_linear(width, inner), *_linear(inner, width), *_norm(width)]
    if shape.has_blocks:
        found += _linear(width, width, is_trained=False)
    return [*found, Parameter(shape.vocab_size, True, False), *_linear(width, width), *_norm(width)]


def checkpoint_bytes(total: int, trained: int, element: int) -> int:
    """Size of a checkpoint: the weights that compute, and of trained ones fp32 weights and both of Adam's moments.

    Args:
        total: parameters of the model.
        trained: those of them that aren't frozen.
        element: bytes of a weight that computes.
    """
    return element * total + 12 * trained


def layer_parameters(shape: ModelShape) -> int:
    """Trained parameters of one layer."""
    width, inner = shape.hidden_size, shape.intermediate_size
    return 4 * (width + 1) * width + (width + 1) * inner + (inner + 1) * width + 4 * width


def _linear(inputs: int, outputs: int, is_trained: bool = True) -> Iterator[Parameter]:
    yield Parameter(inputs * outputs, is_trained, True)
    yield Parameter(outputs, is_trained, False)


def _norm(width: int) -> list[Parameter]:
    return [Parameter(width, True, False)] * 2
