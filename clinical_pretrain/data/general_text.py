"""General text as sequences, on which a model shows what it forgets of general language."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from clinical_pretrain.data.shards import PackedSequence
from clinical_pretrain.data.validation_files import read_general_text
from tokenizer_tools.manifest import TOKENIZER_FOLDER, Manifest


def general_sequences(name: str, shards: Path, length: int) -> list[PackedSequence]:
    """A text in sequences, each between the tokens that begin and end one.

    Args:
        name: a text file in UTF-8, or one that comes with the package.
        shards: their tokenizer makes tokens of it.
        length: tokens of a sequence, at most.

    Raises:
        UserError: the file isn't there, is empty, or isn't in UTF-8.
    """
    text = read_general_text(name)
    info = Manifest.load(shards).tokenizer
    tokenizer = Tokenizer.from_file(str(shards / TOKENIZER_FOLDER / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    pieces = [ids[start : start + length - 2] for start in range(0, len(ids), length - 2)]
    first, note = np.zeros(1, np.int32), np.zeros(1, np.int64)
    return [PackedSequence(np.array([info.begin_id, *piece, info.end_id]), first, note) for piece in pieces]
