"""Micro-batches of the training split, in an order that depends on the seed and the position alone."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from clinical_pretrain.data.collator import Collator, MicroBatch
from clinical_pretrain.data.masking import Vocabulary
from clinical_pretrain.data.prefetch import prefetch
from clinical_pretrain.data.sampler import MASKS, Sampler, generator, micro_batch_of
from clinical_pretrain.data.shards import Split
from clinical_pretrain.distributed import Ranks
from clinical_pretrain.models.build import compiles
from clinical_pretrain.run_folder.starts import SkippedSamples, data_position
from clinical_pretrain.training.preflight import RunSpec
from clinical_pretrain.training.run import Progress


class Batches:
    """The training split, and how its sequences become masked micro-batches.

    Args:
        spec: the run's settings and shards.
        ranks: all of them.
        skipped_ranges: samples left out after roll-backs; the list grows with each one.
    """

    def __init__(self, spec: RunSpec, ranks: Ranks, skipped_ranges: list[SkippedSamples]) -> None:
        config = spec.config
        self.spec, self.ranks, self.skipped_ranges = spec, ranks, skipped_ranges
        self._tokens = self._padding = 0
        self._padding_share = 0.0
        self.split = Split(spec.shards, spec.manifest, "train")
        self.held_out = Split(spec.shards, spec.manifest, "validation")
        self.sampler = Sampler(len(self.split), config.seed)
        isolate = config.data.document_attention == "isolate"
        self.collator = Collator(
            spec.manifest.sequence_length,
            config.masking,
            Vocabulary.load(spec.tokenizer_file, spec.manifest.tokenizer),
            max_documents=max(self.split.max_segments, self.held_out.max_segments) if isolate else 0,
            pad_to_capacity=compiles(config, spec.zero_stage),
        )

    def micro_batches(self, progress: Progress) -> Generator[MicroBatch]:
        """This rank's micro-batches from the next step to the run's end, prefetched by a thread."""
        ranks, size, steps = self.ranks, self.spec.config.batch.micro_batch_size_per_gpu, self.spec.accumulation_steps
        first_samples = (
            progress.samples_at(step) + micro_batch_of(ranks.rank, ranks.world_size, micro_step) * size
            for step in range(progress.step, progress.last_step)
            for micro_step in range(steps)
        )
        with closing(prefetch(self._make, first_samples)) as batches:
            for batch in batches:
                self._tokens += batch.documents.numel()
                self._padding += int((batch.documents == 0).sum())
                yield batch

    def take_padding_share(self) -> float:
        """Share of padding in the tokens since the last call, 0 to 1. Where there were none, as two steps are reported
        at once: the same share as then."""
        if self._tokens:
            self._padding_share = self._padding / self._tokens
            self._tokens = self._padding = 0
        return self._padding_share

    def position(self, samples_consumed: int) -> int:
        """Position in the order of the data after so many samples."""
        return data_position(samples_consumed, self.skipped_ranges)

    def _make(self, first_sample: int) -> MicroBatch:
        seed, size = self.spec.config.seed, self.spec.config.batch.micro_batch_size_per_gpu
        samples = [self.sampler.sample(self.position(first_sample + i)) for i in range(size)]
        sequences = [self.split[sample.sequence] for sample in samples]
        batch = self.collator(sequences, [generator(seed, MASKS, sample.epoch, sample.sequence) for sample in samples])
        return batch.pinned() if self.ranks.device.type == "cuda" else batch
