"""Intact shards pass, and each kind of damage is found by the check that is for it."""

import gzip
import itertools
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import SHARED
from tiny_tokenizer import word_level
from tokenizers import Tokenizer

from clinical_pretrain.cli import main
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.files import file_sha256
from tokenizer_tools.manifest import Manifest, fingerprint
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.sequences import pack_sequences
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.shards.verify.verify import verify_shards
from tokenizer_tools.shards.write import write_sequences

FIRST, SECOND = "train/part-00000.arrow", "train/part-00001.arrow"
CHECKS = ["files", "modes", "sha256", "fingerprint", "manifest", "tokenizer", "format", "counts", "sequences",
          "token ids", "note borders", "notes table", "patients", "duplicates", "unknown tokens"]  # fmt: skip


def build(notes, tokenizer, out, split=None, **settings):
    before = os.umask(0o077)  # as the command sets it
    try:
        one, settings = BuildOptions(workers=1), {"sequence_length": 64, "notes_per_part": 100} | settings
        build_shards(notes, str(tokenizer), out, ShardSettings(split=split or SplitRule(0.2, 0.2), **settings), one)
    finally:
        os.umask(before)
    return out


def csv(path, header, rows):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def intact(corpus, tmp_path_factory):
    """Two inputs, split by patient, in short sequences: most notes go on over several."""
    root = tmp_path_factory.mktemp("intact")
    rows = [f"{patient},{day},the patient {patient} sleeps on day {day}" for patient in range(40) for day in range(3)]
    more = csv(root / "more.csv", "SUBJECT_ID,CHARTDATE,TEXT", rows)
    return build([corpus / "notes.csv", more], corpus / "tokenizer", root / "shards")


@pytest.fixture
def shards(intact, tmp_path):
    return Path(shutil.copytree(intact, tmp_path / "shards"))


def failed(folder):
    return {check.name for check in verify_shards(folder).failed}


def test_intact_shards_pass(intact):
    found = verify_shards(intact)
    assert [(check.name, check.state) for check in found.checks] == [(name, "ok") for name in CHECKS]
    manifest = Manifest.load(intact)
    tokens = sum(split.tokens for split in manifest.splits.values())
    assert f"{tokens:,} tokens in sequences of 64" in "\n".join(found.lines())


def large(tokenizer, folder):
    """The tokenizer with more entries than 16 bits can count."""
    shutil.copytree(tokenizer, folder)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    content = json.loads(backend.to_str())
    size = len(content["model"]["vocab"])
    content["model"]["vocab"] |= {"<mask>": size} | {f"entry-{i}": i for i in range(size + 1, 70_000)}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


ADMISSIONS = [f"{'' if i % 3 else i // 7},{i // 3},note {i} of an admission" for i in range(120)]
SOME_NAMED = [f"{'' if i % 5 == 0 else i // 7},note {i} of someone" for i in range(120)]
ONE_IS_LONG = [f"{i},{'words of a note ' * (4000 if i == 20 else 2)}{i}" for i in range(40)]
UNKNOWN_SIGNS = [f"{i},{i} {sign} 5" for i in range(40) for sign in "≥≤"]
KINDS = {
    "by admission": ("SUBJECT_ID,HADM_ID,TEXT", ADMISSIONS, {"split": SplitRule(0.2, 0.2, by="admission")}),
    "by note": ("SUBJECT_ID,TEXT", SOME_NAMED, {"split": SplitRule(0.2, 0.2, by="note")}),
    "nothing held out": ("TEXT", [f"note {i}" for i in range(50)], {"split": SplitRule(0, 0)}),
    "one long note": ("SUBJECT_ID,TEXT", ONE_IS_LONG, {"sequence_length": 8}),
    "large vocabulary": ("SUBJECT_ID,TEXT", SOME_NAMED[1:5], {"split": SplitRule(0, 0)}),
    "unknown characters": ("SUBJECT_ID,TEXT", UNKNOWN_SIGNS, {}),
    "a part of duplicates": ("SUBJECT_ID,TEXT", [f"{i},note {i}" for i in range(100)] * 2, {}),
    "no placeholder": ("SUBJECT_ID,TEXT", [f"{i},note {i} of [**Name**]" for i in range(50)], {"placeholder": "drop"}),
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k == "large vocabulary")) for k in KINDS])
def test_other_intact_shards_pass(kind, corpus, tmp_path):
    header, rows, options = KINDS[kind]
    tokenizer, notes = corpus / "tokenizer", csv(tmp_path / "n.csv", header, rows)
    if kind in ("large vocabulary", "unknown characters"):
        folder = tmp_path / "tokenizer"
        tokenizer = large(tokenizer, folder) if kind == "large vocabulary" else word_level(folder)
    folder = build([notes], tokenizer, tmp_path / "shards", **options)
    found = verify_shards(folder)
    assert not found.failed, "\n".join(found.lines())
    if kind == "unknown characters":
        assert "duplicates      ok     40 notes with the tokens of another, which may differ" in "\n".join(
            found.lines()
        )
    if kind == "one long note":  # over several record batches
        assert max(split.sequences for split in Manifest.load(folder).splits.values()) > 2000
    if kind == "large vocabulary":
        assert pa.ipc.open_stream(pa.memory_map(str(folder / FIRST))).schema.field(0).type == pa.list_(pa.int32())


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("family", ["bigbird", "longformer"])
def test_shards_of_real_notes_pass(family, tmp_path):
    with gzip.open(SHARED / "notes" / "mtsamples_unique.jsonl.gz", "rt") as stream:
        lines = list(itertools.islice(stream, 200))
    notes = tmp_path / "notes.jsonl"
    notes.write_text("".join(lines))
    split = SplitRule(by="note")
    folder = build([notes], SHARED / "tokenizers" / family, tmp_path / "x", split, sequence_length=4096)
    found = verify_shards(folder)
    assert not found.failed, "\n".join(found.lines())


