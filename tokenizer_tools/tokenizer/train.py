"""A byte-level BPE tokenizer trained on notes, for a model that starts from nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tokenizer_tools.corpus.clean_notes import CleaningRules, clean
from tokenizer_tools.corpus.deduplicate import text_hash
from tokenizer_tools.corpus.input_files import find_inputs
from tokenizer_tools.corpus.read_notes import InputOptions, read_notes
from tokenizer_tools.corpus.split_patients import SplitRule, patients_of_admissions
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS
from tokenizer_tools.progress import Progress
from tokenizer_tools.tokenizer.load import save_tokenizer

SMALLEST_VOCABULARY = 300
"""256 bytes, five special tokens, and something to learn."""


def train_tokenizer(
    notes: list[Path],
    out: Path,
    *,
    reading: InputOptions | None = None,
    split: SplitRule | None = None,
    vocab_size: int = 8192,
    min_frequency: int = 2,
    sequence_length: int = 4096,
) -> dict[str, Any]:
    """Train on the cleaned notes of the training split and write a folder that plain `AutoTokenizer` loads. The same
    notes give the same bytes.

    A vocabulary is made of what stands in the notes: a name that occurs `min_frequency` times can become an entry.
    De-identification placeholders are taken out first; look through the vocabulary before you publish it.

    Args:
        notes: as for `build_shards`.
        out: the folder to make.
        reading: as for `build_shards`.
        split: as for `build_shards`, so that held-out patients stay out of the vocabulary, too.
        vocab_size: entries, at least 300.
        min_frequency: a pair of pieces that occurs less often isn't merged.
        sequence_length: the tokenizer's model_max_length.

    Returns:
        vocab_size, notes (of the training split, with text), tokenizer (the folder).

    Raises:
        UserError: no text in the input, too small a vocabulary, or `out` holds something.
    """
    out = out.resolve()
    reading, rule = reading or InputOptions(), split or SplitRule()
    inputs = find_inputs(notes, reading.files)
    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(f"--vocab-size {vocab_size}: must be at least {SMALLEST_VOCABULARY}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and isn't empty; choose another --out, or delete it")
    count = 0

    def pairs() -> Iterator[tuple[str, str]]:
        return ((note.patient, note.admission) for note in read_notes(inputs, reading, rule))

    known = patients_of_admissions(pairs) if rule.needs_identity else {}

    def texts() -> Iterator[str]:
        nonlocal count
        with Progress("reading notes") as progress:
            for note in read_notes(inputs, reading, rule):
                progress.advance(1)
                patient = note.patient or known.get(note.admission, "")
                text = clean(note.text, CleaningRules(), placeholder="<unk>")
                nobodys = rule.needs_identity and rule.by == "patient" and not patient
                group = rule.group_of(patient, note.admission, text_hash(text))
                if not text or nobodys or rule.split_of(group) != SPLITS.index("train"):
                    continue
                count += 1
                yield from text.split("<unk>")

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # <mask> comes last, as in RoBERTa
        min_frequency=min_frequency,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        show_progress=False,
    )
    backend.train_from_iterator(texts(), trainer)
    if not count:
        raise UserError("no note with text in the training split; check --notes and --columns.text")
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    from transformers import PreTrainedTokenizerFast  # seconds, which a mistake needn't wait for

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
    )
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    save_tokenizer(tokenizer, temporary, sequence_length)
    if out.exists():
        out.rmdir()
    temporary.replace(out)
    return {"vocab_size": backend.get_vocab_size(), "notes": count, "tokenizer": str(out)}
