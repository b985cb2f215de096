import csv
import errno
import os
import re
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from shard_folders import content, kill_when_there
from tokenizers import Tokenizer

from clinical_pretrain.data.shards import Split, note_categories
from tokenizer_tools.corpus.clean_notes import CleaningRules, clean
from tokenizer_tools.corpus.columns import Columns
from tokenizer_tools.corpus.placeholders import Replacement
from tokenizer_tools.corpus.read_notes import InputOptions
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS, Manifest
from tokenizer_tools.shards import keep_list
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.shards.summary import summary_lines
from tokenizer_tools.tokenizer.load import load_tokenizer


def build(corpus, out, sequence_length=256, **options):
    settings = ShardSettings(sequence_length=sequence_length, split=SplitRule(0.1, 0.1), notes_per_part=100)
    return build_shards([corpus / "notes.csv"], str(corpus / "tokenizer"), out, settings, BuildOptions(**options))


def command(corpus, out, *options, notes=None):
    notes = str(notes or corpus / "notes.csv")
    return [sys.executable, "-m", "clinical_pretrain", "build-shards", "--notes", notes, "--tokenizer",
            str(corpus / "tokenizer"), "--out", str(out), *options]  # fmt: skip


@pytest.fixture(scope="module")
def notes(corpus):
    with (corpus / "notes.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def kept(notes):
    """The notes that should be kept, in order: (cleaned text, patient, category)."""
    first = {}
    for row in notes:
        text = clean(row["TEXT"], CleaningRules(), Replacement("<unk>"))
        if text:
            first.setdefault(text, (text, row["SUBJECT_ID"], row["CATEGORY"].strip()))
    return list(first.values())


@pytest.fixture(scope="module")
def built(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "shards"
    return out, build(corpus, out, workers=1)


def test_every_token_of_every_kept_note_is_there(built, kept, corpus):
    out, manifest = built
    tokenizer = Tokenizer.from_file(str(corpus / "tokenizer" / "tokenizer.json"))
    rule = SplitRule(0.1, 0.1)
    assert manifest.counts["kept"] == len(kept)
    for number, name in enumerate(SPLITS):
        expected = [
            token
            for text, patient, _ in kept
            if rule.split_of(f"patient {patient}") == number
            for token in tokenizer.encode(text).ids
        ]
        sequences = Split(out, manifest, name)
        found = np.concatenate([sequences[i].input_ids for i in range(len(sequences))])
        assert found.tolist() == expected and len(expected) == manifest.splits[name].tokens
        assert found.dtype == np.uint16


def test_every_segment_knows_its_note(built, kept, corpus):
    out, manifest = built
    tokenizer = Tokenizer.from_file(str(corpus / "tokenizer" / "tokenizer.json"))
    indices, names = note_categories(out)
    assert [names[i] for i in indices] == [category for _, _, category in kept]
    sequences = Split(out, manifest, "validation")
    pieces = {}
    for i in range(len(sequences)):
        sequence = sequences[i]
        segments = np.split(sequence.input_ids, sequence.segment_starts[1:])
        for note, piece in zip(sequence.segment_notes, segments, strict=True):
            pieces.setdefault(int(note), []).extend(piece.tolist())
    assert all(ids == tokenizer.encode(kept[note][0]).ids for note, ids in pieces.items())


def test_no_patient_is_in_two_splits_and_no_text_twice(built, kept):
    out, manifest = built
    table = pa.ipc.open_stream(pa.memory_map(str(out / "notes.arrow"))).read_all()
    patients = table.column("patient").to_pylist()
    seen = {}
    for name in SPLITS:
        sequences = Split(out, manifest, name)
        notes = {int(n) for i in range(len(sequences)) for n in sequences[i].segment_notes}
        assert len(notes) == manifest.splits[name].notes
        seen[name] = {patients[n] for n in notes}
        assert len(seen[name]) == manifest.splits[name].patients
    assert not seen["train"] & seen["validation"] and not seen["train"] & seen["test"]
    assert len({text for text, _, _ in kept}) == manifest.counts["kept"]
    assert manifest.counts["dropped_duplicate"] > 0 and manifest.counts["dropped_empty"] > 0


def test_no_raw_identifier_and_no_text_is_left(built, notes):
    out, _ = built
    everything = b"".join(content(out).values())
    for row in notes[:50]:
        assert row["HADM_ID"].encode() not in everything
        longest = max(row["TEXT"].splitlines() or [""], key=len).encode()
        assert len(longest) < 20 or longest not in everything
    assert not (out / "work").exists()


def test_the_notes_table_orders_a_patients_notes_by_time(built):
    table = pa.ipc.open_stream(pa.memory_map(str(built[0] / "notes.arrow"))).read_all().to_pylist()
    by_patient = {}
    for row in table:
        by_patient.setdefault(row["patient"], []).append(row["time_order"])
    assert all(sorted(orders) == list(range(len(orders))) for orders in by_patient.values())


def test_the_number_of_workers_changes_nothing(built, corpus, tmp_path):
    build(corpus, tmp_path / "shards", workers=3)
    assert content(tmp_path / "shards") == content(built[0])


def test_machines_that_share_the_work_change_nothing(built, corpus, tmp_path):
    """In any order, one share twice; the last build does what is missing."""
    out = tmp_path / "shards"
    with pytest.raises(
        UserError, match="not prepared for these settings; first run the same command with --stage prep"
    ):
        build(corpus, out, workers=1, stage="scan", share="0/3")
    assert not out.exists() and build(corpus, out, workers=1, stage="prepare") is None
    with pytest.raises(UserError, match="not prepared for these settings"):
        build(corpus, out, sequence_length=128, workers=1, stage="scan", share="0/3")
    for number in (2, 0, 2):
        assert build(corpus, out, workers=1, stage="scan", share=f"{number}/3") is None
    assert not list(out.rglob("*.arrow"))
    scanned = sorted(path.name for path in (out / "work" / "notes").iterdir())
    assert scanned[:3] == ["part-00000.npz", "part-00002.npz", "part-00003.npz"]
    assert build(corpus, out, workers=1) == built[1]
    assert content(out) == content(built[0])


def test_an_input_that_changes_between_prepare_and_scan_is_refused(corpus, tmp_path):
    """Machines of an array believe what prepare has found only while sizes and times of change are the same."""
    csv = tmp_path / "notes.csv"
    csv.write_bytes((corpus / "notes.csv").read_bytes())
    options = ShardSettings(sequence_length=256, notes_per_part=100)

    def run(stage):
        return build_shards([csv], str(corpus / "tokenizer"), tmp_path / "out", options, BuildOptions(1, stage))

    run("prepare")
    os.utime(csv, ns=(0, 0))  # read again, and found to be the same
    assert run("scan") is None
    whole = csv.read_bytes()
    csv.write_bytes(whole[:-2] + b"x\n")
    with pytest.raises(UserError, match="not prepared for these settings"):
        run("scan")
    csv.write_bytes(whole)
    assert run("all").counts["read"] > 100


def test_a_corpus_whose_hashes_do_not_fit_into_memory_gives_the_same(built, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(keep_list, "NOTES_IN_MEMORY", 40)
    build(corpus, tmp_path / "shards", workers=1)
    assert content(tmp_path / "shards") == content(built[0])


@pytest.mark.parametrize("share", ["3/3", "1", "-1/3", "a/b"])
def test_a_share_that_cannot_be_is_refused(share, corpus, tmp_path):
    done = subprocess.run(command(corpus, tmp_path / "x", f"--share={share}"), capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"error: --share {share}: must be K/N")


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again(built, corpus, tmp_path):
    out = tmp_path / "shards"
    call = command(corpus, out, "--sequence-length", "256", "--split.validation", "0.1", "--split.test", "0.1",
                   "--notes-per-part", "100", "--workers", "1")  # fmt: skip
    for wait_for in ("work/plan.json", "work/notes/part-00001.npz", "train/part-00002.arrow"):
        kill_when_there(call, out / wait_for)
        assert not (out / "manifest.json").exists()
        assert stat.S_IMODE((out / "work").stat().st_mode) == 0o700
    survivor = (out / "train/part-00000.arrow").stat().st_mtime_ns
    assert subprocess.run(call, capture_output=True).returncode == 0
    assert (out / "train/part-00000.arrow").stat().st_mtime_ns == survivor
    assert content(out) == content(built[0])


@pytest.mark.slow
@pytest.mark.parametrize(("length", "longest"), [(256, 4096), (5000, 5000)])
def test_the_tokenizer_takes_texts_as_long_as_the_sequences(corpus, tmp_path, length, longest):
    build(corpus, tmp_path / "shards", sequence_length=length)
    assert load_tokenizer(str(tmp_path / "shards" / "tokenizer")).model_max_length == longest


@pytest.mark.parametrize(("split", "line"), [("validation", "held out for validation"), ("test", "in the test split")])
def test_an_empty_split_is_reported(split, line, built):
    out, manifest = built
    nothing = {split: replace(manifest.splits[split], sequences=0)}
    empty = replace(manifest, splits=manifest.splits | nothing)
    assert line not in str(summary_lines(manifest, out, False)) and line in str(summary_lines(empty, out, False))


def test_a_finished_folder_is_left_alone(built, corpus, shards):
    out, _ = built
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    build(corpus, out)
    with pytest.raises(UserError, match=r"holds finished shards with other settings \(sequence_length\)"):
        build(corpus, out, sequence_length=128)
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format_version": 99}', "format_version 99, but this version of clinical-pretrain reads"),
        ('{"format_version": ', "damaged, not a JSON object"),
    ],
)
def test_files_of_another_format_are_refused_in_one_line(text, message, corpus, tmp_path):
    out = tmp_path / "shards"
    build(corpus, out, workers=1, stage="prepare")
    (out / "work" / "plan.json").write_text(text)
    with pytest.raises(UserError, match=rf"plan.json: {message}.*; delete {out}, or choose another --out$"):
        build(corpus, out)
    (out / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=rf"manifest.json: {message}.*; build the shards again$"):
        Manifest.load(out)


def test_everything_is_private(corpus, tmp_path):
    done = subprocess.run(command(corpus, tmp_path / "s", "--sequence-length", "256"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path in [tmp_path / "s", *(tmp_path / "s").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert not (Path(os.environ["HF_HOME"]) / "datasets").exists()


def test_special_tokens_that_a_note_spells_out_mean_nothing(corpus, tmp_path):
    (tmp_path / "n.jsonl").write_text('{"text": "before <mask> and </s><pad> after [**Name**] end"}\n')
    build_shards([tmp_path / "n.jsonl"], str(corpus / "tokenizer"), tmp_path / "s",
                 ShardSettings(sequence_length=64, split=SplitRule(0, 0)))  # fmt: skip
    manifest = Manifest.load(tmp_path / "s")
    ids = Split(tmp_path / "s", manifest, "train")[0].input_ids.tolist()
    info = manifest.tokenizer
    assert ids[0] == info.begin_id and ids[-1] == info.end_id
    assert ids.count(info.unknown_id) == 4 and not {info.mask_id, info.pad_id, info.end_id} & set(ids[1:-1])


def test_placeholders_can_be_dropped(corpus, tmp_path):
    (tmp_path / "n.jsonl").write_text('{"text": "seen by [**Name**] today"}\n')
    build_shards([tmp_path / "n.jsonl"], str(corpus / "tokenizer"), tmp_path / "s",
                 ShardSettings(sequence_length=64, placeholder="drop", split=SplitRule(0, 0)))  # fmt: skip
    ids = Split(tmp_path / "s", Manifest.load(tmp_path / "s"), "train")[0].input_ids
    assert Tokenizer.from_file(str(tmp_path / "s/tokenizer/tokenizer.json")).decode(ids.tolist()) == "seen by today"


def limited(size):
    """For a child process: limit the size of files, in bytes, as if the disk were full."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
def test_a_full_disk_leaves_the_folder_restartable(built, corpus, tmp_path):
    out = tmp_path / "s"
    options = [
        "--sequence-length",
        "256",
        "--split.validation",
        "0.1",
        "--split.test",
        "0.1",
        "--notes-per-part",
        "100",
    ]
    call = command(corpus, out, *options)
    done = subprocess.run(call, capture_output=True, text=True, preexec_fn=lambda: limited(60_000))
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith("error:"), done.stderr
    assert f"{out}: the disk is full ({os.strerror(errno.EFBIG)})" in done.stderr and "Traceback" not in done.stderr
    assert not (out / "manifest.json").exists()
    assert subprocess.run(call, capture_output=True).returncode == 0
    assert content(out) == content(built[0])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("id,body\n1,x\n", [], "no text column; columns found: id, body"),
        ("subject_id,text\n", [], "no notes found"),
        ('text\n""\n"  "\n', [], "no note with text"),
        (b"subject_id,text\n1,ok\n2,caf\xe9\n", [], "row 2: not valid UTF-8"),
        (
            b"subject_id,text\n1,caf\xe9\n",
            ["--on-bad-row", "skip"],
            "no note is left of the 1 in the input (1 invalid utf8); check --notes, and the encoding, which must be",
        ),
        (
            "subject_id,text\n1,hello\n",
            ["--placeholder", "[DEID]"],
            "--placeholder [DEID]: the tokenizer has no special token",
        ),
        ("subject_id,text\n1,hello\n", ["--split.validation", "1"], "leave something to train on"),
        ("subject_id,text\n1,hello\n", ["--columns.txt", "x"], "did you mean --columns.text?"),
        ("subject_id,text\n1,hello\n", ["--tokenizer", "nobody/nothing"], "hf download nobody/nothing"),
        ("subject_id,text\n1,hello\n", ["--tokenizer", "/nowhere"], "/nowhere: no such folder; check --tokenizer"),
        ("subject_id,text\n1,hello\n", ["--out", "/proc/nowhere"], "/proc/nowhere"),
        (None, [], "no such file or folder"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(corpus, tmp_path, text, options, message, capsys):
    from clinical_pretrain.cli import main

    path = tmp_path / "n.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    out = tmp_path / "s"
    assert main([*command(corpus, out, notes=path)[3:], *options]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not re.match(r"reading|tokenising", line)]
    assert len(lines) == 1 and message in lines[0], lines
    assert not (out / "manifest.json").exists()


def test_the_mended_call_works_in_the_same_folder(corpus, tmp_path):
    (tmp_path / "n.csv").write_text("subject_id,body\n1,hello there\n")
    with pytest.raises(UserError, match="no text column"):
        build_shards([tmp_path / "n.csv"], str(corpus / "tokenizer"), tmp_path / "s")
    build_shards([tmp_path / "n.csv"], str(corpus / "tokenizer"), tmp_path / "s",
                 ShardSettings(InputOptions(Columns(text="body")), SplitRule(0, 0)))  # fmt: skip
    assert Manifest.load(tmp_path / "s").counts["kept"] == 1


def test_a_folder_that_holds_something_else_is_refused(corpus, tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(UserError, match="not empty, and holds no shards"):
        build(corpus, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_users_own_work_folder_is_left_alone(corpus, tmp_path):
    (tmp_path / "s" / "work").mkdir(parents=True)
    (tmp_path / "s" / "work" / "thesis.tex").write_text("dear")
    with pytest.raises(UserError, match="not empty, and holds no shards"):
        build(corpus, tmp_path / "s")
    assert (tmp_path / "s" / "work" / "thesis.tex").read_text() == "dear"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(corpus, tmp_path):
    """Ten times the notes, nearly the same peak."""
    peaks = []
    with (corpus / "notes.csv").open(newline="") as stream:
        header, *rows = list(csv.reader(stream))
    for times in (2, 20):
        path = tmp_path / f"{times}.csv"
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(header)
            for i in range(times):
                writer.writerows([*row[:-1], f"{i} {row[-1]}"] for row in rows)
        call = command(corpus, tmp_path / f"s{times}", "--workers", "1", "--notes-per-part", "300", notes=path)
        code = f"import resource, subprocess; subprocess.run({call!r}, check=True); " \
               "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 25, peaks  # MiB; the longer corpus holds 10 MiB more text


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("kind", ["longformer", "bigbird"])
def test_the_real_corpus_with_the_real_vocabularies(kind, tmp_path):
    from conftest import SHARED

    manifest = build_shards(
        [SHARED / "notes" / "mtsamples_all.jsonl.gz"],
        str(SHARED / "tokenizers" / kind),
        tmp_path / "s",
        ShardSettings(InputOptions(Columns(category="specialty")), SplitRule(by="note")),
    )
    assert manifest.counts["kept"] == 2357 and manifest.counts["read"] == 4966
    assert sum(split.tokens for split in manifest.splits.values()) > 1_500_000
    expected = {"longformer": (0, 2, 1, 50264, 50265), "bigbird": (65, 66, 0, 67, 50358)}[kind]
    info = manifest.tokenizer
    assert (info.begin_id, info.end_id, info.pad_id, info.mask_id, info.vocab_size) == expected
