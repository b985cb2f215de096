"""Fine-tune a model on a task by transformers' Trainer, choose on the development split, predict the test split once.

Each learning rate is a training of its own from the pretrained weights. After each of its epochs the development split
is predicted; the epoch with the best score of all is kept, and predicts the test split. Under the protocol `paper` the
settings are those of the task's PaperProtocol, and the last epoch is kept, whatever the development split says.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import tempfile
import time
from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from clinical_pretrain.console import console
from clinical_pretrain.models.accelerate import can_accelerate
from clinical_pretrain.tasks.encoding import IGNORED, Collator, Encoder, EncodingRule, Example
from clinical_pretrain.tasks.finetune_settings import FinetuneSettings
from clinical_pretrain.tasks.heads import (
    batch_loss,
    count_attention,
    load_tokenizer,
    load_with_head,
    longest_input,
    model_inputs,
)
from clinical_pretrain.tasks.outcome import Outcome
from clinical_pretrain.tasks.predict import Predictor
from clinical_pretrain.tasks.records import TaskData
from clinical_pretrain.tasks.scores.by_kind import measures_of
from clinical_pretrain.tasks.scores.predictions import Predictions, texts_sha256
from clinical_pretrain.tasks.windows import tags_of
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from clinical_pretrain.tasks.catalogue import Task

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MIN_ANSWER_TOKENS = 30
LONGEST_ANSWERS = 95
"""A predicted answer may be as long as this percentile of the training split's answers, or MIN_ANSWER_TOKENS. Without
a limit a model that knows little gives a paragraph, which shares words with any answer."""


def finetune(task: Task, data: TaskData, model: str, seed: int, settings: FinetuneSettings) -> Outcome:
    """Fine-tune a model on a task and predict its test split. The same seed gives the same predictions on a CPU.

    Args:
        task: of the catalogue, or a user's own.
        data: with train, development and test.
        model: a folder or an id on the Hub: any encoder of Hugging Face.
        seed: of the new head, the order of examples and dropout.
        settings: how to train.

    Raises:
        UserError: the model can't be loaded, doesn't fit, the training split has nothing to learn from, or the GPU's
            memory isn't enough.
    """
    transformers.logging.set_verbosity_error()  # that the head is new is no news
    transformers.logging.disable_progress_bar()
    if not torch.cuda.is_available():
        if "fp16" in (settings.precision, settings.prediction_precision):
            raise UserError("fp16 needs a GPU; use --precision and --prediction-precision fp32 or bf16")
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # accelerate imports DeepSpeed, which would warn of no GPU
    trial = _Trial(task, sample_development(data, settings.development_documents), model, seed, settings.for_task(task))
    try:
        for learning_rate in trial.settings.learning_rates:
            trial.train(learning_rate)
        return trial.outcome()
    except torch.OutOfMemoryError:
        raise UserError(
            f"{model}: not enough memory on the GPU; a smaller --micro-batch-size or --activation-checkpointing true "
            "needs less, and gives the same scores but for rounding"
        ) from None


def sample_development(data: TaskData, documents: int) -> TaskData:
    """Keep so many documents of the development split, the same whatever the model and the seed; all for 0."""
    whole = data.splits["development"]
    if not 0 < documents < len(whole):
        return data
    kept = sorted(random.Random(0).sample(range(len(whole)), documents))
    return replace(data, splits=data.splits | {"development": [whole[number] for number in kept]})


class _Trial:
    """One model on one task with one seed: its examples, and the epoch that is kept so far."""

    def __init__(self, task: Task, data: TaskData, model: str, seed: int, settings: FinetuneSettings) -> None:
        self.task, self.data, self.model, self.seed, self.settings = task, data, model, seed, settings
        paper = task.paper if settings.protocol == "paper" else None
        tokenizer = load_tokenizer(model)
        self.names = tags_of(data.labels) if data.kind == "entities" else list(data.labels)
        self.network = network = self._load()
        rule = EncodingRule(
            min(longest_input(network, tokenizer), settings.max_length or 1 << 30),
            by_line=paper is not None and paper.sentences,
            first_window_only=paper is not None and data.kind in ("class", "labels"),
            first_subword=paper is not None and paper.first_subword,
            punctuation_divides=paper is not None and paper.punctuation_divides,
        )
        self.encoder = Encoder(tokenizer, data.kind, data.labels, rule)
        has_types = "token_type_ids" in tokenizer.model_input_names
        self.collator = Collator(self.encoder, tokenizer.pad_token_id, model_inputs(network), has_types)
        self.windows_left_out = 0
        self.train_examples = self._train_examples(paper.train_share if paper else 1.0)
        self.predictor = self._predictor()
        self.examples = {split: self.encoder(data.splits[split]) for split in ("development", "test")}
        self.attention: Counter[str] = Counter()
        self.candidates: list[dict[str, Any]] = []
        self.chosen: dict[str, Any] = {}
        self.weights: dict[str, torch.Tensor] = {}
        self.seconds = 0.0

    def _load(self) -> PreTrainedModel:
        """The pretrained weights with a new head, which the seed alone decides."""
        set_seed(self.seed)
        return load_with_head(self.model, self.data.kind, self.names)

    def _train_examples(self, share: float) -> list[Example]:
        examples = self.encoder(self.data.splits["train"], 0.5 if self.data.kind == "answers" else 0.0)
        if not any((example.target != IGNORED).any() for example in examples):
            raise UserError(f"{self.task.name}: the training split has nothing to learn from")
        draw = random.Random(self.seed)
        questions = [list(group) for _, group in itertools.groupby(examples, lambda one: one[:2])]
        if share < 1:  # as the paper's authors did for emrQA: questions, with replacement
            questions = draw.choices(questions, k=max(1, round(share * len(questions))))
        elif self.data.kind == "answers" and self.settings.protocol == "document":
            questions = [_balanced(windows, draw) for windows in questions]
            self.windows_left_out = len(examples) - sum(map(len, questions))
        return [example for windows in questions for example in windows]

    def _predictor(self) -> Predictor:
        precision = self.settings.prediction_precision
        dtype = DTYPES[self.settings.precision if precision == "same" else precision]
        predictor = Predictor(self.encoder, self.collator, self.settings.micro_batch_size, dtype)
        if self.data.kind == "answers":
            found = [example.target for example in self.train_examples if example.target[0] != IGNORED]
            lengths = [last - first + 1 for first, last in found]
            predictor.max_answer_tokens = max(MIN_ANSWER_TOKENS, int(np.percentile(lengths, LONGEST_ANSWERS)))
            questions = [question for document in self.data.splits["train"] for question in document.questions]
            predictor.may_have_no_answer = any(not question.answers for question in questions)
        return predictor

    def train(self, learning_rate: float) -> None:
        """Train with one learning rate, and keep its best epoch if it is the best of all."""
        began = time.monotonic()
        if self.candidates:  # another training has changed the weights
            self.network = self._load()
        network = self.network
        count_attention(network, self.attention)
        if self.settings.activation_checkpointing:
            network.gradient_checkpointing_enable()
        with tempfile.TemporaryDirectory() as unused:
            trainer = Trainer(
                network,
                self._arguments(learning_rate, unused),
                self.collator,
                self.train_examples,
                compute_loss_func=None if self.data.kind == "answers" else batch_loss,
                callbacks=[_Observer(self, learning_rate)],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        self.seconds += time.monotonic() - began

    def _arguments(self, learning_rate: float, folder: str) -> TrainingArguments:
        settings = self.settings
        steps = settings.epochs * math.ceil(len(self.train_examples) / settings.batch_size)
        arguments = TrainingArguments(
            output_dir=folder,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=self.seed,
            learning_rate=learning_rate,
            num_train_epochs=settings.epochs,
            max_steps=min(settings.max_steps, steps) or -1,  # Trainer would go beyond the epochs
            per_device_train_batch_size=settings.micro_batch_size,
            gradient_accumulation_steps=settings.batch_size // settings.micro_batch_size,
            warmup_steps=0.1,
            weight_decay=0.01,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            bf16=settings.precision == "bf16",
            fp16=settings.precision == "fp16",
        )
        arguments._n_gpu = min(1, arguments.n_gpu)  # no DataParallel: a batch has the same size on any machine
        return arguments

    def observe(self, network: torch.nn.Module, learning_rate: float, epoch: float) -> None:
        """Score an epoch on the development split, and keep its weights if it is chosen so far."""
        score = self._development_score(network)
        candidate = {"learning_rate": learning_rate, "epoch": epoch, "score": score}
        self.candidates.append(candidate)
        shown = "undefined" if score is None else f"{100 * score:.1f}"
        console.progress(
            [f"learning rate {learning_rate:g}", f"epoch {epoch:g}", f"development {self.task.metric} {shown}"]
        )
        if self.settings.protocol == "paper" or not self.chosen or _rank(score) > _rank(self.chosen["score"]):
            self.chosen = candidate
            self.weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}

    def _development_score(self, network: torch.nn.Module) -> float | None:
        documents = self.data.splits["development"]
        predictions = self._predict(network, "development")
        if any(not math.isfinite(value) for each in predictions.documents for value in each.probabilities):
            return None  # the training has diverged
        measure = measures_of(documents, predictions)[self.task.metric]
        value = float(measure.values(np.ones((1, len(documents))))[0])
        return None if np.isnan(value) else value

    def _predict(self, network: Any, split: str) -> Predictions:
        documents = self.data.splits[split]
        found = self.predictor(network, documents, self.examples[split])
        return Predictions(
            self.task.name,
            split,
            self.data.kind,
            self.data.labels,
            self.model,
            self.seed,
            texts_sha256(documents),
            found,
        )

    def outcome(self) -> Outcome:
        """Predict the test split with the kept epoch."""
        self.network.load_state_dict(self.weights)
        predictions = self._predict(self.network, "test")
        paper = self.task.paper if self.settings.protocol == "paper" else None
        documents = len(self.data.splits["development"])
        chosen_by = f"{self.task.metric} on {documents:,} documents of the development split"
        details = {
            "settings": asdict(self.settings),
            "candidates": self.candidates,
            "chosen": self.chosen,
            "chosen_by": "the last epoch" if paper else chosen_by,
            "test_split": "predicted once, at the end",
            "deviations": list(paper.deviations) if paper else [],
            "tokens_per_sequence": self.encoder.rule.longest,
            "windows": {"train": len(self.train_examples)}
            | {name: len(found) for name, found in self.examples.items()},
            "windows_without_answer_left_out": self.windows_left_out,
            "attention_is_accelerated": can_accelerate(self.network),
            "batches_by_attention": dict(self.attention),
            "untagged_entities": self.encoder.untagged,
            "questions_or_second_texts_cut": self.encoder.cut,
            "training_seconds": round(self.seconds, 1),
        }
        if self.data.kind == "answers":
            details["longest_predicted_answer_in_tokens"] = self.predictor.max_answer_tokens
        return Outcome(predictions, details)


class _Observer(TrainerCallback):
    """Says how far a training is, and lets a trial observe each epoch."""

    def __init__(self, trial: _Trial, learning_rate: float) -> None:
        self._trial, self._learning_rate = trial, learning_rate

    def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        step = f"step {state.global_step:,}/{state.max_steps:,}"
        console.progress([f"learning rate {self._learning_rate:g}", step], log=None)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: object) -> None:
        self._trial.observe(model, self._learning_rate, round(state.epoch, 3))


def _balanced(windows: list[Example], draw: random.Random) -> list[Example]:
    """Of a question's windows those with its answer, and as many without, but at least one, if there is one. Most of a
    long document's windows are without, and a short model would learn to find nothing."""
    without = [window for window in windows if window.target[0] == IGNORED]
    answered = [window for window in windows if window.target[0] != IGNORED]
    return answered + draw.sample(without, min(len(without), max(1, len(answered))))


def _rank(score: float | None) -> float:
    """For comparing scores: an undefined one is the lowest."""
    return -1.0 if score is None else score
