"""An exported model to the Hugging Face Hub: what may go, a model card made from the run, one commit."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from tokenizer_tools.command_line import typed
from tokenizer_tools.manifest import UserError, write_atomically

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
CARD_NAME = "README.md"


def push(
    model: Path,
    repo_id: str,
    *,
    private: bool = True,
    license: str = "other",
    revision: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Upload an exported model in one commit.

    A README.md that you wrote into the folder is the model card; otherwise one is made from the run's figures and
    put there first.

    Args:
        model: the folder that `clinical-pretrain export` made.
        repo_id: org/name.
        private: False makes a new repository public.
        license: for the model card, in the Hub's spelling.
        revision: branch, main by default.
        dry_run: say what would go, without network.

    Returns:
        repo_id, url, commit, private and files.

    Raises:
        UserError: the folder isn't an export, the Hub can't be reached or refuses, or the repository is public though
            a private one was asked for.
    """
    facts = _read_facts(model)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise UserError(f"--repo-id {repo_id}: must be org/name or user/name")
    if not dry_run and os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UserError(
            "HF_HUB_OFFLINE is set, so nothing was pushed; unset it and run this on a machine with internet, such as "
            "the login node"
        )
    if not (model / CARD_NAME).exists():
        write_atomically(model / CARD_NAME, render_model_card(facts, repo_id=repo_id, license=license))
        print(f"{model / CARD_NAME}: model card made from the run; edit it and push again if you like")
    files = sorted(path.name for path in model.iterdir() if path.name in ALLOWED)
    left_out = sorted(path.name for path in model.iterdir() if path.name not in ALLOWED)
    if left_out:
        print(f"left out, not part of a model: {', '.join(left_out)}")
    if dry_run:
        print(f"would push to {repo_id} ({'private' if private else 'PUBLIC'}): {', '.join(files)}")
        return {"repo_id": repo_id, "url": None, "commit": None, "private": private, "files": files}
    url, commit = _upload(model, files, repo_id, private, revision)
    print(f"pushed {len(files)} files to {url} ({'private' if private else 'PUBLIC'})")
    print(f'load it with AutoModelForMaskedLM.from_pretrained("{repo_id}")')
    return {"repo_id": repo_id, "url": url, "commit": commit, "private": private, "files": files}


def _upload(model: Path, files: list[str], repo_id: str, private: bool, revision: str | None) -> tuple[str, str]:
    if os.environ.get("HF_ENDPOINT"):
        # A hospital's mirror speaks the Hub's API, but hardly its Xet storage.
        os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

    api = HfApi()
    try:
        try:
            exists_in_public = not api.repo_info(repo_id).private
        except RepositoryNotFoundError:
            exists_in_public = False
        if exists_in_public and private:
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
    except LocalTokenNotFoundError:
        raise UserError("no Hugging Face token; run 'hf auth login', or set HF_TOKEN") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise UserError(
                f"{repo_id}: the Hub refused ({status}); run 'hf auth login' or set HF_TOKEN, with a token that may "
                f"write to {repo_id.split('/')[0]}"
            ) from None
        raise UserError(f"{repo_id}: the Hub answered {status}; try again later") from None
    except Exception as error:
        # The library's HTTP client, and so its errors, differ between its versions.
        if not isinstance(error, OSError) and not type(error).__module__.startswith(("httpx", "requests")):
            raise
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        raise UserError(
            f"{endpoint} can't be reached ({type(error).__name__}); push from a machine with internet, such as the "
            "login node"
        ) from None
    return f"{api.endpoint}/{repo_id}", str(done.oid)


def _read_facts(model: Path) -> dict[str, Any]:
    missing = [name for name in NEEDED if not (model / name).is_file()]
    if missing:
        raise UserError(
            f"{model}: not an exported model ({', '.join(missing)} missing); make one with "
            f"'{typed()} export runs/NAME --out {model}'"
        )
    return dict(json.loads((model / "pretraining.json").read_text()))


def render_model_card(facts: dict[str, Any], *, repo_id: str, license: str) -> str:
    """The model card: what the model is, how to load it, its data by counts alone, recipe, results, limits.

    Args:
        facts: `pretraining.json`.
        repo_id: where the model will be.
        license: of the model, in the Hub's spelling.
    """
    base, family = facts["base_model"], facts["model_type"]
    name = {"longformer": "Longformer", "big_bird": "BigBird"}.get(family, family)
    on_hub = base is not None and base.count("/") == 1 and " " not in base
    origin = "started from random weights" if base is None else f"continued from {f'`{base}`' if on_hub else base}"
    recipe = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in facts["recipe"].items())
    data = "\n".join(
        f"| {split} | {n['patients']:,} | {n['notes']:,} | {n['tokens']:,} | {n['rows']:,} |"
        for split, n in facts["data"].items()
    )
    versions = ", ".join(f"{key} {value}" for key, value in facts["versions"].items())
    front = [f"license: {license}", "language: en", "library_name: transformers", "pipeline_tag: fill-mask"]
    front += [f"base_model: {base}"] if on_hub else []
    front += ["tags:", "- clinical", f"- {family.replace('_', '')}", "- masked-lm"]
    lines = "\n".join(front)
    return f"""---
{lines}
---

# {repo_id.split("/")[-1]}

A {name} for clinical text of up to {facts["sequence_length"]:,} tokens: masked-LM pretraining on clinical notes, \
{origin}, {facts["steps"]:,} steps.

```python
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo_id}")
model = AutoModelForMaskedLM.from_pretrained("{repo_id}")
```

## Data

Clinical notes, split by patient. The model saw {facts["tokens_consumed"]:,} tokens of the training split (repeats \
counted).

| split | patients | notes | tokens | rows |
| --- | --- | --- | --- | --- |
{data}

## Recipe

| setting | value |
| --- | --- |
{recipe}

## Results

Masked-LM loss on the held-out patients, in nats per masked token.

| | before | after |
| --- | --- | --- |
| loss | {_number(facts["results"]["validation_loss_before"])} | {_number(facts["results"]["validation_loss_after"])} |
| accuracy | | {_number(facts["results"]["validation_accuracy_after"])} |

The exported weights, loaded with plain `transformers`, give the trained model's logits to \
{facts["max_logit_difference"]:.1e}.

## Limits

A language model can repeat what it was trained on. Before you share these weights, see what the data-use agreement of
the notes allows. Not a medical device; don't use its output in care without validation.

Versions: {versions}. Made with clinical-pretrain.
"""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
