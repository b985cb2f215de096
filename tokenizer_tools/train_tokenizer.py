"""A byte-level BPE tokenizer trained on notes, for a model that starts from nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tokenizer_tools.clean_notes import CleaningRules, clean
from tokenizer_tools.load_tokenizer import save_tokenizer
from tokenizer_tools.manifest import UserError
from tokenizer_tools.read_notes import Columns, check_inputs, read_notes

SMALLEST_VOCABULARY = 300
"""256 bytes, five special tokens, and something to learn."""


def train_tokenizer(
    notes: list[Path],
    out: Path,
    *,
    columns: Columns | None = None,
    vocab_size: int = 8192,
    min_frequency: int = 2,
    sequence_length: int = 4096,
) -> dict[str, Any]:
    """Train on cleaned notes and write a folder that plain `AutoTokenizer` loads. The same notes give the same bytes.

    A vocabulary is made of what stands in the notes: a name that occurs `min_frequency` times can become an entry.
    De-identification placeholders are taken out first; look through the vocabulary before you publish it.

    Args:
        notes: as for `build_shards`.
        out: the folder to make.
        columns: column names, where they aren't MIMIC's.
        vocab_size: entries, at least 300.
        min_frequency: a pair of pieces that occurs less often isn't merged.
        sequence_length: the tokenizer's model_max_length.

    Returns:
        vocab_size, notes, tokenizer (the folder).

    Raises:
        UserError: no text in the input, too small a vocabulary, or `out` holds something.
    """
    from transformers import PreTrainedTokenizerFast

    check_inputs(notes)
    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(f"--vocab-size {vocab_size}: must be at least {SMALLEST_VOCABULARY}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and isn't empty; choose another --out, or delete it")
    count = 0

    def texts() -> Iterator[str]:
        nonlocal count
        for note in read_notes(notes, columns):
            text = clean(note.text, CleaningRules(), placeholder="<unk>")
            count += bool(text)
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
        raise UserError("no note with text in the input; check --notes")
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
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
