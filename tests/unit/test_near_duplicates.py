"""Near-duplicates: no pair is reported wrongly, hardly one is overlooked, and none stays in two splits."""

import csv
import errno
import itertools
import os
import stat
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st
from shard_folders import content, kill_when_there

from clinical_pretrain.cli import main
from tokenizer_tools.corpus import near_duplicates as near
from tokenizer_tools.corpus.clean_notes import CleaningRules, clean
from tokenizer_tools.corpus.near_duplicates import DuplicateRules, find_near_duplicates, jaccard, minhash
from tokenizer_tools.corpus.placeholders import Replacement
from tokenizer_tools.corpus.read_notes import InputOptions, read_notes
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest
from tokenizer_tools.shards import near_duplicates as over_corpus
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.scan import Outcome
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.shards.summary import summary_lines
from tokenizer_tools.shards.verify.verify import verify_shards

DROP = DuplicateRules(near="drop")
RULE = SplitRule(0.2, 0.2)


def shingles(text, ngram):
    """The shingles of a text by their definition."""
    words = text.lower().split()
    return {tuple(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))}


def similar_pairs(texts, rules):
    """All pairs of texts whose similarity reaches the threshold, found by comparing all that share anything."""
    sets, holders = [shingles(text, rules.ngram) for text in texts], defaultdict(list)
    for number, own in enumerate(sets):
        for shingle in own:
            holders[shingle].append(number)
    shared = Counter(pair for numbers in holders.values() for pair in itertools.combinations(numbers, 2))
    return {
        (a, b) for (a, b), count in shared.items() if count / (len(sets[a]) + len(sets[b]) - count) >= rules.threshold
    }


def find(texts, rules=DROP, splits=None):
    hashes, starts = near.shingle_hashes(texts, rules.ngram)
    unique = [np.unique(hashes[start:stop]) for start, stop in itertools.pairwise(starts)]
    splits = None if splits is None else np.array(splits, np.uint8)
    return find_near_duplicates(minhash(hashes, starts, rules.permutations).T, unique.__getitem__, splits, rules)


def words(*numbers):
    return " ".join(f"w{number}" for number in numbers)


TEXTS = st.lists(st.lists(st.sampled_from(["a", "B", "b", "c", "1.5", "ü"]), max_size=12).map(" ".join), min_size=2)


@given(TEXTS, st.integers(1, 6))
def test_hashes_and_similarities_are_those_of_the_definition(texts, ngram):
    hashes, starts = near.shingle_hashes(texts, ngram)
    found = [np.unique(hashes[start:stop]) for start, stop in itertools.pairwise(starts)]
    expected = [shingles(text, ngram) for text in texts]
    filled = [own if text.split() else {()} for own, text in zip(expected, texts, strict=True)]
    assert [len(own) for own in found] == [len(own) for own in filled]
    similarities = [len(filled[0] & other) / len(filled[0] | other) for other in filled]
    assert jaccard(found[0], found).tolist() == similarities


def test_words_are_separated_by_what_python_takes_for_white_space():
    """Each character of the basic plane, which has all white space, between two others and at both ends."""
    characters = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    _, starts = near.shingle_hashes([f"{one}a{one}b{one}" for one in characters], 1)
    assert np.diff(starts).tolist() == [len(f"{one}a{one}b{one}".lower().split()) for one in characters]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_equal_words_have_equal_hashes(texts):
    hashes, _ = near.shingle_hashes(texts, 1)
    words = [word for text in texts for word in text.lower().split() or [""]]
    assert len(hashes) == len(words)
    assert len(set(hashes.tolist())) == len(set(words)) == len(set(zip(hashes.tolist(), words, strict=True)))


@given(st.floats(0.5, 1), st.integers(16, 1024))
def test_the_bands_overlook_one_pair_in_a_hundred_at_most(threshold, permutations):
    rules = DuplicateRules("drop", threshold, 5, permutations)
    assert rules.rows * rules.bands <= permutations
    assert 1 - (1 - rules.threshold**rules.rows) ** rules.bands >= 0.99


def test_signatures_estimate_similarities():
    first, second = words(*range(1004)), words(*range(500), *range(2000, 2504))
    hashes, starts = near.shingle_hashes([first, second], 5)
    signatures = minhash(hashes, starts, 1024)
    own, other = shingles(first, 5), shingles(second, 5)
    assert abs((signatures[:, 0] == signatures[:, 1]).mean() - len(own & other) / len(own | other)) < 0.05


def test_of_a_chain_only_those_go_that_are_near_to_one_that_stays():
    days = [
        words(*range(start, start + 100)) for start in range(0, 50, 10)
    ]  # each shares 0.83 with the next, 0.68 then
    assert similar_pairs(days, DROP) == {(0, 1), (1, 2), (2, 3), (3, 4)}
    assert find(days).near_to.tolist() == [-1, 0, -1, 2, -1]


