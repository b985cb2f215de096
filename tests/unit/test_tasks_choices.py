"""Multiple-choice questions answered by a masked language model."""

import numpy as np
import pytest
import torch
from conftest import SHARED
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BigBirdConfig,
    BigBirdForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LongformerConfig,
    LongformerForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
)

from clinical_pretrain.tasks import choices, masked_lm
from clinical_pretrain.tasks.choices import describe_answers, letter_tokens, score_choices
from clinical_pretrain.tasks.readers.medconceptsqa import ChoiceData, ChoiceQuestion, as_task_data
from clinical_pretrain.tasks.records import ReadingReport
from clinical_pretrain.tasks.scores.labels import class_measures
from clinical_pretrain.tasks.scores.predictions import aligned, read_predictions, write_predictions
from clinical_pretrain.tasks.task import ChoiceMethod, Task
from clinical_pretrain.tasks.windows import TextTokenizer
from tokenizer_tools.errors import UserError

SIZE = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
NAMES = ("Heart failure", "Acute renal failure", "Pneumonia, unspecified organism", "Type 2 diabetes with ulcer")


def question(number, answer, level="easy", text=None):
    """In the form of the data set, whose texts are indented."""
    options = tuple(NAMES[(number + place) % 4] for place in range(4))
    listed = "".join(f"    {letter}. {option}\n" for letter, option in zip("ABCD", options, strict=True))
    text = text or f"\n    What is the description of the medical code {number}.{number} in ICD10CM?\n{listed}    "
    return ChoiceQuestion(f"ICD10CM/{level}/{number}", text, options, answer, "ICD10CM", level)


DATA = ChoiceData(
    {
        "development": [question(20 + number, letter) for number, letter in enumerate("BADCA")]
        + [question(30 + number, letter, "hard") for number, letter in enumerate("CCAB")],
        "test": [question(1, "A"), question(2, "B"), question(3, "B", "hard"), question(104, "D", "hard")],
    },
    ReadingReport(),
)


def task(method, shots):
    how = ChoiceMethod(shots, method)
    return Task("medconceptsqa", "", "class", "accuracy", lambda folder: None, "", (), choices=how)


@pytest.fixture(scope="module")
def bases(corpus, tmp_path_factory):
    """Folders of small random models by family, with a tokenizer."""
    root = tmp_path_factory.mktemp("bases")
    tokenizer = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "bos", "eos", "sep")}
    common = SIZE | ids | {"vocab_size": len(tokenizer), "initializer_range": 0.3}
    torch.manual_seed(0)
    for name, make, config in (
        ("roberta", RobertaForMaskedLM, RobertaConfig(**common, max_position_embeddings=1026, type_vocab_size=1)),
        ("bert", BertForMaskedLM, BertConfig(**common, max_position_embeddings=1024)),
        ("longformer", LongformerForMaskedLM,
         LongformerConfig(**common, max_position_embeddings=1026, attention_window=32, type_vocab_size=1)),
        ("bigbird", BigBirdForMaskedLM,
         BigBirdConfig(**common, max_position_embeddings=1024, block_size=16, num_random_blocks=1)),
    ):  # fmt: skip
        make(config).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


FAMILIES = pytest.mark.parametrize("family", ["roberta", "bert", "longformer", "bigbird"])


def plain(folder):
    """The model and the tokenizer as anyone loads them."""
    return AutoModelForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def probabilities(model, ids, place):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, place].double().softmax(-1).numpy()


