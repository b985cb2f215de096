"""An exported model to the Hugging Face Hub: what may go, a model card made from the run, one commit."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from tokenizer_tools.command_line import typed
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import write_atomically
from tokenizer_tools.manifest import held_out

FORMAT_VERSION = 3
"""Of pretraining.json."""
NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "pretraining.json")
# Nothing else leaves: a pickle, a log or a notes file beside the model stays where it is.
ALLOWED = (
    *NEEDED,
    "README.md",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "vocab.json",
    "merges.txt",
)
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
CARD_NAME = "README.md"
MADE_BY = "<!-- Made by clinical-pretrain push, which makes it anew as long as nobody edits it; sha256 of the above: "


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

    A README.md that you wrote or edited is the model card; otherwise one is made from the run's figures, at each push.

    Args:
        model: the folder that `clinical-pretrain export` made.
        repo_id: org/name.
        private: False makes a new repository public.
        license: for the model card, in the Hub's spelling; default other.
        revision: branch, main by default.
        dry_run: say what would go, without network, and write nothing.

    Returns:
        repo_id, url, commit, private and files.

    Raises:
        UserError: the folder isn't an export, the Hub can't be reached or refuses, or the repository is public though
            a private one was asked for.
    """
    facts = _read_facts(model)
    _check_repo_id(repo_id)
    offline = [name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    if offline and not dry_run:
        raise UserError(
            f"{offline[0]} is set, so nothing was pushed; unset it and run this on a machine with internet, such as "
            "the login node"
        )
    _prepare_card(model / CARD_NAME, facts, repo_id, license, dry_run)
    files = sorted({path.name for path in model.iterdir() if path.name in ALLOWED} | {CARD_NAME})
    left_out = sorted(path.name for path in model.iterdir() if path.name not in ALLOWED)
    if left_out:
        print(f"left out, not part of a model: {', '.join(left_out)}")
    if dry_run:
        print(f"would push to {repo_id} ({'private' if private else 'PUBLIC'}): {', '.join(files)}")
        return {"repo_id": repo_id, "url": None, "commit": None, "private": private, "files": files}
    url, commit, private = _upload(model, files, repo_id, private, revision)
    print(f"pushed {len(files)} files to {url} ({'private' if private else 'PUBLIC'})")
    print(f'load it with AutoModelForMaskedLM.from_pretrained("{repo_id}")')
    return {"repo_id": repo_id, "url": url, "commit": commit, "private": private, "files": files}


def _check_repo_id(repo_id: str) -> None:
    """Raise a UserError for a name that the Hub doesn't take."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not re.fullmatch(r"[^/]+/[^/]+", repo_id):
        raise UserError(f"--repo-id {repo_id}: must be org/name or user/name")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--repo-id {repo_id}: {_one_line(str(error))}") from None


def _prepare_card(card: Path, facts: dict[str, Any], repo_id: str, license: str | None, dry_run: bool) -> None:
    """Make the model card, unless somebody wrote one, or edited ours."""
    if not card.exists() or is_generated(card):
        if not dry_run:
            write_atomically(card, _signed(render_model_card(facts, repo_id=repo_id, license=license or "other")))
        print(f"{card}: {'would be made' if dry_run else 'made'} from the run; edit it and push again if you like")
        return
    print(f"{card}: yours, so it stays as it is")
    stands = front_matter(card.read_text(errors="replace")).get("license")
    if license and stands != license:
        said = f"says license: {stands}" if stands else "says no license"
        print(f"warning: {card} {said}, and --license {license} doesn't change it; edit it")


def front_matter(text: str) -> dict[str, Any]:
    """The YAML at a card's top; empty where there is none that can be read."""
    found = re.match(r"---\r?\n(.*?)\r?\n---\s", text, re.DOTALL)
    try:
        values = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        values = None
    return values if isinstance(values, dict) else {}


def _signed(text: str) -> str:
    return f"{text}\n{MADE_BY}{hashlib.sha256(text.encode()).hexdigest()} -->\n"


def is_generated(card: Path) -> bool:
    """Whether a card is as push made it."""
    try:
        text = card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return text == _signed(text.split(f"\n{MADE_BY}")[0])


def _upload(model: Path, files: list[str], repo_id: str, private: bool, revision: str | None) -> tuple[str, str, bool]:
    """Returns the repository's address, the commit, and whether it is private: one that exists stays as it is."""
    if os.environ.get("HF_ENDPOINT"):
        # A hospital's mirror speaks the Hub's API, but hardly its Xet storage.
        os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    import huggingface_hub.utils as hub_utils
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    hub_utils.logging.set_verbosity_error()  # it warns of each attempt, of which the last one's reason is told
    if not sys.stderr.isatty():
        hub_utils.disable_progress_bars()
    api = HfApi()
    try:
        try:
            is_private = bool(api.repo_info(repo_id).private)
        except RepositoryNotFoundError:
            is_private = private
        if private and not is_private:
            raise UserError(
                f"{repo_id}: exists and is public; choose another --repo-id, make it private on the Hub, or say "
                "--private false"
            )
        api.create_repo(repo_id, private=private, exist_ok=True)
        done = api.create_commit(
            repo_id,
            [CommitOperationAdd(name, str(model / name)) for name in files],
            commit_message="Add the model and its card",
            revision=revision,
        )
    except UserError:
        raise
    except Exception as error:
        # Of several libraries, which differ between versions, and wrap each other's.
        refusal = _refusal(error, repo_id, revision, api.endpoint)
        if refusal is None:
            raise
        raise refusal from None
    return f"{api.endpoint}/{repo_id}", str(done.oid), is_private


def _refusal(error: BaseException, repo_id: str, revision: str | None, endpoint: str) -> UserError | None:
    """What went wrong in a line, with the server's own reason and what can be done; None: it isn't known."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if isinstance(error, LocalTokenNotFoundError):
        return UserError("no Hugging Face token; run 'hf auth login', or set HF_TOKEN")
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status, headers = error.response.status_code, error.response.headers
        reason = _one_line(error.server_message or headers.get("X-Error-Message") or error.response.reason_phrase)
        remedy = _remedy(status, reason, repo_id, revision, headers.get("Retry-After"))
        return UserError(f"{repo_id}: the Hub refused ({status}: {reason.rstrip('.')}); {remedy}")
    if isinstance(error, ValueError) and "README.md" in str(error):
        return UserError(f"{repo_id}: {_one_line(str(error))}; correct --license, or README.md's first lines")
    if error.__cause__ and (refusal := _refusal(error.__cause__, repo_id, revision, endpoint)):
        return refusal
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith(("httpx", "requests")):
        host = _host_of(error)
        if host and host != urlsplit(endpoint).netloc:
            return UserError(
                f"{repo_id}: the Hub answers, but {host}, where it stores large files, can't be reached "
                f"({type(error).__name__}); have the firewall or proxy allow it, or push from another machine"
            )
        return UserError(
            f"{endpoint} can't be reached ({type(error).__name__}); push from a machine with internet, such as the "
            "login node"
        )
    if type(error).__module__.startswith("hf_xet"):
        return UserError(f"{repo_id}: the Hub's storage failed ({_one_line(str(error))}); try HF_HUB_DISABLE_XET=1")
    return None


def _remedy(status: int, reason: str, repo_id: str, revision: str | None, retry_after: str | None) -> str:
    owner = repo_id.split("/")[0]
    if status == 402 or (status == 403 and re.search(r"quota|storage|exceed|limit", reason, re.IGNORECASE)):
        return f"make room in {owner}'s storage on the Hub, or have its limit raised"
    if status in (401, 403):
        return f"run 'hf auth login' or set HF_TOKEN, with a token that may write to {owner}"
    if status == 404 and revision:
        return f"if there is no branch {revision}, make it: hf repos branch create {repo_id} {revision}"
    if status == 429:
        return f"too many requests: push again {f'in {retry_after} s' if retry_after else 'in some minutes'}"
    if status >= 500:
        return "the fault is the Hub's: push again later"
    return {
        400: "correct what it names, in README.md, --license or --repo-id",
        404: "check --repo-id, and HF_ENDPOINT if you have set it",
        409: "look at the repository on the Hub: something there is in the way; or choose another --repo-id",
        412: "somebody else has pushed meanwhile: look at their commit, and push again",
        413: "a file is larger than the Hub, or a proxy on the way, takes: have that limit raised",
    }.get(status, "nothing was pushed")


def _host_of(error: BaseException) -> str | None:
    """The server that couldn't be reached."""
    try:
        return urlsplit(str(error.request.url)).netloc  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):
        return None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _read_facts(model: Path) -> dict[str, Any]:
    missing = [name for name in NEEDED if not (model / name).is_file()]
    if missing:
        raise UserError(
            f"{model}: not an exported model ({', '.join(missing)} missing); make one with "
            f"'{typed()} export runs/NAME --out {model}'"
        )
    path = model / "pretraining.json"
    try:
        facts = dict(json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise UserError(f"{path}: damaged; export the model again") from None
    if facts.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: format_version {facts.get('format_version')}, but this reads {FORMAT_VERSION}; export it again"
        )
    return facts


