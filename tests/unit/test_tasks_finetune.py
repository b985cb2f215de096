"""Fine-tuning: what a model is given, what becomes of its outputs, and that it learns. Tiny random models, on a CPU."""

from __future__ import annotations

import json
import random
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BigBirdConfig,
    BigBirdForMaskedLM,
    LongformerConfig,
    LongformerForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from clinical_pretrain.tasks.encoding import IGNORED, Collator, Encoder, EncodingRule, tagged_tokens
from clinical_pretrain.tasks.finetune import _balanced, finetune, sample_development
from clinical_pretrain.tasks.finetune_settings import FinetuneSettings
from clinical_pretrain.tasks.heads import batch_loss, load_with_head, longest_input
from clinical_pretrain.tasks.predict import _best_span, _continue
from clinical_pretrain.tasks.records import Answer, Document, Question, Span, TaskData
from clinical_pretrain.tasks.scores.by_kind import measures_of
from clinical_pretrain.tasks.task import PaperProtocol
from clinical_pretrain.tasks.windows import decode_tags
from tokenizer_tools.errors import UserError

WORDS = ["patient", "was", "seen", "today", "with", "no", "acute", "distress", "history", "of", "and", "reports"]
DRUGS = ["aspirin", "heparin", "insulin"]
SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.1,
}


@pytest.fixture(scope="module")
def models(corpus, tmp_path_factory):
    """Folders with a random masked LM of each kind, and the tokenizer of the corpus."""
    tokenizer = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
           "eos_token_id": tokenizer.eos_token_id, "sep_token_id": tokenizer.sep_token_id}  # fmt: skip
    common = {"vocab_size": len(tokenizer), **SIZE, **ids}
    torch.manual_seed(0)
    made = {
        "longformer": LongformerForMaskedLM(
            LongformerConfig(**common, max_position_embeddings=514, attention_window=[32, 32], type_vocab_size=1)
        ),
        "bigbird": BigBirdForMaskedLM(BigBirdConfig(**common, max_position_embeddings=512, block_size=8)),
        "roberta": RobertaForMaskedLM(RobertaConfig(**common, max_position_embeddings=130, type_vocab_size=1)),
        "bert": BertForMaskedLM(BertConfig(**common, max_position_embeddings=128)),
        "modernbert": ModernBertForMaskedLM(
            ModernBertConfig(**common, max_position_embeddings=256, cls_token_id=tokenizer.bos_token_id)
        ),
    }
    root = tmp_path_factory.mktemp("models")
    for name, model in made.items():
        model.save_pretrained(root / name)
        tokenizer.model_max_length = longest_input(model, SimpleNamespace(model_max_length=10**6))
        tokenizer.save_pretrained(root / name)
    return root


