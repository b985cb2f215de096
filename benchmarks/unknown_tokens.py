"""What a vocabulary makes of line breaks: the share of unknown tokens in notes as they are written, and in shards.

    python benchmarks/unknown_tokens.py --tokenizer bigbird --json FILE

Corpora: synthetic notes of `make-notes`, the dialogues of MTS-Dialog, and MTSamples, which has lost its line breaks.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from common import facts
from mtsamples import CORPORA, DATA

from tokenizer_tools.corpus.clean_notes import CleaningRules, clean
from tokenizer_tools.corpus.columns import Columns
from tokenizer_tools.corpus.input_options import InputOptions
from tokenizer_tools.corpus.placeholders import Replacement
from tokenizer_tools.corpus.read_notes import read_notes
from tokenizer_tools.corpus.synthetic_notes import make_notes
from tokenizer_tools.files import write_json
from tokenizer_tools.tokenizer.load import encode, load_tokenizer
from tokenizer_tools.tokenizer.unknown_characters import count_unknown, unknown_whitespace


def shares(texts: list[str], tokenizer: Any) -> dict[str, Any]:
    """Share of unknown tokens, without placeholders; the characters behind what is left of them."""
    backend, unknown, token = tokenizer.backend_tokenizer, tokenizer.unk_token_id, tokenizer.unk_token
    found: dict[str, Any] = {}
    for name, whitespace in (("as_written", ""), ("in_shards", unknown_whitespace(backend, unknown))):
        cleaned = [clean(text, CleaningRules(), Replacement(token), whitespace) for text in texts]
        ids = encode(backend, cleaned)
        count = count_unknown(backend, cleaned, ids, token, unknown)
        found[name] = round(count.tokens / sum(len(each) + 2 for each in ids), 5)  # a begin and an end for each note
    return found | {"characters_left": dict(count.characters.most_common(10)), "notes": len(texts)}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", choices=["longformer", "bigbird"], default="bigbird")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = load_tokenizer(str(DATA / "tokenizers" / args.tokenizer))
    with tempfile.TemporaryDirectory() as folder:
        synthetic = Path(folder) / "notes.csv"
        make_notes(synthetic)
        inputs = {"make-notes": ([synthetic], Columns()), "mtsamples": ([DATA / CORPORA["mtsamples"][0][0]], Columns())}
        inputs["mts_dialog"] = ([DATA / file for file in CORPORA["mts_dialog"][0]], Columns(text="dialogue"))
        found = {
            name: shares([note.text for note in read_notes(paths, InputOptions(columns))], tokenizer)
            for name, (paths, columns) in inputs.items()
        }
    for name, result in found.items():
        print(f"{name:<12} {result['as_written']:.2%} unknown as written, {result['in_shards']:.2%} in shards")
    write_json(args.json, {"what": "share of unknown tokens", "corpora": found, **facts()})


if __name__ == "__main__":
    main()
