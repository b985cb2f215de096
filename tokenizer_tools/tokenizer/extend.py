"""Add whole words of clinical notes, and typed placeholder tokens, to a base model's tokenizer.

The base's ids stay as they are, and no other text is divided in another way: put an added word's pieces back in its
place, and the base's ids result. A word is added as the model's own entry, not as an AddedToken, which could not carry
the space in front of it and would cut words in two:

- byte-level BPE: the word with the space, and `ignore_merges`, by which a word that is an entry isn't put together of
  pieces. It is the way of Llama 3's tokenizer, and of tiktoken.
- Unigram: the word with its ▁, at the score that its pieces have together. Between equals `tokenizers` keeps the
  longest last piece, which is the word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from tokenizer_tools.corpus.input_files import Input
from tokenizer_tools.errors import UserError
from tokenizer_tools.tokenizer.choose_words import (
    CASE_TELLS_NOTHING,
    Choice,
    case_tells_names,
    choose_words,
    read_names,
)
from tokenizer_tools.tokenizer.inspect import describe_left_out
from tokenizer_tools.tokenizer.load import encode, save_tokenizer
from tokenizer_tools.tokenizer.settings import ExtensionSettings
from tokenizer_tools.tokenizer.training_notes import TrainingNotes, no_training_notes
from tokenizer_tools.tokenizer.unknown_characters import unknown_whitespace
from tokenizer_tools.tokenizer.words import Kind, WordCounts, kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_MARGIN = 1e-9
"""Relative, by which a Unigram word outweighs its pieces, so that it doesn't depend on how a sum is rounded."""


@dataclass(frozen=True)
class Extension:
    """A tokenizer with more entries. The words are in it alone."""

    tokenizer: PreTrainedTokenizerFast
    pieces: Mapping[int, Sequence[int]]
    """Of each added id: the base's ids for the same text."""
    added_words: int
    added_tokens: list[str]
    notes: int
    """Notes that the words were learned from."""
    tokens_before: int
    """Tokens of these notes."""
    tokens_after: int
    rows_skipped: int
    """Rows that can't be used."""
    choice: Choice | None
    """None if no words were asked for."""

    @property
    def base_size(self) -> int:
        """The base's highest id, plus 1."""
        return min(self.pieces)

    @property
    def size(self) -> int:
        """The highest id, plus 1."""
        return self.base_size + len(self.pieces)

    def to_json(self) -> dict[str, Any]:
        """As `--json` writes it: counts, without the words."""
        left_out = self.choice.left_out if self.choice else {}
        return {
            "vocab_size": self.size,
            "base_vocab_size": self.base_size,
            "added_words": self.added_words,
            "added_tokens": self.added_tokens,
            "notes": self.notes,
            "tokens_before": self.tokens_before,
            "tokens_after": self.tokens_after,
            "rows_skipped": self.rows_skipped,
            "left_out": {rule: vars(entry) for rule, entry in left_out.items()},
        }


def extend_tokenizer(
    inputs: Sequence[Input], base: PreTrainedTokenizerFast, settings: ExtensionSettings, name: str
) -> Extension:
    """Learn words on the cleaned notes of the training split, and add them.

    The notes are read twice: to count their words, and to prove on each of them that nothing but the added words is
    tokenised in another way.

    Args:
        inputs: from `find_notes`; none if no words are to be added.
        base: from `load_tokenizer`, usually the base model's own.
        settings: what is added, and how words are learned.
        name: of the tokenizer, for messages.

    Raises:
        UserError: bad input, a tokenizer of another kind, no text, no word to add, or the proof fails.
    """
    tokens, names = settings.token_list, read_names(settings.names)
    backend: Tokenizer = base.backend_tokenizer
    kind = kind_of(backend, name)
    if known := [token for token in tokens if backend.token_to_id(token) is not None]:
        raise UserError(f"--tokens: {name} has {', '.join(known)} already")
    whitespace = unknown_whitespace(backend, base.unk_token_id)
    source = settings.source(inputs, base.unk_token, whitespace)
    choice, words = None, list[str]()
    if settings.size:
        choice = _learn(source, WordCounts(base, kind, settings.min_patients), names)
        words = addable(backend, [word.text for word in choice.words])[: settings.size]
        if not words:
            raise UserError(
                "no word to add: each is one token already, may be a name, or is in the notes of fewer than "
                f"{settings.min_patients} patients (--min-patients)"
            )
    extended, pieces = add_entries(backend, kind, words, tokens)
    notes, before, after = _prove(source, backend, extended, pieces, tokens)
    return Extension(
        tokenizer=_with_roles(base, extended, tokens),
        pieces=pieces,
        added_words=len(words),
        added_tokens=tokens,
        notes=notes,
        tokens_before=before,
        tokens_after=after,
        rows_skipped=source.rows_skipped,
        choice=choice,
    )


