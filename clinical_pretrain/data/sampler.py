"""Which rows a step takes: a function of the seed and integers, never of the number of ranks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Sample:
    """One row of training data at one time."""

    epoch: int
    row: int


@dataclass
class Sampler:
    """An endless sequence of rows, each epoch a fresh permutation of all of them.

    Sample number k, counted from 0 over the whole run, is row `permutation(epoch)[k % rows]` of epoch `k // rows`;
    a batch may straddle two epochs.
    """

    rows: int
    seed: int
    _epoch: int = field(default=-1, init=False, repr=False)
    _order: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), init=False, repr=False)

    def sample(self, number: int) -> Sample:
        """The sample of this number."""
        epoch, place = divmod(number, self.rows)
        if epoch != self._epoch:
            self._order = generator(self.seed, _ORDER, epoch).permutation(self.rows)
            self._epoch = epoch
        return Sample(epoch, int(self._order[place]))


def micro_batch_of(rank: int, world_size: int, micro_step: int) -> int:
    """Index, within an optimizer step, of the micro-batch that a rank computes in its `micro_step`-th forward pass. It
    decides which samples the micro-batch holds: with any number of ranks, a step takes the same ones."""
    return micro_step * world_size + rank


# What a generator is for: the first of the numbers that seed it.
_ORDER, MASKS, VALIDATION_MASKS, DROPOUT, PROBE = range(5)


def generator(seed: int, purpose: int, *numbers: int) -> np.random.Generator:
    """A random generator of its own for each purpose and place; NumPy's global one is left alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, purpose, *numbers])))
