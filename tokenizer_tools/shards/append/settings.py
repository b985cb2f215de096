"""The settings of finished shards, which notes that are appended to them must share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from tokenizer_tools.corpus.clean_notes import RULES, CleaningRules
from tokenizer_tools.corpus.input_options import InputOptions
from tokenizer_tools.corpus.near_duplicates import DuplicateRules
from tokenizer_tools.corpus.placeholders import WAYS, token_of
from tokenizer_tools.corpus.split_lists import SplitLists
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest
from tokenizer_tools.shards.settings import ShardSettings

_NO_NUMBERS = {"reading", "split", "cleaning", "duplicates", "placeholder"}


def settings_of(
    shards: Path, reading: InputOptions, patient_key: str | None, lists: SplitLists | None = None
) -> ShardSettings:
    """The settings that finished shards were built with.

    Args:
        shards: their folder.
        reading: how other notes are read.
        patient_key: the key's file.
        lists: the user's own split, for shards that have one.

    Raises:
        UserError: they are no finished shards, or of a version that had other settings, or nothing can be appended
            to them.
    """
    manifest = Manifest.load(shards)
    if why := why_not_appendable(manifest):
        raise UserError(f"{shards}: {why}; build them again from all notes")
    info, built = manifest.tokenizer, manifest.settings
    rules: dict[str, Any] = {name: name in manifest.cleaning_rules for name in RULES}
    token = "unk" if info.placeholder == info.unknown_token else info.placeholder or "drop"
    try:
        settings = ShardSettings(
            reading=reading,
            split=SplitRule(**built["split"] | {"lists": lists or SplitLists()}),
            cleaning=CleaningRules(**rules),
            duplicates=DuplicateRules(**built.get("duplicates", {})),
            placeholder=built.get("placeholder", token),
            patient_key=patient_key,
        )
        numbers = {each.name for each in fields(ShardSettings)} & built.keys() - _NO_NUMBERS
        return replace(settings, **{name: built[name] for name in numbers})
    except (KeyError, TypeError):
        raise UserError(
            f"{shards}: built by another version of build-shards, whose settings this one doesn't know; build the "
            "shards again from all notes"
        ) from None


def why_not_appendable(manifest: Manifest) -> str | None:
    """Why nothing can be appended to shards; None if notes can."""
    if manifest.pack == "timeline":
        return "built with --pack timeline, and a patient's new notes would stand apart from the earlier ones"
    if manifest.copied:
        return (
            "built with --duplicates.copied drop, and the shards don't say which paragraphs of new notes stand in "
            "earlier ones"
        )
    return None if manifest.sources else "of an earlier version, which didn't count by source"


def refuse_other_settings(shards: Path, asked: ShardSettings, given: Collection[str]) -> None:
    """Check that what the user says is what the shards were built with. How notes are read may differ.

    Args:
        shards: their folder.
        asked: the user's settings.
        given: names of those that the user has given, such as `split.seed`; the others are the shards'.

    Raises:
        UserError: a setting differs.
    """
    manifest = Manifest.load(shards)
    same_lists = asked.split.lists if "lists" in manifest.split_rule else None  # the lists may have grown
    theirs, own = map(_flat, (settings_of(shards, asked.reading, asked.patient_key, same_lists), asked))
    same = {
        "cleaning": asked.cleaning.names() == manifest.cleaning_rules,
        "placeholder": WAYS.get(asked.placeholder) == WAYS.get(theirs["placeholder"])
        and token_of(asked.placeholder, manifest.tokenizer.unknown_token) == manifest.tokenizer.placeholder,
    }
    differing = [
        name
        for name in sorted(given)
        if _below(name, own)
        and not same.get(name.split(".")[0], all(own[each] == theirs[each] for each in _below(name, own)))
    ]
    if differing:
        names = ", ".join(f"--{name.replace('_', '-') if '.' not in name else name}" for name in differing)
        raise UserError(
            f"{names}: not the setting that {shards} was built with; leave it out to append with theirs, or build the "
            "shards again from all notes"
        )


def _flat(settings: ShardSettings) -> dict[str, Any]:
    """The settings by their dotted names, without those of reading and the key."""
    flat: dict[str, Any] = {}
    for name, value in asdict(settings).items():
        if name not in ("reading", "patient_key"):
            flat |= {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _below(name: str, flat: dict[str, Any]) -> list[str]:
    return [each for each in flat if each == name or each.startswith(f"{name}.") or name.startswith(f"{each}.")]
