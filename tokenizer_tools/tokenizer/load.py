"""Load a tokenizer as plain `transformers` does, save it for transformers 4 and 5, and encode texts with it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tokenizer_tools.command_line import typed as program
from tokenizer_tools.corpus.placeholders import TYPED_TOKENS, is_placeholder_token, token_of
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import write_json
from tokenizer_tools.hub_access import hub_arguments, not_found
from tokenizer_tools.manifest import TokenizerInfo
from tokenizer_tools.tokenizer.identity import tokenizer_sha256, vocab_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_PROBE = "Ünder  Café\nBP 120/80, pH 7.35; DIGOXIN 0.125 mg - no oedema"


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerFast:
    """Load with `AutoTokenizer`: a folder (tokenizer.json, vocabulary files, or a raw `spiece.model`) or a Hub id.

    Raises:
        UserError: it doesn't exist, isn't a fast tokenizer, lacks a mask token, or transformers changes its ids.
    """
    folder = Path(name_or_path)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{name_or_path}: a file; --tokenizer takes a folder or a Hub id")
    if not folder.exists() and name_or_path.startswith(("/", "./", "../")):
        raise UserError(f"{name_or_path}: no such folder; check --tokenizer")
    tokenizer = _from_pretrained(name_or_path)
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{name_or_path}: no fast tokenizer can be made of it; save one with save_pretrained() first")
    backend = tokenizer.backend_tokenizer
    if backend.get_vocab_size() < 100:
        raise UserError(f"{name_or_path}: its vocabulary has {backend.get_vocab_size()} entries; is a file missing?")
    for role in ("mask_token_id", "pad_token_id", "unk_token_id"):
        if getattr(tokenizer, role) is None:
            raise UserError(f"{name_or_path}: the tokenizer has no {role.removesuffix('_id')}; add one and save it")
    raw_file = folder / "tokenizer.json"
    if raw_file.is_file():
        raw = Tokenizer.from_file(str(raw_file))
        if encode(raw, [_PROBE]) != encode(backend, [_PROBE]):
            raise UserError(
                f"{name_or_path}: transformers loads it without its own normalizer or pre-tokenizer, so a user of the "
                "model would get other ids; save it as PreTrainedTokenizerFast (tokenizer_class in "
                "tokenizer_config.json)"
            )
    return tokenizer


def _from_pretrained(name_or_path: str) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer, BigBirdTokenizer

    folder = Path(name_or_path)
    try:
        if folder.is_dir():
            names = {path.name for path in folder.iterdir()}
            if names & {"spiece.model"} and not names & {"tokenizer.json"}:
                # AutoTokenizer would ask for tiktoken; the class itself reads the file.
                return BigBirdTokenizer.from_pretrained(name_or_path)
        return AutoTokenizer.from_pretrained(name_or_path, **hub_arguments(name_or_path))
    except Exception as error:
        if folder.is_dir():
            first_line = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
            raise UserError(f"{name_or_path}: no tokenizer could be loaded from this folder ({first_line})") from None
        if isinstance(error, OSError | ValueError):
            raise not_found(name_or_path, "tokenizer") from None
        raise


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path, model_max_length: int) -> None:
    """Write a folder that `AutoTokenizer` of transformers 4 and 5 loads with the same ids.

    Version 4 can't always read what version 5 saves: it doesn't know the class `TokenizersBackend` and the list
    `extra_special_tokens`. So the folder names PreTrainedTokenizerFast, which takes tokenizer.json as it is. It doesn't
    say where the tokenizer came from.

    Args:
        tokenizer: from `load_tokenizer`, or a `PreTrainedTokenizerFast`.
        folder: the folder to create.
        model_max_length: tokens.

    Raises:
        UserError: transformers would load it with other ids.
    """
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    folder.mkdir(parents=True)
    backend.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model_max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **{role: str(token) for role, token in tokenizer.special_tokens_map.items()},
    }
    if tokenizer.extra_special_tokens:
        config["additional_special_tokens"] = tokenizer.extra_special_tokens
    pre_tokenizer = json.loads(backend.to_str())["pre_tokenizer"] or {}
    if "add_prefix_space" in pre_tokenizer:  # by which version 4 changes the pre-tokenizer
        config["add_prefix_space"] = pre_tokenizer["add_prefix_space"]
    write_json(folder / "tokenizer_config.json", config)
    if tokenizer_sha256(_from_pretrained(str(folder)).backend_tokenizer) != tokenizer_sha256(backend):
        raise UserError("transformers changes this tokenizer when it loads it: choose another, and report this")


def describe_tokenizer(tokenizer: PreTrainedTokenizerFast, name: str, placeholder: str) -> TokenizerInfo:
    """Ids and hashes of a loaded tokenizer.

    Args:
        tokenizer: from `load_tokenizer`.
        name: the folder or Hub id that the user gave; of a path, only the last part is kept.
        placeholder: what replaces de-identification placeholders, as `--placeholder` says it.

    Raises:
        UserError: a token that is to replace placeholders isn't a special token of the vocabulary.
    """
    backend: Tokenizer = tokenizer.backend_tokenizer
    token = token_of(placeholder, tokenizer.unk_token)
    typed = list(TYPED_TOKENS.values()) if placeholder == "typed" else []
    needed, ids = typed or ([] if token is None else [token]), _placeholder_ids(tokenizer)
    if placeholder == "none":
        raise UserError("--placeholder none: it is called drop now")
    if missing := ",".join(each for each in needed if each not in ids):
        if not typed and not is_placeholder_token(missing):
            raise UserError(
                f"--placeholder {placeholder}: no special token without another role; say unk, drop, keep, typed or "
                "surrogates, or a token such as '[NAME]'"
            )
        choice = "typed" if typed else shlex.quote(missing)
        raise UserError(
            f"--placeholder {placeholder}: the tokenizer has no special token {missing} without another role; say unk, "
            f"drop, keep or surrogates, or add it and use what this makes: {program()} extend-vocabulary --size 0 "
            f"--tokens {choice} --tokenizer {shlex.quote(name)} --model MODEL --out DIR"
        )
    begin = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    if begin is None or end is None:
        raise UserError(f"{name}: the tokenizer has neither cls/sep nor bos/eos tokens to begin and end a note with")
    return TokenizerInfo(
        name=Path(name).name if Path(name).exists() else name,
        sha256=tokenizer_sha256(backend),
        vocab_sha256=vocab_sha256(backend.get_vocab()),
        vocab_size=max(backend.get_vocab().values()) + 1,
        begin_id=begin,
        end_id=end,
        pad_id=tokenizer.pad_token_id,
        mask_id=tokenizer.mask_token_id,
        unknown_token=tokenizer.unk_token,
        unknown_id=tokenizer.unk_token_id,
        placeholder=token,
        placeholder_id=None if token is None else ids[token],
        typed_placeholders={each: ids[each] for each in typed},
    )


def _placeholder_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The special tokens that may stand for placeholders: the unknown token, and all without a role. No placeholder may
    become a mask, or end a note."""
    tokens = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    roles = {str(token) for token in tokenizer.special_tokens_map.values() if not isinstance(token, list)}
    ids = {token.content: number for number, token in tokens.items() if token.special and token.content not in roles}
    return ids | {tokenizer.unk_token: tokenizer.unk_token_id}