def _learn(source: TrainingNotes, counts: WordCounts, names: frozenset[str]) -> Choice:
    for batch in source.batches():
        counts.add(batch)
    if not counts.occurrences:
        raise no_training_notes()
    if not names and not case_tells_names(counts):
        raise UserError(f"{CASE_TELLS_NOTHING}; name a file of names")
    return choose_words(counts, names)


def save_extension(extension: Extension, folder: Path) -> None:
    """Write the tokenizer into a new folder, as `save_tokenizer` does."""
    save_tokenizer(extension.tokenizer, folder, extension.tokenizer.model_max_length)


def add_entries(
    backend: Tokenizer, kind: Kind, words: Sequence[str], tokens: Sequence[str]
) -> tuple[Tokenizer, dict[int, list[int]]]:
    """Add words and special tokens to a copy of a tokenizer, after its highest id.

    Args:
        backend: the tokenizer.
        kind: from `kind_of`.
        words: from `addable`.
        tokens: special tokens to add, which come first.

    Returns:
        The new tokenizer, and the ids in the old one that each new id stands for.

    Raises:
        UserError: a word doesn't become one token, or the tokenizer has entries that its merges never make.
    """
    state = json.loads(backend.to_str())
    first = max(backend.get_vocab().values()) + 1
    ids = encode(backend, [*tokens, *words])
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    state["added_tokens"] += [{"id": first + i, "content": token, **special} for i, token in enumerate(tokens)]
    entries = [*tokens, *(_as_entries(backend, word)[0] for word in words)]
    if kind == "Unigram":
        _add_to_unigram(state, entries, ids, first)
    else:
        # Special tokens are entries, too: ids with gaps would be warned of.
        state["model"]["vocab"] |= {entry["content"]: entry["id"] for entry in state["added_tokens"]}
        state["model"]["vocab"] |= {entry: first + i for i, entry in enumerate(entries)}
        if words:  # else the merges alone make all entries, as before
            _refuse_unmade_entries(backend)
            state["model"]["ignore_merges"] = True
    extended = Tokenizer.from_str(json.dumps(state))
    pieces = {first + i: each for i, each in enumerate(ids)}
    if encode(extended, [*tokens, *words]) != [[new] for new in pieces]:
        raise UserError("a word doesn't become one token of this tokenizer: choose another, and report this")
    if extended.decode_batch([[new] for new in pieces], False) != _decoded(backend, tokens, ids):
        raise UserError("a word isn't decoded as its pieces are: choose another tokenizer, and report this")
    return extended, pieces


def _decoded(backend: Tokenizer, tokens: Sequence[str], ids: Sequence[Sequence[int]]) -> list[str]:
    return [*tokens, *backend.decode_batch([list(each) for each in ids[len(tokens) :]], False)]


def addable(backend: Tokenizer, words: Sequence[str]) -> list[str]:
    """The words that can become an entry: which the tokenizer takes as they are written, and in one."""
    known = set(backend.get_vocab())
    found = []
    for word in words:
        is_changed = backend.normalizer is not None and backend.normalizer.normalize_str(word) != word
        entries = _as_entries(backend, word)
        if len(entries) == 1 and not is_changed and entries[0] not in known:
            known.add(entries[0])
            found.append(word)
    return found


def _as_entries(backend: Tokenizer, word: str) -> list[str]:
    """A word as vocabularies spell it: Ġ or ▁ for the space, and byte-level BPE's characters for bytes."""
    return [entry for entry, _ in backend.pre_tokenizer.pre_tokenize_str(word)]


