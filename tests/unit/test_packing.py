import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer_tools.corpus import deduplicate
from tokenizer_tools.corpus.deduplicate import first_occurrences, numbered, ranks_within
from tokenizer_tools.corpus.times import sort_key, sort_numbers
from tokenizer_tools.shard_reading import whole_notes
from tokenizer_tools.shards.sequences import pack_sequences


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 40))
def test_nothing_is_lost_and_every_token_knows_its_note(lengths, length):
    notes = [np.arange(100 * i, 100 * i + n) for i, n in enumerate(lengths)]
    sequences = pack_sequences(notes, range(len(notes)), length, np.int32)
    stream = np.concatenate([sequence.input_ids for sequence in sequences]) if sequences else np.zeros(0)
    assert stream.tolist() == [token for note in notes for token in note]
    assert all(len(sequence.input_ids) == length for sequence in sequences[:-1])
    for sequence in sequences:
        assert sequence.segment_starts[0] == 0 and (np.diff(sequence.segment_starts) > 0).all()
        segment = np.searchsorted(sequence.segment_starts, np.arange(len(sequence.input_ids)), side="right") - 1
        assert (sequence.segment_notes[segment] == sequence.input_ids // 100).all()


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 40), st.integers(1, 5))
def test_whole_notes_come_back(lengths, length, batch_size):
    """Also where a note goes on over several sequences and record batches."""
    notes = [np.arange(100 * i, 100 * i + n) for i, n in enumerate(lengths)]
    sequences = pack_sequences(notes, range(len(notes)), length, np.int32)

    def lists(rows):
        return np.cumsum([0, *map(len, rows)], dtype=np.int32), np.concatenate(rows)

    names = ("input_ids", "segment_starts", "segment_notes")
    batches = [
        {name: lists([getattr(sequence, name) for sequence in sequences[start : start + batch_size]]) for name in names}
        for start in range(0, len(sequences), batch_size)
    ]
    found = [(note, ids.tolist()) for whole in whole_notes(batches) for note, ids in whole]
    assert found == [(i, note.tolist()) for i, note in enumerate(notes)]


def test_ids_are_stored_in_16_bits():
    assert pack_sequences([np.array([65535])], [0], 8, np.uint16)[0].input_ids.dtype == np.uint16


@given(st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1))
def test_the_first_of_equal_texts_stays(hashes):
    kept = first_occurrences(np.array(hashes))
    assert [h for h, keep in zip(hashes, kept, strict=True) if keep] == list(dict.fromkeys(hashes))


BYTES = st.lists(st.binary(max_size=40).filter(lambda value: not value.endswith(b"\0")), max_size=30)


@pytest.mark.parametrize("few_bits", [False, True])
@given(BYTES, st.integers(1, 3))
def test_equal_values_have_one_number(few_bits, values, times):
    """Also where different values share the bits that they are sorted by."""
    values = (values * times)[: 50 * times]
    with pytest.MonkeyPatch.context() as patch:
        if few_bits:
            mixed = deduplicate._mixed
            patch.setattr(deduplicate, "_mixed", lambda words, seed: mixed(words, seed) >> np.uint64(63 * (1 - seed)))
        numbers = numbered(np.array(values, "S")).tolist()
    assert len(set(numbers)) == len(set(values)) == len(set(zip(numbers, values, strict=True)))


_MOMENT = st.datetimes(datetime.datetime(1800, 1, 1), datetime.datetime(2300, 12, 31, 23, 59, 59))
MOMENTS = st.one_of(
    st.just(""),
    st.dates(datetime.date(1800, 1, 1), datetime.date(2300, 12, 31)).map(str),
    _MOMENT.map(lambda moment: moment.replace(microsecond=0).isoformat(" ")),
    _MOMENT.map(lambda moment: moment.isoformat(" ")),
    st.sampled_from(["2101-03-04", "2101-03-04 00:00:00", "2101-03-04 23:59:59.999999", "2101-03-04 23:59:59"]),
)


@given(st.lists(MOMENTS, min_size=1, max_size=20))
def test_times_keep_their_order_as_numbers(times):
    keys = np.array([sort_key(time) for time in times], "S")
    numbers = sort_numbers(keys)
    for i, one in enumerate(keys):
        assert ((numbers < numbers[i]) == (keys < one)).all()


def test_notes_are_ranked_by_time_within_their_patient():
    patients = np.array([b"x", b"y", b"x", b"x", b"y"])
    times = np.array([b"2151-02-01", b"", b"2151-01-01", b"2151-02-01", b""])
    assert ranks_within(patients, times).tolist() == [1, 0, 0, 2, 1]