# What can be done to shards. Where a change is that of a faulty build, the manifest's hashes and counts follow it.


ROWS_PER_BATCH = 10


def edit_manifest(folder, change):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def sign(folder):
    """Let the manifest's sequences, tokens, sha256 and fingerprint follow the shard files."""

    def change(content):
        splits = content["splits"].values()
        for split in splits:
            for entry in split["files"]:
                ids = table_of(folder / entry["path"])["input_ids"]
                entry["sha256"] = file_sha256(folder / entry["path"])
                entry |= {"sequences": len(ids), "tokens": sum(map(len, ids))}
            split |= {name: sum(entry[name] for entry in split["files"]) for name in ("sequences", "tokens")}
        said = sum(source["tokens"] for source in content["sources"])
        content["sources"][0]["tokens"] += sum(split["tokens"] for split in splits) - said

    edit_manifest(folder, change)
    manifest = Manifest.load(folder)
    files = [entry for split in manifest.splits.values() for entry in split.files]
    computed = fingerprint(manifest.tokenizer.sha256, manifest.sequence_length, files)
    edit_manifest(folder, lambda content: content.update(fingerprint=computed))


def table_of(path):
    return pa.ipc.open_stream(path.read_bytes()).read_all().to_pydict()


def write_table(path, columns, schema=None):
    schema = schema or pa.ipc.open_stream(path.read_bytes()).schema
    with pa.ipc.new_stream(str(path), schema) as writer:
        writer.write_table(pa.table(columns, schema=schema), max_chunksize=ROWS_PER_BATCH)


def edit_table(folder, name, change, schema=None):
    """Change the columns of an Arrow file, {name: list}."""
    columns = table_of(folder / name)
    change(columns)
    write_table(folder / name, columns, schema)
    if name != "notes.arrow":
        sign(folder)


def edit_notes(folder, name, change):
    """Change the notes of a shard file, [[number, token ids]], and pack them again."""
    columns = table_of(folder / name)
    notes = []
    for ids, starts, numbers in zip(*columns.values(), strict=True):
        for start, stop, number in zip(starts, [*starts[1:], len(ids)], numbers, strict=True):
            if not notes or notes[-1][0] != number:
                notes.append([number, []])
            notes[-1][1].extend(ids[start:stop])
    change(notes)
    numbers, token_ids = zip(*notes, strict=True)
    sequences = pack_sequences([np.array(ids) for ids in token_ids], numbers, 64, np.uint16)
    before = (folder / name).stat().st_mode
    write_sequences(folder / name, sequences, np.dtype(np.uint16))
    (folder / name).chmod(before)
    sign(folder)


def assign(columns, index, value):
    columns[index[0]][index[1]] = value


def move_patient(folder):
    """Give all notes of a validation patient to a patient of the training split."""
    held_out = table_of(next((folder / "validation").iterdir()))["segment_notes"][0][0]
    trained = table_of(folder / FIRST)["segment_notes"][0][0]

    def change(columns):
        patients, order = columns["patient"], columns["time_order"]
        old, new = patients[held_out], patients[trained]
        count = patients.count(new)
        for i, patient in enumerate(patients):
            if patient == old:
                patients[i], order[i] = new, order[i] + count

    edit_table(folder, "notes.arrow", change)


