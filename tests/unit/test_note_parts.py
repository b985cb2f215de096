"""Notes in parts, of files that are divided before they are parsed, compared with `read_notes`."""

import csv
import gzip
import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenizer_tools.corpus import blocks
from tokenizer_tools.corpus.blocks import BlockReader, IndivisibleError, csv_ends
from tokenizer_tools.corpus.columns import Columns
from tokenizer_tools.corpus.input_files import find_inputs
from tokenizer_tools.corpus.note_files import FilePositions, find_positions
from tokenizer_tools.corpus.note_parts import FileBlock, notes_of, parts_of
from tokenizer_tools.corpus.read_notes import InputOptions, read_notes
from tokenizer_tools.corpus.rows import BadRowError
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError

RULE = SplitRule(by="note")
SKIP = InputOptions(on_bad_row="skip")
SOUP = st.text(st.sampled_from('ab,;"\n\r\té {}[]\ufeff\u00a0\x00\x1c'), max_size=60)
common = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def outcome(notes):
    """The notes until one can't be read, and the message then."""
    found = []
    try:
        found.extend(notes)  # keeps what stands before an error
    except UserError as error:
        return found, str(error)
    return found, None


def outcome_of(function, *arguments):
    try:
        return function(*arguments), None
    except UserError as error:
        return None, str(error)


def in_parts(paths, size, options=SKIP):
    parts = parts_of(find_inputs(paths), size, options, RULE)
    for part in parts:
        notes = list(notes_of(pickle.loads(pickle.dumps(part)), options, RULE))
        yield notes


def check(path, size, options=SKIP):
    check_whole(path, size, options)
    inputs = find_inputs([path])
    whole, fault = outcome(parts_of(inputs, size, options, RULE))
    positions, fault_of_positions = outcome_of(find_positions, inputs, size, options, RULE)
    assert fault_of_positions == fault
    if fault is None:
        for share in range(3):
            parts = list(
                parts_of(inputs, size, options, RULE, lambda number, share=share: number % 3 == share, positions)
            )
            assert parts == [part if number % 3 == share else [] for number, part in enumerate(whole)]


def check_whole(path, size, options):
    expected, fault = outcome(read_notes([path], options, RULE))
    try:
        parts = list(in_parts([path], size, options))
    except UserError as error:
        assert str(error) == fault
        return
    assert fault is None and [note for part in parts for note in part] == expected
    assert all(len(part) == size for part in parts[:-1])


@common
@given(st.lists(st.tuples(SOUP, SOUP), max_size=12), st.sampled_from(["\n", "\r\n", "\r"]), st.integers(1, 5),
       st.sampled_from(",;\t|"), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.integers(20, 60))  # fmt: skip
def test_csv_as_programs_write_it(tmp_path, monkeypatch, rows, end, size, separator, quoting, chunk):
    monkeypatch.setattr(blocks, "_CHUNK", chunk)
    path = tmp_path / "n.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=separator, lineterminator=end, quoting=quoting)
        writer.writerow(("text", "category"))
        writer.writerows(rows)
    check(path, size)


@common
@given(SOUP, st.integers(1, 5), st.integers(60, 90))
def test_csv_of_any_form(tmp_path, monkeypatch, text, size, chunk):
    monkeypatch.setattr(blocks, "_CHUNK", chunk)
    path = tmp_path / "n.csv"
    path.write_bytes(b"text\n" + text.encode())
    check(path, size)
    path.write_bytes(text.encode())
    check(path, size)


LINES = st.one_of(
    SOUP.map(lambda text: json.dumps({"text": text})), st.sampled_from(["", " ", "\u00a0", "\ufeff", "[]"])
)


@common
@given(
    st.lists(LINES, max_size=12), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.integers(1, 5), st.integers(20, 60)
)
def test_jsonl_of_any_form(tmp_path, monkeypatch, lines, end, ended, size, chunk):
    monkeypatch.setattr(blocks, "_CHUNK", chunk)
    path = tmp_path / "n.jsonl"
    path.write_bytes((end.join(lines) + end * ended).encode())
    check(path, size)


def test_parts_reach_over_files_and_inputs(tmp_path):
    """A compressed file, one that can't be divided, one of another format, and one without rows."""
    folder = tmp_path / "csv"
    folder.mkdir()
    (folder / "a.csv.gz").write_bytes(gzip.compress(b'text,category\n"one\n1",x\ntwo,x\n'))
    (folder / "b.csv").write_text('text\n5\'11" tall\n"x ""y"", z"\nfour\n')
    (folder / "c.csv").write_text("text\n")
    (tmp_path / "d.jsonl").write_text('{"text": "five"}\n\n{"text": "six"}')
    paths = [folder, tmp_path / "d.jsonl"]
    parts = list(in_parts(paths, 3))
    assert [[note.text for note in part] for part in parts] == [
        ["one\n1", "two", "5'11\" tall"],
        ['x "y", z', "four", "five"],
        ["six"],
    ]
    assert [note for part in parts for note in part] == list(read_notes(find_inputs(paths), SKIP, RULE))


