"""Texts as windows of tokens that a model can take, with exact character offsets, and scores merged over windows.

A text is tokenised once, whole. Windows are slices of its tokens, so a token has the same id in each of them, and the
scores that several windows give to one token can be averaged. Nothing is truncated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from clinical_pretrain.tasks.records import Span
from tokenizer_tools.tokenizer.load import special_ids
from tokenizer_tools.tokenizer.unknown_characters import unknown_whitespace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

OUTSIDE = "O"


class Window(NamedTuple):
    """A slice of a text's tokens."""

    start: int
    """Number of its first token."""
    end: int
    """One after its last."""


@dataclass(frozen=True)
class TokenizedText:
    """A text's tokens, without any that begin or end a sequence."""

    ids: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    """(tokens, 2): where each begins and ends in the text, without the white space before it; empty for a token that is
    nothing but white space."""


class TextTokenizer:
    """Tokenises texts as pretraining does, which is not as transformers' tokenizers do by default.

    A special token that a text spells out, such as `</s>`, becomes the unknown token, so that it can't control the
    model. White space that the vocabulary doesn't know becomes a space, one character for one, so that offsets stay
    those of the text.

    Args:
        tokenizer: a fast tokenizer of transformers, with an unknown token; its truncation and padding are switched off.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._backend, self._unknown_id = tokenizer.backend_tokenizer, tokenizer.unk_token_id
        self._backend.no_truncation()
        self._backend.no_padding()
        self._special = special_ids(self._backend)
        self._spaces = dict.fromkeys(map(ord, unknown_whitespace(self._backend, self._unknown_id)), " ")

    def __call__(self, text: str) -> TokenizedText:
        """Tokenise one text, whole."""
        # Half an emoji, as cut JSON has it, is no character: one for one, so that offsets stay.
        whole = re.sub("[\ud800-\udfff]", "\ufffd", text.translate(self._spaces))
        encoding = self._backend.encode(whole, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int64)
        ids[self._special[ids]] = self._unknown_id
        offsets = [_trimmed(text, start, end) for start, end in encoding.offsets]
        return TokenizedText(ids, np.array(offsets, dtype=np.int64).reshape(len(offsets), 2))


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def windows_of(tokens: int, longest: int, stride: int) -> list[Window]:
    """Cut a text of so many tokens into windows. All but a text that fits into one have the same length.

    Args:
        tokens: of the text.
        longest: number of tokens of it that the model can take, without those that begin and end a sequence.
        stride: tokens from the start of a window to the start of the next; at most `longest`. The last window ends with
            the text, and so may lie closer to the one before.
    """
    assert 0 < stride <= longest
    if tokens <= longest:
        return [Window(0, tokens)]
    starts = [*range(0, tokens - longest, stride), tokens - longest]
    return [Window(start, start + longest) for start in starts]


def merge_scores(
    windows: Sequence[Window], scores: Iterable[npt.NDArray[np.float64]], tokens: int
) -> npt.NDArray[np.float64]:
    """Average what several windows say of a token, weighted by how far it is from the windows' ends.

    Args:
        windows: of one text; together they cover it.
        scores: of each window, (tokens of the window, classes): log-probabilities.
        tokens: of the text.

    Returns:
        (tokens, classes): log-probabilities, not normalised.
    """
    total, weight = None, np.zeros(tokens)
    for window, found in zip(windows, scores, strict=True):
        length = window.end - window.start
        place = np.arange(length)
        near = np.minimum(place, length - 1 - place) + 1.0
        if total is None:
            total = np.zeros((tokens, found.shape[1]))
        total[window.start : window.end] += near[:, None] * found
        weight[window.start : window.end] += near
    assert total is not None and (weight > 0).all()
    merged: npt.NDArray[np.float64] = total / weight[:, None]
    return merged


def tags_of(types: Sequence[str]) -> list[str]:
    """All tags of entities of these types: O, and B-type and I-type of each."""
    return [OUTSIDE, *(f"{prefix}-{name}" for name in types for prefix in "BI")]


def tag_tokens(offsets: npt.NDArray[np.int64], entities: Iterable[Span]) -> tuple[list[str], list[Span]]:
    """Tag the tokens of entities: B on the first of each, I on the others.

    A token has one tag, so of entities that share a token the longer one is tagged; of equally long ones the first.

    Args:
        offsets: (tokens, 2), of a TokenizedText.
        entities: of the text.

    Returns:
        A tag for each token, and the entities that couldn't be tagged, because they share a token with a longer one or
        no token with anything.
    """
    tags, left = [OUTSIDE] * len(offsets), []
    starts, ends = offsets.T
    for entity in sorted(entities, key=lambda each: (each.start - each.end, each)):
        (inside,) = np.nonzero((starts < entity.end) & (ends > entity.start) & (ends > starts))
        if not len(inside) or any(tags[token] != OUTSIDE for token in inside):
            left.append(entity)
            continue
        for number, token in enumerate(inside):
            tags[token] = f"{'I' if number else 'B'}-{entity.type}"
    return tags, left


def decode_tags(offsets: npt.NDArray[np.int64], tags: Sequence[str]) -> list[Span]:
    """Entities of a text by its tokens' tags: from the first character of their first token to the last of their last.

    A tag I that continues no entity of its type begins one. Tokens of white space alone neither end an entity nor
    belong to it.
    """
    found: list[Span] = []
    open_type = None
    for (start, end), tag in zip(offsets.tolist(), tags, strict=True):
        if start == end:
            continue
        prefix, _, name = tag.partition("-")
        if prefix == "I" and name == open_type:
            found[-1] = found[-1]._replace(end=end)
        elif prefix in "BI":
            found.append(Span(start, end, name))
        open_type = None if tag == OUTSIDE else name
    return found