def _add_to_unigram(state: dict[str, Any], entries: Sequence[str], ids: Sequence[Sequence[int]], first: int) -> None:
    """Add entries at the scores of their pieces. Ids are places in the list, which special tokens may lie behind."""
    vocabulary = state["model"]["vocab"]
    scores = [score for _, score in vocabulary]
    content = {entry["id"]: entry["content"] for entry in state["added_tokens"]}
    lowest = min(scores)
    vocabulary += [[content[place], lowest] for place in range(len(vocabulary), first)]
    margin = _MARGIN if len(set(scores)) > 1 else 0.0
    for entry, pieces in zip(entries, ids, strict=True):
        score = 0.0
        for piece in pieces:  # from left to right, as `tokenizers` adds
            score += vocabulary[piece][1]
        vocabulary.append([entry, score + margin * abs(score)])


def _refuse_unmade_entries(backend: Tokenizer) -> None:
    """Refuse a BPE vocabulary with whole words that its merges never make: with ignore_merges they would be used."""
    vocabulary = backend.get_vocab()
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    entries = [entry for entry in vocabulary if entry not in added]
    texts = [backend.decoder.decode([entry]) for entry in entries]
    whole = [
        (entry, text)
        for entry, text in zip(entries, texts, strict=True)
        if [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)] == [entry]
    ]
    ids = encode(backend, [text for _, text in whole])
    unmade = sum(found != [vocabulary[entry]] for (entry, _), found in zip(whole, ids, strict=True))
    if unmade:
        raise UserError(f"{unmade:,} entries of this vocabulary are never made by its merges: it can't be extended")


def _prove(
    source: TrainingNotes, base: Tokenizer, extended: Tokenizer, pieces: Mapping[int, Sequence[int]], tokens: list[str]
) -> tuple[int, int, int]:
    """Compare both tokenizers on notes: the same ids once added words are taken to pieces.

    Returns:
        Notes, and the tokens of both.

    Raises:
        UserError: a note's ids differ otherwise.
    """
    count = before = after = 0
    for batch in source.batches():
        texts = [note.text for note in batch]
        count += len(texts)
        for text, old, new in zip(texts, encode(base, texts), encode(extended, texts), strict=True):
            before, after = before + len(old), after + len(new)
            if take_apart(new, pieces) != old and not any(token in text for token in tokens):
                raise UserError("the extended tokenizer changes more than the added words: report this")
    return count, before, after


def take_apart(ids: Sequence[int], pieces: Mapping[int, Sequence[int]]) -> list[int]:
    """Ids of an extended tokenizer with the base's ids in place of the added ones."""
    return [old for new in ids for old in pieces.get(new, (new,))]


def _with_roles(base: PreTrainedTokenizerFast, backend: Tokenizer, tokens: list[str]) -> PreTrainedTokenizerFast:
    """The new tokenizer with the base's roles (mask, pad, …), and the new special tokens among the others."""
    from transformers import PreTrainedTokenizerFast

    added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=base.model_max_length,
        extra_special_tokens=[*base.extra_special_tokens, *tokens],
        **{role: added[str(token)] for role, token in base.special_tokens_map.items() if isinstance(token, str)},
    )


def describe(extension: Extension, settings: ExtensionSettings) -> list[str]:
    """Say in lines what was added, without the words."""
    fewer = f" ({settings.size:,} were asked for)" if extension.added_words < settings.size else ""
    words = [f"{extension.added_words:,} words{fewer}"] if settings.size else []
    tokens = [f"the tokens {', '.join(extension.added_tokens)}"] if extension.added_tokens else []
    lines = [f"{extension.size:,} entries, of which {' and '.join(words + tokens)} are new"]
    if extension.choice:
        before, after = extension.tokens_before, extension.tokens_after
        lines += [
            f"{extension.notes:,} notes of the training split: {before:,} tokens before, {after:,} after "
            f"({1 - after / before:.1%} fewer); taken to pieces, each note has the ids that it had before",
            *describe_left_out(extension.choice, before, settings),
        ]
    if extension.rows_skipped:
        lines.append(f"{extension.rows_skipped:,} rows can't be used")
    return lines
