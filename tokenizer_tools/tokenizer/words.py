"""Count the words of notes: how often, in how many pieces, for how many patients, and what tells names from words.

A word is a run of letters, with the space before it. So byte-level BPE divides text, but for contractions; Unigram
vocabularies divide it at spaces, and then may join punctuation to a word.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from tokenizers import Tokenizer

from tokenizer_tools.corpus.placeholders import placeholder_spans
from tokenizer_tools.errors import UserError
from tokenizer_tools.tokenizer.training_notes import TrainingNote

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Kind = Literal["byte-level BPE", "Unigram"]

MANY_PIECES = 4
"""A word in so many pieces or more counts as broken up."""
# All are linear: what is repeated starts where the lookbehind allows, and is followed by what ends it.
_LETTERS = re.compile(r"[^\W\d_]+")
_WORD = re.compile(r"'(?:[sdmt]|ll|ve|re)|( ?[^\W\d_]+)")  # contractions as in GPT-2's pre-tokenizer
_ADDRESS = re.compile(r"(?<!\S)\S*(?:@|://|www\.)\S*")
_WITHIN_SENTENCE = re.compile(r"(?<=[a-z] )[^\W\d_]+")
_AFTER_TITLE = re.compile(r"(?<![^\W\d_])(?:dr|mr|mrs|ms|miss|prof|professor)\.? ([^\W\d_]+)", re.IGNORECASE)
_BEFORE_DEGREE = re.compile(r"(?<![^\W\d_])([^\W\d_]+),? (?:M\.?D|D\.?O|R\.?N|N\.?P|P\.?A|Ph\.?D)\b")


def kind_of(backend: Tokenizer, name: str) -> Kind:
    """How a tokenizer divides words.

    Args:
        backend: the tokenizer.
        name: its name, for messages.

    Raises:
        UserError: neither as Longformer's nor as BigBird's does.
    """
    state = json.loads(backend.to_str())
    step = state["pre_tokenizer"] or {}
    steps = {each["type"] for each in step.get("pretokenizers", [step]) if each}
    if state["model"]["type"] == "BPE" and "ByteLevel" in steps:
        return "byte-level BPE"
    if state["model"]["type"] == "Unigram" and "Metaspace" in steps:
        return "Unigram"
    raise UserError(
        f"{name}: a {state['model']['type']} tokenizer; this takes byte-level BPE, as Longformer's, or Unigram with "
        "Metaspace, as BigBird's"
    )


def letters_of(text: str) -> list[str]:
    """The runs of letters in a text, in lower case."""
    return [word.lower() for word in _LETTERS.findall(text)]


class WordCounts:
    """The words of notes. Memory grows with the number of different words, not of notes.

    Args:
        tokenizer: from `load_tokenizer`. Its unknown token stands for placeholders in cleaned texts.
        kind: from `kind_of`.
        min_patients: number up to which the patients of a word are told apart.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, kind: Kind, min_patients: int) -> None:
        self.backend: Tokenizer = tokenizer.backend_tokenizer
        self.unknown_token, self.unknown_id = tokenizer.unk_token, tokenizer.unk_token_id
        self.kind = kind
        self.min_patients = min_patients
        self.occurrences = Counter[str]()
        """Of each word as it is written, with a space in front if it has one."""
        self.pieces: dict[str, int] = {}
        """Tokens of each of them; 0 if one of these is unknown."""
        self.within_sentence = Counter[str]()
        """Of each word as it is written, after another word that ends in lower case: no sentence begins with it."""
        self.by_title = Counter[str]()
        """Of each word in lower case, next to a title or degree: Dr., Mrs., RN."""
        self.in_placeholder: set[str] = set()
        """Words that occur in de-identification placeholders, in lower case."""
        self._patients: dict[str, list[int]] = {}

    def add(self, notes: Iterable[TrainingNote]) -> list[Counter[str]]:
        """Count the words of some notes, and return how often each occurs in each note, as in `occurrences`."""
        words = [self._count(note) for note in notes]
        self._look_up({word for each in words for word in each if word not in self.pieces})
        return words

    def _count(self, note: TrainingNote) -> Counter[str]:
        for start, end in placeholder_spans(note.raw):
            self.in_placeholder.update(letters_of(note.raw[start:end]))
        text = _ADDRESS.sub(" ", note.text)
        if self.kind == "Unigram":  # which writes a space wherever a text or the rest of it begins
            text = " " + text.replace(self.unknown_token, " ")
        else:
            text = text.replace(self.unknown_token, "\n")
        words = Counter(word for word in _WORD.findall(text) if word)
        self.occurrences.update(words)
        self.within_sentence.update(_WITHIN_SENTENCE.findall(text))
        self.by_title.update(word.lower() for word in _AFTER_TITLE.findall(text) + _BEFORE_DEGREE.findall(text))
        patient = hash(note.group)
        for word in {word.strip() for word in words}:
            if word.islower():
                patients = self._patients.setdefault(word, [])
                if len(patients) < self.min_patients and patient not in patients:
                    patients.append(patient)
        return words

    def patients(self, word: str) -> int:
        """Number of patients with a word in lower case, up to `min_patients`."""
        return len(self._patients.get(word, ()))

    def _look_up(self, words: set[str]) -> None:
        # Unigram puts a space before any text: a word that follows something else is looked up after it.
        new = [("-" if self.kind == "Unigram" and word[0] != " " else "", word) for word in sorted(words)]
        encodings = self.backend.encode_batch([before + word for before, word in new], add_special_tokens=False)
        for (before, word), encoding in zip(new, encodings, strict=True):
            ids = [i for i, (_, end) in zip(encoding.ids, encoding.offsets, strict=True) if end > len(before)]
            self.pieces[word] = 0 if self.unknown_id in ids else len(ids)
