"""How a model is fine-tuned: the options of `finetune`, `evaluate` and `submit-evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    from clinical_pretrain.tasks.catalogue import Task

Protocol = Literal["document", "paper"]


@dataclass(frozen=True)
class FinetuneSettings:
    """How a model is fine-tuned."""

    protocol: Protocol = "document"
    """`document`: whole documents, in overlapping windows beyond the model's length; learning rate and epoch are chosen
    on the development split. `paper`: preprocessing and settings of Clinical-Longformer's authors, as far as known."""
    learning_rates: list[float] = field(default_factory=lambda: [2e-5, 5e-5])
    """Each is tried, with a training of its own, and the development split chooses; several with commas."""
    epochs: int = 5
    """Epochs of each training. The development split is predicted after each, and chooses one."""
    batch_size: int = 16
    """Windows per step."""
    micro_batch_size: int = 4
    """Windows that are computed at once; a step accumulates gradients over batch_size / micro_batch_size of these."""
    max_length: int = 0
    """Tokens of the longest sequence; 0: as many as the model takes."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of autocast; the weights are fp32."""
    prediction_precision: Literal["same", "fp32", "bf16", "fp16"] = "same"
    """Of autocast when the development and test splits are predicted; `same`: that of training. A CPU that has bf16
    predicts faster in it, but doesn't train faster."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    development_documents: int = 0
    """Number of development documents that choose learning rate and epoch, the same for all seeds and models; 0 for
    all."""
    max_steps: int = 0
    """End each training after this many steps, for a trial; 0: after its epochs."""

    def __post_init__(self) -> None:
        faults = {
            "--learning-rates must be above 0": not self.learning_rates or min(self.learning_rates) <= 0,
            "--epochs must be at least 1": self.epochs < 1,
            "--micro-batch-size must divide --batch-size": self.micro_batch_size < 1
            or self.batch_size < 1
            or self.batch_size % self.micro_batch_size > 0,
            "--max-length must be 0 or at least 32": self.max_length < 0 or 0 < self.max_length < 32,
            "--development-documents must not be negative": self.development_documents < 0,
            "--max-steps must not be negative": self.max_steps < 0,
        }
        if found := [fault for fault, holds in faults.items() if holds]:
            raise UserError("; ".join(found))

    def for_task(self, task: Task) -> FinetuneSettings:
        """These, or under the protocol `paper` what the task's PaperProtocol says.

        Raises:
            UserError: the paper has no such task.
        """
        if self.protocol == "document":
            return self
        if task.paper is None:
            raise UserError(f"{task.name}: not a task of the paper; use --protocol document")
        batch_size = task.paper.batch_size
        return replace(
            self,
            learning_rates=[task.paper.learning_rate],
            epochs=task.paper.epochs,
            batch_size=batch_size,
            max_length=task.paper.max_length,
            micro_batch_size=max(n for n in range(1, self.micro_batch_size + 1) if batch_size % n == 0),
        )
