"""Access to the Hugging Face Hub. Whether it can be reached is tested once, as its own client retries for a minute."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tokenizer_tools.errors import UserError

TIMEOUT_SECONDS = 10


def hub_arguments(name_or_path: str) -> dict[str, Any]:
    """Arguments for any `from_pretrained`: without internet, a Hub id is looked up only in the cache."""
    return {} if Path(name_or_path).is_dir() or hub_is_reachable() else {"local_files_only": True}


@cache
def hub_is_reachable() -> bool:
    """Whether the Hub, or the mirror that HF_ENDPOINT names, answers at all."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
    except Exception:  # the HTTP library differs between versions; also HF_HUB_OFFLINE
        return False
    return True


def not_found(name_or_path: str, what: str) -> UserError:
    """The error for a name that is neither a folder nor, as far as this machine can know, on the Hub."""
    from huggingface_hub import constants

    if hub_is_reachable():
        return UserError(
            f"{name_or_path}: neither a folder nor a {what} that {constants.ENDPOINT} gives you; check the name, and "
            "run 'hf auth login' if it's private"
        )
    return UserError(
        f"{name_or_path}: neither a folder nor a {what} in the Hugging Face cache, and {constants.ENDPOINT} can't be "
        f"reached from here; on a machine with internet run 'hf download {name_or_path}', or copy its folder here"
    )
