"""Windows of tokens: offsets, coverage, tags and merged scores."""

import itertools

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from clinical_pretrain.tasks.records import Span
from clinical_pretrain.tasks.windows import (
    TextTokenizer,
    Window,
    decode_tags,
    merge_scores,
    tag_tokens,
    tags_of,
    windows_of,
)

TEXT = "Meds:\n\tmetoprolol 25 mg PO BID, </s> [MASK]<mask> é≥ 5\u00a0mg\r\nDenies chest pain .  "


@pytest.fixture(scope="module", params=["longformer", "bigbird"])
def tokenizer(request):
    return AutoTokenizer.from_pretrained(SHARED / "tokenizers" / request.param)


@pytest.mark.shared
def test_half_an_emoji_is_an_unknown_character(tokenizer):
    """As JSON has it that was cut: Python reads it, and no tokenizer takes it."""
    text = "pain \ud83d severe"
    found = TextTokenizer(tokenizer)(text)
    assert [text[start:end] for start, end in found.offsets.tolist() if end > start][-1].strip() in "severe"
    assert found.offsets.max() == len(text)


@pytest.mark.shared
def test_offsets_are_those_of_the_text(tokenizer):
    found = TextTokenizer(tokenizer)(TEXT)
    pieces = [TEXT[start:end] for start, end in found.offsets.tolist()]
    assert all(piece == piece.strip() for piece in pieces)
    for word in ("metoprolol", "25", "BID", "chest", "pain", "Denies"):
        first = TEXT.index(word)
        inside = [(s, e) for s, e in found.offsets.tolist() if e > first and s < first + len(word) and e > s]
        assert inside[0][0] == first and inside[-1][1] == first + len(word)
    # Each character that isn't white space belongs to a token.
    covered = {place for start, end in found.offsets.tolist() for place in range(start, end)}
    assert {place for place, character in enumerate(TEXT) if not character.isspace()} <= covered


@pytest.mark.shared
def test_special_tokens_in_a_text_control_nothing(tokenizer):
    for special in ("<s>", "</s>", "<pad>", "<mask>", "[CLS]", "[SEP]", "[MASK]"):
        text = f"a {special} b"
        found = TextTokenizer(tokenizer)(text)
        assert not {*found.ids.tolist()} & {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}, special
        assert text[slice(*found.offsets[-1])] == "b"


def test_a_text_that_fits_is_one_window():
    assert windows_of(10, 10, 5) == [Window(0, 10)] and windows_of(0, 10, 5) == [Window(0, 0)]


@given(tokens=st.integers(1, 300), longest=st.integers(1, 50), data=st.data())
def test_windows_cover_every_token(tokens, longest, data):
    stride = data.draw(st.integers(1, longest))
    windows = windows_of(tokens, longest, stride)
    assert windows[0].start == 0 and windows[-1].end == tokens
    assert all(window.end - window.start == min(longest, tokens) for window in windows)
    for one, other in itertools.pairwise(windows):
        assert 0 < other.start - one.start <= stride


def test_scores_are_averaged_with_more_weight_in_the_middle():
    windows = [Window(0, 3), Window(1, 4)]
    first, second = np.array([[0.0], [2.0], [4.0]]), np.array([[8.0], [6.0], [1.0]])
    merged = merge_scores(windows, [first, second], 4)
    # Weights are 1, 2, 1 in each window.
    assert merged[:, 0].tolist() == [0.0, (2 * 2 + 1 * 8) / 3, (1 * 4 + 2 * 6) / 3, 1.0]


def test_equal_windows_change_nothing():
    scores = np.random.default_rng(0).normal(size=(20, 3))
    windows = windows_of(20, 8, 3)
    merged = merge_scores(windows, [scores[window.start : window.end] for window in windows], 20)
    assert np.allclose(merged, scores)


OFFSETS = np.array([[0, 5], [6, 10], [10, 12], [12, 12], [13, 20], [21, 22]])


def test_tags_go_there_and_back():
    entities = [Span(6, 12, "drug"), Span(13, 22, "dose")]
    tags, left = tag_tokens(OFFSETS, entities)
    assert tags == ["O", "B-drug", "I-drug", "O", "B-dose", "I-dose"] and not left
    assert decode_tags(OFFSETS, tags) == entities
    assert set(tags) <= set(tags_of(["dose", "drug"]))


def test_white_space_within_an_entity_doesnt_end_it():
    tags, _ = tag_tokens(OFFSETS, [Span(6, 20, "drug")])
    assert tags[3] == "O" and decode_tags(OFFSETS, tags) == [Span(6, 20, "drug")]


def test_of_entities_that_share_a_token_the_longer_is_tagged():
    long, short = Span(0, 12, "a"), Span(6, 10, "b")
    tags, left = tag_tokens(OFFSETS, [short, long])
    assert left == [short] and decode_tags(OFFSETS, tags) == [long]
    assert tag_tokens(OFFSETS, [Span(12, 13, "blank")]) == (["O"] * 6, [Span(12, 13, "blank")])


def test_entities_side_by_side_stay_two():
    entities = [Span(0, 5, "a"), Span(6, 10, "a"), Span(10, 12, "b")]
    tags, _ = tag_tokens(OFFSETS, entities)
    assert decode_tags(OFFSETS, tags) == entities


def test_an_inside_without_a_beginning_begins_an_entity():
    assert decode_tags(OFFSETS, ["I-a", "I-b", "I-b", "O", "O", "I-b"]) == [
        Span(0, 5, "a"), Span(6, 12, "b"), Span(21, 22, "b")]  # fmt: skip


@pytest.mark.shared
def test_entities_of_real_case_reports_survive_tokens(tokenizer):
    """Of MACCROBAT's entities nearly all begin and end where tokens do, and come back from their tags."""
    from clinical_pretrain.tasks.readers.brat import read_brat

    documents = read_brat(SHARED / "tasks" / "maccrobat2020").splits["train"][:30]
    tokenise, total, same = TextTokenizer(tokenizer), 0, 0
    for document in documents:
        found = tokenise(document.text)
        tags, left = tag_tokens(found.offsets, document.entities)
        tagged = set(document.entities) - set(left)
        total += len(tagged)
        same += len(tagged & set(decode_tags(found.offsets, tags)))
    assert total > 3000 and same / total > 0.99
