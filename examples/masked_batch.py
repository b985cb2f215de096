"""Mask a micro-batch as training does: a function of seed, epoch and sequence, so it is the same on any number of GPUs.

usage: python examples/masked_batch.py FOLDER   (that notes_to_shards.py has filled)
"""

import sys
from pathlib import Path

from transformers import AutoTokenizer

from clinical_pretrain.config.data import MaskingConfig
from clinical_pretrain.data.collator import Collator
from clinical_pretrain.data.masking import Vocabulary
from clinical_pretrain.data.sampler import MASKS, Sampler, generator
from clinical_pretrain.data.shards import Split
from tokenizer_tools.manifest import TOKENIZER_FOLDER, Manifest

shards = Path(sys.argv[1]) / "shards"
manifest = Manifest.load(shards)
split = Split(shards, manifest, "train")
vocabulary = Vocabulary.load(shards / TOKENIZER_FOLDER / "tokenizer.json", manifest.tokenizer)
collate = Collator(manifest.sequence_length, MaskingConfig(probability=0.15, whole_words=True), vocabulary)

seed = 42
samples = [Sampler(len(split), seed).sample(number) for number in range(2)]
batch = collate(
    [split[sample.sequence] for sample in samples],
    [generator(seed, MASKS, sample.epoch, sample.sequence) for sample in samples],
)
print(f"{tuple(batch.input_ids.shape)} tokens, of which {len(batch.labels)} are to be predicted")
print(AutoTokenizer.from_pretrained(shards / TOKENIZER_FOLDER).decode(batch.input_ids[0, :40]))
