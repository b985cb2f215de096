"""Shards of several sources: the same bytes in any way, and counts by source."""

import json

import pytest
from shard_folders import content
from test_sources import describe, write_table
from test_split_lists import faults

from clinical_pretrain.cli import main
from tokenizer_tools.corpus.input_options import InputOptions
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest
from tokenizer_tools.shard_reading import record_batches
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.shards.summary import summary_lines

YAML = """
sources:
  - name: mimic
    path: notes.csv
    filters:
      CATEGORY: not Radiology
  - name: letters
    path: [letters, more.parquet]
    columns: {text: body, patient: who}
    category: Letter
  - name: reports
    path: files
    patient_from: p{patient}/*.txt
    category: Report
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory, corpus):
    """A folder with sources.yaml and all that it names."""
    root = tmp_path_factory.mktemp("world")
    (root / "notes.csv").write_bytes((corpus / "notes.csv").read_bytes())
    (root / "letters").mkdir()
    (root / "letters" / "_SUCCESS").touch()
    for part in range(2):
        write_table(
            root / "letters" / f"part-{part}.jsonl",
            [{"who": f"{i}", "body": f"Dear colleague, letter {part} {i}."} for i in range(5)],
        )
    write_table(root / "more.parquet", [{"who": "3.0", "body": "One more."}, {"who": "4", "body": ""}])
    for patient in ("10000032", "0003"):
        (root / "files" / "p10" / f"p{patient}").mkdir(parents=True)
        (root / "files" / "p10" / f"p{patient}" / "s1.txt").write_text(f"Lungs are clear, {patient[-1]}.")
    describe(root, YAML)
    return root


def build(world, corpus, out, sources="sources.yaml", **options):
    reading = InputOptions(sources=str(world / sources))
    settings = ShardSettings(reading=reading, sequence_length=256, notes_per_part=100, split=SplitRule(0.1, 0.1))
    return build_shards([], str(corpus / "tokenizer"), out, settings, BuildOptions(**{"workers": 1} | options))


@pytest.fixture(scope="module")
def built(world, corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "shards"
    return out, build(world, corpus, out)


def test_notes_and_tokens_are_counted_by_source(built):
    out, manifest = built
    sources = {source.name: source for source in manifest.sources}
    assert [(name, source.inputs) for name, source in sources.items()] == [
        ("mimic", [0]), ("letters", [1, 2]), ("reports", [3])
    ]  # fmt: skip
    letters, reports, mimic = sources["letters"], sources["reports"], sources["mimic"]
    assert (letters.notes, letters.counts["read"], letters.counts["dropped_empty"]) == (11, 12, 1)
    assert (reports.notes, reports.counts["dropped_filtered"]) == (2, 0)
    assert mimic.counts["dropped_filtered"] == manifest.counts["dropped_filtered"] > 10
    assert sum(source.notes for source in manifest.sources) == manifest.counts["kept"]
    assert sum(source.tokens for source in manifest.sources) == sum(s.tokens for s in manifest.splits.values())
    for name, count in manifest.counts.items():
        if name in mimic.counts:
            assert sum(source.counts[name] for source in manifest.sources) == count
    table = [row for batch in record_batches(out / "notes.arrow") for row in batch.to_pylist()]
    assert [sum(row["source"] in source.inputs for row in table) for source in manifest.sources] == [
        source.notes for source in manifest.sources
    ]
    assert {row["category"] for row in table if row["source"] == 3} == {"Report"}
    assert "Radiology" not in {row["category"] for row in table}
    of_patient_3 = {row["patient"] for row in table if row["source"] == 2}
    assert len(of_patient_3) == 1 and of_patient_3 <= {row["patient"] for row in table if row["source"] == 3}
    assert not faults(out) and Manifest.load(out) == manifest


def test_workers_machines_and_places_change_nothing(built, world, corpus, tmp_path):
    build(world, corpus, tmp_path / "two", workers=2)
    assert content(tmp_path / "two") == content(built[0])
    for stage, share in (("prepare", "0/1"), ("scan", "1/2"), ("scan", "0/2"), ("all", "0/1")):
        build(world, corpus, tmp_path / "shared", stage=stage, share=share)
    assert content(tmp_path / "shared") == content(built[0])
    describe(world, YAML.replace("\nsources", "\n# a comment\nsources"), "other.yaml")
    assert build(world, corpus, built[0], sources="other.yaml") == built[1]


def test_other_sources_are_other_shards(built, world, corpus):
    for name, (old, new) in enumerate(
        [("not Radiology", "not ECG"), ("who}", "who, category: body}"), ("letters", "l")]
    ):
        text = YAML.replace("    category: Letter\n", "" if "category: body" in new else "    category: Letter\n")
        text = text.replace(f"name: {old}" if old == "letters" else old, f"name: {new}" if old == "letters" else new)
        describe(world, text, f"{name}.yaml")
        with pytest.raises(UserError, match=r"finished shards with other settings \(inputs\)"):
            build(world, corpus, built[0], sources=f"{name}.yaml")


def test_paths_of_notes_are_sources_too(corpus, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_table(tmp_path / folder / "n.csv", [{"subject_id": f"{i}", "text": f"{folder} {i}"} for i in range(9)])
    settings = ShardSettings(sequence_length=64, split=SplitRule(0, 0))
    notes = [tmp_path / "a" / "n.csv", tmp_path / "b" / "n.csv"]
    manifest = build_shards(notes, str(corpus / "tokenizer"), tmp_path / "s", settings, BuildOptions(workers=1))
    assert [(source.name, source.inputs, source.notes) for source in manifest.sources] == [
        ("n.csv", [0], 9), ("n.csv (2)", [1], 9)
    ]  # fmt: skip
    assert "source" not in manifest.settings["inputs"][0] and "sources" not in manifest.settings["reading"]


def test_commands_say_what_came_of_each_source(world, corpus, tmp_path, capsys):
    sources = ["--sources", str(world / "sources.yaml")]
    call = ["build-shards", *sources, "--tokenizer", str(corpus / "tokenizer"), "--out", str(tmp_path / "s")]
    assert main([*call, "--workers", "1", "--json", str(tmp_path / "r.json")]) == 0
    printed = capsys.readouterr()
    assert "source letters: 11 of 12 notes kept" in printed.out and "filtered" in printed.out
    assert "reading source reports:" in printed.err + printed.out
    reported = json.loads((tmp_path / "r.json").read_text())
    assert [source["name"] for source in reported["sources"]] == ["mimic", "letters", "reports"]
    assert main(["train-tokenizer", *sources, "--out", str(tmp_path / "t"), "--vocab-size", "300"]) == 0
    assert main(["inspect-tokenizer", *sources, "--tokenizer", str(corpus / "tokenizer")]) == 0
    assert main(["clean", *sources, "--json", str(tmp_path / "c.json")]) == 0
    assert json.loads((tmp_path / "c.json").read_text())["notes_unusable"] >= 10


def test_a_filter_that_no_row_passes_is_told_without_its_values(world, corpus, tmp_path):
    describe(world, YAML.replace("CATEGORY: not Radiology", "CATEGORY: Raidology"), "typo.yaml")
    said = summary_lines(build(world, corpus, tmp_path / "s", sources="typo.yaml"), tmp_path, False)
    warning = "  WARNING: no row of source mimic passes its filters (CATEGORY); check the values there"
    assert [line for line in said if "WARNING" in line] == [warning] and "Raidology" not in "".join(said)


def test_values_of_filters_may_be_identifiers_and_are_not_kept(world, corpus, tmp_path):
    text = "sources: [{name: a, path: notes.csv, filters: {SUBJECT_ID: {not: [%s]}}}]"
    describe(world, text % "7741852, 3", "without.yaml")
    build(world, corpus, tmp_path / "shards", sources="without.yaml")
    assert "7741852" not in (tmp_path / "shards" / "manifest.json").read_text()
    describe(world, text % "7741853, 3", "others.yaml")
    with pytest.raises(UserError, match=r"finished shards with other settings \(inputs\)"):
        build(world, corpus, tmp_path / "shards", sources="others.yaml")


def test_a_column_and_a_path_do_not_both_say_who_the_patient_is(corpus, tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "1.csv").write_text("subject_id,text\n5,a\n6,b\n")
    reading = InputOptions(patient_from="{patient}.csv")
    with pytest.raises(UserError, match=r"1\.csv: the column 'subject_id' and the path both say who the patient is"):
        build_shards(
            [tmp_path / "files"], str(corpus / "tokenizer"), tmp_path / "shards", ShardSettings(reading=reading)
        )


def test_parts_that_another_version_has_packed_are_refused_in_one_line(world, corpus, tmp_path, monkeypatch):
    def stop(*_):
        raise InterruptedError

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr("tokenizer_tools.shards.build._finish", stop)
        build(world, corpus, tmp_path / "shards")
    part = tmp_path / "shards" / "work" / "packed" / "part-00000.json"
    part.write_text(json.dumps({"files": {}, "unknown_tokens": 0, "unknown_characters": {}}))
    with pytest.raises(UserError, match=f"{part}: of another version; delete {tmp_path / 'shards'}, or choose"):
        build(world, corpus, tmp_path / "shards")
