"""What a model is given: windows of documents with special tokens, global attention and targets.

One layout per kind, with the special tokens that the tokenizer itself puts around one text or a pair:

    entities        <s> text </s>
    class, labels   <s> text </s>, or <s> text </s></s> second text </s>: the first token attends to everything
    answers         <s> question </s></s> text </s>: all tokens up to the question's last attend to everything

"Attends to everything" is Longformer's global attention, by a mask that is always given: transformers would look for
separators in the ids, or choose another one. In BigBird the first block is global, whatever it holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from clinical_pretrain.tasks.records import Document, Kind, Question
from clinical_pretrain.tasks.windows import TextTokenizer, TokenizedText, Window, tag_tokens, tags_of, windows_of
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED = -100
"""The target of a token without a loss, as in torch."""
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EncodingRule:
    """How documents become windows."""

    longest: int
    """Tokens of the longest sequence, with the special ones."""
    by_line: bool = False
    """Whether a window ends with each line, as where a sentence is an example of its own."""
    first_window_only: bool = False
    """Whether what is beyond the first window is cut off."""
    first_subword: bool = False
    """Whether only the first token of a word has a tag; the others continue it."""
    punctuation_divides: bool = False
    """Whether such a word also ends at a sign that is neither letter nor digit, not at white space alone."""


class Example(NamedTuple):
    """One window of a document, and of a question about it."""

    document: int
    """Its number in the list of documents."""
    question: int
    """Its number in the document; 0 without one."""
    text: TokenizedText
    window: Window
    other: Integers
    """The tokens of the question or of the second text."""
    target: Integers | npt.NDArray[np.float32]
    """entities: a tag for each token of the text. answers: the first and the last token of the answer in the text, or
    two IGNORED for a window that doesn't hold it. class: its number. labels: 1, 0 or NaN (unknown) for each."""


