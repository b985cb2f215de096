"""What a task is: data, what to predict of it, how it is measured, and how the paper's authors ran it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clinical_pretrain.tasks.records import Kind, TaskData
from clinical_pretrain.tasks.splits import SplitShares

Method = Literal["prompt", "pseudo_log_likelihood"]


@dataclass(frozen=True)
class ChoiceMethod:
    """How a masked LM answers multiple-choice questions, without fine-tuning."""

    shots: int
    """Number of questions with their answer that a prompt begins with."""
    method: Method
    """`prompt`: the letter that is likeliest in place of a mask. `pseudo_log_likelihood`: the likeliest option."""


@dataclass(frozen=True)
class PaperProtocol:
    """How Clinical-Longformer's authors ran a task, as far as is known: the protocol `paper`."""

    learning_rate: float
    epochs: int
    batch_size: int
    """Examples per step, over all GPUs."""
    deviations: tuple[str, ...]
    """What differs from theirs, is unknown or can't be reproduced. Each is a sentence; results list them."""
    max_length: int = 0
    """Tokens of the longest sequence; 0: the model's own."""
    sentences: bool = False
    """Whether each line of a text is an example of its own."""
    first_subword: bool = False
    """Whether only a word's first token has a tag."""
    punctuation_divides: bool = False
    """Whether a word also ends at a sign that is neither letter nor digit, as texts that aren't tokenised need."""
    train_share: float = 1.0
    """Size of the sample of the training split, drawn with replacement."""


@dataclass(frozen=True)
class Task:
    """What to predict, from which data, and how it is measured."""

    name: str
    """What a user types, and the name of its folder of results."""
    title: str
    kind: Kind
    metric: str
    """The main measure: it chooses on the development split, and tables show it."""
    read: Callable[[Path], TaskData]
    """Reads the data set from its folder, with the splits that it has."""
    source: str
    """Where to get the data, and its licence or agreement."""
    files: tuple[str, ...]
    """What the folder must hold: paths or patterns, with ` or ` between those of which one is enough. `**/` begins one
    that may also lie deeper."""
    suites: tuple[str, ...] = ()
    data_name: str = ""
    """Name of the data's folder, where several tasks share one; empty: the task's name."""
    choices: ChoiceMethod | None = None
    """Of a task that isn't fine-tuned."""
    paper: PaperProtocol | None = None
    """None: there is no protocol `paper`."""
    shares: SplitShares = field(default_factory=SplitShares)
    """Of the splits that the data set lacks."""

    def folder(self, data_root: Path) -> Path:
        """Where its data is, under a folder of all tasks' data."""
        return data_root / (self.data_name or self.name)

    def shown_files(self) -> list[str]:
        """`files` without the `**/` of those that may also lie deeper."""
        return [_shown(names) for names in self.files]

    def missing_files(self, folder: Path) -> list[str]:
        """Which of `shown_files` a folder lacks. Names may be in lower case, too, as in some copies of MIMIC-III."""
        lacking = [names for names in self.files if not any(_is_in(folder, name) for name in names.split(" or "))]
        return [_shown(names) for names in lacking]


def _shown(names: str) -> str:
    return names.replace("**/", "")


def _is_in(folder: Path, name: str) -> bool:
    spellings = (name, name.lower())
    return any(any(folder.glob(spelt)) if "*" in spelt else (folder / spelt).exists() for spelt in spellings)
