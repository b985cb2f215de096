"""Multiple-choice questions (MedConceptsQA) answered by a masked language model as it is, without fine-tuning.

Two methods, each with or without examples ("shots") before the question:

    prompt                   Answer A,B,C,D according to ...   the benchmark's own prompt; the mask stands for a letter
                             QUESTION WITH ITS OPTIONS
                             Answer: [MASK]
    pseudo_log_likelihood    QUESTION WITHOUT ITS OPTIONS      once for each option, whose tokens are masked one by one
                             Answer: OPTION

The prompt is that of the benchmark's runner and of lm-evaluation-harness (lm_eval/tasks/med_concepts_qa); a letter's
probability is that of all its spellings as one token, such as "A" and " A". The pseudo-log-likelihood is the sum of
log P(token | all other tokens) over the option's tokens (Salazar et al., Masked Language Model Scoring, ACL 2020), here
divided by their number, because options differ in length.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clinical_pretrain.console import console
from clinical_pretrain.tasks.masked_lm import MaskedLM, MaskedPlace
from clinical_pretrain.tasks.outcome import Outcome
from clinical_pretrain.tasks.readers.medconceptsqa import (
    LETTERS,
    ChoiceData,
    ChoiceQuestion,
    as_task_data,
    count_answers,
)
from clinical_pretrain.tasks.scores.predictions import Prediction, Predictions, texts_sha256
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from clinical_pretrain.tasks.task import Task
    from clinical_pretrain.tasks.windows import TokenizedText

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
INSTRUCTION = "Answer A,B,C,D according to the answer to this multiple choice question.\n"
QUESTIONS_AT_ONCE = 64
"""Number of questions whose masked texts are in memory at once, and may share a batch."""
Texts = Callable[[ChoiceQuestion, Sequence[ChoiceQuestion]], list[str]]
"""Makes the texts of a question and its shots."""
_FIRST_OPTION = re.compile(r"^\s*A\.\s", re.MULTILINE)


def score_choices(task: Task, data: ChoiceData, model: str, seed: int) -> Outcome:
    """Answer the test questions of a multiple-choice task. Nothing is drawn at random, so the seed changes nothing.

    Args:
        task: says how, in `choices`.
        data: the questions; the shots are the first development questions of a question's vocabulary and level.
        model: a folder or an id on the Hub, with a masked-LM head.
        seed: for the predictions' header.

    Returns:
        Predictions of the test split, of the kind `class`, with probabilities that are a softmax over the options; and
        as details how they were made, the answers' distribution and the accuracy by vocabulary and level.

    Raises:
        UserError: the model can't answer such questions, or the data has too few shots.
    """
    assert task.choices is not None
    questions = data.splits["test"]
    asked = Asked(MaskedLM(model), _shots(data, task.choices.shots))
    method = METHODS[task.choices.method]
    scores = np.concatenate([method.score(asked, some) for some in _in_chunks(questions)])
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    answers = [LETTERS[number] for number in scores.argmax(axis=1)]
    predictions = Predictions(
        task=task.name,
        split="test",
        kind="class",
        labels=tuple(LETTERS),
        model=model,
        seed=seed,
        texts_sha256=texts_sha256(as_task_data(data).splits["test"]),
        documents=tuple(
            Prediction(question.id, labels=(answer,), probabilities=tuple(row))
            for question, answer, row in zip(questions, answers, shares.tolist(), strict=True)
        ),
    )
    described = describe_answers(questions, answers)
    console.say(_answers_line(described))
    details = asked.details(task.choices.shots) | method.details(asked, questions)
    return Outcome(predictions, details | described)


def _in_chunks(questions: Sequence[ChoiceQuestion]) -> Iterator[Sequence[ChoiceQuestion]]:
    """Some questions at a time, and say how many are done."""
    for begin in range(0, len(questions), QUESTIONS_AT_ONCE):
        yield questions[begin : begin + QUESTIONS_AT_ONCE]
        done, log = min(begin + QUESTIONS_AT_ONCE, len(questions)), begin // QUESTIONS_AT_ONCE % 10 == 9
        console.progress([f"{done:,} of {len(questions):,} questions"], log=log)


@dataclass
class Asked:
    """The texts that a model is asked with, as long as it takes them."""

    network: MaskedLM
    shots: dict[tuple[str, str], list[ChoiceQuestion]]
    """By vocabulary and level."""
    shots_left_out: list[int] = field(default_factory=list)
    """Of each question."""
    longest: int = 0
    """Number of tokens of the longest text."""

    @cached_property
    def letters(self) -> Integers:
        """The tokens of each letter: see `letter_tokens`."""
        return letter_tokens(self.network.tokenizer)

    def fit(self, question: ChoiceQuestion, texts: Texts, masks: int = 0) -> list[tuple[str, TokenizedText]]:
        """A question's texts and their tokens, with as many of the last shots as the model takes all of them with.

        Args:
            question: the question.
            texts: makes the texts.
            masks: tokens that will be added to each text.

        Raises:
            UserError: the model doesn't take the question without shots.
        """
        shots = self.shots.get(_subset(question), [])
        for left_out in range(len(shots) + 1):
            found = [(text, self.network.tokenize(text)) for text in texts(question, shots[left_out:])]
            longest = max(len(tokens.ids) for _, tokens in found) + masks
            if longest <= self.network.room:
                self.shots_left_out.append(left_out)
                self.longest = max(self.longest, longest)
                return found
        raise UserError(
            f"{self.network.name}: question {question.id} has {longest:,} tokens, the model takes "
            f"{self.network.room:,}; questions aren't cut, so this model can't be scored on them"
        )

    def details(self, shots: int) -> dict[str, Any]:
        """What the result file says of the texts."""
        return {
            "shots": shots,
            "shots_rule": "the first development questions of the question's vocabulary and level",
            "order": "the first questions of each vocabulary and level; by_subset says how many",
            "questions_with_fewer_shots": sum(left_out > 0 for left_out in self.shots_left_out),
            "shots_left_out": sum(self.shots_left_out),
            "longest_text_tokens": self.longest,
            "model_takes_tokens": self.network.room,
            "global_attention": "none",
        }


def _shots(data: ChoiceData, number: int) -> dict[tuple[str, str], list[ChoiceQuestion]]:
    """The shots for each vocabulary and level of the test questions."""
    if not number:
        return {}
    found: dict[tuple[str, str], list[ChoiceQuestion]] = {}
    for question in data.splits["development"]:
        found.setdefault(_subset(question), []).append(question)
    for subset in dict.fromkeys(map(_subset, data.splits["test"])):
        if (there := len(found.get(subset, []))) < number:
            raise UserError(
                f"{'/'.join(subset)}: {there} development questions, but {number} are needed as shots; copy the "
                "development file again, or take the task with 0 shots"
            )
    return {subset: questions[:number] for subset, questions in found.items()}


def _subset(question: ChoiceQuestion) -> tuple[str, str]:
    return question.vocabulary, question.level


def _prompt(question: ChoiceQuestion, shots: Sequence[ChoiceQuestion]) -> list[str]:
    """The benchmark's prompt, up to the mask."""
    shown = "".join(f"{shot.text}\nAnswer: {shot.answer}\n\n" for shot in shots)
    return [f"{INSTRUCTION}{shown}{question.text}\nAnswer:"]


