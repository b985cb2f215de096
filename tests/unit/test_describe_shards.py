"""The report of shards: its figures against counts of the notes themselves, and what it must not tell."""

import csv
import html.parser
import itertools
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizer import word_level
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from clinical_pretrain.cli import main
from clinical_pretrain.data.shards import Split
from clinical_pretrain.release.push import ALLOWED_FILES
from tokenizer_tools.corpus.clean_notes import CleaningRules, clean
from tokenizer_tools.corpus.placeholders import Replacement
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.manifest import REPORT_NAMES, SPLITS, Manifest
from tokenizer_tools.shard_reading import WholeNotes
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.describe.content import Bin, _histogram
from tokenizer_tools.shards.describe.count import source_names
from tokenizer_tools.shards.describe.describe import describe_shards
from tokenizer_tools.shards.describe.pieces import word_finder
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.shards.verify.verify import verify_shards
from tokenizer_tools.small_counts import NOT_SMALL, SMALL, show, show_parts, show_total

HOSTILE = "--><script>alert('1')</script> \"&\" $x^2$ \x01\u202e"
RARE = "Quibblewort, Ignatia"
SECRETS = ["zyxomancer", "Quibblewort", "Ignatia", "7741852", "MRN990017"]


def build(notes, tokenizer, out, split=None, **options):
    settings = ShardSettings(split=split or SplitRule(0.2, 0.2), sequence_length=64, notes_per_part=100)
    build_shards(notes, str(tokenizer), out, settings, BuildOptions(workers=1, **options))
    return out


def write_notes(path, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("SUBJECT_ID", "CATEGORY", "TEXT"), *rows])
    return path


@pytest.fixture(scope="module")
def described(corpus, tmp_path_factory):
    """Synthetic notes, and some of two patients in a file that is named after one, with a category of their own."""
    root = tmp_path_factory.mktemp("described")
    rows = [(7741852 + i % 2, RARE, f"the zyxomancer sleeps on day {i}") for i in range(12)]
    rows += [(5_000_000 + i, HOSTILE, f"patient {i} was seen") for i in range(30)]
    rare = write_notes(root / "MRN990017.csv", rows[:12])
    more = write_notes(root / "more.csv", rows[12:])
    return build([corpus / "notes.csv", rare, more], corpus / "tokenizer", root / "shards"), rows


@pytest.fixture
def shards(described, tmp_path):
    return Path(shutil.copytree(described[0], tmp_path / "shards"))


def report(folder):
    return json.loads((folder / "report.json").read_text())


def words_of(encoding, tokenizer):
    """Tokens of each word, by how the tokenizer divides texts before it looks up pieces."""
    parts = {}
    for token, part in zip(encoding.ids, encoding.word_ids, strict=True):
        if part is not None:
            parts.setdefault(part, []).append(token)
    return [len(ids) for ids in parts.values() if tokenizer.decode(ids).removeprefix(" ").isalpha()]


@pytest.fixture(scope="module")
def expected(corpus, described):
    """Counts of the notes themselves: by split, category and file, (notes, patients, tokens, pieces of words)."""
    tokenizer = Tokenizer.from_file(str(corpus / "tokenizer" / "tokenizer.json"))
    with (corpus / "notes.csv").open(newline="") as stream:
        rows = [(row["SUBJECT_ID"], row["CATEGORY"], row["TEXT"], "notes.csv") for row in csv.DictReader(stream)]
    rows += [(str(p), c, t, "MRN990017.csv" if c == RARE else "more.csv") for p, c, t in described[1]]
    groups, seen, lengths = {}, set(), []
    for patient, category, text, file in rows:
        text = clean(text, CleaningRules(), Replacement("<unk>"))
        if not text or text in seen:
            continue
        seen.add(text)
        encoding = tokenizer.encode(text)
        lengths.append(len(encoding.ids))
        split = SPLITS[SplitRule(0.2, 0.2).split_of(f"patient {patient}")]
        for name in ("all", split, category.strip(), file):
            notes = groups.setdefault(name, SimpleNamespace(notes=0, patients=set(), tokens=0, pieces=[]))
            notes.notes, notes.tokens = notes.notes + 1, notes.tokens + len(encoding.ids)
            notes.patients.add(patient)
            notes.pieces += words_of(encoding, tokenizer)
    return groups, lengths