def special_ids(backend: Tokenizer) -> npt.NDArray[np.bool_]:
    """(vocabulary,): True for the special tokens, which no text may become."""
    table = np.zeros(max(backend.get_vocab().values()) + 1, dtype=bool)
    for token_id, token in backend.get_added_tokens_decoder().items():
        table[token_id] = token.special
    return table


def forbidden_ids(backend: Tokenizer, info: TokenizerInfo) -> npt.NDArray[np.bool_]:
    """(vocabulary,): True for the special tokens that no note may become: all but those for placeholders."""
    forbidden = special_ids(backend)
    forbidden[list(info.placeholder_ids.values())] = False
    return forbidden


def note_ids(
    tokens: Sequence[int] | npt.NDArray[np.integer],
    info: TokenizerInfo,
    forbidden: npt.NDArray[np.bool_],
    dtype: npt.DTypeLike,
) -> npt.NDArray[Any]:
    """A note's token ids as shards hold them, (tokens + 2,).

    Args:
        tokens: of the cleaned text, from `encode` or an `IdEncoder`.
        info: gives the ids of the begin, end and unknown tokens.
        forbidden: from `forbidden_ids`. A note that spells out a special token ("<mask>", "[SEP]") must not control the
            model with it, so it becomes the unknown token.
        dtype: of the ids.
    """
    ids = np.empty(len(tokens) + 2, dtype=dtype)
    ids[0], ids[1:-1], ids[-1] = info.begin_id, tokens, info.end_id
    inner = ids[1:-1]
    inner[forbidden[inner]] = info.unknown_id
    return ids


def encode(backend: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of texts, without begin and end tokens, truncation and padding."""
    backend.no_truncation()
    backend.no_padding()
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
