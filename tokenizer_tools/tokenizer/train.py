"""Train a byte-level BPE tokenizer on notes, for a model that is trained from scratch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tokenizer_tools.corpus.clean_notes import CleaningRules, check_placeholder_choice
from tokenizer_tools.corpus.input_files import Input
from tokenizer_tools.corpus.input_options import InputOptions, find_sources
from tokenizer_tools.corpus.placeholders import TYPED_TOKENS, Replacement, check_token, token_of
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import new_folder, refuse_used_folder
from tokenizer_tools.ranges import MANY, Range, SequenceLength, check_ranges
from tokenizer_tools.tokenizer.load import save_tokenizer
from tokenizer_tools.tokenizer.training_notes import TrainingNotes, no_training_notes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SMALLEST_VOCABULARY = 300
"""256 bytes, five special tokens, seven for placeholders, and some merges."""
_UNKNOWN, _MASK = "<unk>", "<mask>"
_FIRST_TOKENS = ["<s>", "<pad>", "</s>", _UNKNOWN]


@dataclass(frozen=True)
class TokenizerSettings:
    """What a new tokenizer depends on, besides the notes. The same settings and notes give the same bytes."""

    reading: InputOptions = field(default_factory=InputOptions)
    """How notes are read."""
    split: SplitRule = field(default_factory=SplitRule)
    """As for the shards, so that held-out patients stay out of the vocabulary, too."""
    cleaning: CleaningRules = field(default_factory=CleaningRules)
    """Which cleaning rules run."""
    vocab_size: Annotated[int, Range(_SMALLEST_VOCABULARY, 10_000_000)] = 8192
    """Entries of the vocabulary."""
    min_frequency: Annotated[int, Range(1, MANY)] = 2
    """A pair of tokens that occurs less often isn't merged into one."""
    sequence_length: SequenceLength = 4096
    """The tokenizer's model_max_length, in tokens."""
    placeholder: str = "unk"
    """What [**...**] and ___ become, as for the shards: unk, drop, keep, typed, surrogates, or a token. Tokens for
    placeholders become special tokens of the tokenizer."""
    surrogate_seed: Annotated[int, Range(0, MANY)] = 0
    """As for the shards: another seed gives other surrogates."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_placeholder_choice(self.placeholder, self.cleaning)
        for token in self.placeholder_tokens:
            check_token("--placeholder", token)
            if token in (*_FIRST_TOKENS, _MASK):
                raise UserError(f"--placeholder {token}: has another role in this tokenizer; choose another name")

    @property
    def placeholder_tokens(self) -> list[str]:
        """The special tokens for placeholders, besides the unknown token."""
        if self.placeholder == "typed":
            return list(TYPED_TOKENS.values())
        token = token_of(self.placeholder, _UNKNOWN)
        return [] if token in (None, _UNKNOWN) else [self.placeholder]

    @property
    def replacement(self) -> Replacement:
        """What replaces placeholders."""
        return Replacement.chosen(self.placeholder, token_of(self.placeholder, _UNKNOWN), self.surrogate_seed)


def train_tokenizer(notes: Sequence[Path], out: Path, settings: TokenizerSettings | None = None) -> dict[str, Any]:
    """Train on the cleaned notes of the training split and write a folder that plain `AutoTokenizer` loads.

    The vocabulary is made of what the notes contain: a name that occurs `min_frequency` times can become an entry.
    De-identification placeholders are taken out first, or what replaces them is learned, as the settings say. Look
    through the vocabulary before you publish it.

    Args:
        notes: as for `build_shards`.
        out: the folder to create.
        settings: what the tokenizer depends on.

    Returns:
        vocab_size, notes (of the training split, with text), rows_skipped (that can't be used), tokenizer (the folder).

    Raises:
        UserError: no text in the input, or `out` isn't empty.
    """
    out, settings = out.resolve(), settings or TokenizerSettings()
    inputs = find_sources(notes, settings.reading)
    refuse_used_folder(out)
    backend = Tokenizer(models.BPE(unk_token=_UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size - len(settings.placeholder_tokens) - 1,  # <mask> comes last, as in RoBERTa
        min_frequency=settings.min_frequency,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=_FIRST_TOKENS,
        show_progress=False,
    )
    texts = _TrainingTexts(inputs, settings)
    backend.train_from_iterator(iter(texts), trainer)
    if not texts.notes:
        raise no_training_notes()
    backend.add_special_tokens([AddedToken(token, special=True) for token in settings.placeholder_tokens])
    backend.add_special_tokens([AddedToken(_MASK, lstrip=True, special=True)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    with new_folder(out) as temporary:
        save_tokenizer(_with_roles(backend, settings.placeholder_tokens), temporary, settings.sequence_length)
    return {
        "vocab_size": backend.get_vocab_size(),
        "notes": texts.notes,
        "rows_skipped": texts.source.rows_skipped,
        "tokenizer": str(out),
    }


class _TrainingTexts:
    """Cleaned texts of the training split, cut at tokens for placeholders. Iterate once."""

    def __init__(self, inputs: list[Input], settings: TokenizerSettings) -> None:
        self.source = TrainingNotes(inputs, settings.reading, settings.split, settings.cleaning, settings.replacement)
        self._tokens = re.compile("|".join(map(re.escape, [_UNKNOWN, *settings.placeholder_tokens])))
        self.notes = 0
        """Notes so far."""

    def __iter__(self) -> Iterator[str]:
        for note in self.source:
            self.notes += 1
            yield from self._tokens.split(note.text)


def _with_roles(backend: Tokenizer, placeholder_tokens: list[str]) -> PreTrainedTokenizerFast:
    """Say which token is which, as in RoBERTa."""
    from transformers import PreTrainedTokenizerFast  # takes seconds; a mistake is reported before

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token=_UNKNOWN,
        mask_token=AddedToken(_MASK, lstrip=True, special=True),
        extra_special_tokens=placeholder_tokens,
    )