def text_of(drugs: list[str], words: int, generator: random.Random) -> str:
    """Lines of some nine words, none of which begins or ends with a drug."""
    lines = [[generator.choice(WORDS) for _ in range(9)] for _ in range(max(1, words // 9))]
    for drug in drugs:
        line = generator.choice(lines)
        line.insert(generator.randrange(1, len(line)), drug)
    return "\n".join(map(" ".join, lines))


def document_of(kind: str, number: int, words: int, generator: random.Random) -> Document:
    """What is to be found are drugs, which are always the same words."""
    drugs = generator.sample(DRUGS, 1 if kind == "answers" else generator.randrange(3))
    text = text_of(drugs, words, generator)
    spans = sorted(Span(text.index(drug), text.index(drug) + len(drug), "Drug") for drug in drugs)
    if kind == "entities":
        return Document(f"d{number}", text, entities=tuple(spans))
    if kind == "answers":
        answer = Answer(spans[0].start, drugs[0])
        return Document(f"d{number}", text, questions=(Question(f"q{number}", "which drug?", (answer,)),))
    if kind == "class":
        return Document(f"d{number}", text, labels=("treated" if drugs else "untreated",))
    open_one = ("heparin",) if number % 5 == 0 else ()
    return Document(f"d{number}", text, labels=tuple(d for d in drugs if d not in open_one), unknown_labels=open_one)


def task_data(kind: str, words: int = 30, numbers: tuple[int, int, int] = (60, 20, 20)) -> TaskData:
    generator = random.Random(0)
    splits, number = {}, 0
    for split, count in zip(("train", "development", "test"), numbers, strict=True):
        splits[split] = [document_of(kind, number + n, words, generator) for n in range(count)]
        number += count
    labels = {"entities": ("Drug",), "answers": (), "class": ("treated", "untreated"), "labels": tuple(DRUGS)}
    return TaskData(kind, splits, labels[kind])


METRIC = {"entities": "f1", "answers": "f1", "class": "accuracy", "labels": "auc"}


def run(kind, model, data=None, seed=0, **changes):
    settings = {"learning_rates": [5e-3], "epochs": 20, "batch_size": 8, "micro_batch_size": 8} | changes
    task = SimpleNamespace(name="drugs", metric=METRIC[kind], paper=None)
    return finetune(task, data or task_data(kind), str(model), seed, FinetuneSettings(**settings))


def score(data, outcome, kind):
    documents = data.splits["test"]
    return float(measures_of(documents, outcome.predictions)[METRIC[kind]].values(np.ones((1, len(documents))))[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(METRIC))
@pytest.mark.parametrize("name", ["longformer", "bigbird", "bert"])
def test_a_model_learns_each_kind_of_task(models, name, kind):
    """Also documents that are longer than the model: 32 tokens here."""
    data = task_data(kind)
    outcome = run(kind, models / name, data, max_length=64 if name != "bert" else 32)
    assert outcome.details["windows"]["train"] >= 60
    # By chance: 0, some 0.03, 0.65 (the larger class) and 0.5.
    assert score(data, outcome, kind) >= {"entities": 0.5, "answers": 0.8, "class": 0.75, "labels": 0.8}[kind]
    assert outcome.details["attention_is_accelerated"] is (name != "bert")


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(METRIC))
def test_an_encoder_without_position_embeddings_is_taken_too(models, kind):
    data = task_data(kind, words=300, numbers=(4, 2, 2))
    outcome = run(kind, models / "modernbert", data, epochs=1)
    assert outcome.details["tokens_per_sequence"] == 256 and outcome.details["windows"]["test"] > 2
    assert outcome.details["attention_is_accelerated"] is False and len(outcome.predictions.documents) == 2


@pytest.mark.slow
def test_the_same_seed_gives_the_same_predictions(models):
    data = task_data("labels", numbers=(12, 6, 6))
    first, again, other = (
        run("labels", models / "longformer", data, seed, epochs=1).predictions.documents for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.slow
def test_the_development_split_chooses_the_learning_rate_and_the_epoch(models):
    data = task_data("answers", numbers=(30, 10, 10))
    outcome = run("answers", models / "longformer", data, learning_rates=[1e-9, 5e-3], epochs=8)
    candidates, chosen = outcome.details["candidates"], outcome.details["chosen"]
    assert len(candidates) == 16 and chosen["learning_rate"] == 5e-3
    assert chosen["score"] == max(each["score"] for each in candidates)
    # The kept epoch, not the last one, predicts: without the other learning rate the result is the same.
    alone = run("answers", models / "longformer", data, learning_rates=[5e-3], epochs=8)
    assert alone.predictions.documents == outcome.predictions.documents


@pytest.mark.slow
def test_a_model_is_loaded_once_for_each_learning_rate(models, monkeypatch):
    loaded = []

    def load(*arguments):
        loaded.append(arguments)
        return load_with_head(*arguments)

    monkeypatch.setattr("clinical_pretrain.tasks.finetune.load_with_head", load)
    data = task_data("entities", numbers=(16, 8, 8))
    one = run("entities", models / "bert", data, learning_rates=[1e-3], epochs=1)
    assert len(loaded) == 1
    two = run("entities", models / "bert", data, learning_rates=[5e-3, 1e-3], epochs=1)
    assert len(loaded) == 3
    assert two.details["candidates"][1] == one.details["candidates"][0]  # the first training leaves no trace


def test_a_sample_of_the_development_split_is_always_the_same():
    data = task_data("class", numbers=(4, 20, 6))
    whole = data.splits["development"]
    first, again = (sample_development(data, 5).splits["development"] for _ in range(2))
    assert first == again == [document for document in whole if document in first] and len(first) == 5
    assert sample_development(data, 0) is data and sample_development(data, 20) is data
    assert sample_development(data, 5).splits["test"] == data.splits["test"]


@pytest.mark.slow
def test_a_sample_of_the_development_split_can_choose(models):
    data = task_data("class", numbers=(8, 20, 6))
    sampled = sample_development(data, 5)
    outcome, expected = (
        run("class", models / "bert", each, epochs=2, **changes)
        for each, changes in ((data, {"development_documents": 5}), (sampled, {}))
    )
    assert outcome.predictions == expected.predictions
    assert outcome.details["candidates"] == expected.details["candidates"]
    assert outcome.details["chosen_by"] == "accuracy on 5 documents of the development split"
    assert outcome.details["windows"]["development"] == 5


@pytest.mark.slow
def test_predictions_have_a_precision_of_their_own(models):
    """The weights are those of training in fp32, so the probabilities differ by rounding alone."""
    data = task_data("class", numbers=(64, 6, 12))
    exact, rounded, trained, same = (
        np.array(
            [
                one.probabilities
                for one in run("class", models / "bert", data, epochs=1, **changes).predictions.documents
            ]
        )
        for changes in (
            {},
            {"prediction_precision": "bf16"},
            {"precision": "bf16", "prediction_precision": "fp32"},
            {"precision": "bf16"},
        )
    )
    assert 0 < np.abs(rounded - exact).max() < 0.02 and not np.array_equal(trained, exact)
    assert 0 < np.abs(same - trained).max() < 0.02
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        run("class", models / "bert", data, prediction_precision="fp16")


@pytest.mark.slow
def test_steps_for_a_trial_do_not_go_beyond_the_epochs(models):
    data = task_data("entities", numbers=(20, 8, 8))
    whole = run("entities", models / "bert", data, epochs=2)
    assert [one["epoch"] for one in whole.details["candidates"]] == [1.0, 2.0]
    more = run("entities", models / "bert", data, epochs=2, max_steps=1000)
    assert more.details["candidates"] == whole.details["candidates"] and more.predictions == whole.predictions
    less = run("entities", models / "bert", data, epochs=2, max_steps=1)
    assert [one["epoch"] for one in less.details["candidates"]] == [pytest.approx(1 / 3, abs=1e-3)]


@pytest.mark.slow
def test_bigbirds_attention_is_counted_by_batch_and_steps_are_shown(models, monkeypatch, capsys):
    monkeypatch.setattr("clinical_pretrain.console.LOG_SECONDS", 0)
    data = task_data("class", words=150, numbers=(8, 4, 4))
    long = run("class", models / "bigbird", data, epochs=1, batch_size=4, micro_batch_size=4)
    assert long.details["batches_by_attention"] == {"training, sparse": 2, "evaluation, sparse": 2}
    steps = re.findall(r"^learning rate [\d.e-]+ · step (\d/\d)$", capsys.readouterr().out, re.MULTILINE)
    assert steps == ["1/2", "2/2"]
    short = run("class", models / "bigbird", data, epochs=1, batch_size=4, micro_batch_size=4, max_length=32)
    assert set(short.details["batches_by_attention"]) == {"training, full", "evaluation, full"}


@pytest.mark.slow
def test_the_papers_protocol(models):
    """A line is an example, the first token of a word has its tag, and the last epoch is kept."""
    data = task_data("entities", numbers=(40, 5, 15))
    paper = PaperProtocol(
        learning_rate=5e-3, epochs=10, batch_size=6, deviations=("one",), sentences=True, first_subword=True
    )
    task = SimpleNamespace(name="drugs", metric="f1", paper=paper)
    settings = FinetuneSettings(protocol="paper", micro_batch_size=4)
    outcome = finetune(task, data, str(models / "longformer"), 0, settings)
    assert score(data, outcome, "entities") > 0.4
    details = outcome.details
    assert details["settings"]["batch_size"] == 6 and details["settings"]["micro_batch_size"] == 3
    assert details["windows"]["test"] == 3 * 15  # lines of nine words
    assert details["chosen"] == details["candidates"][-1] and details["deviations"] == ["one"]


@pytest.mark.parametrize(
    ("answered", "without", "kept"), [(2, 9, 2), (1, 1, 1), (2, 1, 1), (2, 0, 0), (0, 5, 1), (0, 0, 0)]
)
def test_a_question_is_learned_with_as_many_windows_without_its_answer_as_with_it(answered, without, kept):
    windows = [SimpleNamespace(target=np.full(2, place)) for place in (*range(answered), *[IGNORED] * without)]
    found = _balanced(windows, random.Random(0))
    assert found[:answered] == windows[:answered]
    assert len(found) == answered + kept == len({id(window) for window in found})
    assert all(window.target[0] == IGNORED for window in found[answered:])


def test_a_task_that_the_paper_has_not_is_refused():
    task = SimpleNamespace(name="mine", paper=None)
    with pytest.raises(UserError, match="mine: not a task of the paper; use --protocol document"):
        FinetuneSettings(protocol="paper").for_task(task)


def test_settings_that_cannot_be_are_refused_together():
    with pytest.raises(UserError, match="--epochs must be at least 1; --micro-batch-size must divide --batch-size"):
        FinetuneSettings(epochs=0, batch_size=10, micro_batch_size=4)


@pytest.mark.parametrize("tokenizer", ["longformer", "bigbird"])
@pytest.mark.shared
def test_sequences_are_those_of_the_real_tokenizers(tokenizer):
    real = AutoTokenizer.from_pretrained(SHARED / "tokenizers" / tokenizer)
    text, other = "BP 120/80, afebrile.", "Is the patient febrile?"
    expected = real(text)["input_ids"], real(text, other)["input_ids"], real(other, text)["input_ids"]
    documents = [Document("a", text), Document("b", text, second_text=other),
                 Document("c", text, questions=(Question("q", other, ()),))]  # fmt: skip
    found = []
    for document, kind in zip(documents, ["entities", "labels", "answers"], strict=True):
        encoder = Encoder(real, kind, (), EncodingRule(512))
        (example,) = encoder([document])
        collator = Collator(encoder, real.pad_token_id, ["token_type_ids", "global_attention_mask"], False)
        found.append(collator.sequence(example).tolist())
        start = collator.text_start(example)
        assert found[-1][start : start + len(example.text.ids)] == example.text.ids.tolist()
        batch = collator([example])
        assert batch["token_type_ids"].sum() == 0  # BigBird's type 1 isn't trained
        globals_ = batch["global_attention_mask"][0].sum().item()
        assert (
            globals_ == {"entities": 0, "labels": 1, "answers": 1 + len(real(other, add_special_tokens=False)[0])}[kind]
        )
    assert found == list(expected)


def encode(models, kind, document, labels=(), **rule):
    tokenizer = AutoTokenizer.from_pretrained(models / "longformer")
    encoder = Encoder(tokenizer, kind, labels, EncodingRule(**({"longest": 32} | rule)))
    return encoder, encoder([document])


def test_a_special_token_that_a_text_spells_out_is_none(models):
    text = "seen </s> today <mask>"
    tokenizer = AutoTokenizer.from_pretrained(models / "longformer")
    document = Document("a", text, questions=(Question("q", "which </s> drug?", (Answer(10, "today"),)),))
    _, (example,) = encode(models, "answers", document, longest=64)
    special = {tokenizer.eos_token_id, tokenizer.mask_token_id}
    assert not special & {*example.text.ids.tolist(), *example.other.tolist()}
    first, last = example.target
    assert text[example.text.offsets[first, 0] : example.text.offsets[last, 1]] == "today"


def test_windows_hold_every_token_and_answers_their_place(models):
    generator = random.Random(3)
    for number in range(20):
        document = document_of("answers", number, 80, generator)
        encoder, examples = encode(models, "answers", document)
        tokens = len(examples[0].text.ids)
        assert {n for e in examples for n in range(*e.window)} == set(range(tokens)) and len(examples) > 3
        collator = Collator(encoder, 1, [], False)
        batch = collator(examples)
        assert batch["input_ids"].shape[1] <= 32
        holding = 0
        for row, example in enumerate(examples):
            start, end = batch["start_positions"][row].item(), batch["end_positions"][row].item()
            if start:
                holding += 1
                ids = batch["input_ids"][row, start : end + 1].tolist()
                assert ids == example.text.ids[slice(example.target[0], example.target[1] + 1)].tolist()
                begin, stop = example.text.offsets[example.target[0], 0], example.text.offsets[example.target[1], 1]
                assert document.text[begin:stop] == document.questions[0].answers[0].text
        assert holding >= 1


def test_lines_are_windows_that_hold_every_token(models):
    text = "one line\n\n  a second\r\nthird \n"
    _, examples = encode(models, "entities", Document("a", text), by_line=True)
    starts = [text[e.text.offsets[e.window.start, 0] :].split()[0] for e in examples if e.window.start < e.window.end]
    assert starts == ["one", "a", "third"]
    assert [n for e in examples for n in range(*e.window)] == list(range(len(examples[0].text.ids)))


def test_tokens_inside_a_word_have_no_target(models):
    text = "seen acetaminophen-codeine today"
    document = Document("a", text, entities=(Span(5, 26, "Drug"),))
    encoder, (example,) = encode(models, "entities", document, ("Drug",), first_subword=True)
    tags = [encoder.names[t] if t != IGNORED else None for t in example.target]
    assert [tag for tag in tags if tag] == ["O", "B-Drug", "O"] and None in tags


def test_entities_beside_punctuation_have_tags_of_their_own(models):
    """In a text that isn't tokenised. Perfect tags give the entities back."""
    text = "seen by Dr. Smith, MD (Jones) on 3/4/2067."
    gold = [Span(text.index(name), text.index(name) + len(name), "Drug") for name in ("Smith", "Jones", "3/4/2067")]
    document = Document("a", text, entities=tuple(gold))
    rules = [EncodingRule(128, first_subword=True, punctuation_divides=divides) for divides in (True, False)]
    for rule in rules:
        encoder = Encoder(AutoTokenizer.from_pretrained(models / "bert"), "entities", ("Drug",), rule)
        (example,) = encoder([document])
        tags = [encoder.names[max(0, target)] for target in example.target.tolist()]
        own = tagged_tokens(text, example.text, rule)
        found = decode_tags(example.text.offsets, _continue(tags, own, example.text.offsets))
        assert (sorted(found) == gold) is rule.punctuation_divides


def test_a_question_longer_than_half_a_sequence_is_cut_and_counted(models):
    document = Document("a", "seen today", questions=(Question("q", "which drug? " * 30, ()),))
    encoder, (example,) = encode(models, "answers", document)
    assert encoder.cut == 1 and len(example.other) == 16


def test_weights_that_are_cut_off_are_one_line(models, tmp_path):
    shutil.copytree(models / "bert", tmp_path / "bert")
    (file := tmp_path / "bert" / "model.safetensors").write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="bert: no model could be loaded from this folder"):
        load_with_head(str(tmp_path / "bert"), "class", ["a", "b"])


def test_the_loss_leaves_out_unknown_labels():
    logits = torch.tensor([[0.3, -2.0], [1.5, 0.0]])
    labels = torch.tensor([[1.0, IGNORED], [0.0, 1.0]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.flatten()[[0, 2, 3]], torch.tensor([1.0, 0, 1])
    )
    assert batch_loss(SimpleNamespace(logits=logits), labels, 3) == pytest.approx(expected.item())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["class", "labels", "entities", "answers"])
def test_micro_batches_add_up_to_the_batch(models, kind, tmp_path, monkeypatch):
    """The gradients of a step, which are clipped by their norm, don't depend on how a batch is divided."""
    norms = []
    clip = torch.nn.utils.clip_grad_norm_

    def clipped(*arguments, **options):
        norms.append(float(clip(*arguments, **options)))
        return torch.tensor(norms[-1])

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    shutil.copytree(models / "bert", tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config))
    data = task_data(kind, numbers=(16, 4, 4))
    for micro in (8, 2):
        run(kind, tmp_path / "bert", data, epochs=1, max_steps=1, batch_size=8, micro_batch_size=micro)
    assert norms[1] == pytest.approx(norms[0], rel=0.02 if kind == "answers" else 1e-3)


@given(
    st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.booleans()), min_size=1, max_size=12), st.integers(1, 8)
)
def test_the_best_span_is_the_best_of_all(rows, longest):
    logits, can = np.array([row[:2] for row in rows]), np.array([row[2] for row in rows])
    value, first, last = _best_span(logits, can, longest)
    spans = [
        logits[i, 0] + logits[j, 1]
        for i in range(len(rows))
        for j in range(i, min(len(rows), i + longest))
        if can[i] and can[j]
    ]
    assert value == pytest.approx(max(spans, default=-np.inf))
    if spans:
        assert value == logits[first, 0] + logits[last, 1] and 0 <= last - first < longest and can[first] and can[last]


def test_lengths_are_those_of_the_models(models):
    for name, length in {"longformer": 512, "bigbird": 512, "roberta": 128, "bert": 128, "modernbert": 256}.items():
        tokenizer = AutoTokenizer.from_pretrained(models / name)
        assert longest_input(load_with_head(str(models / name), "class", ["a", "b"]), tokenizer) == length


def test_weights_that_an_encoder_lacks_are_refused(models, tmp_path):
    from safetensors.torch import load_file, save_file

    tokenizer = AutoTokenizer.from_pretrained(models / "roberta")
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((models / "roberta" / "config.json").read_text())
    weights = load_file(models / "roberta" / "model.safetensors")
    del weights["roberta.encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"roberta.encoder.layer.1.output.dense.weight \(and 0 more weights"):
        load_with_head(str(tmp_path), "entities", ["O"])


def test_nothing_to_learn_is_refused(models):
    data = replace(task_data("answers"), splits={s: [Document(s, "seen")] for s in ("train", "development", "test")})
    with pytest.raises(UserError, match="drugs: the training split has nothing to learn from"):
        run("answers", models / "roberta", data)
