"""Notes are ordered by parsed time, row by row; what can't be read is counted and comes last."""

import datetime
import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer_tools.corpus.columns import Columns
from tokenizer_tools.corpus.read_notes import InputOptions, read_notes
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.corpus.times import parse_time, sort_key
from tokenizer_tools.shards import summary
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.shards.verify.verify import verify_shards


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2101-03-04 05:06:07", "2101-03-04 05:06:07"),
        ("2101-03-04T05:06", "2101-03-04 05:06:00"),
        (" 2101-03-04  5:06 ", "2101-03-04 05:06:00"),
        ("2101-03-04 05:06:07.25", "2101-03-04 05:06:07.250000"),
        ("2101-03-04 05:06:07.000000000", "2101-03-04 05:06:07"),
        ("2101-03-04T05:06:07Z", "2101-03-04 05:06:07"),
        ("2101-03-04 05:06:07 UTC", "2101-03-04 05:06:07"),
        ("2101-03-04 23:30:00-05:00", "2101-03-05 04:30:00"),
        ("2101-03-04 00:00:00+0530", "2101-03-03 18:30:00"),
        ("2101/3/4 5:06 PM", "2101-03-04 17:06:00"),
        ("2101-03-04", "2101-03-04"),
        ("2101-03-04 00:00:00", "2101-03-04"),
        ("20110304", "2011-03-04"),
        ("20110304050607", "2011-03-04 05:06:07"),
        ("20110304T0506", "2011-03-04 05:06:00"),
        ("04-MAR-2101", "2101-03-04"),
        ("4 March 2101 12:30 a.m.", "2101-03-04 00:30:00"),
        ("Mar 4, 2101", "2101-03-04"),
        ("04MAR2101:05:06:07", "2101-03-04 05:06:07"),
    ],
)
def test_the_forms_that_are_read(text, expected):
    for order in ("year_first", "day_first", "month_first"):
        assert parse_time(text, order) == expected


@pytest.mark.parametrize(
    "text",
    ["03/04/2101", "13/04/2101", "04.03.2101", "03-04-2101 05:06", "04-MAR-01", "01-03-04", "2101-13-01", "2101-02-30",
     "2101-03-04 25:00", "2101-03-04 13:00 PM", "9999-12-31", "0001-01-01", "29349-01-26", "1700000000",
     "1700000000000", "45000", "05:06:07", "March 2101", "4 Foo 2101", "yesterday", "", "２１０１-03-04",
     "2101-03-04" * 9],
)  # fmt: skip
def test_what_is_not_guessed(text):
    assert parse_time(text) is None


def test_the_user_says_which_number_is_the_day():
    assert parse_time("03/04/2101", "day_first") == "2101-04-03"
    assert parse_time("3/4/2101 5:06 pm", "month_first") == "2101-03-04 17:06:00"
    assert parse_time("13/04/2101", "month_first") is None and parse_time("13.04.2101", "day_first") == "2101-04-13"
    assert parse_time("2101-03-04", "day_first") == "2101-03-04"


# After midnight, which would be a date.
MOMENTS = st.datetimes(datetime.datetime(1800, 1, 1), datetime.datetime(2300, 12, 31)).map(
    lambda moment: moment.replace(hour=max(1, moment.hour))
)


@given(st.lists(MOMENTS, max_size=20), st.sampled_from(["%Y-%m-%d %H:%M:%S.%f", "%d-%b-%Y %H:%M:%S", "%Y%m%d%H%M%S"]))
def test_keys_sort_as_times_do(moments, form):
    moments = [moment if "%f" in form else moment.replace(microsecond=0) for moment in moments]
    key_of = {moment: sort_key(parse_time(moment.strftime(form))) for moment in moments}
    assert sorted(moments, key=key_of.__getitem__) == sorted(moments)


def test_a_date_follows_the_times_of_its_day_and_nothing_comes_last():
    times = ["", "2101-03-05", "2101-03-05 00:00:01", "2101-03-04", "2101-03-04 23:59:59.999999"]
    assert sorted(times, key=sort_key) == times[::-1]


ROWS = [  # text, CHARTTIME, CHARTDATE, place in time
    ("no time", "", "", 5),
    ("discharge", "", "2101-03-04", 2),
    ("ambiguous", "03/04/2101", "", 6),
    ("evening", "2101-03-04T20:00", "2101-03-04", 1),
    ("its date", "last week", "2101-03-05", 4),
    ("morning", "04-MAR-2101 08:00:00", "2101-03-04", 0),
    ("night", "2101-03-05 01:00:00", "2101-03-05", 3),
]


def write(path, columns):
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".csv":
        pa.csv.write_csv(pa.table(columns), path)
    else:
        records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_shards_know_the_order_and_count_the_rest(suffix, corpus, tmp_path):
    texts, times, dates, places = zip(*ROWS, strict=True)
    path = write(tmp_path / f"n{suffix}", {"SUBJECT_ID": [7] * len(ROWS), "CHARTTIME": list(times),
                                           "CHARTDATE": list(dates), "TEXT": list(texts)})  # fmt: skip
    manifest = build_shards([path], str(corpus / "tokenizer"), tmp_path / "s",
                            ShardSettings(sequence_length=64, split=SplitRule(0, 0), notes_per_part=3),
                            BuildOptions(workers=1))  # fmt: skip
    table = pa.ipc.open_stream(pa.memory_map(str(tmp_path / "s" / "notes.arrow"))).read_all()
    assert table.column("time_order").to_pylist() == list(places)
    assert manifest.counts["kept_without_time"] == 2 and manifest.counts["kept_unreadable_time"] == 2
    assert {check.name for check in verify_shards(tmp_path / "s").failed} <= {"modes"}  # those of this process
    said = "\n".join(summary.summary_lines(manifest, tmp_path / "s", False))
    assert (
        "2 notes have a time that can't be read" in said and "2 notes have no time" in said and "--date-order" in said
    )
    assert summary.summarise(manifest)["notes_kept_unreadable_time"] == 2


def test_parquets_own_times(tmp_path):
    """With zones that this machine doesn't know, and values that no calendar knows."""
    instant = 4138563967  # 2101-02-23 01:06:07 in UTC
    for unit, factor in (("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        for zone in (None, "UTC", "America/New_York", "Nowhere/Land"):
            column = pa.array([instant * factor, None], pa.int64()).cast(pa.timestamp(unit, zone))
            path = write(tmp_path / "n.parquet", {"text": ["a", "b"], "charttime": column})
            assert [note.time for note in read_notes([path])] == ["2101-02-23 01:06:07", ""]
    far = pa.array([2**62, instant * 1000], pa.int64()).cast(pa.timestamp("ms"))
    for column in (far, far.dictionary_encode()):
        notes = list(read_notes([write(tmp_path / "n.parquet", {"text": ["a", "b"], "charttime": column})]))
        assert [(note.time, note.has_unreadable_time) for note in notes] == [("", True), ("2101-02-23 01:06:07", False)]
    for column in (pa.array([5], pa.time32("s")), pa.array([5], pa.duration("s")), pa.array([5])):
        (note,) = read_notes([write(tmp_path / "n.parquet", {"text": ["a"], "charttime": column})])
        assert note.time == "" and note.has_unreadable_time


def test_other_time_columns_and_the_option(tmp_path):
    path = write(tmp_path / "n.csv", {"text": ["a"], "signed": ["3/4/2101 05:06 PM"]})
    options = InputOptions(Columns(time="signed"), date_order="month_first")
    assert [note.time for note in read_notes([path], options)] == ["2101-03-04 17:06:00"]
