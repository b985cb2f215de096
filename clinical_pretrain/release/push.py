"""Push an exported model to the Hugging Face Hub: its files and a model card, in one commit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from clinical_pretrain.release.facts_file import FACTS_NAME, read_facts
from clinical_pretrain.release.hub import Destination, check_repo_id, upload
from clinical_pretrain.release.model_card import CARD_NAME, front_matter, is_generated, render_model_card, signed
from tokenizer_tools.command_line import typed
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import write_atomically

REQUIRED_FILES = ("config.json", "model.safetensors", "tokenizer.json", FACTS_NAME)
ALLOWED_FILES = (
    *REQUIRED_FILES,
    CARD_NAME,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "vocab.json",
    "merges.txt",
)
"""Nothing else leaves: a pickle, a log or a file of notes beside the model is not pushed."""
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def push(
    model: Path,
    repo_id: str,
    *,
    private: bool = True,
    license: str | None = None,
    revision: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Upload an exported model in one commit.

    A README.md that was written or edited by hand is used as the model card. Otherwise each push generates one.

    Args:
        model: folder made by `clinical-pretrain export`.
        repo_id: org/name.
        private: False makes a new repository public.
        license: for the model card, in the Hub's spelling; default other.
        revision: branch; default main.
        dry_run: print what would be pushed. Nothing is written, and no network used.

    Returns:
        repo_id, url, commit, private and files.

    Raises:
        UserError: the folder is not an export, the Hub can't be reached or refuses, or the repository is public though
            private was asked for.
    """
    facts = _facts_of_export(model)
    check_repo_id(repo_id)
    offline = [name for name in OFFLINE_VARIABLES if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    if offline and not dry_run:
        raise UserError(
            f"{offline[0]} is set, so nothing was pushed; unset it and run this on a machine with internet, such as "
            "the login node"
        )
    prepare_card(model / CARD_NAME, facts, repo_id, license, dry_run)
    files = sorted({path.name for path in model.iterdir() if path.name in ALLOWED_FILES} | {CARD_NAME})
    if facts["initialisation"] == "random":
        print(
            "warning: if the tokenizer was trained on notes, its vocabulary can hold words of theirs, such as names; "
            f"look through {model / 'tokenizer.json'}"
        )
    if left_out := sorted(path.name for path in model.iterdir() if path.name not in ALLOWED_FILES):
        print(f"not pushed, as not part of a model: {', '.join(left_out)}")
    result: dict[str, Any] = {"repo_id": repo_id, "url": None, "commit": None, "private": private, "files": files}
    if dry_run:
        print(f"would push to {repo_id} ({_visibility(private)}): {', '.join(files)}")
        return result
    done = upload(model, files, Destination(repo_id, private, revision))
    print(f"pushed {len(files)} files to {done.url} ({_visibility(done.private)})")
    print(f'load it with AutoModelForMaskedLM.from_pretrained("{repo_id}")')
    return result | {"url": done.url, "commit": done.commit, "private": done.private}


def prepare_card(card: Path, facts: dict[str, Any], repo_id: str, license: str | None, dry_run: bool = False) -> None:
    """Generate the model card, unless there is one that was written or edited by hand."""
    if not card.exists() or is_generated(card):
        if not dry_run:
            write_atomically(card, signed(render_model_card(facts, repo_id=repo_id, license=license or "other")))
        done = "would be generated" if dry_run else "generated"
        print(f"{card}: {done} from the run; edit it and push again if you like")
        return
    print(f"{card}: written or edited by hand, so it is pushed as it is")
    in_card = front_matter(card.read_text(errors="replace")).get("license")
    if license and in_card != license:
        found = f"has license: {in_card}" if in_card else "has no license"
        print(f"warning: {card} {found}, which --license {license} doesn't change; edit the card")


def _facts_of_export(model: Path) -> dict[str, Any]:
    if missing := [name for name in REQUIRED_FILES if not (model / name).is_file()]:
        raise UserError(
            f"{model}: not an exported model ({', '.join(missing)} missing); make one with "
            f"'{typed()} export runs/NAME --out {model}'"
        )
    return read_facts(model)


def _visibility(private: bool) -> str:
    return "private" if private else "PUBLIC"