class Encoder:
    """Makes examples of documents.

    Args:
        tokenizer: of the model.
        kind: of the task.
        labels: of the task.
        rule: how documents become windows.

    Attributes:
        names: what the model's outputs mean: tags, classes or labels; empty for answers.
        cut: number of questions and second texts that were longer than half of a sequence, and lost their end.
        untagged: number of entities that share a token with a longer one, and so can't be learned.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, kind: Kind, labels: Sequence[str], rule: EncodingRule
    ) -> None:
        self.kind, self.rule = kind, rule
        self.names = tags_of(labels) if kind == "entities" else list(labels)
        self.single, self.pair = special_tokens(tokenizer, pair=False), special_tokens(tokenizer, pair=True)
        self.cut, self.untagged = 0, 0
        self._tokenize = TextTokenizer(tokenizer)
        self._number = {name: number for number, name in enumerate(self.names)}

    def __call__(self, documents: Sequence[Document], overlap: float = 0.5) -> list[Example]:
        """All windows of all documents, in their order.

        Args:
            documents: of a split.
            overlap: share of a window that the next one repeats, at least.
        """
        return [
            example
            for number, document in enumerate(documents)
            for example in self._document(number, document, overlap)
        ]

    def _document(self, number: int, document: Document, overlap: float) -> list[Example]:
        text = self._tokenize(document.text)
        if self.kind == "answers":
            return [
                Example(number, index, text, window, other, _answer(question, text, window))
                for index, question in enumerate(document.questions)
                for other in [self._other(question.text)]
                for window in self._windows(document.text, text, len(other), overlap)
            ]
        other = self._other(document.second_text or "")
        target = self._target(document, text)
        windows = self._windows(document.text, text, len(other), overlap)
        return [Example(number, 0, text, window, other, target) for window in windows]

    def _other(self, text: str) -> Integers:
        ids, limit = self._tokenize(text).ids, self.rule.longest // 2
        self.cut += len(ids) > limit
        return ids[:limit]

    def _windows(self, characters: str, text: TokenizedText, other: int, overlap: float) -> list[Window]:
        special = sum(map(len, self.pair if other or self.kind == "answers" else self.single))
        room = self.rule.longest - special - other
        stride = max(1, round(room * (1 - overlap)))
        if self.rule.first_window_only:
            return [Window(0, min(room, len(text.ids)))]
        if not self.rule.by_line:
            return windows_of(len(text.ids), room, stride)
        return [
            Window(start + window.start, start + window.end)
            for start, end in _lines(characters, text)
            for window in windows_of(end - start, room, stride)
        ]

    def _target(self, document: Document, text: TokenizedText) -> Integers | npt.NDArray[np.float32]:
        if self.kind == "class":
            return np.array(self._number[document.labels[0]])
        if self.kind == "labels":
            values = np.array([name in document.labels for name in self.names], dtype=np.float32)
            values[[self._number[name] for name in document.unknown_labels if name in self._number]] = np.nan
            return values
        tags, left = tag_tokens(text.offsets, document.entities)
        self.untagged += len(left)
        target = np.array([self._number[tag] for tag in tags], dtype=np.int64)
        target[~tagged_tokens(document.text, text, self.rule)] = IGNORED
        return target


def tagged_tokens(characters: str, text: TokenizedText, rule: EncodingRule) -> npt.NDArray[np.bool_]:
    """Which tokens of a text have a tag of their own: not those of white space alone, nor, with the rule's
    `first_subword`, those inside a word."""

    def begins(start: int) -> bool:
        before, first = characters[start - 1 : start] or " ", characters[start : start + 1]
        return before.isspace() or (rule.punctuation_divides and not (before.isalnum() and first.isalnum()))

    starts, ends = text.offsets.T
    has_tag = ends > starts
    if rule.first_subword:
        has_tag &= np.array([begins(start) for start in starts.tolist()], dtype=bool)
    return has_tag


def special_tokens(tokenizer: PreTrainedTokenizerFast, pair: bool) -> list[list[int]]:
    """The special tokens that a tokenizer puts before a text and after it; or before, between and after two texts."""
    encoding = tokenizer.backend_tokenizer.encode("a", "a" if pair else None)
    parts: list[list[int]] = [[]]
    for sequence, tokens in itertools.groupby(
        zip(encoding.sequence_ids, encoding.ids, strict=True), lambda pair: pair[0]
    ):
        if sequence is None:
            parts[-1].extend(token for _, token in tokens)
        else:
            parts.append([])
    return parts


def _lines(characters: str, text: TokenizedText) -> list[tuple[int, int]]:
    """The tokens of each line of a text: all of them, those of white space with the line before."""
    starts = text.offsets[:, 0]
    begins, line_start = [0], 0
    for line in characters.splitlines(keepends=True):
        (inside,) = np.nonzero((starts >= line_start) & (text.offsets[:, 1] > starts))
        line_start += len(line)
        if line.strip() and len(inside) and inside[0] > begins[-1]:
            begins.append(int(inside[0]))
    return list(zip(begins, [*begins[1:], len(starts)], strict=True))


def _answer(question: Question, text: TokenizedText, window: Window) -> Integers:
    """The first and the last token of the first answer that lies in the window; IGNORED twice if none does."""
    starts, ends = text.offsets.T
    for answer in question.answers:
        (inside,) = np.nonzero((starts < answer.start + len(answer.text)) & (ends > answer.start) & (ends > starts))
        if len(inside) and window.start <= inside[0] and inside[-1] < window.end:
            return inside[[0, -1]]
    return np.array([IGNORED, IGNORED])


class Collator:
    """Makes a batch of examples.

    Args:
        encoder: that made them.
        pad_id: the id of padding.
        inputs: names of the model's inputs; of `token_type_ids` and `global_attention_mask` those that it has are made.
        token_types: whether the tokenizer numbers the two texts of a pair. Otherwise all types are 0: BigBird's type 1,
            which transformers gives to the text after a question, isn't trained in pretraining.
    """

    def __init__(self, encoder: Encoder, pad_id: int, inputs: Sequence[str], token_types: bool) -> None:
        self._encoder, self._pad_id, self._inputs, self._token_types = encoder, pad_id, inputs, token_types

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Stack examples.

        Returns:
            input_ids, attention_mask, what else the model takes, each (examples, longest length), and the targets:
            labels, (examples, longest length), (examples,) or (examples, labels); or start_positions and end_positions,
            (examples,), 0 where the window has no answer.
        """
        rows = [self.sequence(example) for example in examples]
        shape = (len(rows), max(map(len, rows)))
        batch = {"input_ids": torch.full(shape, self._pad_id), "attention_mask": torch.zeros(shape, dtype=torch.long)}
        for name in ("token_type_ids", "global_attention_mask"):
            if name in self._inputs:
                batch[name] = torch.zeros(shape, dtype=torch.long)
        for number, (row, example) in enumerate(zip(rows, examples, strict=True)):
            batch["input_ids"][number, : len(row)] = torch.from_numpy(row)
            batch["attention_mask"][number, : len(row)] = 1
            if "global_attention_mask" in batch:
                batch["global_attention_mask"][number, : self._globals(example)] = 1
            if "token_type_ids" in batch and self._token_types:
                batch["token_type_ids"][number, self._second(example) : len(row)] = 1
        return batch | self._targets(examples, shape)

    def sequence(self, example: Example) -> Integers:
        """The ids of a sequence."""
        text = example.text.ids[example.window.start : example.window.end]
        first, second = (example.other, text) if self._encoder.kind == "answers" else (text, example.other)
        if not self._is_pair(example):
            begin, end = self._encoder.single
            return np.concatenate([begin, text, end]).astype(np.int64)
        begin, middle, end = self._encoder.pair
        return np.concatenate([begin, first, middle, second, end]).astype(np.int64)

    def text_start(self, example: Example) -> int:
        """The place of the window's first token in the sequence."""
        if self._encoder.kind == "answers":
            return self._second(example)
        return len((self._encoder.pair if self._is_pair(example) else self._encoder.single)[0])

    def _is_pair(self, example: Example) -> bool:
        return self._encoder.kind == "answers" or len(example.other) > 0

    def _second(self, example: Example) -> int:
        """Where the second text of a pair begins; for a single text beyond its end."""
        begin, middle, _ = self._encoder.pair
        window = example.window.end - example.window.start
        if not self._is_pair(example):
            return window + sum(map(len, self._encoder.single))
        return len(begin) + len(middle) + (len(example.other) if self._encoder.kind == "answers" else window)

    def _globals(self, example: Example) -> int:
        """Number of tokens at the beginning that attend to everything."""
        kind = self._encoder.kind
        return 0 if kind == "entities" else 1 if kind != "answers" else len(self._encoder.pair[0]) + len(example.other)

    def _targets(self, examples: Sequence[Example], shape: tuple[int, int]) -> dict[str, torch.Tensor]:
        kind = self._encoder.kind
        if kind == "answers":
            places = np.array([self._place(example) for example in examples])
            return {name: torch.from_numpy(places[:, n]) for n, name in enumerate(("start_positions", "end_positions"))}
        if kind in ("class", "labels"):
            return {"labels": torch.from_numpy(np.nan_to_num(np.stack([e.target for e in examples]), nan=IGNORED))}
        labels = torch.full(shape, IGNORED)
        for number, example in enumerate(examples):
            target, start = example.target[example.window.start : example.window.end], self.text_start(example)
            labels[number, start : start + len(target)] = torch.from_numpy(target)
        return {"labels": labels}

    def _place(self, example: Example) -> Integers:
        """Where the answer begins and ends in the sequence; the first token's place, 0, stands for none."""
        if example.target[0] == IGNORED:
            return np.zeros(2, dtype=np.int64)
        return np.asarray(example.target - example.window.start + self.text_start(example), dtype=np.int64)


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, vocabulary: int, model: str) -> None:
    """Raise a UserError if a tokenizer can't be used with a model of so many ids."""
    if not getattr(tokenizer, "is_fast", False) or tokenizer.unk_token_id is None:
        raise UserError(f"{model}: its tokenizer has no fast form (tokenizer.json) or no unknown token; convert it")
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"{model}: its tokenizer has {len(tokenizer):,} tokens, the model {vocabulary:,}; they don't fit"
        )