def test_notes_of_the_same_split_are_not_compared_where_near_duplicates_are_kept():
    texts = [words(*range(100)), words(*range(1, 101)), words(*range(2, 102)), words(*range(3, 103))]
    assert find(texts, replace(DROP, near="keep"), [0, 0, 1, 1]).near_to.tolist()[:2] == [-1, -1]
    assert (find(texts, replace(DROP, near="keep"), [0, 0, 1, 1]).near_to[2:] >= 0).all()
    assert find(texts, replace(DROP, near="keep"), [1, 1, 1, 1]).near_to.tolist() == [-1] * 4


def test_short_notes_of_the_same_words_are_near():
    assert find(["Stable overnight.", "stable  OVERNIGHT.", "stable"]).near_to.tolist() == [-1, 0, -1]


def test_notes_like_too_many_others_are_counted(monkeypatch):
    texts = [words(*range(100), *range(start, start + 20)) for start in range(1000, 1200, 20)]  # 0.71: none is near
    assert not similar_pairs(texts, DROP) and not find(texts).crowded.any()
    monkeypatch.setattr(near, "MAX_COMPARED", 3)
    assert find(texts).crowded.any() and not find(texts).crowded[:3].any()


@pytest.fixture(scope="module")
def world(corpus, tmp_path_factory):
    """The synthetic notes, and an edited copy of every third under another patient: (path, read notes)."""
    root = tmp_path_factory.mktemp("world")
    with (corpus / "notes.csv").open(newline="") as stream:
        header, *rows = list(csv.reader(stream))
    copies = []
    for number, row in enumerate(rows[::3]):
        edited = row[-1].split(" ")
        edited[len(edited) // 2] = f"edited{number}"
        copies.append([row[0], str(900_000 + number), str(800_000 + number), *row[3:-1], " ".join(edited)])
    with (root / "notes.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows, *copies])
    return root / "notes.csv", list(read_notes([root / "notes.csv"], InputOptions()))


def build(corpus, world, out, rules, **options):
    settings = ShardSettings(sequence_length=256, split=RULE, notes_per_part=150, duplicates=rules)
    return build_shards([world[0]], str(corpus / "tokenizer"), out, settings, BuildOptions(**options))


def build_keep_list(*arguments, **options):
    """The same, stopped before stage pack."""

    class Stopped(Exception):
        pass

    def stop(*_):
        raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("tokenizer_tools.shards.build.pack", stop)
        build(*arguments, **options)


@pytest.fixture(scope="module")
def built(corpus, world, tmp_path_factory):
    """What a build with one worker makes, by what it does with near-duplicates: the folder, and notes' outcomes."""
    made = {}
    for what in ("drop", "keep"):
        out = tmp_path_factory.mktemp("built") / what
        build_keep_list(corpus, world, out, replace(DROP, near=what), workers=1)
        outcomes = np.load(out / "work" / "outcome.npy")
        build(corpus, world, out, replace(DROP, near=what), workers=1)
        made[what] = out, outcomes
    return made


@pytest.fixture(scope="module")
def pairs(world):
    """Pairs of near-duplicates among the first occurrences of all texts, by note number; texts that aren't empty."""
    texts = [clean(note.text, CleaningRules(), Replacement("<unk>")) for note in world[1]]
    first = {}
    for number, text in enumerate(texts):
        first.setdefault(text, number)
    numbers = [number for text, number in first.items() if text]
    return {(numbers[a], numbers[b]) for a, b in similar_pairs([texts[number] for number in numbers], DROP)}


def split_of(world, number):
    return RULE.split_of(f"patient {world[1][number].patient}")


def test_of_near_duplicates_the_first_stays(built, pairs):
    outcomes = built["drop"][1]
    kept = {int(number) for number in np.flatnonzero(outcomes == Outcome.KEPT)}
    dropped = {int(number) for number in np.flatnonzero(outcomes == Outcome.DROPPED_NEAR_DUPLICATE)}
    assert len(dropped) > 100
    assert all(any(a in kept and b == number for a, b in pairs) for number in dropped)  # precision
    missed = [pair for pair in pairs if set(pair) <= kept]
    assert len(missed) <= 0.01 * len(pairs)


def test_near_duplicates_that_are_kept_are_so_on_one_side(built, pairs, world):
    outcomes = built["keep"][1]
    kept = set(np.flatnonzero(outcomes == Outcome.KEPT).tolist())
    dropped = set(np.flatnonzero(outcomes == Outcome.DROPPED_NEAR_DUPLICATE).tolist())
    across = {pair for pair in pairs if split_of(world, pair[0]) != split_of(world, pair[1])}
    assert len(across) > 50 and len({pair for pair in pairs - across if set(pair) <= kept}) > 50
    assert len([pair for pair in across if set(pair) <= kept]) <= 0.01 * len(across)
    for number in dropped:  # each is near to a kept note of an earlier split, so no training note goes
        others = [a + b - number for a, b in across if number in (a, b)]
        assert any(other in kept and split_of(world, other) < split_of(world, number) for other in others)


@pytest.mark.parametrize("what", ["drop", "keep"])
def test_the_manifest_the_report_and_verify_agree(what, built, world):
    out, outcomes = built[what]
    manifest = Manifest.load(out)
    assert manifest.counts["dropped_near_duplicate"] == (outcomes == Outcome.DROPPED_NEAR_DUPLICATE).sum() > 0
    assert manifest.settings["duplicates"] == {"near": what, "threshold": 0.8, "ngram": 5, "permutations": 96}
    assert manifest.counts["kept_not_fully_compared"] == 0
    said = summary_lines(manifest, out, False)
    assert f"{manifest.counts['dropped_near_duplicate']:,} near-duplicate" in said[0]
    fate = "the first stays" if what == "drop" else "kept, but not across splits"
    dropped = manifest.counts["dropped_near_duplicate"]
    assert f"  near-duplicates, which share 80% of their runs of 5 words: {fate}, {dropped:,} dropped" in said
    checks = {check.name: check.state for check in verify_shards(out).checks if check.name != "modes"}
    assert set(checks.values()) == {"ok"}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_the_number_of_workers_and_of_jobs_changes_nothing(workers, built, corpus, world, tmp_path, monkeypatch):
    monkeypatch.setattr(over_corpus, "NOTES_PER_JOB", 40)
    monkeypatch.setattr(over_corpus, "NOTES_IN_MEMORY", 100 * workers)
    build_keep_list(corpus, world, tmp_path / "s", DROP, workers=workers)
    assert len(list((tmp_path / "s" / "work" / "near").glob("job-*.npy"))) > 5
    assert (np.load(tmp_path / "s" / "work" / "outcome.npy") == built["drop"][1]).all()


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again(built, corpus, world, tmp_path):
    out = tmp_path / "s"
    call = [sys.executable, "-m", "clinical_pretrain", "build-shards", "--notes", str(world[0]), "--tokenizer",
            str(corpus / "tokenizer"), "--out", str(out), "--sequence-length", "256", "--notes-per-part", "150",
            "--split.validation", "0.2", "--split.test", "0.2", "--duplicates.near", "drop",
            "--workers", "1"]  # fmt: skip
    for wait_for in ("near/part-00001.shingles.npy", "near/job-00000.npy"):
        kill_when_there(call, out / "work" / wait_for)
        assert not (out / "manifest.json").exists()
        assert stat.S_IMODE((out / "work" / "near").stat().st_mode) == 0o700
    build(corpus, world, out, DROP, workers=1)
    assert content(out) == content(built["drop"][0])


def test_a_full_disk_is_told_as_such(tmp_path):
    code = (
        "import pathlib, resource, signal, sys; import numpy as np; from tokenizer_tools.shards import shingles; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); "
        "shingles.save_array(pathlib.Path(sys.argv[1]), np.zeros(10_000))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.npy")], capture_output=True, text=True)
    assert done.stderr.rstrip().endswith(f"OSError: [Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}")
    assert not (tmp_path / "a.npy").exists()