def _score_prompt(asked: Asked, questions: Sequence[ChoiceQuestion]) -> Floats:
    """The logarithm of each letter's probability at the mask, (questions, 4)."""
    places: list[MaskedPlace] = []
    for question in questions:
        ((_, tokens),) = asked.fit(question, _prompt, masks=1)
        places.append(asked.network.mask(np.append(tokens.ids, 0), len(tokens.ids), asked.letters.ravel()))
    found = np.array(asked.network.log_probabilities(places)).reshape(len(questions), *asked.letters.shape)
    return np.logaddexp.reduce(found, axis=2)


def _describe_prompt(asked: Asked, questions: Sequence[ChoiceQuestion]) -> dict[str, Any]:
    names = [asked.network.tokenizer.convert_ids_to_tokens(row.tolist()) for row in asked.letters]
    return {
        "method": "the benchmark's prompt with one mask; a letter has the probability of all its tokens",
        "letter_tokens": dict(zip(LETTERS, names, strict=True)),
    }


def letter_tokens(tokenizer: PreTrainedTokenizerFast) -> Integers:
    """The tokens that stand for the letters A to D: with and without a space before, as the vocabulary has them.

    A spelling counts only if all four letters have it as one token, so that none has more tokens than another.

    Returns:
        (4, spellings) token ids.

    Raises:
        UserError: the letters are no tokens of the vocabulary.
    """
    backend, found = tokenizer.backend_tokenizer, list[list[int]]()
    for before in ("", " "):
        encoded = [backend.encode(before + letter, add_special_tokens=False).ids for letter in LETTERS]
        if all(len(ids) == 1 for ids in encoded):
            found.append([ids[0] for ids in encoded])
    for before in ("", "Ġ", "▁"):  # as byte-level and SentencePiece vocabularies spell the space
        ids = [backend.token_to_id(before + letter) for letter in LETTERS]
        if None not in ids:
            found.append(ids)
    usable = [ids for ids in found if len({*ids}) == len(LETTERS) and tokenizer.unk_token_id not in ids]
    if not usable:
        raise UserError(f"{tokenizer.name_or_path}: the letters {', '.join(LETTERS)} are no tokens of its vocabulary")
    return np.array(list(dict.fromkeys(map(tuple, usable))), dtype=np.int64).T


