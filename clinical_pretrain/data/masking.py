"""Dynamic masking for the masked-LM objective (Devlin et al. 2019, section 3.1), and micro-batches.

A row's masks are a function of (seed, epoch, row), so that a resumed run, or one on another number of GPUs, draws the
same. Held-out rows are masked by (seed, row) alone: every validation asks the same questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from clinical_pretrain.config import MaskingConfig
from clinical_pretrain.data.shards import Row
from tokenizer_tools.manifest import TokenizerInfo

_LETTER, _DIGIT, _OTHER = range(3)


@dataclass(frozen=True)
class Vocabulary:
    """What masking must know of the tokens."""

    ordinary: npt.NDArray[np.bool_]
    """(vocabulary,): may be hidden and may stand in: neither special nor a placeholder."""
    begins_word: npt.NDArray[np.bool_]
    """(vocabulary,): written with a blank or line break before it, or in it."""
    kind: npt.NDArray[np.int8]
    """(vocabulary,): letters, digits or other; a change of kind begins a word, as in both models' pre-tokenizers."""
    mask_id: int
    pad_id: int

    @classmethod
    def load(cls, tokenizer_json: Path, info: TokenizerInfo) -> Vocabulary:
        """From the shard folder's tokenizer."""
        backend = Tokenizer.from_file(str(tokenizer_json))
        size = info.vocab_size
        ordinary, begins, kind = np.ones(size, bool), np.zeros(size, bool), np.full(size, _OTHER, np.int8)
        for token, token_id in backend.get_vocab().items():
            # Ġ, Ċ and ĉ are byte-level BPE's blank, line break and tab; ▁ is SentencePiece's blank.
            begins[token_id] = token[0] in "ĠĊĉ▁ \n\t"
            text = token.lstrip("Ġ▁ ")
            kind[token_id] = _OTHER if not text else _kind(text[0])
        for token_id, added in backend.get_added_tokens_decoder().items():
            ordinary[token_id] = not added.special
        for never in (info.begin_id, info.end_id, info.pad_id, info.mask_id, info.unknown_id, info.placeholder_id):
            if never is not None:
                ordinary[never] = False
        return cls(ordinary, begins, kind, info.mask_id, info.pad_id)


def _kind(character: str) -> int:
    return _LETTER if character.isalpha() else _DIGIT if character.isdigit() else _OTHER


def mask_row(
    ids: npt.NDArray[np.integer], config: MaskingConfig, vocabulary: Vocabulary, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Hide a share of a row's tokens.

    Args:
        ids: (tokens,).
        config: shares.
        vocabulary: of these ids.
        rng: the row's own generator.

    Returns:
        What the model sees, (tokens,), and the positions to predict, (predicted,), ascending.
    """
    shown = ids.astype(np.int64)
    ordinary = vocabulary.ordinary[ids]
    if config.whole_words:
        word = np.cumsum(word_starts(ids, vocabulary)) - 1
        chosen = (rng.random(int(word[-1]) + 1) < config.probability)[word] & ordinary
    else:
        chosen = (rng.random(len(ids)) < config.probability) & ordinary
    positions = np.flatnonzero(chosen)
    draw = rng.random(len(positions))
    stand_ins = np.flatnonzero(vocabulary.ordinary)
    random_ids = stand_ins[rng.integers(len(stand_ins), size=len(positions))]
    as_mask = draw < config.replace_with_mask
    as_random = ~as_mask & (draw < config.replace_with_mask + config.replace_with_random)
    shown[positions[as_mask]] = vocabulary.mask_id
    shown[positions[as_random]] = random_ids[as_random]
    return shown, positions


def word_starts(ids: npt.NDArray[np.integer], vocabulary: Vocabulary) -> npt.NDArray[np.bool_]:
    """(tokens,): True where a word begins; a special token is a word of its own."""
    ordinary = vocabulary.ordinary[ids]
    kind = vocabulary.kind[ids]
    starts = vocabulary.begins_word[ids] | ~ordinary
    starts[0] = True
    starts[1:] |= (kind[1:] != kind[:-1]) | ~ordinary[:-1]
    return starts


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass takes, padded to the full length: BigBird would leave block-sparse attention for good
    on a short batch."""

    input_ids: torch.Tensor
    """(batch, length) int64, masked."""
    attention_mask: torch.Tensor
    """(batch, length) int64, 1 on tokens, 0 on padding."""
    positions: torch.Tensor
    """(predicted,) int64, into the flattened batch."""
    labels: torch.Tensor
    """(predicted,) int64, the true tokens."""

    def to(self, device: torch.device) -> dict[str, torch.Tensor]:
        """As keyword arguments for the model, on its device."""
        return {name: getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__}


def collate(
    rows: list[Row],
    generators: list[np.random.Generator],
    length: int,
    config: MaskingConfig,
    vocabulary: Vocabulary,
) -> MicroBatch:
    """Mask rows, each with its generator, and put them side by side."""
    shape = (len(rows), length)
    input_ids = np.full(shape, vocabulary.pad_id, np.int64)
    attention_mask = np.zeros(shape, np.int64)
    positions, labels = [], []
    for number, (row, rng) in enumerate(zip(rows, generators, strict=True)):
        shown, chosen = mask_row(row.input_ids, config, vocabulary, rng)
        input_ids[number, : len(shown)] = shown
        attention_mask[number, : len(shown)] = 1
        positions.append(chosen + number * length)
        labels.append(row.input_ids[chosen].astype(np.int64))
    return MicroBatch(
        torch.from_numpy(input_ids),
        torch.from_numpy(attention_mask),
        torch.from_numpy(np.concatenate(positions)),
        torch.from_numpy(np.concatenate(labels)),
    )
