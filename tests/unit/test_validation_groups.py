"""What validation breaks down: positions, sections, words, a cut context, general text."""

import csv

import numpy as np
import pytest
import torch
from tiny_tokenizer import NUMBERS, word_level

from clinical_pretrain.config.data import DataConfig, MaskingConfig
from clinical_pretrain.config.model import ModelConfig, ModelSize
from clinical_pretrain.config.optim import BatchConfig, ValidationConfig
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.data.collator import Collator, MicroBatch
from clinical_pretrain.data.context import cut_context
from clinical_pretrain.data.general_text import general_sequences
from clinical_pretrain.data.masking import Vocabulary
from clinical_pretrain.data.sampler import MASKS, VALIDATION_MASKS, generator
from clinical_pretrain.data.shards import PackedSequence, Split
from clinical_pretrain.data.terms import TermFinder
from clinical_pretrain.data.validation_files import read_words
from clinical_pretrain.distributed import Ranks
from clinical_pretrain.models.build import build_model
from clinical_pretrain.models.mlm_head import mean_loss
from clinical_pretrain.training.preflight import check_files
from clinical_pretrain.training.validation import Validation
from clinical_pretrain.training.validation_groups import Positions, Sections, Words
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import ShardSettings


def sequence_of(text, tokenizer):
    return PackedSequence(
        np.array(tokenizer.encode(text, add_special_tokens=False).ids), np.zeros(1, np.int32), np.zeros(1, np.int64)
    )


@pytest.fixture(scope="module")
def tokenized(shards):
    from tokenizers import Tokenizer

    path = shards / "tokenizer" / "tokenizer.json"
    return path, Tokenizer.from_file(str(path)), Vocabulary.load(path, Manifest.load(shards).tokenizer)


@pytest.mark.parametrize(
    ("length", "names"),
    [(256, ["0-255"]), (512, ["0-511"]), (600, ["0-511", "512-599"]),
     (4096, ["0-511", "512-1023", "1024-2047", "2048-4095"])],
)  # fmt: skip
def test_ranges_of_positions(length, names):
    positions = Positions(length)
    assert positions.names == names
    ends = [int(name.split("-")[1]) for name in names]
    assert positions.of(None, np.array([0, *ends])).tolist() == [0, *range(len(names))]


def test_words_are_found_whole_and_in_each_case(tokenized):
    path, tokenizer, vocabulary = tokenized
    groups = Words({"drugs": ["aspirin"], "negations": ["no", "ruled out"]}, path, vocabulary)
    text = "No fever. ASPIRIN given, aspirin 81 mg; nothing known. Sepsis ruled out. Aspirin"
    sequence = sequence_of(text, tokenizer)
    group = groups.of(sequence, np.arange(len(sequence.input_ids)))
    found = {name: tokenizer.decode(sequence.input_ids[group == i]) for i, name in enumerate(groups.names)}
    assert found["drugs"].split() == ["ASPIRIN", "aspirin", "Aspirin"]
    assert found["negations"].split() == ["No", "ruled", "out"]


def test_of_overlapping_terms_the_longest_counts(tokenized):
    path, tokenizer, vocabulary = tokenized
    finder = TermFinder({"chest": 0, "chest pain": 1, "pain": 2}, path, vocabulary)
    ids = sequence_of("chest pain, chest, pain", tokenizer).input_ids
    assert [match.group for match in finder.find(ids)] == [1, 0, 2]


def test_sections_begin_at_headers_and_end_with_the_note(tokenized):
    path, tokenizer, vocabulary = tokenized
    sections = Sections(path, vocabulary)
    first = tokenizer.encode("Seen today. ALLERGIES: none. Plan: rest. The plan stands.", add_special_tokens=False).ids
    second = tokenizer.encode("Walks well.", add_special_tokens=False).ids
    sequence = PackedSequence(np.array(first + second), np.array([0, len(first)], np.int32), np.zeros(2, np.int64))
    group = sections.of(sequence, np.arange(len(first) + len(second)))
    by_section = {
        sections.names[i] if i >= 0 else "": tokenizer.decode(sequence.input_ids[group == i])
        for i in sorted(set(group))
    }
    assert by_section["allergies"].split() == ["ALLERGIES:", "none."]
    assert by_section["plan"].split() == ["Plan:", "rest.", "The", "plan", "stands."]
    assert by_section[""].split() == ["Seen", "today.Walks", "well."]


