"""Upload files to the Hugging Face Hub, and explain what it refuses."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True)
class Destination:
    """Where to push."""

    repo_id: str
    private: bool
    """Of a repository that doesn't exist yet. An existing one keeps its visibility."""
    revision: str | None = None
    """Branch; None: main."""


@dataclass(frozen=True)
class Uploaded:
    """The result of an upload."""

    url: str
    commit: str
    private: bool
    """Whether the repository is private."""


def check_repo_id(repo_id: str) -> None:
    """Check that the Hub accepts a repository name.

    Raises:
        UserError: it doesn't.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not re.fullmatch(r"[^/]+/[^/]+", repo_id):
        raise UserError(f"--repo-id {repo_id}: must be org/name or user/name")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--repo-id {repo_id}: {_one_line(str(error))}") from None


def upload(model: Path, files: list[str], destination: Destination) -> Uploaded:
    """Upload files of a folder in one commit, and create the repository if there is none.

    Raises:
        UserError: the Hub can't be reached or refuses, or the repository is public and `destination` private.
    """
    if os.environ.get("HF_ENDPOINT"):
        # A hospital's mirror has the Hub's API, but rarely its Xet storage. huggingface_hub reads this when it is
        # imported, so nothing that push needs may import it, or transformers, before.
        os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    import huggingface_hub.utils as hub_utils
    from huggingface_hub import CommitOperationAdd, HfApi

    hub_utils.logging.set_verbosity_error()  # it warns of each failed attempt; the error below names the last reason
    if not sys.stderr.isatty():
        hub_utils.disable_progress_bars()
    api, repo_id = HfApi(), destination.repo_id
    try:
        private = _is_private(api, destination)
        if destination.private and not private:
            raise UserError(
                f"{repo_id}: exists and is public; choose another --repo-id, make it private on the Hub, or pass "
                "--private false"
            )
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(name, str(model / name)) for name in files],
            commit_message="Add the model and its card",
            revision=destination.revision,
        )
    except UserError:
        raise
    except Exception as error:  # several libraries raise their own, which differ between versions and wrap each other
        refusal = _refusal(error, destination, api.endpoint)
        if refusal is None:
            raise
        raise refusal from None
    return Uploaded(f"{api.endpoint}/{repo_id}", str(commit.oid), private)


def _is_private(api: HfApi, destination: Destination) -> bool:
    """Whether the repository is private, or will be once it is created."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return bool(api.repo_info(destination.repo_id).private)
    except RepositoryNotFoundError:
        return destination.private


def _refusal(error: BaseException, destination: Destination, endpoint: str) -> UserError | None:
    """The error in one line, with the server's own reason and a remedy; None if it is not a known one."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    repo_id = destination.repo_id
    if isinstance(error, LocalTokenNotFoundError):
        return UserError("no Hugging Face token; run 'hf auth login', or set HF_TOKEN")
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status, headers = error.response.status_code, error.response.headers
        reason = _one_line(error.server_message or headers.get("X-Error-Message") or error.response.reason_phrase)
        remedy = _remedy(status, reason, destination, headers.get("Retry-After"))
        return UserError(f"{repo_id}: the Hub refused ({status}: {reason.rstrip('.')}); {remedy}")
    if isinstance(error, ValueError) and "README.md" in str(error):
        return UserError(f"{repo_id}: {_one_line(str(error))}; correct --license, or README.md's first lines")
    if error.__cause__ and (refusal := _refusal(error.__cause__, destination, endpoint)):
        return refusal
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith(("httpx", "requests")):
        host = _host_of(error)
        if host and host != urlsplit(endpoint).netloc:
            return UserError(
                f"{repo_id}: the Hub answers, but {host}, where it stores large files, can't be reached "
                f"({type(error).__name__}); allow it in the firewall or proxy, or push from another machine"
            )
        return UserError(
            f"{endpoint} can't be reached ({type(error).__name__}); push from a machine with internet, such as the "
            "login node"
        )
    if type(error).__module__.startswith("hf_xet"):
        return UserError(f"{repo_id}: the Hub's storage failed ({_one_line(str(error))}); try HF_HUB_DISABLE_XET=1")
    return None


def _remedy(status: int, reason: str, destination: Destination, retry_after: str | None) -> str:
    """What to do about an HTTP status."""
    repo_id, revision = destination.repo_id, destination.revision
    owner = repo_id.split("/")[0]
    if status == 402 or (status == 403 and re.search(r"quota|storage|exceed|limit", reason, re.IGNORECASE)):
        return f"free storage of {owner} on the Hub, or have its limit raised"
    if status in (401, 403):
        return f"run 'hf auth login' or set HF_TOKEN, with a token that may write to {owner}"
    if status == 404 and revision:
        return f"if there is no branch {revision}, create it: hf repos branch create {repo_id} {revision}"
    if status == 429:
        return f"too many requests: push again {f'in {retry_after} s' if retry_after else 'in a few minutes'}"
    if status >= 500:
        return "the Hub has a fault: push again later"
    return {
        400: "correct README.md, --license or --repo-id",
        404: "check --repo-id, and HF_ENDPOINT if you have set it",
        409: "check the repository on the Hub, or choose another --repo-id",
        412: "there is a newer commit: check it, and push again",
        413: "a file is larger than the Hub or a proxy accepts: have that limit raised",
    }.get(status, "nothing was pushed")


def _host_of(error: BaseException) -> str | None:
    """Host of the failed request, if the error has one."""
    try:
        return urlsplit(str(error.request.url)).netloc  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):
        return None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
