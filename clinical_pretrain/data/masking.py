"""Dynamic masking for the masked-LM objective (Devlin et al. 2019, section 3.1).

The masks of a sequence are a function of (seed, epoch, sequence): a resumed run, or one on another number of GPUs,
draws the same ones, but for one micro-batch in 10^9, see collator.capacity(). Those of a held-out sequence are a
function of (seed, sequence): every validation predicts the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from clinical_pretrain.config.data import MaskingConfig
from tokenizer_tools.manifest import TokenizerInfo

_LETTER, _DIGIT, _OTHER, _BREAK = range(4)
_BLANKS, _BREAKS = "Ġ▁ ", "Ċĉ\n\t"
"""As vocabularies write them: Ġ, Ċ and ĉ are byte-level BPE's blank, line break and tab; ▁ is SentencePiece's blank."""


@dataclass(frozen=True)
class Vocabulary:
    """What masking must know of each token, by its id."""

    maskable: npt.NDArray[np.bool_]
    """(vocabulary,): whether it may be predicted, and may replace another: neither special nor a placeholder."""
    begins_word: npt.NDArray[np.bool_]
    """(vocabulary,): whether it starts with a blank or a line break."""
    kind: npt.NDArray[np.int8]
    """(vocabulary,): letters, digits, line breaks or other, by its first character that isn't blank. A change of kind
    begins a word, as in the models' pre-tokenizers."""
    is_blank: npt.NDArray[np.bool_]
    """(vocabulary,): whether it is blanks alone. Such a token begins the word that follows, unless that starts with a
    blank of its own."""
    mask_id: int
    pad_id: int

    @cached_property
    def replacement_ids(self) -> npt.NDArray[np.int64]:
        """(maskable tokens,): their ids."""
        return np.flatnonzero(self.maskable)

    @classmethod
    def load(cls, tokenizer_json: Path, info: TokenizerInfo) -> Vocabulary:
        """Read it from the shard folder's tokenizer."""
        backend = Tokenizer.from_file(str(tokenizer_json))
        size = info.vocab_size
        maskable, begins, is_blank = np.ones(size, bool), np.zeros(size, bool), np.zeros(size, bool)
        kind = np.full(size, _OTHER, np.int8)
        for token, token_id in backend.get_vocab().items():
            begins[token_id] = token[0] in _BLANKS + _BREAKS
            text = token.lstrip(_BLANKS)
            is_blank[token_id] = not text
            kind[token_id] = _kind(text[0]) if text else _OTHER
        for token_id, added in backend.get_added_tokens_decoder().items():
            maskable[token_id] = not added.special
        maskable[[info.begin_id, info.end_id, info.pad_id, info.mask_id, info.unknown_id]] = False
        maskable[list(info.placeholder_ids.values())] = False
        return cls(maskable, begins, kind, is_blank, info.mask_id, info.pad_id)


def _kind(character: str) -> int:
    if character in _BREAKS:
        return _BREAK
    return _LETTER if character.isalpha() else _DIGIT if character.isdigit() else _OTHER


def mask_sequence(
    ids: npt.NDArray[np.integer], config: MaskingConfig, vocabulary: Vocabulary, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Choose the tokens of a sequence to predict, and hide most of them.

    Args:
        ids: (tokens,).
        config: which shares are chosen, and hidden how.
        vocabulary: of these ids.
        rng: the sequence's own generator.

    Returns:
        The ids that the model sees, (tokens,), and the positions to predict, (predicted,), ascending.
    """
    shown = ids.astype(np.int64)
    maskable = vocabulary.maskable[ids]
    if config.whole_words:
        word = np.cumsum(word_starts(ids, vocabulary)) - 1
        chosen = (rng.random(int(word[-1]) + 1) < config.probability)[word] & maskable
    else:
        chosen = (rng.random(len(ids)) < config.probability) & maskable
    positions = np.flatnonzero(chosen)
    draw = rng.random(len(positions))
    random_ids = vocabulary.replacement_ids[rng.integers(len(vocabulary.replacement_ids), size=len(positions))]
    as_mask = draw < config.replace_with_mask
    as_random = ~as_mask & (draw < config.replace_with_mask + config.replace_with_random)
    shown[positions[as_mask]] = vocabulary.mask_id
    shown[positions[as_random]] = random_ids[as_random]
    return shown, positions


def word_starts(ids: npt.NDArray[np.integer], vocabulary: Vocabulary) -> npt.NDArray[np.bool_]:
    """(tokens,): whether a word begins there. A token that isn't maskable is a word of its own."""
    maskable = vocabulary.maskable[ids]
    kind = vocabulary.kind[ids]
    starts = vocabulary.begins_word[ids] | ~maskable
    starts[0] = True
    changes = (kind[1:] != kind[:-1]) & ~vocabulary.is_blank[ids[:-1]]
    starts[1:] |= changes | ~maskable[:-1]
    return starts
