"""Train a byte-level BPE tokenizer on notes, for a model that is trained from scratch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tokenizer_tools.corpus.clean_notes import CleaningRules, clean
from tokenizer_tools.corpus.deduplicate import text_hash
from tokenizer_tools.corpus.input_files import Input, find_inputs
from tokenizer_tools.corpus.read_notes import InputOptions, read_notes
from tokenizer_tools.corpus.split_patients import SplitRule, patients_of_admissions, unknown_patient
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS
from tokenizer_tools.progress import Progress
from tokenizer_tools.ranges import MANY, Range, SequenceLength, check_ranges
from tokenizer_tools.tokenizer.load import save_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SMALLEST_VOCABULARY = 300
"""256 bytes, five special tokens, and some merges."""


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

    def __post_init__(self) -> None:
        check_ranges(self)


def train_tokenizer(notes: Sequence[Path], out: Path, settings: TokenizerSettings | None = None) -> dict[str, Any]:
    """Train on the cleaned notes of the training split and write a folder that plain `AutoTokenizer` loads.

    The vocabulary is made of what the notes contain: a name that occurs `min_frequency` times can become an entry.
    De-identification placeholders are taken out first. Look through the vocabulary before you publish it.

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
    inputs = find_inputs(notes, settings.reading.files)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and isn't empty; choose another --out, or delete it")
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size - 1,  # <mask> comes last, as in RoBERTa
        min_frequency=settings.min_frequency,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        show_progress=False,
    )
    texts = _TrainingTexts(inputs, settings)
    backend.train_from_iterator(iter(texts), trainer)
    if not texts.notes:
        raise UserError("no note with text in the training split; check --notes and --columns.text")
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    save_tokenizer(_with_roles(backend), temporary, settings.sequence_length)
    if out.exists():
        out.rmdir()
    temporary.replace(out)
    return {
        "vocab_size": backend.get_vocab_size(),
        "notes": texts.notes,
        "rows_skipped": texts.skipped,
        "tokenizer": str(out),
    }


class _TrainingTexts:
    """Cleaned texts of the training split, cut at placeholders. Iterate once."""

    def __init__(self, inputs: list[Input], settings: TokenizerSettings) -> None:
        self.inputs, self.settings = inputs, settings
        self.notes = 0
        """Notes with text so far."""
        self.skipped = 0
        """Rows that can't be used so far."""

    def __iter__(self) -> Iterator[str]:
        rule = self.settings.split
        known = patients_of_admissions(self._pairs) if rule.needs_identity else {}
        with Progress("reading notes") as progress:
            for note in read_notes(self.inputs, self.settings.reading, rule):
                progress.advance(1)
                patient = note.patient or known.get(note.admission, "")
                text = clean(note.text, self.settings.cleaning, placeholder="<unk>")
                is_dropped = rule.needs_identity and rule.by == "patient" and not patient
                if text and is_dropped and self.settings.reading.on_bad_row == "fail":
                    raise unknown_patient(note.place, 0)
                self.skipped += note.fault not in (None, "marked_error") or bool(text and is_dropped)
                group = rule.group_of(patient, note.admission, text_hash(text))
                if text and not is_dropped and rule.split_of(group) == SPLITS.index("train"):
                    self.notes += 1
                    yield from text.split("<unk>")

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for note in read_notes(self.inputs, self.settings.reading, self.settings.split):
            yield note.patient, note.admission


def _with_roles(backend: Tokenizer) -> PreTrainedTokenizerFast:
    """Say which token is which, as in RoBERTa."""
    from transformers import PreTrainedTokenizerFast  # takes seconds; a mistake is reported before

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
    )