def copy_tokens(folder, to, source=FIRST):
    """Let a note have the tokens of another one."""
    copied = []
    edit_notes(folder, source, lambda notes: copied.extend(notes[3][1]))
    edit_notes(folder, to, lambda notes: notes[2].__setitem__(1, copied))


def in_both_splits(folder):
    """A validation note is recorded as a training note."""
    other = table_of(folder / FIRST)["segment_notes"][0][0]
    name = f"validation/{sorted(path.name for path in (folder / 'validation').iterdir())[0]}"
    edit_notes(folder, name, lambda notes: notes[0].__setitem__(0, other))


def cut_sequence(folder, place_in_batch):
    """Make two sequences of one, where a note begins in it."""

    def change(columns):
        several = [i for i, starts in enumerate(columns["segment_starts"]) if len(starts) > 1]
        row = next(i for i in several if i % ROWS_PER_BATCH == place_in_batch)
        start = columns["segment_starts"][row][1]
        ids, starts, numbers = (column[row] for column in columns.values())
        columns["input_ids"][row : row + 1] = [ids[:start], ids[start:]]
        columns["segment_starts"][row : row + 1] = [starts[:1], [each - start for each in starts[1:]]]
        columns["segment_notes"][row : row + 1] = [numbers[:1], numbers[1:]]

    edit_table(folder, FIRST, change)


def split_segment(columns):
    """Record one segment as two."""
    row = next(i for i, starts in enumerate(columns["segment_starts"]) if starts == [0])
    columns["segment_starts"][row] = [0, 7]
    columns["segment_notes"][row] *= 2


def shift_border(columns):
    row = next(i for i, starts in enumerate(columns["segment_starts"]) if len(starts) > 1)
    columns["segment_starts"][row][1] += 1


def truncate(path, size):
    path.write_bytes(path.read_bytes()[:size])


def link(path):
    path.rename(path.parent.parent.parent / "elsewhere")
    path.symlink_to("../../elsewhere")


def make(path, folder=False):
    path.mkdir(mode=0o700) if folder else path.touch(mode=0o600)


def change_tokenizer(folder, name, change):
    path = folder / "tokenizer" / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def manifest(change):
    return lambda folder: edit_manifest(folder, change)


def sequences(change, schema=None):
    return lambda folder: edit_table(folder, FIRST, change, schema)


def table(change):
    return lambda folder: edit_table(folder, "notes.arrow", change)


def notes(change):
    return lambda folder: edit_notes(folder, FIRST, change)


def twice(content, **values):
    """Change what the manifest says of the tokenizer, in both places."""
    content["tokenizer"].update(values)
    content["settings"]["tokenizer"].update(values)


OTHER_TYPES = pa.schema(
    {"input_ids": pa.list_(pa.int64()), "segment_starts": pa.list_(pa.int32()), "segment_notes": pa.list_(pa.int64())}
)