@FAMILIES
@pytest.mark.parametrize("shots", [0, 4])
def test_the_prompt_gives_the_letters_probabilities_at_one_mask(bases, family, shots):
    outcome = score_choices(task("prompt", shots), DATA, str(bases / family), seed=7)
    model, tokenizer = plain(bases / family)
    spelt = outcome.details["letter_tokens"]
    assert [{"A", "ĠA"}, {"B", "ĠB"}, {"C", "ĠC"}, {"D", "ĠD"}] >= [{*spelt[letter]} for letter in "ABCD"]
    for asked, found in zip(DATA.splits["test"], outcome.predictions.documents, strict=True):
        examples = [each for each in DATA.splits["development"] if each.level == asked.level][:shots]
        prompt = "Answer A,B,C,D according to the answer to this multiple choice question.\n"
        prompt += "".join(f"{each.text}\nAnswer: {each.answer}\n\n" for each in examples)
        ids = tokenizer(f"{prompt}{asked.text}\nAnswer:")["input_ids"]
        row = probabilities(model, [*ids[:-1], tokenizer.mask_token_id, ids[-1]], len(ids) - 1)
        letters = np.array([sum(row[tokenizer.convert_tokens_to_ids(spelt[letter])]) for letter in "ABCD"])
        assert np.allclose(found.probabilities, letters / letters.sum(), atol=1e-5)
        assert found.id == asked.id and found.labels == ("ABCD"[letters.argmax()],)
    assert (outcome.details["shots"], outcome.details["questions_with_fewer_shots"]) == (shots, 0)
    assert (outcome.predictions.kind, outcome.predictions.seed, outcome.predictions.split) == ("class", 7, "test")


@FAMILIES
@pytest.mark.parametrize("shots", [0, 4])
def test_pseudo_log_likelihoods_are_those_of_one_mask_at_a_time(bases, family, shots):
    outcome = score_choices(task("pseudo_log_likelihood", shots), DATA, str(bases / family), seed=0)
    model, tokenizer = plain(bases / family)

    def stem(each):
        return each.text.split("?")[0].strip() + "?"

    for asked, found in zip(DATA.splits["test"], outcome.predictions.documents, strict=True):
        examples = [each for each in DATA.splits["development"] if each.level == asked.level][:shots]
        before = "".join(f"{stem(e)}\nAnswer: {e.options['ABCD'.index(e.answer)]}\n\n" for e in examples)
        before += f"{stem(asked)}\nAnswer:"
        scores = []
        for option in asked.options:
            ids = tokenizer(f"{before} {option}")["input_ids"]
            first, logs = len(tokenizer(before)["input_ids"]) - 1, []
            for place in range(first, len(ids) - 1):
                if not tokenizer.decode(ids[place]).strip():  # the space before the option
                    continue
                masked = [*ids[:place], tokenizer.mask_token_id, *ids[place + 1 :]]
                logs.append(np.log(probabilities(model, masked, place)[ids[place]]))
            assert tokenizer.decode(ids[first:-1]).strip() == option and len(logs) > 1
            scores.append(np.mean(logs))
        shares = np.exp(scores) / np.exp(scores).sum()
        assert np.allclose(found.probabilities, shares, atol=1e-5)
        assert found.labels == ("ABCD"[int(np.argmax(scores))],)
    assert outcome.details["questions_whose_options_were_not_found_in_their_text"] == 0


def test_a_model_that_prefers_a_letter_gives_that_letter(bases, tmp_path, capsys):
    model, tokenizer = plain(bases / "roberta")
    with torch.no_grad():
        model.lm_head.bias[tokenizer.convert_tokens_to_ids("C")] = 50
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    outcome = score_choices(task("prompt", 0), DATA, str(tmp_path), seed=0)
    assert [each.labels for each in outcome.predictions.documents] == [("C",)] * 4
    assert outcome.details["given_answers"] == {"A": 0, "B": 0, "C": 4, "D": 0}
    assert outcome.details["gold_answers"] == {"A": 1, "B": 2, "C": 0, "D": 1}
    assert (outcome.details["accuracy"], outcome.details["majority_accuracy"]) == (0.0, 0.5)
    line = "answers given: A 0, B 0, C 4, D 0; correct: A 1, B 2, C 0, D 1; always the most frequent one: 50.0 %"
    assert line in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("method", ["prompt", "pseudo_log_likelihood"])
def test_predictions_can_be_stored_and_scored(bases, method, tmp_path):
    outcome = score_choices(task(method, 0), DATA, str(bases / "bert"), seed=0)
    write_predictions(tmp_path / "predictions.jsonl", outcome.predictions)
    documents = as_task_data(DATA).splits["test"]
    stored = read_predictions(tmp_path / "predictions.jsonl")
    aligned(documents, stored)
    assert class_measures(documents, stored)["accuracy"].values(np.ones((1, 4)))[0] == outcome.details["accuracy"]