@pytest.mark.parametrize(
    ("text", "fault"),
    [("[aspirin]", "drugs: .aspirin, warfarin"), ("drugs: []", "lists of words by name"),
     ("drugs: ['']", "'' is not a word"), ("a: [x]\nb: [X]", "is in a and in b"),
     ("a: [x]\na: [y]", "duplicate key"), ("a: [", "not YAML")],
)  # fmt: skip
def test_a_file_of_words_that_cant_be_used_is_refused(tmp_path, text, fault):
    (tmp_path / "words.yaml").write_text(text)
    with pytest.raises(UserError, match=fault) as caught:
        read_words(str(tmp_path / "words.yaml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["words", "general_text"])
def test_files_of_validation_are_read_before_anything_is_loaded(shards, tmp_path, name):
    (tmp_path / "empty").touch()
    validation = ValidationConfig(**{name: str(tmp_path / "empty")})
    with pytest.raises(UserError, match="empty"):
        check_files(RunConfig(data=DataConfig(shards=str(shards)), validation=validation))


def test_rows_that_fill_a_micro_batch_cost_no_prediction(shards, tokenized):
    """With the same masks in each, they would exceed the capacity now and then."""
    _, _, vocabulary = tokenized
    split, masking = Split(shards, Manifest.load(shards), "validation"), MaskingConfig()
    collator = Collator(Manifest.load(shards).sequence_length, masking, vocabulary)
    for seed in range(40):
        predicted = set()
        for size in (1, 64):
            batch = BatchConfig(train_batch_size=size, micro_batch_size_per_gpu=size)
            config = RunConfig(seed=seed, batch=batch, masking=masking)
            validation = Validation(config, shards, split, collator, OneRank(0, 1, 0, torch.device("cpu"), None))
            _, _, counts = validation._collate(split, [0], VALIDATION_MASKS)
            predicted.add(int(counts.sum()))
        assert len(predicted) == 1


def test_our_own_words_can_be_used():
    assert set(read_words(RunConfig().validation.words)) == {"drugs", "labs", "negations"}


@pytest.mark.parametrize("isolated", [False, True])
def test_a_cut_context_keeps_tokens_and_predictions(isolated):
    ids = torch.arange(2 * 1200).view(2, 1200)
    documents = torch.ones_like(ids)
    documents[:, 700:] = 2 if isolated else 1
    documents[1, 1100:] = 0
    positions = torch.tensor([0, 511, 512, 1199, 1200, 2000])
    starts = torch.where(documents == 2, 700, 0)
    position_ids = torch.where(documents > 0, torch.arange(1200) - starts, 0) if isolated else None
    cut = cut_context(MicroBatch(ids, documents, positions, ids.flatten()[positions], position_ids, 2), pad_id=-1)
    assert cut.input_ids.shape == (6, 512)
    assert torch.equal(cut.input_ids.flatten()[cut.positions], cut.labels)
    assert cut.documents[1].unique().tolist() == ([1, 2] if isolated else [1])  # tokens 512 to 1,023
    assert cut.position_ids[1, [0, 187, 188]].tolist() == [512, 699, 0 if isolated else 700]
    assert (cut.documents.flatten() > 0).sum() == (documents > 0).sum()


def test_general_text_is_cut_into_sequences(shards, tmp_path):
    (tmp_path / "text.txt").write_text("word " * 1000)
    sequences = general_sequences(str(tmp_path / "text.txt"), shards, 256)
    info = Manifest.load(shards).tokenizer
    assert all(s.input_ids[0] == info.begin_id and s.input_ids[-1] == info.end_id for s in sequences)
    assert max(len(s.input_ids) for s in sequences) == 256
    (tmp_path / "text.txt").write_text(" \n")
    with pytest.raises(UserError, match="empty"):
        general_sequences(str(tmp_path / "text.txt"), shards, 256)


# Does the model use tokens beyond 512? ------------------------------------------------------------------------------

TOPICS, LENGTH = 8, 1024


def write_topics(path, shuffled):
    """Notes of one topic each, a digit. It is every other token of the first 512, and later a word of 32 tokens, masked
    as a whole, which is known from the first ones alone; shuffled: that is of another topic."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["subject_id", "text", "category"])
        for number in range(240):
            topic = str(rng.integers(TOPICS))
            words = ["x", ","] * (LENGTH // 2 - 1)
            words[:511:2] = [topic] * len(words[:511:2])
            words[701:733] = [str(rng.integers(TOPICS)) if shuffled else topic] * 32
            words[900] = str(10 + number % 90)  # no note is another one's duplicate
            words[-number // 90 - 2] = "99"
            writer.writerow([number, " ".join(words), "note"])


@pytest.fixture(scope="module", params=[False, True], ids=["of one topic", "shuffled"])
def context_losses(request, tmp_path_factory):
    """Of a model that was trained on such notes: with the whole context and with a cut one."""
    root = tmp_path_factory.mktemp("topics")
    write_topics(root / "notes.csv", request.param)
    rule = SplitRule(validation=0.2, test=0.0)
    build_shards([root / "notes.csv"], str(word_level(root / "tokenizer", [*NUMBERS, "x", ","])), root / "shards",
                 ShardSettings(sequence_length=LENGTH, split=rule))  # fmt: skip
    size = ModelSize(1, hidden_size=64, num_attention_heads=2, intermediate_size=64, block_size=16)
    return request.param, train(root, size)


class OneRank(Ranks):
    """Without other ranks there is nothing to exchange."""

    def sum(self, values):
        return values


def train(root, size):
    """A BigBird, whose first block everything attends to."""
    torch.manual_seed(0)
    config = RunConfig(
        model=ModelConfig(init="random", family="bigbird", size=size),
        precision="fp32",
        masking=MaskingConfig(probability=0.3, whole_words=True, replace_with_mask=1.0, replace_with_random=0.0),
        batch=BatchConfig(train_batch_size=4, micro_batch_size_per_gpu=4),
        validation=ValidationConfig(words="", general_text=str(root / "general.txt")),
    )
    (root / "general.txt").write_text("1 2 3 4 5 6 7")
    manifest = Manifest.load(root / "shards")
    vocabulary = Vocabulary.load(root / "shards" / "tokenizer" / "tokenizer.json", manifest.tokenizer)
    collator = Collator(LENGTH, config.masking, vocabulary)
    model = build_model(config, manifest)
    for weights in model.parameters():
        if weights.dim() == 2:
            weights.data.mul_(3)  # so that it learns within 100 steps
    split = Split(root / "shards", manifest, "train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(100):
        numbers = [(4 * step + i) % len(split) for i in range(4)]
        inputs = collator([split[n] for n in numbers], [generator(0, MASKS, step, n) for n in numbers]).to("cpu")
        losses, _ = model(**inputs)
        mean_loss(losses, inputs["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    held_out = Split(root / "shards", manifest, "validation")
    ranks = OneRank(0, 1, 0, torch.device("cpu"), None)
    return Validation(config, root / "shards", held_out, collator, ranks).run(model)


@pytest.mark.slow
def test_a_model_shows_what_it_makes_of_tokens_beyond_512(context_losses):
    shuffled, result = context_losses
    context = result["context"]
    assert context["tokens"] == 512 and context["predicted"] == result["predicted"]
    assert context["loss_whole"] == pytest.approx(result["loss"])
    gain = context["loss_cut"] - context["loss_whole"]
    assert gain < 0.2 * context["loss_cut"] if shuffled else gain > 0.5 * context["loss_cut"]
