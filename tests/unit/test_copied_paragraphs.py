"""Copied-forward paragraphs: the right ones go, and the ids are those of the text without them."""

import csv
import random
import stat
import sys
from functools import cache

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_folders import content, kill_when_there
from tiny_tokenizer import word_level
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from clinical_pretrain.data.shards import Split
from tokenizer_tools.corpus.clean_notes import PROFILES, CleaningRules, clean, clean_in_paragraphs
from tokenizer_tools.corpus.copied_paragraphs import find_copies, paragraph_hash
from tokenizer_tools.corpus.input_options import InputOptions
from tokenizer_tools.corpus.near_duplicates import DuplicateRules
from tokenizer_tools.corpus.placeholders import Replacement
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.corpus.synthetic_notes import COLUMNS, notes_of
from tokenizer_tools.corpus.times import sort_key
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS, CopiedParagraphs, Manifest
from tokenizer_tools.shards import copied
from tokenizer_tools.shards.append.settings import refuse_other_settings, settings_of
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.describe.describe import describe_shards
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.shards.summary import summarise, summary_lines, withdrawn_lines
from tokenizer_tools.shards.verify.verify import verify_shards
from tokenizer_tools.shards.withdraw import read_patients, withdraw
from tokenizer_tools.tokenizer.fast_ids import IdEncoder
from tokenizer_tools.tokenizer.load import encode, forbidden_ids, note_ids
from tokenizer_tools.tokenizer.paragraph_ids import ParagraphEncoder, divides_at
from tokenizer_tools.tokenizer.unknown_characters import count_unknown, unknown_tokens

WORDS = 5
DROP = DuplicateRules(copied="drop", copied_words=WORDS)
RULE, BY_ADMISSION = SplitRule(0.1, 0.1), SplitRule(0.1, 0.1, by="admission")
LINES = ["BP 120/80, HR 72, afebrile.", "Pt is a 72 year old man,", "INR ≥ 2", "seen by [**Name**]", "no edema",
         "Plan:", "___ mg daily", "<mask> daily", "1. aspirin 81 mg", "  2. metoprolol", "don't", "naïve  to opioids",
         "[**2151-7-1**]", "continue home meds and follow up", "A", "K 4.2 --- stable"]  # fmt: skip
SPACES = [" ", "  ", "\n", "\t", "\n\n", "\n \n", "\r\n\r\n", "\n\n\n", "\u00a0", "\x1f", "\u3000", "____\n"]