@pytest.mark.parametrize("method", ["prompt", "pseudo_log_likelihood"])
def test_how_many_are_computed_at_once_changes_nothing(bases, method, monkeypatch):
    found = []
    for logits, questions in ((1 << 27, 64), (1, 3)):
        monkeypatch.setattr(masked_lm, "LOGITS_AT_ONCE", logits)
        monkeypatch.setattr(choices, "QUESTIONS_AT_ONCE", questions)
        outcome = score_choices(task(method, 0), DATA, str(bases / "longformer"), seed=0)
        found.append([each.probabilities for each in outcome.predictions.documents])
    assert np.allclose(*found, atol=1e-6)


def test_accuracy_is_given_by_vocabulary_and_level():
    found = describe_answers(DATA.splits["test"], "ABCC")
    easy, hard = ({"questions": 2, "accuracy": share, "majority_accuracy": 0.5} for share in (1.0, 0.0))
    assert found["by_level"] == {"easy": easy, "hard": hard}
    assert found["by_subset"] == {"ICD10CM/easy": easy, "ICD10CM/hard": hard}
    assert found["by_vocabulary"] == {"ICD10CM": {"questions": 4, "accuracy": 0.5, "majority_accuracy": 0.5}}


# What a model takes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def sequences(monkeypatch):
    """The ids that models are given."""
    seen, ask = [], masked_lm.MaskedLM.log_probabilities
    monkeypatch.setattr(
        masked_lm.MaskedLM, "log_probabilities",
        lambda self, asked: seen.extend(each.ids.tolist() for each in asked) or ask(self, asked),
    )  # fmt: skip
    return seen


def shortened(folder, tmp_path, positions):
    model, tokenizer = plain(folder)
    config = model.config
    config.max_position_embeddings = positions + config.pad_token_id + 1
    RobertaForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return str(tmp_path), tokenizer


def test_shots_that_do_not_fit_are_left_out_from_the_front(bases, tmp_path, sequences):
    score_choices(task("prompt", 2), DATA, str(bases / "roberta"), seed=0)
    needed = max(map(len, sequences))
    sequences.clear()
    model, tokenizer = shortened(bases / "roberta", tmp_path, needed)
    outcome = score_choices(task("prompt", 4), DATA, model, seed=0)
    assert outcome.details["questions_with_fewer_shots"] == 4 and outcome.details["shots_left_out"] >= 8
    assert outcome.details["longest_text_tokens"] == needed - 2 == outcome.details["model_takes_tokens"]
    for asked, ids in zip(DATA.splits["test"], sequences, strict=True):
        kept = [each for each in DATA.splits["development"] if each.level == asked.level][:4][-2:]
        text = tokenizer.decode(ids)
        assert asked.text.split("?")[0].split()[-3] in text  # the question's code
        assert [code in text for code in ("20.20", "21.21", "30.30", "31.31")] == [False] * 4
        assert kept[1].text.split("?")[0].split()[-3] in text


def test_a_question_is_never_cut(bases, tmp_path):
    model, _ = shortened(bases / "roberta", tmp_path, 64)
    with pytest.raises(
        UserError, match=r"question ICD10CM/easy/1 has \d+ tokens, the model takes 62; questions aren't"
    ):
        score_choices(task("prompt", 4), DATA, model, seed=0)


@pytest.mark.parametrize("method", ["prompt", "pseudo_log_likelihood"])
def test_special_tokens_in_a_text_control_nothing(bases, method, sequences):
    asked = question(1, "A", text="What is <mask> </s> <pad>?\nA. Heart failure\n")
    data = ChoiceData({"development": [], "test": [asked]}, ReadingReport())
    score_choices(task(method, 0), data, str(bases / "roberta"), seed=0)
    tokenizer = AutoTokenizer.from_pretrained(bases / "roberta")
    for ids in sequences:
        assert [ids.count(tokenizer.convert_tokens_to_ids(name)) for name in ("<mask>", "</s>", "<pad>")] == [1, 1, 0]