def render_model_card(facts: dict[str, Any], *, repo_id: str, license: str) -> str:
    """The model card: what the model is, how to load it, its data by counts alone, recipe, results, limits.

    Args:
        facts: `pretraining.json`.
        repo_id: where the model will be.
        license: of the model, in the Hub's spelling.
    """
    from clinical_pretrain.models.families import family_of_type

    base, family = facts["base_model"], family_of_type(facts["model_type"])
    origin = f"continued from `{base}`" if base else "continued from a model in a local folder"
    if facts["initialisation"] == "random":
        origin = "started from random weights"
    versions = ", ".join(f"{key} {value}" for key, value in facts["versions"].items())
    front = {"license": license, "language": facts["languages"], "library_name": "transformers"}
    front |= {"pipeline_tag": "fill-mask"} | ({"base_model": base} if base else {})
    front |= {"tags": ["clinical", family.name, "masked-lm"]}
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---

# {repo_id.split("/")[-1]}

A {family.title} for clinical text of up to {facts["sequence_length"]:,} tokens: masked-LM pretraining on clinical \
notes, {origin}, {facts["steps"]:,} steps.

```python
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo_id}")
model = AutoModelForMaskedLM.from_pretrained("{repo_id}")
```

## Data

Clinical notes. The model saw {facts["tokens_consumed"]:,} tokens of the training split (repeats counted).