DAMAGES = {
    "a shard file is missing": ("files", lambda folder: (folder / SECOND).unlink()),
    "the notes table is missing": ("files", lambda folder: (folder / "notes.arrow").unlink()),
    "a file of the tokenizer is missing": ("files", lambda folder: (folder / "tokenizer/tokenizer.json").unlink()),
    "a foreign file": ("files", lambda folder: make(folder / "train" / "part-00000.arrow.bak")),
    "a foreign folder": ("files", lambda folder: make(folder / "backup", folder=True)),
    "a work folder": ("files", lambda folder: make(folder / "work", folder=True)),
    "a path that leaves the folder": (
        "files, fingerprint",
        manifest(lambda content: content["splits"]["train"]["files"][0].update(path="../x/part-00000.arrow")),
    ),
    "a file is listed twice": (
        "files, fingerprint, counts, notes table",
        manifest(lambda content: content["splits"]["train"]["files"].append(content["splits"]["train"]["files"][0])),
    ),
    "all may look in": ("modes", lambda folder: folder.chmod(0o755)),
    "the group may read a file": ("modes", lambda folder: (folder / FIRST).chmod(0o640)),
    "a link": ("modes", lambda folder: link(folder / FIRST)),
    "a byte too many": ("sha256", lambda folder: (folder / FIRST).open("ab").write(b"\0")),
    "another fingerprint": ("fingerprint", manifest(lambda content: content.update(fingerprint="0" * 64))),
    "another key": ("manifest", manifest(lambda content: content.update(patient_key_id="0" * 16))),
    "another split rule": ("manifest", manifest(lambda content: content["split_rule"].update(seed=7))),
    "notes are lost": ("manifest", manifest(lambda content: content["counts"].update(read=10**6))),
    "another tokenizer": (
        "tokenizer",
        lambda folder: change_tokenizer(
            folder, "tokenizer.json", lambda content: content["pre_tokenizer"].update(add_prefix_space=True)
        ),
    ),
    "a broken tokenizer": ("tokenizer", lambda folder: (folder / "tokenizer/tokenizer.json").write_text("{}")),
    "another mask token": (
        "tokenizer",
        lambda folder: change_tokenizer(
            folder, "tokenizer_config.json", lambda content: content.update(mask_token="<pad>")
        ),
    ),
    "another pad token": ("tokenizer", manifest(lambda content: twice(content, pad_id=9))),
    "half a shard file": ("format, sha256", lambda folder: truncate(folder / FIRST, 5000)),
    "other types": ("format", sequences(lambda columns: None, OTHER_TYPES)),
    "no list": ("format", sequences(lambda columns: assign(columns, ("segment_starts", 0), None))),
    "half a notes table": ("format", lambda folder: truncate(folder / "notes.arrow", 3000)),
    "a raw patient number": ("format", table(lambda columns: assign(columns, ("patient", 3), "123456"))),
    "a letter too many in a hash": ("format", table(lambda columns: assign(columns, ("patient", 3), "x" * 32))),
    "no category": ("format", table(lambda columns: assign(columns, ("category", 3), None))),
    "tokens of a split": ("counts", manifest(lambda content: content["splits"]["test"].update(tokens=1))),
    "notes of a split": ("counts", manifest(lambda content: content["splits"]["test"].update(notes=1))),
    "sequences of a file": (
        "counts",
        manifest(lambda content: content["splits"]["train"]["files"][1].update(sequences=1)),
    ),
    "tokens of a source": ("counts", manifest(lambda content: content["sources"][0].update(tokens=1))),
    "notes of a source": ("notes table", manifest(lambda content: content["sources"][0].update(notes=1))),
    "notes kept": ("counts, manifest", manifest(lambda content: content["counts"].update(kept=1))),
    "a short sequence": ("sequences", lambda folder: cut_sequence(folder, 3)),
    "two segments for one": ("sequences", sequences(split_segment)),
    "starts that descend": ("sequences", sequences(lambda columns: columns["segment_starts"][1].insert(0, 5) or
                                                   columns["segment_notes"][1].insert(0, 5))),
    "a start too many": ("sequences", sequences(lambda columns: columns["segment_starts"][1].append(60))),
    "a start behind the sequence": (
        "sequences",
        sequences(lambda columns: columns["segment_starts"][1].append(64) or columns["segment_notes"][1].append(5)),
    ),
    "a short sequence at a batch's end": ("sequences", lambda folder: cut_sequence(folder, ROWS_PER_BATCH - 1)),
    "no tokens": ("sequences", sequences(lambda columns: assign(columns["input_ids"], (0, slice(None)), []))),
    "a border moved": ("note borders", sequences(shift_border)),
    "an id beyond the vocabulary": ("token ids", notes(lambda notes: assign(notes[4], (1, 3), 1000))),
    "no begin token": ("note borders", notes(lambda notes: assign(notes[4], (1, 0), 300))),
    "no end token": ("note borders", notes(lambda notes: assign(notes[4], (1, -1), 300))),
    "a mask token": ("note borders", notes(lambda notes: assign(notes[4], (1, 3), 999))),
    "an end token within": ("note borders", notes(lambda notes: assign(notes[4], (1, 3), 2))),
    "a note that isn't in the table": ("notes table", notes(lambda notes: assign(notes, (-1, 0), 10**6))),
    "a note for another": ("notes table", notes(lambda notes: assign(notes, (4, 0), notes[5][0] + 10_000))),
    "notes swapped": ("notes table", notes(lambda notes: notes.insert(3, notes.pop(8)))),
    "a note in two splits": ("notes table", in_both_splits),
    "a foreign source": ("notes table", table(lambda columns: assign(columns, ("source", 3), 2))),
    "a time order with a gap": ("notes table", table(lambda columns: assign(columns, ("time_order", 3), 99))),
    "a patient in two splits": ("patients", move_patient),
    "patients of a split": ("patients", manifest(lambda content: content["splits"]["test"].update(patients=1))),
    # The note that is gone had placeholders.
    "the same tokens twice": ("duplicates, counts", lambda folder: copy_tokens(folder, SECOND)),
    "the same tokens in two splits": (
        "duplicates, counts",
        lambda folder: copy_tokens(folder, "test/part-00000.arrow"),
    ),
    "more unknown tokens": (
        "unknown tokens",
        manifest(lambda content: content["unknown"].update(tokens=10**7, share=99.0)),
    ),
    "another unknown share": ("unknown tokens", manifest(lambda content: content["unknown"].update(share=0.5))),
}  # fmt: skip


