import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from clinical_pretrain.config import MaskingConfig, OptimConfig
from clinical_pretrain.data.masking import Vocabulary, mask_row, word_starts
from clinical_pretrain.data.sampler import MASKS, Sampler, generator, micro_batch_of
from clinical_pretrain.optim import learning_rate
from tokenizer_tools.manifest import TokenizerInfo

TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "Ġdig", "oxin", "Ġ0", ".", "125", "Ġmg", ",", "Ċ", "<mask>"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    backend = Tokenizer(WordLevel({token: i for i, token in enumerate(TOKENS)}, unk_token="<unk>"))
    backend.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    backend.save(str(path))
    info = TokenizerInfo("t", "", "", len(TOKENS), 0, 2, 1, 12, 3, "<unk>", 3)
    return Vocabulary.load(path, info)


def ids_of(text):
    return np.array([TOKENS.index(token) for token in text.split()], np.uint16)


def test_words_begin_where_they_do(vocabulary):
    ids = ids_of("<s> Ġdig oxin Ġ0 . 125 Ġmg , <unk> Ġdig Ċ </s>")
    assert word_starts(ids, vocabulary).astype(int).tolist() == [1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("whole_words", [False, True])
def test_shares_are_15_80_10_10_and_never_a_special_token(vocabulary, whole_words):
    ids = np.tile(ids_of("<s> Ġdig oxin Ġ0 . 125 Ġmg , <unk> Ġdig Ċ </s>"), 5000)
    shown, positions = mask_row(ids, MaskingConfig(whole_words=whole_words), vocabulary, np.random.default_rng(0))
    ordinary = vocabulary.ordinary[ids]
    assert ordinary[positions].all()
    assert abs(len(positions) / ordinary.sum() - 0.15) < 0.005
    masked = shown[positions] == vocabulary.mask_id
    changed = ~masked & (shown[positions] != ids[positions])
    assert abs(masked.mean() - 0.8) < 0.02
    assert abs(changed.mean() - 0.1 * 7 / 8) < 0.02  # of eight ordinary tokens, one is the token itself
    assert vocabulary.ordinary[shown[positions][~masked]].all()
    untouched = np.setdiff1d(np.arange(len(ids)), positions)
    assert (shown[untouched] == ids[untouched]).all()


def test_whole_words_are_hidden_whole(vocabulary):
    ids = np.tile(ids_of("Ġdig oxin"), 2000)
    _, positions = mask_row(ids, MaskingConfig(whole_words=True), vocabulary, np.random.default_rng(0))
    assert (np.bincount(positions // 2, minlength=2000)[positions // 2] == 2).all() and len(positions)


def test_masks_depend_on_seed_epoch_and_row_alone(vocabulary):
    ids = np.tile(ids_of("Ġdig oxin Ġ0 . 125"), 100)

    def draw(seed, epoch, row):
        return mask_row(ids, MaskingConfig(), vocabulary, generator(seed, MASKS, epoch, row))[0].tolist()

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({tuple(draw(*key)) for key in [(1, 2, 3), (1, 2, 4), (1, 3, 3), (2, 2, 3)]}) == 4


def test_numpys_global_generator_is_left_alone(vocabulary):
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    mask_row(ids_of("Ġdig oxin"), MaskingConfig(), vocabulary, generator(0, MASKS, 0, 0))
    Sampler(10, 0).sample(3)
    assert np.random.get_state()[1].tolist() == before


@given(st.integers(1, 50), st.integers(0, 5))
def test_every_epoch_takes_every_row_once(rows, seed):
    sampler = Sampler(rows, seed)
    samples = [sampler.sample(k) for k in range(3 * rows)]
    for epoch in range(3):
        part = samples[epoch * rows : (epoch + 1) * rows]
        assert {s.epoch for s in part} == {epoch} and sorted(s.row for s in part) == list(range(rows))
    assert [Sampler(rows, seed).sample(k) for k in reversed(range(3 * rows))] == samples[::-1]


@given(st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_ranks_share_the_same_micro_batches(world_size):
    taken = [micro_batch_of(rank, world_size, turn) for turn in range(12 // world_size) for rank in range(world_size)]
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


def test_linear_schedule_is_transformers_one_step_on():
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
