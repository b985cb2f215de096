"""Which blocks BigBird's query blocks attend to, as transformers' model computes it in training and in evaluation mode.

Zaheer et al. 2020, section 2: the first and the last block of a sequence attend to everything; any other block to the
first, the last, itself, its neighbours, and random blocks, different in each head. In training Hugging Face draws the
random blocks anew at every step from the same seed, the layer's number, so that they never change. In evaluation all of
them are block 0, which then counts 1 + random_blocks times in each softmax. Blocks that a training plan names twice
count twice.

Shapes: h heads, m blocks of a sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from clinical_pretrain.models.attention.flex import chosen_first

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

OLD_PLAN_LENGTHS = (1024, 3072, 4096)
"""Lengths at which Hugging Face draws the plan as the paper's code did."""


@dataclass(frozen=True)
class Plan:
    """Which blocks a layer's query blocks see; a function of layer, length and mode."""

    blocks: torch.Tensor
    """(h, m - 2, 5 + random blocks) int64: for each query block but the first and the last."""
    bias: torch.Tensor
    """(m - 2, 5 + random blocks) fp32, added to the scores: -inf where a block stands twice by position, log of the
    count where it counts several times."""
    counts: torch.Tensor
    """(h, m, m) fp32: how often a query block sees a key block."""
    counts_twice: bool
    """Whether any of them is above 1."""
    seen_keys: tuple[torch.Tensor, torch.Tensor]
    """For each query block, how many key blocks it sees, (h, m) int32, and which, (h, m, m) int32, those first."""
    seen_by: tuple[torch.Tensor, torch.Tensor]
    """The same for each key block: the query blocks that see it."""
    _orders: dict[int, list[torch.Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def orders(self, batch: int) -> list[torch.Tensor]:
        """Which key blocks are seen, twice, and which query blocks see, twice; each (batch, h, m, m), and each a copy:
        the compiler takes one tensor in two indices for one argument, and fails. Kept for the next batch."""
        if batch not in self._orders:
            self._orders.clear()
            both = (self.seen_keys[1], self.seen_keys[1], self.seen_by[1], self.seen_by[1])
            self._orders[batch] = [order.repeat(batch, 1, 1, 1) for order in both]
        return self._orders[batch]


def random_blocks(module: Any, length: int) -> torch.Tensor:
    """The plan of Hugging Face's training mode, by its own functions: (h, m - 2, random blocks) int64.

    They draw from NumPy's global generator, which is left as it was.
    """
    size, count = module.block_size, module.num_random_blocks
    state, training = np.random.get_state(), module.training
    try:
        module.training = True
        np.random.seed(module.seed)
        if length in OLD_PLAN_LENGTHS:
            longest = module.max_seqlen
            heads = [
                module._bigbird_block_rand_mask(longest, longest, size, size, count, last_idx=1024)
                for _ in range(module.num_attention_heads)
            ]
        else:
            ends, counts = module._get_rand_attn_plan(length, size, count)
            heads = module._bigbird_block_rand_mask_with_head(
                length, length, size, size, module.num_attention_heads, ends, counts
            )
    finally:
        module.training = training
        np.random.set_state(state)
    return torch.from_numpy(np.stack(heads)[:, : length // size - 2].astype(np.int64))


def make_plan(module: Any, length: int, training: bool, device: torch.device) -> Plan:
    """A layer's plan in training mode or in evaluation mode."""
    blocks = length // module.block_size
    middle = torch.arange(1, blocks - 1)[:, None]
    first, last = torch.zeros_like(middle), torch.full_like(middle, blocks - 1)
    fixed = torch.cat([first, middle - 1, middle, middle + 1, last], 1).expand(module.num_attention_heads, -1, -1)
    bias = torch.zeros(blocks - 2, 5)
    bias[0, 1] = bias[-1, 3] = -torch.inf  # the first and last block, which stand there already
    if training:
        drawn = random_blocks(module, length)
        fixed, bias = torch.cat([fixed, drawn], 2), F.pad(bias, (0, drawn.shape[2]))
    else:
        bias[:, 0] += math.log(1 + module.num_random_blocks)
    counts = torch.zeros(len(fixed), blocks, blocks)
    counts[:, [0, -1]] = 1
    counts[:, 1:-1].scatter_add_(2, fixed, bias.exp().expand(len(fixed), -1, -1))
    counts = counts.round()
    counts_twice = bool((counts > 1).any())
    counts = counts.to(device)
    seen = counts > 0
    return Plan(
        blocks=fixed.contiguous().to(device),
        bias=bias.to(device),
        counts=counts,
        counts_twice=counts_twice,
        seen_keys=chosen_first(seen),
        seen_by=chosen_first(seen.transpose(1, 2)),
    )


def longest_full(config: PreTrainedConfig) -> int:
    """Longest sequence for which Hugging Face's block-sparse model attends to everything (and from then on does so at
    any length)."""
    return int((5 + 2 * config.num_random_blocks) * config.block_size)


def is_sparse(config: PreTrainedConfig, length: int) -> bool:
    """Whether attention is block-sparse at this length."""
    return config.attention_type == "block_sparse" and length > longest_full(config)