def test_figures_are_those_of_the_notes(described, expected):
    found, (groups, lengths) = report(described[0]), expected
    rows = [found["total"], *found["splits"], *found["categories"], *found["sources"]]
    assert len(rows) == len(groups)  # the rare category and file are one row each
    for row in rows:
        name = HOSTILE if row["name"].startswith("-->") else row["name"]
        group = groups[RARE if name == "other" else name]
        assert row["tokens"] == group.tokens
        assert row["notes"] == group.notes and row["tokens_per_note"] == round(group.tokens / group.notes, 1)
        assert row["patients"] in (len(group.patients), SMALL if len(group.patients) < 10 else NOT_SMALL)
        assert row["tokens_per_word"] == pytest.approx(np.mean(group.pieces), abs=1e-4)
        assert row["broken_share"] == pytest.approx(np.mean([n >= 4 for n in group.pieces]), abs=1e-6)
    assert found["total"]["patients"] == len(groups["all"].patients) and found["total"]["broken_share"] > 0
    assert found["lengths"]["percentiles"]["50"] == np.sort(lengths)[(len(lengths) + 1) // 2 - 1]
    for limit, notes in found["lengths"]["at_least"].items():
        assert notes == sum(length >= int(limit) for length in lengths)
    assert "64" in found["lengths"]["at_least"]
    for each in found["lengths"]["bins"]:
        assert each["notes"] == sum(each["first"] <= length <= each["last"] for length in lengths)


def test_rows_and_what_was_removed_are_those_of_the_manifest(described):
    found, manifest = report(described[0]), Manifest.load(described[0])
    sequences = sum(split.sequences for split in manifest.splits.values())
    tokens = sum(split.tokens for split in manifest.splits.values())
    assert found["rows"]["count"] == sequences
    assert found["rows"]["padding_share"] == pytest.approx(1 - tokens / (64 * sequences), abs=1e-6)
    starts = 0  # of notes at the first position of a row, by the token ids
    for name in SPLITS:
        split = Split(described[0], manifest, name)
        starts += sum(split[i].input_ids[0] == manifest.tokenizer.begin_id for i in range(len(split)))
    assert found["rows"]["begin_within_note"] == sequences - starts
    dropped = {name[8:]: count for name, count in manifest.counts.items() if name.startswith("dropped_")}
    assert found["removed"] == {name: show(count) for name, count in dropped.items()}
    assert found["fingerprint"] == manifest.fingerprint and found["tokenizer"]["sha256"] == manifest.tokenizer.sha256


def test_no_text_and_no_identifier_is_in_the_report(described, expected):
    folder, _ = described
    everything = "".join((folder / name).read_text() for name in REPORT_NAMES)
    assert "Discharge summary" in everything
    for secret in SECRETS:
        assert secret not in everything
    for patient in expected[0]["all"].patients:
        assert not re.search(rf"(?<![\d.]){patient}(?![\d.])", everything)
    manifest_hashes = (folder / "notes.arrow").read_bytes()
    assert not [found for found in re.findall(r"\b[0-9a-f]{32}\b", everything) if found.encode() in manifest_hashes]


def small_counts(value, key=""):
    if isinstance(value, dict):
        return [each for name, inner in value.items() for each in small_counts(inner, name)]
    if isinstance(value, list):
        return [each for inner in value for each in small_counts(inner, key)]
    return [(key, value)] if key in ("notes", "patients", "read") and value in range(1, 10) else []


def test_small_counts_are_hidden(described, corpus, tmp_path):
    """The rare category stays unnamed; of few patients nothing is counted."""
    assert small_counts(report(described[0])) == []
    rare = [row for row in report(described[0])["categories"] if row["merged"]]
    assert [(row["name"], row["merged"], row["notes"]) for row in rare] == [("other", 1, 12)]
    notes = write_notes(tmp_path / "few.csv", [(i, "Note", f"note {i}") for i in range(8)])
    found = report(build([notes], corpus / "tokenizer", tmp_path / "few", SplitRule(0, 0)))
    assert small_counts(found) == [] and found["total"]["notes"] == found["read"] == SMALL
    assert not re.search(r"<\d", (tmp_path / "few" / "report.html").read_text())
    assert [each["notes"] for each in found["lengths"]["bins"]] == [SMALL] and not found["lengths"]["percentiles"]


@given(st.lists(st.integers(0, 40), max_size=6))
def test_what_is_hidden_cannot_be_computed(counts):
    shown = show_parts(counts)
    hidden = [count for count, each in zip(counts, shown, strict=True) if isinstance(each, str)]
    assert all(each in (count, SMALL if count < 10 else NOT_SMALL) for count, each in zip(counts, shown, strict=True))
    assert all(count == 0 or count >= 10 for count, each in zip(counts, shown, strict=True) if isinstance(each, int))
    if hidden and any(isinstance(each, int) and each for each in shown):
        assert len(hidden) > 1 and sum(hidden) >= 10
    total = show_total(counts)
    if 0 < sum(counts) < 10:
        assert total == SMALL
    elif any(0 < count < 10 for count in counts):
        assert total == f">{sum(count for count in counts if count >= 10)}"
    else:
        assert total == sum(counts)


@given(st.dictionaries(st.integers(2, 3000), st.integers(1, 30), min_size=1))
def test_bins_have_no_small_count_and_lose_no_note(notes_of_length):
    lengths = np.zeros(max(notes_of_length) + 1, np.int64)
    for length, notes in notes_of_length.items():
        lengths[length] = notes
    bins = _histogram(lengths)
    assert all(before.last + 1 == after.first for before, after in pairwise(bins))
    assert bins[0].first <= min(notes_of_length) and bins[-1].last >= max(notes_of_length)
    if sum(notes_of_length.values()) < 10:
        assert [each.notes for each in bins] == [SMALL]
        return
    for each in bins:
        assert each.notes == sum(n for length, n in notes_of_length.items() if each.first <= length <= each.last)
        assert each.notes == 0 or each.notes >= 10


def test_bins_are_half_octaves():
    lengths = np.bincount([2] * 10 + [3] * 20 + [4] * 3 + [9] * 10 + [17])
    assert _histogram(lengths) == [Bin(2, 2, 1, 10), Bin(3, 3, 1, 20), Bin(4, 23, 5, 14)]


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = Counter(), Counter(), []

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.attributes.update(name for name, _ in attributes)

    def handle_data(self, data):
        self.text.append(data)


def test_names_are_escaped(described):
    """A category is a script; it stays text. The page loads nothing."""
    page = (described[0] / "report.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert not {"script", "img", "link", "iframe", "object", "a"} & tags.tags.keys()
    assert not [name for name in tags.attributes if name.startswith("on")]
    assert "--><script>alert('1')</script> \"&\" $x^2$" in "".join(tags.text)
    assert "--&gt;&lt;script&gt;alert" in re.findall(r"<svg.*?</svg>", page, re.DOTALL)[2]  # drawn, too
    assert "\x01" not in page and "\u202e" not in page
    assert not re.search(r"url\((?!#)|(?:src|href)=\"(?!#)", page) and "default-src 'none'" in page
    assert len(re.findall(r'\bid="([^"]+)"', page)) == len(set(re.findall(r'\bid="([^"]+)"', page)))
    for drawn in [(described[0] / "report.svg").read_text(), *re.findall(r"<svg.*?</svg>", page, re.DOTALL)]:
        names = {element.tag.split("}")[1] for element in ElementTree.fromstring(drawn).iter()}
        assert "script" not in names and "foreignObject" not in names


def test_every_table_says_what_its_cells_are(described):
    page = (described[0] / "report.html").read_text()
    tables = re.findall(r"<table.*?</table>", page, re.DOTALL)
    assert len(tables) >= 7
    for table in tables:
        assert "<caption>" in table and 'scope="col"' in table and table.count('scope="row"') >= 1
    assert page.count("<svg ") == page.count('<svg aria-hidden="true"') == page.count("<figcaption>") == 4


def test_the_same_shards_give_the_same_bytes(described, shards, monkeypatch):
    """In another folder, under another style of the user's."""
    before = {name: (shards / name).read_bytes() for name in REPORT_NAMES}
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 20)
    (shards / "report.html").write_text("an earlier one")
    describe_shards(shards)
    assert {name: (shards / name).read_bytes() for name in REPORT_NAMES} == before


def test_older_shards_can_be_described(shards, capsys):
    """Without counts that were added later, and without a report."""
    for name in REPORT_NAMES:
        (shards / name).unlink()
    raw = json.loads((shards / "manifest.json").read_text())
    raw["counts"] = {name: raw["counts"][name] for name in ("read", "kept", "dropped_empty", "dropped_duplicate")}
    raw["settings"].pop("duplicates", None)
    (shards / "manifest.json").write_text(json.dumps(raw))
    assert main(["describe-shards", str(shards)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(shards / name) for name in REPORT_NAMES]
    assert report(shards)["kept_although"] == {} and report(shards)["settings"]["duplicates"] == {
        "near": "off",
        "copied": "keep",
    }


def test_verify_takes_shards_with_and_without_a_report(shards):
    assert not {check.name for check in verify_shards(shards).failed} - {"modes"}
    for name in REPORT_NAMES:
        (shards / name).unlink()
    assert not {check.name for check in verify_shards(shards).failed} - {"modes"}


def test_push_takes_no_report():
    assert not set(REPORT_NAMES) & set(ALLOWED_FILES)


def test_only_the_last_stage_writes_it_and_its_failure_loses_no_shards(corpus, tmp_path, capsys):
    out, names = tmp_path / "shards", set(REPORT_NAMES)
    for stage in ("prepare", "scan"):
        build([corpus / "notes.csv"], corpus / "tokenizer", out, stage=stage)
        assert not names & {path.name for path in out.iterdir()}
    (out / "report.html.tmp").mkdir()  # so that it can't be written
    build([corpus / "notes.csv"], corpus / "tokenizer", out)
    manifest = Manifest.load(out)
    assert "describe-shards" in capsys.readouterr().err and not names & {path.name for path in out.iterdir()}
    (out / "report.html.tmp").rmdir()
    build([corpus / "notes.csv"], corpus / "tokenizer", out)
    assert names <= {path.name for path in out.iterdir()} and Manifest.load(out) == manifest


@pytest.mark.parametrize("file", ["notes.arrow", "train/part-00000.arrow", "tokenizer/tokenizer.json"])
def test_damaged_shards_are_refused_in_one_line(file, shards, capsys):
    for name in REPORT_NAMES:
        (shards / name).unlink()
    path = shards / file
    path.write_bytes(path.read_bytes()[:-2000])
    assert main(["describe-shards", str(shards)]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and not (shards / "report.html").exists()


def test_another_tokenizer_and_notes_without_patients(tmp_path):
    """Words can't be told apart in its ids; unknown characters are named if they are frequent."""
    tokenizer = word_level(tmp_path / "tokenizer")
    notes = tmp_path / "n.csv"
    notes.write_text("TEXT\n" + "".join(f"{i} {'≥' if i > 3 else '≤'} 5\n" for i in range(40)))
    folder = build([notes], tokenizer, tmp_path / "shards", SplitRule(by="note"))
    found, page = report(folder), (folder / "report.html").read_text()
    assert found["word_kind"] is None and found["total"]["tokens_per_word"] is None
    assert "aren't computed" in page and "No note names a patient" in page and ">patients<" not in page
    assert found["unknown"]["characters"] == {"≥": 36} and found["unknown"]["rare_characters"] == 1
    assert "greater-than or equal to" in page and "≤" not in page


def test_words_of_unigram_ids_are_those_of_the_text(tmp_path):
    texts = [f"Metoprolol {i} mg, given twice (oral); no oedema. Echocardiography: unremarkable" for i in range(50)]
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(texts, trainers.UnigramTrainer(vocab_size=60, unk_token="<unk>", show_progress=False))
    (tmp_path / "tokenizer").mkdir()
    backend.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    finder = word_finder(tmp_path, backend.get_vocab_size())
    assert finder.kind == "Unigram"
    encodings = backend.encode_batch(texts)
    lengths = [len(encoding.ids) for encoding in encodings]
    ids = np.concatenate([encoding.ids for encoding in encodings]).astype(np.uint16)
    found = finder.count(WholeNotes(np.arange(50), np.cumsum([0, *lengths[:-1]]), ids))
    pieces = []  # of each word with the space before it, by where they stand in the text
    for encoding, text in zip(encodings, texts, strict=True):
        spans = [word.span() for word in re.finditer(r" ?[^\W\d_]+", text)]
        pieces.append([sum(a < end and start < b for a, b in encoding.offsets) for start, end in spans])
    assert found[:, 0].tolist() == [len(each) for each in pieces]
    assert found[:, 2].tolist() == [sum(n >= 4 for n in each) for each in pieces]
    assert found[:, 1].tolist() == [sum(each) for each in pieces]


def test_a_source_can_have_several_inputs():
    inputs = [{"name": "a.csv"}, {"name": "b.csv"}, {"name": "c.csv"}]
    names, of_input = source_names(SimpleNamespace(settings={"inputs": inputs}, sources=[]))
    assert names == ["a.csv", "b.csv", "c.csv"] and of_input.tolist() == [0, 1, 2]
    described = [SimpleNamespace(name="ward", inputs=[0, 2]), SimpleNamespace(name="lab", inputs=[1])]
    names, of_input = source_names(SimpleNamespace(settings={"inputs": inputs}, sources=described))
    assert names == ["ward", "lab"] and of_input.tolist() == [0, 1, 0]


@pytest.mark.parametrize("counts", [(1, 10), (9, 9), (1, 1, 10), (9, 9, 9), (9,), (3, 4)])
def test_hidden_parts_are_not_given_away_by_their_sum(counts):
    """Unless all parts are hidden, and none is left to hide beside them."""
    shown = show_parts([*counts, 500, 600])
    hidden = [count for count, what in zip([*counts, 500, 600], shown, strict=True) if isinstance(what, str)]
    ranges = [range(1, 10) if what == SMALL else range(10, 1200) for what in shown if isinstance(what, str)]
    sums = {sum(hidden)}
    others = itertools.islice((each for each in itertools.product(*ranges) if sum(each) in sums), 2)
    assert len(list(others)) == 2