def test_off_is_the_same_as_before_there_was_a_choice(corpus, world, tmp_path):
    manifest = build(corpus, world, tmp_path / "s", DuplicateRules(), workers=1)
    assert "duplicates" not in manifest.settings and manifest.counts["dropped_near_duplicate"] == 0
    said = "\n".join(summary_lines(manifest, tmp_path / "s", False))
    assert "near-duplicates weren't looked for; --duplicates.near drop does" in said
    with pytest.raises(UserError, match=r"holds finished shards with other settings \(duplicates\)"):
        build(corpus, world, tmp_path / "s", DROP, workers=1)


def test_a_rule_that_cannot_be_is_refused(corpus, world, tmp_path, capsys):
    call = ["build-shards", "--notes", str(world[0]), "--tokenizer", str(corpus / "tokenizer"), "--out",
            str(tmp_path / "s"), "--duplicates.threshold", "80"]  # fmt: skip
    assert main(call) == 2
    assert (
        "--duplicates.threshold is 80.0, must be at most 1" in capsys.readouterr().err and not (tmp_path / "s").exists()
    )


@pytest.mark.slow
@pytest.mark.shared
def test_real_notes_against_all_pairs():
    """Every second of MTSamples' 2,357 notes, among which hardly any are near, and 300 copies with a changed passage.
    All 2,357 have 4 pairs, which are found, too."""
    notes = read_notes([SHARED / "notes" / "mtsamples_unique.jsonl.gz"], InputOptions(), SplitRule(by="note"))
    texts = [note.text for note in itertools.islice(notes, 0, None, 2)]
    long = [text.split() for text in texts if len(text.split()) > 200][:300]
    for number, copy in enumerate(long):
        length = number * len(copy) // 1000  # up to 0.3 of the words: similarities from 0.54 to 0.99
        copy[50 : 50 + length] = [f"changed{number}x{place}" for place in range(length)]
    texts += [" ".join([*copy, "end"]) for copy in long]
    pairs, near_to = similar_pairs(texts, DROP), find(texts).near_to
    kept = set(np.flatnonzero(near_to < 0).tolist())
    assert len(pairs) > 100 and len(texts) - len(kept) > 100
    assert all((int(near_to[number]), number) in pairs for number in range(len(texts)) if number not in kept)
    assert kept >= set(near_to[near_to >= 0].tolist())
    assert sum(set(pair) <= kept for pair in pairs) <= 0.01 * len(pairs)
