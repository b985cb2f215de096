"""What a vocabulary lacks: white space becomes spaces, other characters are counted and named."""

import json
import sys
from collections import Counter
from dataclasses import replace

import pytest
from conftest import SHARED
from tokenizers import Tokenizer, models, pre_tokenizers

from clinical_pretrain.cli import main
from clinical_pretrain.data.shards import Split
from tokenizer_tools.corpus.clean_notes import CleaningRules
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.corpus.synthetic_notes import make_notes
from tokenizer_tools.manifest import Manifest, UnknownTokens
from tokenizer_tools.shards import summary
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import ShardSettings
from tokenizer_tools.tokenizer.unknown_characters import (
    UnknownCount,
    count_unknown,
    describe_unknown,
    unknown_whitespace,
)

BIGBIRD, LONGFORMER = (SHARED / "tokenizers" / name for name in ("bigbird", "longformer"))


def unigram(*words):
    """BigBird's kind of tokenizer, with these pieces, each also after a space."""
    pieces = [("<unk>", 0.0), ("▁", -2.0), *((mark + word, -1.0) for word in words for mark in ("", "▁"))]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens(["<unk>"])
    return backend


def build(tmp_path, text, tokenizer=BIGBIRD, **options):
    (tmp_path / "n.jsonl").write_text(json.dumps({"text": text}))
    settings = ShardSettings(sequence_length=64, split=SplitRule(0, 0), **options)
    manifest = build_shards([tmp_path / "n.jsonl"], str(tokenizer), tmp_path / "s", settings)
    backend = Tokenizer.from_file(str(tmp_path / "s" / "tokenizer" / "tokenizer.json"))
    ids = Split(tmp_path / "s", manifest, "train")[0].input_ids
    return manifest, [backend.id_to_token(int(token)) for token in ids[1:-1]]


@pytest.mark.slow
@pytest.mark.shared
def test_newline_and_tab_become_spaces_if_bigbird_does_not_know_them(tmp_path):
    manifest, tokens = build(tmp_path, "Meds:\nmetoprolol 25 mg\n\n\tdaily\r\nstable")
    backend = Tokenizer.from_file(str(tmp_path / "s" / "tokenizer" / "tokenizer.json"))
    assert tokens == backend.encode("Meds: metoprolol 25 mg daily stable", add_special_tokens=False).tokens
    assert "<unk>" not in tokens and manifest.unknown.tokens == 0
    assert set("\n\t") <= set(manifest.unknown.written_as_spaces)


@pytest.mark.slow
@pytest.mark.shared
def test_longformers_newlines_stay(tmp_path):
    manifest, tokens = build(tmp_path, "Meds:\nmetoprolol 25 mg ≥ 5", LONGFORMER)
    assert "Ċ" in tokens and manifest.unknown == UnknownTokens(0, 0.0, {}, "", 0)


@pytest.mark.slow
@pytest.mark.shared
def test_unknown_characters_are_counted_and_named_but_placeholders_are_not(tmp_path):
    manifest, tokens = build(tmp_path, "INR ≥ 2, pain ≤ 3, BP → 120, ≥ 5, seen by [**Name**] and ___")
    assert tokens.count("<unk>") == 6
    assert manifest.unknown.tokens == 4 and manifest.unknown.characters == {"≥": 2, "→": 1, "≤": 1}
    share = 4 / manifest.splits["train"].tokens
    assert manifest.unknown.share == round(share, 6)
    line = f"  {share:.2%} of the tokens are unknown to the tokenizer (≥ U+2265 2, → U+2192 1, ≤ U+2264 1); newline and"
    assert summary.summary_lines(manifest, tmp_path / "s", False)[-1].startswith(line)
    assert manifest.unknown.lost_word_starts == 0
    facts = json.loads((tmp_path / "s" / "manifest.json").read_text())
    del facts["unknown"]["lost_word_starts"]
    (tmp_path / "s" / "manifest.json").write_text(json.dumps(facts))
    assert Manifest.load(tmp_path / "s").unknown.lost_word_starts is None  # of an earlier build


@pytest.mark.slow
@pytest.mark.shared
def test_notes_with_line_breaks_lose_no_word_start(tmp_path, capsys):
    """Synthetic notes hold lines: with BigBird's vocabulary 5 % of their tokens were unknown."""
    make_notes(tmp_path / "n.csv", patients=10)
    call = [
        "build-shards",
        "--notes",
        str(tmp_path / "n.csv"),
        "--tokenizer",
        str(BIGBIRD),
        "--out",
        str(tmp_path / "s"),
    ]
    assert main(call) == 0
    unknown = Manifest.load(tmp_path / "s").unknown
    assert unknown.share < 0.005, unknown
    assert "newline and tab, which it doesn't know, became spaces" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.shared
def test_no_word_loses_its_start_to_white_space(tmp_path):
    """Whatever white space stands between the words, lone or in runs."""
    spaces = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]
    words = [f"metoprolol{space}{space}{other}" for space in spaces for other in ("25", "mg")]
    manifest, _ = build(tmp_path, "Meds: " + "\n\t".join(words), cleaning=CleaningRules(whitespace=False))
    backend = Tokenizer.from_file(str(tmp_path / "s" / "tokenizer" / "tokenizer.json"))
    sequences = Split(tmp_path / "s", manifest, "train")
    tokens = [backend.id_to_token(int(token)) for row in range(len(sequences)) for token in sequences[row].input_ids]
    assert sum(token.startswith("\u2581") and token != "\u2581" for token in tokens) == 1 + 2 * len(words)
    assert manifest.unknown.tokens == 0


def test_only_the_unknown_characters_of_an_unknown_word_are_named():
    """WordPiece makes a whole word unknown for one character."""
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2, "b": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    text = "ab a≥b b"
    found = count_unknown(backend, [text], [backend.encode(text).ids], "[UNK]", 0)
    assert found == UnknownCount(1, 0, Counter("≥"))


def test_words_right_after_an_unknown_character_are_counted():
    """Their first piece has no mark of a word's start. Unknown letters and accents are of a word."""
    backend = unigram("aspirin", "na", "ve", "25", "≤", "e")
    for text, lost in (("\naspirin", 1), ("•aspirin ≥≥25 ≤25 ≥ 25", 2), ("naïve e\u0301ve <unk>25", 0)):
        count = count_unknown(backend, [text], [backend.encode(text).ids], "<unk>", 0)
        assert count.lost_word_starts == lost, text
        assert (count.tokens > 0) and count == UnknownCount.of(json.loads(json.dumps(vars(count))))


@pytest.mark.slow
def test_what_is_unknown_is_said_in_a_line():
    """Of characters that can't be seen, the code point alone."""
    assert describe_unknown(UnknownTokens(0, 0.0, {}, "")) == "no token is unknown to the tokenizer"
    unknown = UnknownTokens(1234, 0.0123, {"≥": 1200, "\u0301": 34}, "\t\u2003")
    assert "; 56 words stand right after one, without" in describe_unknown(replace(unknown, lost_word_starts=56))
    assert describe_unknown(unknown) == (
        "1.23% of the tokens are unknown to the tokenizer (≥ U+2265 1,200, U+0301 34); tab, which it doesn't know, "
        "became spaces"
    )


@pytest.mark.slow
def test_the_projects_own_tokenizers_see_everything(corpus):
    backend = Tokenizer.from_file(str(corpus / "tokenizer" / "tokenizer.json"))
    assert unknown_whitespace(backend, backend.token_to_id("<unk>")) == ""