{_data_tables(facts["data"])}

## Recipe

| setting | value |
| --- | --- |
{_recipe_rows(facts["recipe"])}

## Results

Masked-LM loss on {held_out(facts["data"][-1]["split_by"])}, in nats per masked token.

{_results(facts["results"])}

The exported weights, loaded with plain `transformers`, give the trained model's logits to \
{facts["max_logit_difference"]:.1e}.

## Limits

A language model can repeat what it was trained on. Before you share these weights, see what the data-use agreement of
the notes allows. Not a medical device; don't use its output in care without validation.

Versions: {versions}. Made with clinical-pretrain.
"""


def _data_tables(corpora: list[dict[str, Any]]) -> str:
    """A table of counts for each corpus, under its steps where there are several."""
    tables = []
    for corpus in corpora:
        names = ["patients", "admissions", "notes", "tokens", "sequences"]
        known = [name for name in names if any(split[name] for split in corpus["splits"].values())]
        rows = [f"| split | {' | '.join(known)} |", "| --- |" + " --- |" * len(known)]
        for split, counts in corpus["splits"].items():
            rows.append(f"| {split} | {' | '.join(f'{counts[name]:,}' for name in known)} |")
        steps = f"{_steps(corpus).capitalize()}: " if len(corpora) > 1 else ""
        tables.append("\n".join([f"{steps}{_split_by(corpus)}", "", *rows]))
    return "\n\n".join(tables)


def _split_by(corpus: dict[str, Any]) -> str:
    """Who may be in several splits."""
    several = corpus["patients_in_several_splits"]
    if corpus["split_by"] == "patient":
        return "Split by patient, so that none is in several splits."
    if any(split["patients"] for split in corpus["splits"].values()) and corpus["split_by"] == "note":
        return f"Split by note: {several:,} patients are in several splits."
    return f"Split by {corpus['split_by']}: a patient may be in several splits."


def _recipe_rows(periods: list[dict[str, Any]]) -> str:
    """A row for each setting; one that was changed has its values by steps."""
    names = dict.fromkeys(name for period in periods for name in period if name not in ("first_step", "last_step"))
    rows = []
    for name in names:
        values = _values(periods, name)
        text = str(values[0][1]) if len(values) == 1 else "; ".join(f"{steps}: {value}" for steps, value in values)
        rows.append(f"| {name.replace('_', ' ')} | {text} |")
    return "\n".join(rows)


def _values(periods: list[dict[str, Any]], name: str) -> list[tuple[str, Any]]:
    """A setting's values, with the steps in which each held."""
    found = []
    for value, group in groupby(periods, lambda period: period.get(name)):
        same = list(group)
        found.append((_steps(same[0] | {"last_step": same[-1]["last_step"]}), value))
    return found


def _steps(period: dict[str, int]) -> str:
    return f"steps {period['first_step']:,}-{period['last_step']:,}"


def _results(results: dict[str, Any]) -> str:
    before, after, accuracy = (
        _number(results[f"validation_{name}"]) for name in ("loss_before", "loss_after", "accuracy_after")
    )
    at = f" (step {results['validation_step_after']:,})" if results["validation_step_after"] is not None else ""
    if results["not_comparable"]:
        table = f"| | after{at} |\n| --- | --- |\n| loss | {after} |\n| accuracy | {accuracy} |"
        reasons = ", ".join(results["not_comparable"])
        return f"{table}\n\nNo loss from before training compares with it: that was measured on {reasons}."
    return f"| | before | after{at} |\n| --- | --- | --- |\n| loss | {before} | {after} |\n| accuracy | | {accuracy} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