@pytest.fixture(scope="module")
def unigram(tmp_path_factory):
    """A folder with BigBird's kind of tokenizer, without newline and tab."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence(
        [normalizers.Strip(left=False, right=False), normalizers.Replace(Regex(" {2,}"), "▁")]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    texts = [" ".join(row[COLUMNS.index("TEXT")].split()) for row in notes_of(10, seed=0)]
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=800, special_tokens=special, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    roles = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    folder = tmp_path_factory.mktemp("unigram")
    PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{role}_token": token for role, token in roles.items()}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizers(unigram, corpus):
    """The two kinds: byte-level BPE, and Unigram."""
    return {"bpe": corpus / "tokenizer", "unigram": unigram}


texts = st.lists(st.sampled_from(LINES + SPACES) | st.text(max_size=5), max_size=40).map("".join)


@given(text=texts, profile=st.sampled_from(sorted(PROFILES)), unknown=st.sampled_from(["", "\n\t", " \n\t\x1f\u3000"]))
def test_paragraphs_are_of_the_cleaned_text(text, profile, unknown):
    rules, replacement = CleaningRules(profile), Replacement("<unk>")
    cleaned, ends = clean_in_paragraphs(text, rules, replacement, unknown)
    assert cleaned == clean(text, rules, replacement, unknown)
    paragraphs = [cleaned[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert "".join(paragraphs) == (cleaned if cleaned.strip() else "")
    assert all(body.strip() for body in paragraphs) and all(body[0].isspace() for body in paragraphs[1:])
    assert not any(character.isspace() for character in (body[-1] for body in paragraphs[:-1]))


def test_blank_lines_divide_paragraphs_before_lines_are_joined():
    text = "Plan:\nrest\n \n\n____\nBP 120/80\n\n"
    for rules, unknown, expected in (
        (CleaningRules(), "", ["Plan:\nrest", "\n\nBP 120/80"]),
        (CleaningRules(), "\n\t", ["Plan: rest", " BP 120/80"]),
        (CleaningRules(join_lines=True), "", ["Plan: rest", " BP 120/80"]),
        (CleaningRules("minimal"), "", ["Plan:\nrest", "\n \n\n____\nBP 120/80\n\n"]),
    ):
        cleaned, ends = clean_in_paragraphs(text, rules, Replacement(None), unknown)
        assert [cleaned[start:end] for start, end in zip([0, *ends], ends, strict=False)] == expected


@given(paragraphs=st.lists(st.tuples(*[st.integers(0, 2)] * 3), max_size=30))
def test_a_copy_stands_in_an_earlier_note_of_the_patient(paragraphs):
    columns = [
        np.array([row[i] for row in paragraphs], kind) for i, kind in enumerate((np.uint64, np.uint64, np.int32))
    ]
    expected = [
        any(a == patient and b == text and c < rank for a, b, c in paragraphs) for patient, text, rank in paragraphs
    ]
    assert find_copies(*columns).tolist() == expected


def test_short_paragraphs_have_no_hash():
    assert paragraph_hash("one two  three", 4) == 0 != paragraph_hash("one two three", 3)
    assert paragraph_hash("one two\nthree ", 3) == paragraph_hash(" one  two three", 3)
    assert paragraph_hash("one two Three", 3) != paragraph_hash("one two three", 3)


@cache
def loaded(folder):
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return backend, ParagraphEncoder(backend, IdEncoder(backend, ("<unk>",)))


def assert_ids_without_paragraphs(folder, text, profile, stays):
    """Of a text from which some paragraphs are taken, by their borders' token counts alone."""
    backend, encoder = loaded(folder)
    unknown = "\n\t" if divides_at(backend) == " " else ""
    cleaned, ends = clean_in_paragraphs(text, CleaningRules(profile), Replacement("<unk>"), unknown)
    bodies = [cleaned[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    stays = [next(stays) for _ in bodies]
    if not any(stays):
        return False
    (ids,), first = encode(backend, [cleaned]), stays.index(True)
    found = encoder.count([bodies], [first], [np.array(ids)])[0]
    if found is None or found.leading[first] < 0:
        return False
    assert sum(found.lengths) == len(ids) and len(found.lengths) == len(bodies) == len(found.leading)
    kept = np.repeat(stays, found.lengths)
    start = sum(found.lengths[:first])
    kept[start : start + found.leading[first]] = False
    rest = "".join(body for body, is_kept in zip(bodies, stays, strict=True) if is_kept)
    assert np.array(ids)[kept].tolist() == encode(backend, [rest.lstrip() if first else rest])[0]
    return True


@given(text=texts, stays=st.lists(st.booleans(), min_size=50, max_size=50), profile=st.sampled_from(sorted(PROFILES)))
def test_ids_of_the_rest_are_the_tokenizers_own(text, stays, profile, tokenizers):
    for folder in tokenizers.values():
        assert_ids_without_paragraphs(folder, text, profile, iter(stays))


@pytest.mark.shared
@pytest.mark.slow
@settings(max_examples=25)
@given(text=texts, stays=st.lists(st.booleans(), min_size=50, max_size=50), profile=st.sampled_from(sorted(PROFILES)))
def test_ids_of_the_rest_are_those_of_longformers_and_bigbirds(text, stays, profile):
    for name in ("longformer", "bigbird"):
        assert_ids_without_paragraphs(SHARED / "tokenizers" / name, text, profile, iter(stays))


def test_usual_texts_can_be_divided(tokenizers):
    """Else the property tests would prove nothing. Byte-level BPE takes an indented paragraph's space into its word."""
    lines = [line for line in LINES if "<mask>" not in line]
    for kind, folder in tokenizers.items():
        for profile in ("default", "mimic4"):
            for first, line in enumerate(lines):
                stays = iter([False] * first + [True] * 99)
                can_be_told = kind == "unigram" or not line.startswith(" ")
                assert assert_ids_without_paragraphs(folder, "\n\n".join(lines), profile, stays) == can_be_told, line


def test_only_tokenizers_that_divide_at_white_space(tokenizers):
    for folder, expected in zip(tokenizers.values(), (" \t\n", " "), strict=True):
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert divides_at(backend) == expected
        backend.add_special_tokens(["two words"])
        assert divides_at(backend) == ""
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        backend.normalizer = normalizers.Lowercase()
        assert divides_at(backend) == ""


def make_texts(seed):
    """Notes of (patient, admission, time, text): paragraphs of one's own, copied ones and others', in all mixtures."""
    draw, notes = random.Random(seed), []
    said = [" ".join(draw.sample(LINES[:5] + LINES[10:], draw.randint(1, 3))) for _ in range(60)]
    for _ in range(250):
        patient = draw.choice(["", *map(str, range(25))])
        own = [f"{text} day {patient}" for text in said[int(patient or 0) * 2 :][:4]] + said[:3]
        paragraphs = draw.choices(own, k=draw.randint(0, 5)) + ["Plan:"] * draw.randint(0, 1)
        draw.shuffle(paragraphs)
        text = draw.choice(["\n\n", "\n\n\n", "\n  \n"]).join(paragraphs)
        day = draw.choice(["", f"2101-01-{draw.randint(1, 9):02d}"])
        notes.append((patient, draw.choice(["", f"9{patient}", "7"]) if patient else "9", day, text))
    return notes


def expected_notes(notes, joined):
    """What should be kept, by the definitions alone: the texts in input order, and the counts."""
    kept, seen, of_patient = {}, set(), {}
    for number, (patient, admission, day, text) in enumerate(notes):
        cleaned = clean(text, CleaningRules(), Replacement("<unk>"), "\n\t" if joined else "")
        if cleaned and cleaned not in seen:
            seen.add(cleaned)
            paragraphs = clean(text, CleaningRules(), Replacement("<unk>")).split("\n\n")
            kept[number] = [" ".join(each.split()) if joined else each for each in paragraphs]
            of_patient.setdefault((patient, patient or admission), []).append((sort_key(day), number))
    rests, paragraphs_gone = {}, {}
    for numbers in of_patient.values():
        earlier = set()
        for _, number in sorted(numbers):
            words = [tuple(each.split()) for each in kept[number]]
            is_copy = [own in earlier and len(own) >= WORDS for own in words]
            rests[number] = [each for each, gone in zip(kept[number], is_copy, strict=True) if not gone]
            paragraphs_gone[number] = sum(is_copy)
            earlier.update(words)
    text_of = {number: (" " if joined else "\n\n").join(rest) for number, rest in rests.items()}
    whole = {text for number, text in text_of.items() if not paragraphs_gone[number]}
    final, dropped = {}, 0
    for number, text in sorted(text_of.items()):
        if paragraphs_gone[number] and (not text or text in whole or text in final.values()):
            dropped += 1
        else:
            final[number] = text
    touched = [number for number in final if paragraphs_gone[number]]
    return final, dropped, len(touched), sum(paragraphs_gone[number] for number in touched)


def build(path, tokenizer, out, workers=1, stage="all", share="0/1", **settings):
    settings = {"duplicates": DROP, "split": RULE, "notes_per_part": 40} | settings
    options = BuildOptions(workers, stage, share)
    return build_shards([path], str(tokenizer), out, ShardSettings(sequence_length=64, **settings), options)


def ids_of_notes(out, manifest):
    """By the notes table's row."""
    found = {}
    for name in SPLITS:
        sequences = Split(out, manifest, name)
        for row in range(len(sequences)):
            sequence = sequences[row]
            pieces = np.split(sequence.input_ids, sequence.segment_starts[1:])
            for note, piece in zip(sequence.segment_notes.tolist(), pieces, strict=True):
                found.setdefault(note, []).extend(piece.tolist())
    return [found[note] for note in sorted(found)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A file of notes, and these."""
    path, notes = tmp_path_factory.mktemp("world") / "notes.csv", make_texts(seed=1)
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("SUBJECT_ID", "HADM_ID", "CHARTDATE", "TEXT"), *notes])
    return path, notes


@pytest.fixture(scope="module")
def built(world, tokenizers, tmp_path_factory):
    """Shards by either tokenizer."""
    root = tmp_path_factory.mktemp("built")
    return {
        kind: (root / kind, build(world[0], folder, root / kind, split=BY_ADMISSION))
        for kind, folder in tokenizers.items()
    }


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_what_stays_is_what_plain_python_finds(kind, built, world, tokenizers):
    out, manifest = built[kind]
    texts, dropped, touched, paragraphs = expected_notes(world[1], joined=kind == "unigram")
    backend = Tokenizer.from_file(str(tokenizers[kind] / "tokenizer.json"))
    info, forbidden = manifest.tokenizer, forbidden_ids(backend, manifest.tokenizer)
    expected = [note_ids(ids, info, forbidden, np.int32).tolist() for ids in encode(backend, list(texts.values()))]
    assert ids_of_notes(out, manifest) == expected
    found = manifest.copied
    assert min(dropped, touched, paragraphs - touched) > 5
    assert (manifest.counts["dropped_copied"], found.notes, found.paragraphs) == (dropped, touched, paragraphs)
    assert found.cannot_be_cut == 0
    count = count_unknown(
        backend, list(texts.values()), encode(backend, list(texts.values())), "<unk>", info.unknown_id
    )
    assert manifest.unknown == unknown_tokens(count, sum(map(len, expected)), manifest.unknown.written_as_spaces)
    assert (count.tokens > 0) == (kind == "unigram")


def test_shards_without_copies_pass_all_checks(built):
    for out, manifest in built.values():
        failed = [check for check in verify_shards(out).failed if check.name != "modes"]
        assert not failed, failed
        line = next(line for line in summary_lines(manifest, out, False) if "copied paragraphs" in line)
        assert f"of 5 words and more: {manifest.copied.paragraphs:,} (" in line
        assert summarise(manifest)["copied_tokens"] == manifest.copied.tokens > 0


@pytest.mark.parametrize("workers", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4))])
def test_neither_workers_nor_small_memory_change_anything(workers, world, tokenizers, built, tmp_path, monkeypatch):
    monkeypatch.setattr(copied, "PARAGRAPHS_IN_MEMORY", 50)
    monkeypatch.setattr(copied, "NOTES_IN_MEMORY", 30)
    build(world[0], tokenizers["bpe"], tmp_path / "s", workers, split=BY_ADMISSION)
    assert content(tmp_path / "s") == content(built["bpe"][0])


def test_timelines_are_without_copies(world, tokenizers, built, tmp_path):
    manifest = build(world[0], tokenizers["unigram"], tmp_path / "s", split=BY_ADMISSION, pack="timeline")
    assert ids_of_notes(tmp_path / "s", manifest) == ids_of_notes(*built["unigram"])
    for name in ("counts", "copied", "unknown", "placeholders"):
        assert getattr(manifest, name) == getattr(built["unigram"][1], name)
    assert not [check for check in verify_shards(tmp_path / "s").failed if check.name != "modes"]


def test_nothing_is_appended(built):
    shards, message = built["bpe"][0], "don't say which paragraphs of new notes stand in earlier ones; build them again"
    with pytest.raises(UserError, match=message):
        settings_of(shards, InputOptions(), None)
    with pytest.raises(UserError, match=message):  # before a setting that differs, as leaving it out doesn't help
        refuse_other_settings(shards, ShardSettings(), {"duplicates.copied"})


def test_counts_are_upper_bounds_after_a_withdrawal(built, tmp_path):
    shards, before = built["bpe"]
    withdraw(shards, read_patients(["1"]), tmp_path / "new")
    manifest, copied = Manifest.load(tmp_path / "new"), before.copied
    (line,) = [line for line in withdrawn_lines(manifest, tmp_path / "new") if "copied paragraphs" in line]
    assert f"at most {copied.paragraphs:,} (at most {copied.tokens:,} tokens) left out of at most" in line
    assert line.endswith(" (counted before the withdrawal)")
    describe_shards(tmp_path / "new")
    page = (tmp_path / "new" / "report.html").read_text()
    assert "were left out of at most" in page and "(counted before the withdrawal)" in page
    assert "at most" not in "".join(summary_lines(before, shards, False))


def test_machines_that_share_the_work_change_nothing(world, tokenizers, built, tmp_path):
    for stage, share in (("prepare", "0/1"), ("scan", "1/2"), ("scan", "0/2"), ("all", "0/1")):
        build(world[0], tokenizers["unigram"], tmp_path / "s", 1, stage, share, split=BY_ADMISSION)
    assert content(tmp_path / "s") == content(built["unigram"][0])


@pytest.mark.slow
def test_kills_change_nothing(world, tokenizers, built, tmp_path):
    out = tmp_path / "s"
    call = [sys.executable, "-m", "clinical_pretrain", "build-shards", "--notes", str(world[0]), "--tokenizer",
            str(tokenizers["bpe"]), "--out", str(out), "--duplicates.copied", "drop", "--duplicates.copied_words",
            str(WORDS), "--split.by", "admission", "--split.validation", "0.1", "--split.test", "0.1",
            "--notes-per-part", "40", "--sequence-length", "64", "--workers", "1"]  # fmt: skip
    for wait_for in ("paragraphs/part-00003.leading.npy", "paragraphs/part-00002.fates.npy", "packed/part-00001.json"):
        kill_when_there(call, out / "work" / wait_for)
        assert not (out / "manifest.json").exists()
        assert stat.S_IMODE((out / "work" / "paragraphs").stat().st_mode) == 0o700
    build(world[0], tokenizers["bpe"], out, split=BY_ADMISSION)
    assert content(out) == content(built["bpe"][0])


def test_without_copies_the_shards_are_those_of_keep(world, tokenizers, tmp_path):
    path = tmp_path / "notes.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [("SUBJECT_ID", "TEXT"), *((i, text) for i, (_, _, _, text) in enumerate(world[1]))]
        )
    found = build(path, tokenizers["bpe"], tmp_path / "drop")
    plain = build(path, tokenizers["bpe"], tmp_path / "keep", duplicates=DuplicateRules())
    assert found.fingerprint == plain.fingerprint and found.copied == CopiedParagraphs(placeholder_tokens={"<unk>": 0})
    assert plain.copied is None and '"copied"' not in (tmp_path / "keep" / "manifest.json").read_text()


def test_what_is_compared_with_another_build():
    assert "duplicates" not in ShardSettings().compared()
    assert ShardSettings(duplicates=DuplicateRules(copied_words=9)).compared() == ShardSettings().compared()
    near = ShardSettings(duplicates=DuplicateRules(near="drop")).compared()["duplicates"]
    assert near == {"near": "drop", "threshold": 0.8, "ngram": 5, "permutations": 96}
    assert ShardSettings(duplicates=DROP).compared()["duplicates"] == {"copied": "drop", "copied_words": WORDS}
    both = ShardSettings(duplicates=DuplicateRules(near="drop", copied="drop")).compared()["duplicates"]
    assert both == near | {"copied": "drop", "copied_words": 20}


def test_a_copy_that_cannot_be_cut_stays_and_is_counted(tokenizers, tmp_path):
    """The first paragraph, where the next one begins with a space that byte-level BPE takes into its first word."""
    path, first = tmp_path / "notes.csv", "continue all home meds"
    texts = [first + "\n\nA", f"{first} too\n\n B C", f"{first} too\n\n B", f"{first}\n\n D\n\n{first} too"]
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("SUBJECT_ID", "TEXT"), *((1, text) for text in texts)])
    manifest = build(
        path,
        tokenizers["bpe"],
        tmp_path / "s",
        split=SplitRule(0, 0),
        duplicates=DuplicateRules(copied="drop", copied_words=4),
    )
    copied = manifest.copied
    assert (copied.paragraphs, copied.notes, copied.cannot_be_cut) == (1, 1, 2)
    backend = Tokenizer.from_file(str(tokenizers["bpe"] / "tokenizer.json"))
    texts[3] = f"{first}\n\n D"
    assert ids_of_notes(tmp_path / "s", manifest) == [encoding.ids for encoding in backend.encode_batch(texts)]
    assert any("; 2 can't be cut out and stay" in line for line in summary_lines(manifest, tmp_path / "s", False))


def test_a_note_of_copies_alone_goes_even_if_it_cannot_be_divided(tokenizers, tmp_path):
    """A no-break space before a blank line, under minimal rules, is a token of both."""
    path, said = tmp_path / "notes.csv", ["continue all home meds", "follow up in two weeks", "call if it hurts again"]
    texts = ["\n\n".join(said), "\u00a0\n\n".join(said[:2]), "\u00a0\n\n".join([*said[1:], "B"])]
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("SUBJECT_ID", "TEXT"), *((1, text) for text in texts)])
    rules = {"duplicates": DuplicateRules(copied="drop", copied_words=4), "cleaning": CleaningRules("minimal")}
    manifest = build(path, tokenizers["bpe"], tmp_path / "s", split=SplitRule(0, 0), **rules)
    assert manifest.counts["dropped_copied"] == 1 and manifest.copied.cannot_be_cut == 2
    backend = Tokenizer.from_file(str(tokenizers["bpe"] / "tokenizer.json"))
    assert ids_of_notes(tmp_path / "s", manifest) == [backend.encode(texts[0]).ids, backend.encode(texts[2]).ids]


def test_another_kind_of_tokenizer_is_refused(world, tmp_path):
    with pytest.raises(UserError, match="whether this tokenizer divides text at white space isn't known"):
        build(world[0], word_level(tmp_path / "t"), tmp_path / "s")
    assert not (tmp_path / "s").exists()
