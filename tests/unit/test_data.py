import gzip
import json
import threading

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from clinical_pretrain.config.data import MaskingConfig
from clinical_pretrain.config.optim import OptimConfig
from clinical_pretrain.data.collator import Collator, capacity
from clinical_pretrain.data.masking import Vocabulary, mask_sequence, word_starts
from clinical_pretrain.data.prefetch import prefetch
from clinical_pretrain.data.sampler import MASKS, Sampler, generator, micro_batch_of
from clinical_pretrain.data.shards import PackedSequence
from clinical_pretrain.engine.schedule import learning_rate
from clinical_pretrain.models.mlm_head import IGNORED
from tokenizer_tools.manifest import TokenizerInfo
from tokenizer_tools.tokenizer.load import describe_tokenizer, encode, load_tokenizer

TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "Ġdig", "oxin", "Ġ0", ".", "125", "Ġmg", ",", "Ċ", "<mask>", "▁"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    backend = Tokenizer(WordLevel({token: i for i, token in enumerate(TOKENS)}, unk_token="<unk>"))
    backend.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    backend.save(str(path))
    info = TokenizerInfo("t", "", "", len(TOKENS), 0, 2, 1, 12, "<unk>", 3, "<unk>", 3)
    return Vocabulary.load(path, info)


def ids_of(text):
    return np.array([TOKENS.index(token) for token in text.split()], np.uint16)