def _options(question: ChoiceQuestion, shots: Sequence[ChoiceQuestion]) -> list[str]:
    """The question with each of its options as the answer."""
    shown = "".join(f"{_stem(shot)}\nAnswer: {shot.options[LETTERS.index(shot.answer)].strip()}\n\n" for shot in shots)
    return [f"{shown}{_stem(question)}\nAnswer: {option.strip()}" for option in question.options]


def _stem(question: ChoiceQuestion) -> str:
    """The question without the list of its options, from which a model could copy."""
    first = _FIRST_OPTION.search(question.text)
    return question.text[: first.start() if first else None].strip()


def _score_options(asked: Asked, questions: Sequence[ChoiceQuestion]) -> Floats:
    """The pseudo-log-likelihood of each option per token, (questions, 4)."""
    options: list[list[MaskedPlace]] = []
    for question in questions:
        for (text, tokens), option in zip(asked.fit(question, _options), question.options, strict=True):
            options.append(_mask_end(asked.network, text, tokens, len(option.strip())))
            if not options[-1]:
                raise UserError(f"question {question.id}: an option is empty; copy the data again")
    found = iter(asked.network.log_probabilities([place for option in options for place in option]))
    return np.array([np.mean([next(found) for _ in option]) for option in options]).reshape(len(questions), -1)


def _describe_options(asked: Asked, questions: Sequence[ChoiceQuestion]) -> dict[str, Any]:
    return {
        "method": "pseudo-log-likelihood of each option after the question, per token of the option",
        "questions_whose_options_were_not_found_in_their_text": sum(
            _FIRST_OPTION.search(question.text) is None for question in questions
        ),
    }


def _mask_end(network: MaskedLM, text: str, tokens: TokenizedText, characters: int) -> list[MaskedPlace]:
    """A text once for each token of its last characters, which is masked, and asked for."""
    starts, ends = tokens.offsets.T
    (inside,) = np.nonzero((ends > len(text) - characters) & (ends > starts))
    return [network.mask(tokens.ids, place, tokens.ids[[place]]) for place in inside.tolist()]


class _Method(NamedTuple):
    score: Callable[[Asked, Sequence[ChoiceQuestion]], Floats]
    """Logarithms of what the options are worth, (questions, 4)."""
    details: Callable[[Asked, Sequence[ChoiceQuestion]], dict[str, Any]]
    """What the result file says of the method."""


METHODS = {
    "prompt": _Method(_score_prompt, _describe_prompt),
    "pseudo_log_likelihood": _Method(_score_options, _describe_options),
}


def describe_answers(questions: Sequence[ChoiceQuestion], answers: Sequence[str]) -> dict[str, Any]:
    """The distribution of correct and of given answers, and the accuracy over all questions and by subset.

    Args:
        questions: in the order of their data set.
        answers: the letter that was given to each.

    Returns:
        For the result file: `gold_answers` and `given_answers`, by letter; and of all questions, of each vocabulary, of
        each level and of each subset the number of `questions`, `accuracy` and `majority_accuracy`, that of always
        giving the most frequent correct letter.
    """
    keys: dict[str, Callable[[ChoiceQuestion], str]] = {
        "by_vocabulary": lambda question: question.vocabulary,
        "by_level": lambda question: question.level,
        "by_subset": lambda question: "/".join(_subset(question)),
    }
    pairs = list(zip(questions, answers, strict=True))
    counted = Counter(answers)
    found: dict[str, Any] = {
        "gold_answers": count_answers(questions),
        "given_answers": {letter: counted[letter] for letter in LETTERS},
        **_accuracy(pairs),
    }
    for name, key in keys.items():
        groups: dict[str, list[tuple[ChoiceQuestion, str]]] = {}
        for question, answer in pairs:
            groups.setdefault(key(question), []).append((question, answer))
        found[name] = {group: _accuracy(groups[group]) for group in sorted(groups)}
    return found


def _answers_line(described: dict[str, Any]) -> str:
    """What `describe_answers` gave, in a line to print."""
    given, correct = (
        ", ".join(f"{letter} {count:,}" for letter, count in described[f"{which}_answers"].items())
        for which in ("given", "gold")
    )
    majority = described["majority_accuracy"]
    return f"answers given: {given}; correct: {correct}; always the most frequent one: {100 * majority:.1f} %"


def _accuracy(pairs: Sequence[tuple[ChoiceQuestion, str]]) -> dict[str, float]:
    correct = sum(question.answer == answer for question, answer in pairs)
    most = max(count_answers(question for question, _ in pairs).values())
    return {"questions": len(pairs), "accuracy": correct / len(pairs), "majority_accuracy": most / len(pairs)}
