"""Which sequences a step takes: a function of the seed and integers, never of the number of ranks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Sample:
    """A sequence of the training split in one epoch."""

    epoch: int
    sequence: int
    """Its number in the split."""


@dataclass
class Sampler:
    """Samples without end: each epoch is another permutation of all sequences.

    Sample number k, counted from 0 over the whole run, is sequence `permutation(epoch)[k % sequences]` of epoch
    `k // sequences`; a batch may straddle two epochs.
    """

    sequences: int
    """Number of sequences in the split."""
    seed: int
    _epoch: int = field(default=-1, init=False, repr=False)
    _order: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), init=False, repr=False)

    def sample(self, number: int) -> Sample:
        """The sample of this number."""
        epoch, position = divmod(number, self.sequences)
        if epoch != self._epoch:
            self._order = epoch_order(self.sequences, self.seed, epoch)
            self._epoch = epoch
        return Sample(epoch, int(self._order[position]))


def epoch_order(sequences: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """(sequences,): which sequence of the training split stands at each position of an epoch."""
    return generator(seed, _ORDER, epoch).permutation(sequences)


def validation_sequences(sequences: int, max_sequences: int) -> npt.NDArray[np.int64]:
    """(n,): which of the held-out sequences a validation takes, at most `max_sequences` (0: all). They are spread over
    the whole split: the first may all be of the first few patients."""
    count = min(sequences, max_sequences or sequences)
    return np.arange(count) * sequences // max(1, count)


def micro_batch_of(rank: int, world_size: int, micro_step: int) -> int:
    """Index, within an optimizer step, of the micro-batch that a rank computes in its `micro_step`-th forward pass. It
    decides which samples the micro-batch holds: with any number of ranks, a step takes the same ones."""
    return micro_step * world_size + rank


# The purposes of generators: each is the first number, after the run's seed, that seeds one.
_ORDER, MASKS, VALIDATION_MASKS, DROPOUT, PROBE, GENERAL_MASKS, FILLING_MASKS = range(7)


def generator(seed: int, purpose: int, *numbers: int) -> np.random.Generator:
    """A random generator that is a function of its arguments; NumPy's global one is left alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, purpose, *numbers])))
