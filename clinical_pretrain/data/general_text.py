"""General text as sequences, on which a model shows what it forgets of general language."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from clinical_pretrain.data.shards import PackedSequence
from clinical_pretrain.resources import find_file
from tokenizer_tools.errors import UserError
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
    path = find_file(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise UserError(f"{path}: not a text file in UTF-8") from None
    info = Manifest.load(shards).tokenizer
    tokenizer = Tokenizer.from_file(str(shards / TOKENIZER_FOLDER / "tokenizer.json"))
    ids = tokenizer.encode(" ".join(text.split()), add_special_tokens=False).ids
    if not ids:
        raise UserError(f"{path}: empty")
    pieces = [ids[start : start + length - 2] for start in range(0, len(ids), length - 2)]
    first, note = np.zeros(1, np.int32), np.zeros(1, np.int64)
    return [PackedSequence(np.array([info.begin_id, *piece, info.end_id]), first, note) for piece in pieces]
