"""From a model's outputs for windows to predictions for whole documents.

entities        log-probabilities of tags, averaged over the windows that hold a token, then decoded
answers         the best span of all windows of a question, by the sum of its start's and its end's logit
class, labels   log-probabilities, or logits, averaged over the windows, weighted by their tokens
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from clinical_pretrain.tasks.encoding import Collator, Encoder, Example, tagged_tokens
from clinical_pretrain.tasks.records import Document
from clinical_pretrain.tasks.scores.predictions import PredictedAnswer, PredictedEntity, Prediction
from clinical_pretrain.tasks.windows import OUTSIDE, decode_tags, merge_scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Floats = npt.NDArray[np.float64]
THRESHOLD = 0.5
"""Probability from which a label holds."""


class Predictor:
    """Predicts documents with a model.

    Args:
        encoder: that makes the model's examples.
        collator: that makes batches of them.
        batch_size: windows at once.
        dtype: of autocast; None: as the weights.
    """

    def __init__(self, encoder: Encoder, collator: Collator, batch_size: int, dtype: torch.dtype | None = None) -> None:
        self._encoder, self._collator, self._batch_size, self._dtype = encoder, collator, batch_size, dtype
        self.max_answer_tokens = 0
        """Of a predicted answer; set from the training split."""
        self.may_have_no_answer = False
        """Whether the training split has questions without an answer."""

    def __call__(
        self, network: PreTrainedModel, documents: Sequence[Document], examples: Sequence[Example]
    ) -> tuple[Prediction, ...]:
        """Predict all documents.

        Args:
            network: with the head of the task; it is left in evaluation mode.
            documents: of a split.
            examples: all of theirs.
        """
        network.eval()
        found: dict[int, list[tuple[int, Prediction | PredictedAnswer]]] = {n: [] for n in range(len(documents))}
        # Of about the same length in each batch, and all windows of a text, in their order, one after another.
        ordered = sorted(examples, key=lambda one: (len(one.text.ids) + len(one.other), one.document, one.question))
        outputs = zip(ordered, self._outputs(network, ordered), strict=True)
        for (document, question), group in itertools.groupby(outputs, lambda pair: pair[0][:2]):
            windows, scores = zip(*group, strict=True)
            found[document].append((question, self._merge(documents[document], windows, scores)))
        return tuple(
            self._gather(document, [each for _, each in sorted(found[number], key=lambda pair: pair[0])])
            for number, document in enumerate(documents)
        )

    @torch.inference_mode()
    def _outputs(self, network: PreTrainedModel, examples: Sequence[Example]) -> Iterator[Floats]:
        """For each window (its tokens, tags), (its tokens + 1, start and end; the first for no answer), or (names,)."""
        device = next(network.parameters()).device
        for first in range(0, len(examples), self._batch_size):
            some = examples[first : first + self._batch_size]
            batch = {
                name: value.to(device)
                for name, value in self._collator(some).items()
                if name not in ("labels", "start_positions", "end_positions")
            }
            with _own_forward(network), _autocast(device, self._dtype):
                out = network(**batch)
            answers = self._encoder.kind == "answers"
            logits = torch.stack([out.start_logits, out.end_logits], dim=-1) if answers else out.logits
            for example, row in zip(some, logits.double().cpu().numpy(), strict=True):
                yield self._of_window(example, row)

    def _of_window(self, example: Example, row: Floats) -> Floats:
        if self._encoder.kind in ("class", "labels"):
            return row
        start = self._collator.text_start(example)
        tokens = row[start : start + example.window.end - example.window.start]
        return np.concatenate([row[:1], tokens]) if self._encoder.kind == "answers" else tokens

    def _merge(
        self, document: Document, windows: Sequence[Example], scores: Sequence[Floats]
    ) -> Prediction | PredictedAnswer:
        kind = self._encoder.kind
        if kind == "entities":
            return Prediction(document.id, entities=self._entities(document, windows, scores))
        if kind == "answers":
            return self._answer(document, windows, scores)
        if kind == "class":
            scores = [_log_softmax(row) for row in scores]
        weights = [max(1, each.window.end - each.window.start) for each in windows]
        merged = np.average(scores, axis=0, weights=weights)
        values = np.exp(_log_softmax(merged)) if kind == "class" else 1 / (1 + np.exp(-merged))
        hold = [int(values.argmax())] if kind == "class" else np.flatnonzero(values >= THRESHOLD).tolist()
        return Prediction(
            document.id, labels=tuple(self._encoder.names[n] for n in hold), probabilities=tuple(values.tolist())
        )

    def _entities(
        self, document: Document, windows: Sequence[Example], scores: Sequence[Floats]
    ) -> tuple[PredictedEntity, ...]:
        text = windows[0].text
        if not len(text.ids):
            return ()
        if self._encoder.rule.first_window_only:
            raise AssertionError("entities beyond the first window would be lost")
        merged = merge_scores([each.window for each in windows], [_log_softmax(row) for row in scores], len(text.ids))
        tags = [self._encoder.names[number] for number in merged.argmax(axis=1)]
        if self._encoder.rule.first_subword:
            tags = _continue(tags, tagged_tokens(document.text, text, self._encoder.rule), text.offsets)
        return tuple(PredictedEntity(*span) for span in decode_tags(text.offsets, tags))

    def _answer(self, document: Document, windows: Sequence[Example], scores: Sequence[Floats]) -> PredictedAnswer:
        question = document.questions[windows[0].question]
        best, best_span, none = -np.inf, (0, 0), np.inf
        for example, row in zip(windows, scores, strict=True):
            none = min(none, row[0].sum())
            offsets = example.text.offsets[example.window.start : example.window.end]
            value, first, last = _best_span(row[1:], offsets[:, 1] > offsets[:, 0], self.max_answer_tokens)
            if value > best:
                best, best_span = value, (int(offsets[first, 0]), int(offsets[last, 1]))
        if best == -np.inf or (self.may_have_no_answer and none > best):
            return PredictedAnswer(question.id, 0, 0)
        return PredictedAnswer(question.id, *best_span)

    def _gather(self, document: Document, found: Sequence[Prediction | PredictedAnswer]) -> Prediction:
        if self._encoder.kind == "answers":
            return Prediction(document.id, answers=tuple(each for each in found if isinstance(each, PredictedAnswer)))
        (prediction,) = found
        assert isinstance(prediction, Prediction)
        return prediction


def _best_span(logits: Floats, can: npt.NDArray[np.bool_], longest: int) -> tuple[float, int, int]:
    """The span of at most `longest` tokens with the highest sum of logits: the sum, the first and the last token.

    Args:
        logits: (tokens, 2), of starts and ends.
        can: (tokens,), which of them an answer can begin or end with.
    """
    if not can.any():
        return -np.inf, 0, 0
    starts, ends = np.where(can[:, None], logits, -np.inf).T
    padded = np.concatenate([ends, np.full(longest - 1, -np.inf)])
    sums = starts[:, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)
    first, length = np.unravel_index(sums.argmax(), sums.shape)
    return float(sums[first, length]), int(first), int(first + length)


def _continue(tags: list[str], own: npt.NDArray[np.bool_], offsets: npt.NDArray[np.int64]) -> list[str]:
    """Let tokens inside a word continue what the word's first token began."""
    found, word = [], OUTSIDE
    for tag, has_own, (start, end) in zip(tags, own, offsets.tolist(), strict=True):
        if has_own:
            word = tag
            found.append(tag)
        else:
            found.append(OUTSIDE if start == end or word == OUTSIDE else f"I{word[1:]}")
    return found


def _log_softmax(values: Floats) -> Floats:
    shifted = values - values.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


@contextmanager
def _own_forward(network: PreTrainedModel) -> Iterator[None]:
    """Without the autocast that Trainer's accelerate has put around forward() for good: it would be the inner one."""
    wrapped = vars(network).get("forward")
    if wrapped is not None and "_original_forward" in vars(network):
        network.forward = network._original_forward
    try:
        yield
    finally:
        if wrapped is not None:
            network.forward = wrapped


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[None]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