def bytes_read():
    """Bytes that this process has read so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.parametrize("form", ["csv", "csv.gz", "stray.csv", "jsonl", "parquet", "txt"])
def test_a_share_is_read_alone(tmp_path, monkeypatch, form):
    """The parts of a machine's share, and not the rest of a file that can be cut."""
    monkeypatch.setattr(blocks, "_CHUNK", 1 << 16)
    notes, corpus = table_of(tmp_path / form, form, 1000), tmp_path / form
    if form != "txt":
        table_of(tmp_path / form, form, 300, first=1000)  # a part reaches over two files
        notes += 300
    inputs, size = find_inputs([corpus]), 90
    started = bytes_read()
    positions = find_positions(inputs, size, SKIP, RULE)
    positions = [[file and FilePositions.from_json(json.loads(json.dumps(file.to_json()))) for file in positions[0]]]
    whole = bytes_read() - started
    found = []
    for number in range(-(-notes // size)):
        started = bytes_read()
        parts = list(parts_of(inputs, size, SKIP, RULE, lambda part, number=number: part == number, positions))
        if form in ("csv", "jsonl"):
            assert bytes_read() - started < whole / 8
        assert [bool(part) for part in parts] == [part == number for part in range(len(parts))]
        found += notes_of(parts[number], SKIP, RULE)
    assert found == list(read_notes(inputs, SKIP, RULE)) and len(found) == notes


def table_of(folder, form, count, first=0):
    """A file of so many notes in a folder, or a folder of as many files. Gives the number of notes."""
    folder.mkdir(exist_ok=True)
    texts = [f"note {number}\nof {number % 7} lines" + " word" * 50 for number in range(first, first + count)]
    path = folder / f"{first:05}.{form}"
    if form == "txt":
        for number, text in enumerate(texts):
            (folder / f"{number:05}.txt").write_text(text)
    elif form == "jsonl":
        path.write_text("\ufeff" + "\n".join(json.dumps({"text": text}) for text in texts))
    elif form == "parquet":
        pq.write_table(pa.table({"text": texts}), path)
    else:
        rows = [f'"{text}"' for text in texts]
        rows[200] = "5'11\" tall" if form == "stray.csv" else rows[200]
        content = ("text\r\n" + "\r\n".join(rows)).encode()
        path.write_bytes(gzip.compress(content) if form == "csv.gz" else content)
    return count


@pytest.mark.parametrize("name", ["n.csv", "n.csv.gz"])
def test_a_file_that_was_cut_off_meanwhile(name, tmp_path):
    def write(notes):
        text = b"text\n" + b"word\n" * notes
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)

    write(100)
    inputs = find_inputs([tmp_path / name])
    positions = find_positions(inputs, 10, SKIP, RULE)
    write(55)
    with pytest.raises(UserError, match=rf"{name}: changed while it was read; run the same command again"):
        list(parts_of(inputs, 10, SKIP, RULE, lambda number: number == 5, positions))


def test_only_a_file_with_stray_quotes_is_parsed_in_one_go(tmp_path):
    for name, text in (("good", 'text\n"a ""b""\n"\nc\n'), ("stray", 'text\na\n6"\nc\n')):
        path = tmp_path / f"{name}.csv"
        path.write_text(text)
        (part,) = parts_of(find_inputs([path]), 10, SKIP, RULE)
        assert [isinstance(piece, FileBlock) for piece in part] == ([True] if name == "good" else [False] * 3)


@pytest.mark.parametrize("text", [b'a"b\n', b'"a" b\n', b'a,b "c"\n', b"a\rb\n", b'"a\n'])
def test_what_cannot_be_divided_is_said(text):
    with pytest.raises(IndivisibleError):
        csv_ends(text, True, ord(","))


def test_a_record_without_an_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "_CHUNK", 64)
    monkeypatch.setattr(blocks, "_LONGEST_RECORD", 1000)
    path = tmp_path / "n.csv"
    path.write_text('text\n"' + "word\n" * 10_000)
    with path.open("rb") as stream, pytest.raises(IndivisibleError):
        BlockReader.of_csv(stream, Columns()).take(10)
    with pytest.raises(UserError, match=r"n.csv, after row 0: not a CSV file"):
        list(in_parts([path], 10))


def test_messages_name_rows_of_the_file(tmp_path):
    path = tmp_path / "n.csv"
    path.write_bytes(b"text\n" + b"good\n\n" * 5 + b"bad \xff\ngood\n")
    parts = list(parts_of(find_inputs([path]), 2, InputOptions(), RULE))
    with pytest.raises(UserError, match=r"n.csv, row 6: not valid UTF-8") as caught:
        list(notes_of(parts[2], InputOptions(), RULE))
    assert isinstance(again := pickle.loads(pickle.dumps(caught.value)), BadRowError) and str(again) == str(
        caught.value
    )


def test_a_header_is_checked_before_its_rows(tmp_path):
    (tmp_path / "a.csv").write_text("text\none\n")
    (tmp_path / "b.csv").write_text("body\n")
    with pytest.raises(UserError, match=r"b.csv: no text column"):
        list(parts_of(find_inputs([tmp_path]), 5, SKIP, RULE))