@pytest.mark.parametrize("done", DAMAGES)
def test_damage_is_found(done, shards):
    expected, damage = DAMAGES[done]
    damage(shards)
    found = verify_shards(shards)
    assert {check.name for check in found.failed} == set(expected.split(", ")), "\n".join(found.lines())
    assert [check.name for check in found.checks] == CHECKS
    for check in found.failed:
        assert all(fault.place and fault.remedy and fault.count > 0 for fault in check.faults)


def test_all_faults_are_told_with_their_places(shards, tmp_path, capsys):
    edit_notes(shards, FIRST, lambda notes: [assign(note, (1, 0), 300) for note in notes[4:7]])
    fifth = table_of(shards / FIRST)
    make(shards / "backup", folder=True)
    (shards / "backup" / "a").touch()
    (shards / "backup").chmod(0o755)  # whatever the umask is
    capsys.readouterr()
    assert main(["verify", str(shards), "--json", str(tmp_path / "found.json")]) == 2
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == (f"error: {shards}: 3 of 15 checks failed (files, modes, note borders), see above")
    assert re.findall(r"^([a-z0-9 ]+?) +(?:ok|fault) ", out, re.MULTILINE) == CHECKS
    number = sorted({number for numbers in fifth["segment_notes"] for number in numbers})[4]
    assert (
        f"  {FIRST}, note {number}: doesn't begin with the begin token (3 times); build the shards again, in another "
        "folder"
    ) in out.splitlines()
    assert "  backup: not a file of these shards; move it elsewhere, or delete it" in out.splitlines()
    found = json.loads((tmp_path / "found.json").read_text())
    assert not found["ok"] and [check["name"] for check in found["checks"]] == CHECKS
    borders = found["checks"][CHECKS.index("note borders")]
    assert borders["state"] == "fault" and borders["faults"][0]["count"] == 3


def test_who_may_read_how_many_files_and_what_is_unknown(shards):
    for path in (shards, shards / FIRST, shards / SECOND):
        path.chmod(path.stat().st_mode | 0o004)
    said = verify_shards(shards).lines()
    assert f"  the folder (mode 704) and 2 more: open to other users; chmod -R go= {shards}" in said
    (line,) = (line for line in said if line.startswith("unknown tokens"))
    assert re.search(r"ok +none of [\d,]+ tokens, besides [\d,]+ placeholders$", line)


def test_an_unfinished_build_is_told_to_be_resumed(tmp_path, capsys):
    (tmp_path / "s" / "work").mkdir(parents=True)
    (tmp_path / "s" / "work" / "plan.json").touch()
    for command in ("verify", "describe-shards"):
        assert main([command, str(tmp_path / "s")]) == 2
        assert "s: an unfinished build; the same build-shards command resumes it" in capsys.readouterr().err


def test_what_needs_a_missing_file_is_not_checked(shards):
    (shards / SECOND).unlink()
    found = verify_shards(shards)
    not_checked = [check.name for check in found.checks if check.state == "not checked"]
    assert not_checked == ["counts", "notes table", "patients", "duplicates", "unknown tokens"]
    assert f"patients        not checked  {SECOND} couldn't be read" in found.lines()


def test_the_command_says_that_all_is_well(intact, capsys):
    assert main(["verify", str(intact)]) == 0
    out = capsys.readouterr().out
    assert [line.split("  ")[0] for line in out.splitlines()] == ["check", *CHECKS]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["splits"].pop("test"),
        lambda content: content["splits"]["train"].update(tokens="many"),
        lambda content: content["split_rule"].update(by="luck"),
        lambda content: content["tokenizer"].update(vocab_size=None),
        lambda content: content.update(settings=None),
        lambda content: content.update(format_version=2),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(change, shards, capsys):
    edit_manifest(shards, change)
    assert main(["verify", str(shards)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {shards}/manifest.json: ") and len(error.splitlines()) == 1
