"""Build a tokenizer and shards from notes, and decode one packed sequence.

usage: python examples/notes_to_shards.py FOLDER
"""

import sys
from pathlib import Path

from transformers import AutoTokenizer

from clinical_pretrain.data.shards import Split
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.corpus.synthetic_notes import make_notes
from tokenizer_tools.manifest import Manifest
from tokenizer_tools.shards.build import build_shards
from tokenizer_tools.shards.settings import ShardSettings
from tokenizer_tools.tokenizer.train import TokenizerSettings, train_tokenizer

folder = Path(sys.argv[1])
notes, tokenizer, shards = folder / "notes.csv", folder / "tokenizer", folder / "shards"
make_notes(notes, patients=60)

# Patients are split by a keyed hash. Give the tokenizer the same split, so that it never sees a held-out patient.
split = SplitRule(validation=0.1, test=0.1)
key = str(folder / "patient_key")
train_tokenizer([notes], tokenizer, TokenizerSettings(split=split, vocab_size=1000))
build_shards([notes], str(tokenizer), shards, ShardSettings(split=split, sequence_length=256, patient_key=key))

manifest = Manifest.load(shards)
for name, info in manifest.splits.items():
    print(f"{name}: {info.sequences} sequences of {manifest.sequence_length} tokens from {info.patients} patients")

# Sequences are views into a memory map. Notes are packed back to back, and each sequence knows where they begin.
first = Split(shards, manifest, "train")[0]
print(f"the first sequence holds parts of {len(first.segment_starts)} notes; its first tokens:")
print(AutoTokenizer.from_pretrained(tokenizer).decode(first.input_ids[:40]))
