"""The paragraphs of all notes, in the private work folder: hashes, and which token ids are theirs. They are kept only
if copied ones are to be left out, and go with the folder when the build is finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_tools.corpus.copied_paragraphs import TOO_SHORT, paragraph_hash
from tokenizer_tools.files import write_json
from tokenizer_tools.shards.folder import ShardBuild
from tokenizer_tools.shards.shingles import save_array
from tokenizer_tools.shards.token_ids import PartIds, load_encoder
from tokenizer_tools.tokenizer.paragraph_ids import ParagraphEncoder
from tokenizer_tools.tokenizer.unknown_characters import UnknownCount, count_unknown


@dataclass(frozen=True)
class ParagraphStore:
    """The files of all parts. What they hold of a part is by text, as in `PartIds`.

    starts, (texts + 1,): where each text's paragraphs begin, and the end.
    hashes, (paragraphs,): from `paragraph_hash`.
    lengths, leading, (paragraphs,): as in `ParagraphTokens`; lengths of -1 if the text can't be divided.
    identities, (texts, 2): from `identity`.
    fates, (paragraphs,), and cut_identities, (texts, 2), of what is left: from `cut_part`.
    """

    folder: Path

    @classmethod
    def of(cls, build: ShardBuild) -> ParagraphStore:
        """That of a build."""
        return cls(build.work / "paragraphs")

    def _file(self, number: int, what: str) -> Path:
        return self.folder / f"part-{number:05d}.{what}"

    def load(self, number: int, what: str) -> npt.NDArray[Any]:
        """An array of a part, memory-mapped."""
        array: npt.NDArray[Any] = np.load(self._file(number, f"{what}.npy"), mmap_mode="r")
        return array

    def save(self, number: int, **arrays: npt.NDArray[Any]) -> None:
        """Write arrays of a part."""
        self.folder.mkdir(exist_ok=True, mode=0o700)
        for what, array in arrays.items():
            save_array(self._file(number, f"{what}.npy"), array)

    def load_unknown(self, number: int) -> dict[int, UnknownCount]:
        """What is unknown of the paragraphs that can be left out, by their numbers."""
        counts = json.loads(self._file(number, "unknown.json").read_text())
        return {int(paragraph): UnknownCount.of(count) for paragraph, count in counts.items()}

    def save_unknown(self, number: int, counts: Mapping[int, UnknownCount]) -> None:
        """Write what `load_unknown` reads."""
        write_json(self._file(number, "unknown.json"), {str(key): vars(count) for key, count in counts.items()})


class ParagraphTally:
    """Gathers what is kept of a part's paragraphs, while its texts are tokenised.

    Args:
        build: the build.
        ends: of each text, where its paragraphs end.
    """

    def __init__(self, build: ShardBuild, ends: Mapping[str, list[int]]) -> None:
        self._build, self._ends = build, ends
        self._backend, encode = load_encoder(build)
        self._encoder = ParagraphEncoder(self._backend, encode)
        self._starts, self._hashes = [0], list[int]()
        self._lengths, self._leading = list[int](), list[int]()
        self._unknown: dict[int, UnknownCount] = {}

    def add(self, texts: Sequence[str], ids: Sequence[npt.NDArray[Any]], unknown: Sequence[UnknownCount]) -> None:
        """Add texts, with their ids without begin and end tokens, and what is unknown of them."""
        fewest_words = self._build.settings.duplicates.copied_words
        divided = [[text[start:end] for start, end in pairwise([0, *self._ends[text]])] for text in texts]
        hashes = [[paragraph_hash(body, fewest_words) for body in bodies] for bodies in divided]
        chosen = [i for i, own in enumerate(hashes) if any(own)]
        counted = self._encoder.count(
            [divided[i] for i in chosen],
            [[*hashes[i], TOO_SHORT].index(TOO_SHORT) for i in chosen],
            [ids[i] for i in chosen],
        )
        tokens_of = dict(zip(chosen, counted, strict=True))
        for i, (bodies, own) in enumerate(zip(divided, hashes, strict=True)):
            if (tokens := tokens_of.get(i)) and unknown[i].tokens:
                self._count_unknown(bodies, own, np.split(ids[i], np.cumsum(tokens.lengths)))
            not_known = [-1] * len(own)
            self._hashes += own
            self._lengths += tokens.lengths if tokens else not_known
            self._leading += tokens.leading if tokens else not_known
            self._starts.append(len(self._hashes))

    def _count_unknown(self, bodies: list[str], hashes: list[int], ids: list[npt.NDArray[Any]]) -> None:
        info = self._build.tokenizer
        for number, (body, own) in enumerate(zip(bodies, hashes, strict=True)):
            if own != TOO_SHORT:
                count = count_unknown(self._backend, [body], [ids[number]], info.unknown_token, info.unknown_id)
                if count.tokens:
                    self._unknown[len(self._hashes) + number] = count

    def write(self, number: int, part_ids: PartIds) -> None:
        """Write all of it, as that of a part."""
        store = ParagraphStore.of(self._build)
        texts = range(len(part_ids.starts) - 1)
        store.save(
            number,
            starts=np.array(self._starts, np.int64),
            hashes=np.array(self._hashes, np.uint64),
            lengths=np.array(self._lengths, np.int32),
            leading=np.array(self._leading, np.int32),
            identities=np.array([part_ids.identity(text) for text in texts], np.uint64).reshape(-1, 2),
        )
        store.save_unknown(number, self._unknown)
