"""Whether two tokenizers give the same ids: hashes of a tokenizer and of its vocabulary."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def tokenizer_sha256(backend: Tokenizer) -> str:
    """sha256 of all that decides a tokenizer's ids: its serialization, without truncation and padding."""
    from tokenizers import Tokenizer  # compiled: commands that don't need it start where it can't be loaded

    plain = Tokenizer.from_str(backend.to_str())
    plain.no_truncation()
    plain.no_padding()
    return hashlib.sha256(plain.to_str().encode()).hexdigest()


def vocab_sha256(vocab: dict[str, int]) -> str:
    """sha256 of a token-to-id table: equal for two tokenizers that give the same ids to the same tokens."""
    return hashlib.sha256(json.dumps(sorted(vocab.items(), key=lambda item: (item[1], item[0]))).encode()).hexdigest()