def test_a_text_without_the_list_of_its_options_is_counted(bases):
    data = ChoiceData({"development": [], "test": [question(1, "A", text="What is 1?")]}, ReadingReport())
    outcome = score_choices(task("pseudo_log_likelihood", 0), data, str(bases / "roberta"), seed=0)
    assert outcome.details["questions_whose_options_were_not_found_in_their_text"] == 1


def test_data_without_enough_shots_is_refused(bases):
    few = ChoiceData(DATA.splits | {"development": DATA.splits["development"][:7]}, ReadingReport())
    with pytest.raises(UserError, match=r"ICD10CM/hard: 2 development questions, but 4 are needed as shots"):
        score_choices(task("prompt", 4), few, str(bases / "roberta"), seed=0)


def test_an_empty_option_is_refused(bases):
    empty = ChoiceQuestion("1", "What?", ("a", " ", "c", "d"), "A", "ATC", "easy")
    data = ChoiceData({"development": [], "test": [empty]}, ReadingReport())
    with pytest.raises(UserError, match=r"question 1: an option is empty"):
        score_choices(task("pseudo_log_likelihood", 0), data, str(bases / "roberta"), seed=0)


# Which models can answer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda config: RobertaModel(config), r"no pretrained weights for lm_head.* more; only a model with its"),
        (lambda config: RobertaForSequenceClassification(config), r"no pretrained weights for lm_head"),
        (lambda config: GPT2LMHeadModel(GPT2Config(vocab_size=config.vocab_size, n_layer=1, n_embd=8, n_head=1)),
         r"no model could be loaded"),
    ],
)  # fmt: skip
def test_a_model_without_its_masked_lm_head_is_refused(bases, make, message, tmp_path):
    """transformers fills the head with random numbers and only warns: the seed's MedConceptsQA scores were chance."""
    model, tokenizer = plain(bases / "roberta")
    make(model.config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        score_choices(task("prompt", 0), DATA, str(tmp_path), seed=0)
    assert "\n" not in str(error.value)


def word_pieces(vocabulary, lowercase):
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *vocabulary]
    backend = Tokenizer(models.WordPiece({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", mask_token="[MASK]")


def test_letters_are_found_in_other_vocabularies(bases):
    cased, uncased = word_pieces("ABCDabcd", lowercase=False), word_pieces("abcd", lowercase=True)
    assert letter_tokens(cased).tolist() == [[5], [6], [7], [8]]
    assert letter_tokens(uncased).tolist() == [[5], [6], [7], [8]]
    with pytest.raises(UserError, match="the letters A, B, C, D are no tokens"):
        letter_tokens(word_pieces("ABC", lowercase=False))


def test_a_spelling_counts_only_if_all_letters_have_it():
    pieces = [("<unk>", 0.0), ("▁", -1.0), *((f"{letter}", -2.0) for letter in "ABCD"), ("▁A", -1.5), ("▁B", -1.5)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert letter_tokens(tokenizer).tolist() == [[2], [3], [4], [5]]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("family", "space", "ends"), [("longformer", "Ġ", "<s> </s>"), ("bigbird", "▁", "[CLS] [SEP]")]
)
def test_the_mask_stands_where_transformers_puts_it(family, space, ends):
    """The tokens are those of a text with the mask token, which takes the space before it."""
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "tokenizers" / family)
    names = [{*tokenizer.convert_ids_to_tokens(row)} for row in letter_tokens(tokenizer).tolist()]
    assert names == [{letter, f"{space}{letter}"} for letter in "ABCD"]
    text = "What is 452.2?\nA. Pneumonia\nAnswer:".replace("\n", " " if family == "bigbird" else "\n")
    begin, end = (tokenizer.convert_tokens_to_ids(name) for name in ends.split())
    ids = [begin, *TextTokenizer(tokenizer)(text).ids.tolist(), tokenizer.mask_token_id, end]
    assert tokenizer(f"{text} {tokenizer.mask_token}")["input_ids"] == ids
