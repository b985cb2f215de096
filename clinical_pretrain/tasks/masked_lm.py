"""A masked language model of Hugging Face that is asked how likely tokens are at a masked place."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers import AutoModelForMaskedLM

from clinical_pretrain.models.accelerate import accelerate_attention, can_accelerate
from clinical_pretrain.models.base_model import from_hub_or_folder
from clinical_pretrain.tasks.encoding import Integers, special_tokens
from clinical_pretrain.tasks.heads import load_tokenizer, longest_input
from clinical_pretrain.tasks.windows import TextTokenizer
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGITS_AT_ONCE = 1 << 27
"""Number of logits that are held in memory at once, 4 bytes each: transformers computes those of all tokens."""


class MaskedPlace(NamedTuple):
    """A sequence with a mask."""

    ids: Integers
    """(tokens,), with the special tokens."""
    place: int
    """Of the mask."""
    targets: Integers
    """(targets,): the tokens whose probability at the mask is asked for."""


class MaskedLM:
    """A model with its masked-LM head and its tokenizer. Its attention is accelerated where it is Longformer's or
    BigBird's. No token has Longformer's global attention.

    Args:
        model: a folder or an id on the Hub.

    Attributes:
        tokenizer: of the model.
        tokenize: gives the tokens of a text, in which special tokens mean nothing.
        longest: number of tokens of the longest sequence, the special ones included.

    Raises:
        UserError: it can't be loaded, has no masked-LM head, or lacks weights.
    """

    def __init__(self, model: str) -> None:
        self.name, self.tokenizer = model, load_tokenizer(model)
        if self.tokenizer.mask_token_id is None:
            raise UserError(f"{model}: its tokenizer has no mask token; only a masked language model can answer")
        self.tokenize = TextTokenizer(self.tokenizer)
        self.network = _load(model)
        self.longest = longest_input(self.network, self.tokenizer)
        self._begin, self._end = special_tokens(self.tokenizer, pair=False)

    @property
    def room(self) -> int:
        """Number of tokens of the longest text."""
        return self.longest - len(self._begin) - len(self._end)

    def mask(self, ids: Integers, place: int, targets: Integers) -> MaskedPlace:
        """Mask one token of a text, and put the special tokens around it.

        Args:
            ids: (tokens,), of the text.
            place: the token's.
            targets: the tokens that are asked for.
        """
        masked = np.concatenate([self._begin, ids, self._end]).astype(np.int64)
        masked[len(self._begin) + place] = self.tokenizer.mask_token_id
        return MaskedPlace(masked, len(self._begin) + place, targets)

    @torch.no_grad()
    def log_probabilities(self, asked: Sequence[MaskedPlace]) -> list[npt.NDArray[np.float64]]:
        """The natural logarithm of the probability of each target, (targets,), for each of `asked`.

        Only sequences of one length share a batch, so none is padded.
        """
        found: dict[int, npt.NDArray[np.float64]] = {}
        numbers = sorted(range(len(asked)), key=lambda number: len(asked[number].ids))
        for length, group in groupby(numbers, key=lambda number: len(asked[number].ids)):
            same = list(group)
            at_once = max(1, LOGITS_AT_ONCE // (length * self.network.config.vocab_size))
            for begin in range(0, len(same), at_once):
                batch = same[begin : begin + at_once]
                logits = self._logits([asked[number] for number in batch])
                for number, row in zip(batch, logits.double().log_softmax(-1).cpu().numpy(), strict=True):
                    found[number] = row[asked[number].targets]
        return [found[number] for number in range(len(asked))]

    def _logits(self, asked: Sequence[MaskedPlace]) -> torch.Tensor:
        """Logits at the masks of sequences of one length, (sequences, vocabulary)."""
        device = self.network.device
        ids = torch.from_numpy(np.stack([each.ids for each in asked])).to(device)
        places = torch.tensor([each.place for each in asked], device=device)
        logits: torch.Tensor = self.network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return logits[torch.arange(len(asked), device=device), places]


def _load(model: str) -> PreTrainedModel:
    """A model with its masked-LM head in fp32, on a GPU if there is one."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    network, loading = from_hub_or_folder(
        AutoModelForMaskedLM.from_pretrained,
        model,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    # transformers would fill these with random numbers, and only warn.
    lost = sorted({*loading["missing_keys"], *(str(key[0]) for key in loading["mismatched_keys"])})
    if lost:
        raise UserError(
            f"{model}: no pretrained weights for {lost[0]}{f' and {len(lost) - 1} more' * (len(lost) > 1)}; only a "
            "model with its masked-LM head can answer"
        )
    if can_accelerate(network):
        accelerate_attention(network)
    network = network.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return network