def test_word_starts(vocabulary):
    ids = ids_of("<s> Ġdig oxin Ġ0 . 125 Ġmg , <unk> Ġdig Ċ </s>")
    assert word_starts(ids, vocabulary).astype(int).tolist() == [1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    ids = ids_of("▁ oxin oxin ▁ ▁ 125 oxin ▁ Ġdig ▁ <unk> Ċ Ċ oxin")
    assert word_starts(ids, vocabulary).astype(int).tolist() == [1, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("whole_words", [False, True])
def test_masking_shares_and_no_special_token_masked(vocabulary, whole_words):
    ids = np.tile(ids_of("<s> Ġdig oxin Ġ0 . 125 Ġmg , <unk> Ġdig Ċ </s>"), 5000)
    shown, positions = mask_sequence(ids, MaskingConfig(whole_words=whole_words), vocabulary, np.random.default_rng(0))
    maskable = vocabulary.maskable[ids]
    assert maskable[positions].all()
    assert abs(len(positions) / maskable.sum() - 0.15) < 0.005
    masked = shown[positions] == vocabulary.mask_id
    changed = ~masked & (shown[positions] != ids[positions])
    assert abs(masked.mean() - 0.8) < 0.02
    assert abs(changed.mean() - 0.1 * 7 / 8) < 0.02  # of eight maskable tokens, one is the token itself
    assert vocabulary.maskable[shown[positions][~masked]].all()
    untouched = np.setdiff1d(np.arange(len(ids)), positions)
    assert (shown[untouched] == ids[untouched]).all()


def test_whole_words_are_chosen_whole(vocabulary):
    ids = np.tile(ids_of("Ġdig oxin"), 2000)
    _, positions = mask_sequence(ids, MaskingConfig(whole_words=True), vocabulary, np.random.default_rng(0))
    assert (np.bincount(positions // 2, minlength=2000)[positions // 2] == 2).all() and len(positions)


def test_masks_depend_on_seed_epoch_and_sequence_only(vocabulary):
    ids = np.tile(ids_of("Ġdig oxin Ġ0 . 125"), 100)

    def draw(seed, epoch, row):
        return mask_sequence(ids, MaskingConfig(), vocabulary, generator(seed, MASKS, epoch, row))[0].tolist()

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({tuple(draw(*key)) for key in [(1, 2, 3), (1, 2, 4), (1, 3, 3), (2, 2, 3)]}) == 4


def test_numpys_global_generator_is_left_alone(vocabulary):
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    mask_sequence(ids_of("Ġdig oxin"), MaskingConfig(), vocabulary, generator(0, MASKS, 0, 0))
    Sampler(10, 0).sample(3)
    assert np.random.get_state()[1].tolist() == before


@given(st.integers(1, 50), st.integers(0, 5))
def test_every_epoch_takes_every_sequence_once(rows, seed):
    sampler = Sampler(rows, seed)
    samples = [sampler.sample(k) for k in range(3 * rows)]
    for epoch in range(3):
        part = samples[epoch * rows : (epoch + 1) * rows]
        assert {s.epoch for s in part} == {epoch} and sorted(s.sequence for s in part) == list(range(rows))
    assert [Sampler(rows, seed).sample(k) for k in reversed(range(3 * rows))] == samples[::-1]


@given(st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_ranks_share_the_micro_batches_of_a_step(world_size):
    taken = [
        micro_batch_of(rank, world_size, micro_step)
        for micro_step in range(12 // world_size)
        for rank in range(world_size)
    ]
    assert sorted(taken) == list(range(12))


@settings(max_examples=50)
@given(st.sampled_from(["linear", "cosine", "wsd"]), st.integers(0, 20), st.integers(0, 30))
def test_schedules_rise_to_the_peak_and_fall(schedule, warmup, decay):
    config = OptimConfig(learning_rate=1.0, schedule=schedule, warmup_steps=warmup, decay_steps=decay)
    rates = [learning_rate(step, config, 60) for step in range(1, 61)]
    top = rates.index(max(rates))
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)
    if warmup:
        assert rates[warmup - 1] == 1.0
    if schedule == "wsd":
        assert all(rate == 1.0 for rate in rates[max(0, warmup - 1) : 60 - decay])


def test_linear_schedule_is_transformers_shifted_by_one_step():
    import torch
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=3e-5)
    scheduler = get_linear_schedule_with_warmup(optimizer, 10, 101)
    theirs = []
    for _ in range(101):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    ours = [learning_rate(step, OptimConfig(warmup_steps=10), 100) for step in range(1, 101)]
    assert ours == pytest.approx(theirs[1:], rel=1e-12)


# Micro-batches ------------------------------------------------------------------------------------------------------


def sequences_of(vocabulary, *lengths):
    """Sequences of maskable tokens, each with three notes."""
    rng = np.random.default_rng(0)
    return [
        PackedSequence(
            input_ids=rng.choice(vocabulary.replacement_ids, length).astype(np.uint16),
            segment_starts=np.array([0, length // 3, length // 2], np.int32),
            segment_notes=np.arange(3),
        )
        for length in lengths
    ]


def generators(count):
    return [generator(0, MASKS, 0, row) for row in range(count)]


@pytest.mark.parametrize("isolate", [False, True])
def test_a_micro_batch(vocabulary, isolate):
    rows = sequences_of(vocabulary, 600, 500)
    batch = Collator(600, MaskingConfig(), vocabulary, 5 if isolate else 0)(rows, generators(2))
    documents = batch.documents.numpy()
    assert (documents[1, 500:] == 0).all() and (documents[1, :500] > 0).all() and (documents[0] > 0).all()
    assert (batch.input_ids.numpy()[1, 500:] == vocabulary.pad_id).all()
    for number, row in enumerate(rows):
        mine = batch.positions.numpy() // 600 == number
        places = batch.positions.numpy()[mine] % 600
        assert (batch.labels.numpy()[mine] == row.input_ids[places]).all() and len(places) > 40
    if not isolate:
        assert documents.max() == 1 and batch.position_ids is None and batch.max_documents == 1
        return
    assert documents[0].tolist() == [1] * 200 + [2] * 100 + [3] * 300 and batch.max_documents == 5
    assert batch.position_ids[1, :500].tolist() == [*range(166), *range(84), *range(250)]


def test_micro_batches_padded_to_capacity_have_one_shape(vocabulary):
    collator = Collator(600, MaskingConfig(), vocabulary, pad_to_capacity=True)
    shapes, filled = set(), set()
    for seed in range(20):
        batch = collator(sequences_of(vocabulary, 600, 300), [np.random.default_rng(seed + i) for i in range(2)])
        shapes.add((batch.positions.shape, batch.labels.shape))
        asked = batch.labels != IGNORED
        filled.add(int(asked.sum()))
        assert asked.sum() == asked.int().cumprod(0).sum()  # those that count stand first
    assert shapes == {((capacity(1200, MaskingConfig()),),) * 2} and len(filled) > 5


@pytest.mark.parametrize("whole_words", [False, True])
def test_capacity_is_rarely_reached(vocabulary, whole_words):
    config = MaskingConfig(whole_words=whole_words)
    row = sequences_of(vocabulary, 4096)[0]
    counts = [len(mask_sequence(row.input_ids, config, vocabulary, np.random.default_rng(i))[1]) for i in range(300)]
    most = capacity(4096, config)
    assert most % 64 == 0 and np.mean(counts) + 5 * np.std(counts) < most
    assert whole_words or most < np.mean(counts) + 8 * np.std(counts) + 64


@pytest.mark.shared
@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_whole_words_of_real_notes_vary_no_more_than_capacity_allows_for(family):
    """The number of masked tokens has the variance p (1 - p) times the sum of the squared lengths of the words."""
    tokenizer = load_tokenizer(str(SHARED / "tokenizers" / family))
    info = describe_tokenizer(tokenizer, family, "drop")
    words = Vocabulary.load(SHARED / "tokenizers" / family / "tokenizer.json", info)
    with gzip.open(SHARED / "notes" / "mtsamples_unique.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for _, line in zip(range(200), file, strict=False)]
    for ids in encode(tokenizer.backend_tokenizer, texts):
        lengths = np.bincount(np.cumsum(word_starts(np.array(ids), words)) - 1)
        assert (lengths**2).sum() / lengths.sum() < 3 or len(ids) < 200


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_a_bare_blank_begins_the_word_that_follows(family):
    """In neither vocabulary has every word a first token with a blank: "▁ endo scopy", "Ġ ery thema"."""
    tokenizer = load_tokenizer(str(SHARED / "tokenizers" / family))
    info = describe_tokenizer(tokenizer, family, "drop")
    words = Vocabulary.load(SHARED / "tokenizers" / family / "tokenizer.json", info)
    with gzip.open(SHARED / "notes" / "mtsamples_unique.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    bare, split = 0, 0
    for ids in map(np.array, encode(tokenizer.backend_tokenizer, texts)):
        after = np.flatnonzero(words.is_blank[ids[:-1]]) + 1
        after = after[words.maskable[ids[after]] & ~words.begins_word[ids[after]]]
        bare, split = bare + len(after), split + word_starts(ids, words)[after].sum()
    assert bare > 500 and split == 0


def test_positions_beyond_the_capacity_are_shown(vocabulary, monkeypatch):
    from clinical_pretrain.data import collator as collator_module

    rows = sequences_of(vocabulary, 600, 500)
    collator = Collator(600, MaskingConfig(), vocabulary)
    free = collator(rows, generators(2))
    monkeypatch.setattr(collator_module, "capacity", lambda tokens, config: 100)
    batch, again = (collator(rows, generators(2)) for _ in range(2))
    kept = set(batch.positions.tolist())
    assert (
        len(kept) == 100
        and kept < set(free.positions.tolist())
        and again.positions.tolist() == batch.positions.tolist()
    )
    assert batch.positions.tolist() == sorted(kept)
    true_ids = np.full((2, 600), vocabulary.pad_id)
    true_ids[0], true_ids[1, :500] = rows[0].input_ids, rows[1].input_ids
    dropped = sorted(set(free.positions.tolist()) - kept)
    assert (batch.input_ids.numpy().ravel()[dropped] == true_ids.ravel()[dropped]).all()
    assert (batch.input_ids.numpy().ravel()[sorted(kept)] == free.input_ids.numpy().ravel()[sorted(kept)]).all()


def test_prefetch_keeps_the_order_and_the_depth():
    made = []

    def make(key):
        made.append(key)
        return key * key

    values = prefetch(make, iter(range(10)), depth=3)
    assert next(values) == 0 and max(made) <= 4
    assert list(values) == [key * key for key in range(1, 10)]


def test_prefetch_raises_an_error_in_place_of_its_value():
    values = prefetch(lambda key: 1 // (2 - key), iter(range(4)))
    assert [next(values), next(values)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(values)


def test_prefetch_ends_with_its_reader():
    made = []
    values = prefetch(made.append, iter(range(10)))
    next(values)
    values.close()
    assert made == [0, 1, 2] and not [t for t in threading.enumerate() if t.name.startswith("prefetch")]
