"""A push to a real HTTP server, and a load from it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading

import pytest
import torch
import yaml
from conftest import REPOSITORY
from hub_server import TOKEN, Hub
from transformers import LongformerConfig, LongformerForMaskedLM

from clinical_pretrain.release import push as hub_module
from clinical_pretrain.release.facts_file import FORMAT_VERSION
from clinical_pretrain.release.model_card import render_model_card
from tokenizer_tools.corpus.synthetic_notes import make_notes
from tokenizer_tools.errors import UserError
from tokenizer_tools.tokenizer.train import TokenizerSettings, train_tokenizer

FACTS = {
    "format_version": FORMAT_VERSION,
    "run_id": "x",
    "base_model": None,
    "initialisation": "pretrained",
    "model_family": {"name": "longformer", "title": "Longformer"},
    "languages": ["no"],
    "sequence_length": 64,
    "steps": 1200,
    "samples_consumed": 10,
    "tokens_consumed": 640,
    "data": [{"first_step": 1, "last_step": 1200, "fingerprint": "f", "split_by": "patient",
              "patients_in_several_splits": 0, "splits": {
        s: {"sequences": 1, "tokens": 64, "notes": 4321, "patients": 17, "admissions": 0}
        for s in ("train", "validation", "test")
    }}],
    "recipe": [{"first_step": 1, "last_step": 1200, "optimizer": "AdamW", "learning_rate": 3e-5}],
    "results": {"validation_loss_before": 7.1, "validation_loss_after": 1.2345, "validation_accuracy_after": 0.5,
                "validation_step_after": 1200, "not_comparable": []},
    "max_logit_difference": 1e-6,
    "versions": {"torch": "2"},
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    root = tmp_path_factory.mktemp("push")
    make_notes(root / "n.csv", patients=3)
    folder = root / "model"
    train_tokenizer([root / "n.csv"], folder, TokenizerSettings(vocab_size=400))
    config = LongformerConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                              intermediate_size=16, attention_window=[8], max_position_embeddings=66)  # fmt: skip
    LongformerForMaskedLM(config).save_pretrained(folder)
    (folder / "pretraining.json").write_text(json.dumps(FACTS))
    return folder


@pytest.fixture(scope="module")
def hub():
    server = Hub()
    yield server
    server.shutdown()


def push(model, hub, *options, token=TOKEN, **variables):
    environment = os.environ | {"HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_TOKEN": token} | variables
    if not token:
        del environment["HF_TOKEN"]
    call = [sys.executable, "-m", "clinical_pretrain", "push", str(model), *options]
    return subprocess.run(call, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def pushed(model, hub, tmp_path_factory):
    (model / "notes.csv").write_text("not for the Hub")
    (model / "pytorch_model.bin").write_bytes(b"a pickle")
    result = tmp_path_factory.mktemp("result") / "push.json"
    done = push(model, hub, "--repo-id", "hospital/tiny", "--json", str(result))
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(result.read_text())


def test_private_by_default_in_one_commit_and_whole(pushed, model, hub):
    repo = hub.repos["hospital/tiny"]
    assert repo["private"] is True and len(hub.commits) == 1
    for name, content in repo["files"].items():
        assert content == (model / name).read_bytes()
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(repo["files"])
    assert pushed[1]["private"] is True and pushed[1]["url"] == f"{hub.url}/hospital/tiny"


def test_nothing_else_leaves_the_folder(pushed, hub):
    assert not {"notes.csv", "pytorch_model.bin"} & set(hub.repos["hospital/tiny"]["files"])
    assert "not pushed, as not part of a model: notes.csv, pytorch_model.bin" in pushed[0]


def test_the_card_has_counts_and_results_and_no_path(pushed, model, hub):
    card = hub.repos["hospital/tiny"]["files"]["README.md"].decode()
    assert "4,321" in card and "1.2345" in card and 'from_pretrained("hospital/tiny")' in card
    assert str(model.parent) not in card and "base_model:" not in card and "continued from a model in a local" in card
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["language"] == ["no"] and front["license"] == "other"
    based = render_model_card(FACTS | {"base_model": "allenai/longformer-base-4096"}, repo_id="a/b", license="mit")
    assert "base_model: allenai/longformer-base-4096\n" in based and "from `allenai/longformer-base-4096`" in based


def test_a_fresh_process_loads_it_from_the_hub(pushed, model, hub, tmp_path):
    code = (
        "import torch, sys\nfrom transformers import AutoModelForMaskedLM, AutoTokenizer\n"
        "AutoTokenizer.from_pretrained('hospital/tiny')\n"
        "m = AutoModelForMaskedLM.from_pretrained('hospital/tiny').eval()\n"
        "torch.save(m(torch.arange(64)[None]).logits, sys.argv[1])"
    )
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "l.pt")], env=environment, check=True, timeout=120)
    ours = LongformerForMaskedLM.from_pretrained(model).eval()(torch.arange(64)[None]).logits
    assert torch.equal(torch.load(tmp_path / "l.pt"), ours)


@pytest.mark.parametrize(
    ("options", "variables", "message"),
    [
        ({}, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({}, {"TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": ""}, "TRANSFORMERS_OFFLINE is set"),
        ({"token": "hf_wrong"}, {}, "the Hub refused (401: Invalid username or password); run 'hf auth login'"),
        ({"token": ""}, {}, "hf auth login"),
        ({"hub": None}, {}, "can't be reached"),
        ({"repo_id": "no-owner"}, {}, "must be org/name"),
        ({"repo_id": "org/a--b"}, {}, "--repo-id org/a--b: Cannot have -- or .. in repo_id"),
        ({"repo_id": f"org/{'a' * 100}"}, {}, "the maximum length is 96"),
        ({"repo_id": "org/a b"}, {}, "must use alphanumeric chars"),
        ({"repo_id": "hospital/large"}, {}, "hospital/large: the Hub refused (413: Request Entity Too Large); a file"),
        ({"repo_id": "hospital/public"}, {}, "exists and is public"),
        ({"repo_id": "hospital/x", "model": "nowhere"}, {}, "not an exported model"),
    ],
)
def test_one_line_and_exit_code_2(pushed, model, hub, options, variables, message):
    hub.repos["hospital/public"] = {"private": False, "files": {}}
    hub.faults["hospital/large.git"] = (413, b"<html>413</html>", {"Content_Type": "text/html"})
    done = push(
        options.get("model", model),
        options.get("hub", hub),
        "--repo-id",
        options.get("repo_id", "hospital/new"),
        token=options.get("token", TOKEN),
        **variables,
    )
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not hub.repos["hospital/public"]["files"]


LOAD = """
import sys
from clinical_pretrain.models.base_model import load_model_config
from tokenizer_tools.tokenizer.load import load_tokenizer
from tokenizer_tools.errors import UserError

for name in sys.argv[1:]:
    for load in (load_tokenizer, load_model_config):
        try:
            print(type(load(name)).__name__)
        except UserError as error:
            print(error)
"""


def test_without_internet_the_hub_is_not_asked_for_long(pushed, hub, tmp_path):
    """What is in the cache is loaded, and what isn't is said at once."""
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home")}
    environment |= {"HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(REPOSITORY)}
    said = []
    with socket.create_server(("127.0.0.1", 0)) as dead:  # as a firewall: it hears, and hangs up
        asked = []

        def hang_up():
            while True:
                try:
                    asked.append(dead.accept()[0].close())
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        for endpoint in (hub.url, f"http://127.0.0.1:{dead.getsockname()[1]}"):
            call = [sys.executable, "-c", LOAD, "hospital/tiny", "nobody/nothing"]
            done = subprocess.run(call, env=environment | {"HF_ENDPOINT": endpoint}, capture_output=True, text=True,
                                  timeout=300)  # fmt: skip
            assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]
            said.append(done.stdout.splitlines())
        dead.shutdown(socket.SHUT_RDWR)
    assert len(asked) < 6  # as often its client asks for each of several files
    assert said[0][:2] == said[1][:2] == ["TokenizersBackend", "LongformerConfig"]
    assert [f"a {what} that {hub.url} gives you; check the name" in line for what, line in
            zip(("tokenizer", "model"), said[0][2:], strict=True)] == [True, True]  # fmt: skip
    assert ["can't be reached from here; on a machine with internet run 'hf download nobody/nothing'" in line
            for line in said[1][2:]] == [True, True]  # fmt: skip


FULL = {"error": "Private repository storage limit reached, please upgrade your plan."}
REFUSALS = {
    "bad-request": ("/commit/", 400, {"error": "Bad path in commit."}, "(400: Bad path in commit); correct README.md"),
    "forbidden": ("/commit/", 403, {"error": "You are not a member."}, "(403: You are not a member); run 'hf auth"),
    "full": ("/preupload/", 403, FULL, "please upgrade your plan); free storage of hospital on the Hub"),
    "unpaid": ("/commit/", 402, FULL, "free storage of hospital on the Hub"),
    "gone": ("/preupload/", 404, {"error": "No such thing."}, "(404: No such thing); check --repo-id"),
    "conflict": ("/commit/", 409, {"error": "It is being renamed."}, "(409: It is being renamed); check the repo"),
    "moved": (
        "/commit/",
        412,
        {"error": "A commit has happened since."},
        "(412: A commit has happened since); there is a newer",
    ),
    "large": ("/commit/", 413, b"<html>", "(413: Request Entity Too Large); a file is larger than the Hub or a"),
    "busy": ("/commit/", 429, {"error": "Slow down."}, "(429: Slow down); too many requests: push again in 77 s"),
    "fault": ("/commit/", 503, {"error": "Down for a moment."}, "(503: Down for a moment); the Hub has a fault"),
    "teapot": ("/commit/", 418, {"error": "Short."}, "(418: Short); nothing was pushed"),
    "storage": (None, None, None, "the Hub answers, but 127.0.0.1:9, where it stores large files, can't be reached"),
    "licence": (
        None,
        None,
        None,
        'Invalid metadata in README.md. - "license" must be one of [apache-2.0, mit, other];',
    ),
    "branch": ("/preupload/nowhere", 404, {"error": "x"}, "create it: hf repos branch create hospital/branch nowhere"),
}
PUSH_ALL = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from clinical_pretrain.release.push import push
from tokenizer_tools.errors import UserError

def refusal(name):
    special = {"licence": {"license": "nonsense"}, "branch": {"revision": "nowhere"}}
    try:
        push(Path(sys.argv[1]) / name, f"hospital/{name}", **special.get(name, {}))
    except UserError as error:
        return str(error)
    return "pushed"

with ThreadPoolExecutor(20) as pool:
    print(json.dumps(dict(zip(sys.argv[2:], pool.map(refusal, sys.argv[2:])))))
"""


@pytest.fixture(scope="module")
def refusals(model, hub, tmp_path_factory):
    """What push says to each; side by side, and in two processes: huggingface_hub tries for half a minute to reach a
    storage host, and closes its other connections then."""
    root = tmp_path_factory.mktemp("refusals")
    for name, (call, status, body, _) in REFUSALS.items():
        shutil.copytree(model, root / name)
        if call == "/preupload/nowhere":
            hub.faults[f"hospital/{name}{call}"] = (status, body, {"X_Error_Code": "RevisionNotFound"})
        elif call:
            headers = {"Content_Type": "text/html"} if isinstance(body, bytes) else {"Retry_After": "77"}
            hub.faults[f"hospital/{name}{call}"] = (status, body, headers)
    hub.storage["hospital/storage"] = 9
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
    environment |= {"PYTHONPATH": str(REPOSITORY)}
    found, processes = {}, []
    for names in (["storage"], [name for name in REFUSALS if name != "storage"]):
        call = [sys.executable, "-c", PUSH_ALL, str(root), *names]
        processes.append(subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    for process in processes:
        said, errors = process.communicate(timeout=300)
        assert process.returncode == 0 and not errors, errors.decode()[-2000:]
        found |= json.loads(said.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_has_the_servers_reason_and_a_remedy_that_fits(refusals, name):
    said = refusals[name]
    assert REFUSALS[name][-1] in said and "\n" not in said, said
    assert ("again later" in said) == (name == "fault") and ("auth login" in said) == (name == "forbidden")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("{", "pretraining.json: damaged"),
        ("{}", f"format_version None, but this version of clinical-pretrain reads {FORMAT_VERSION}"),
    ],
)
def test_other_facts_are_refused(model, facts, message, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "pretraining.json").write_text(facts)
    with pytest.raises(UserError, match=message):
        hub_module.push(tmp_path / "model", "a/b", dry_run=True)


def test_a_generated_card_is_made_anew_and_a_written_one_stays(model, tmp_path, capsys):
    folder, card = tmp_path / "model", tmp_path / "model" / "README.md"
    shutil.copytree(model, folder)
    card.unlink(missing_ok=True)
    facts = json.loads((folder / "pretraining.json").read_text())

    def prepare(repo_id, license=None, dry_run=False):
        hub_module.prepare_card(card, facts, repo_id, license, dry_run)
        return capsys.readouterr().out

    assert "README.md: would be generated from the run" in prepare("a/one", dry_run=True) and not card.exists()
    prepare("a/one")
    assert 'from_pretrained("a/one")' in card.read_text() and "license: other" in card.read_text()
    before = card.read_text()
    assert "would be generated" in prepare("a/two", "mit", dry_run=True) and card.read_text() == before
    prepare("a/two", "mit")
    assert 'from_pretrained("a/two")' in card.read_text() and "license: mit" in card.read_text()
    edited = card.read_text().replace("not a medical device", "never a medical device")
    card.write_text(edited)
    said = prepare("a/three", "apache-2.0")
    assert card.read_text() == edited and "README.md: written or edited by hand, so it is pushed as it is" in said
    assert "has license: mit, which --license apache-2.0 doesn't change" in said
    assert "warning" not in prepare("a/three", "mit") and "warning" not in prepare("a/three")
    for text, what in (("# mine", "has no license"), ("---\nlicense: [\n---\n", "has no license")):
        card.write_text(text)
        assert what in prepare("a/four", "mit") and card.read_text() == text


def test_a_private_repository_stays_so_and_is_said_to(pushed, model, hub):
    done = push(model, hub, "--repo-id", "hospital/tiny", "--private", "false")
    assert done.returncode == 0 and "(private)" in done.stdout and "PUBLIC" not in done.stdout
    assert hub.repos["hospital/tiny"]["private"] is True


@pytest.mark.parametrize("content", ["3", "null", "[]", "{"])
def test_a_damaged_account_of_the_model_is_named(content, pushed, model, tmp_path):
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m" / "pretraining.json").write_text(content)
    with pytest.raises(UserError, match=r"damaged|format_version"):
        hub_module.push(tmp_path / "m", "org/m", dry_run=True)


@pytest.mark.parametrize("initialisation", ["random", "pretrained"])
def test_a_vocabulary_that_may_be_of_the_notes_is_warned_of(initialisation, model, tmp_path, capsys):
    """The push and the card say so, but not of a base model's vocabulary."""
    shutil.copytree(model, tmp_path / "m")
    facts = json.loads((tmp_path / "m" / "pretraining.json").read_text()) | {"initialisation": initialisation}
    (tmp_path / "m" / "pretraining.json").write_text(json.dumps(facts))
    hub_module.push(tmp_path / "m", "org/m", dry_run=True)
    card = render_model_card(facts, repo_id="org/m", license="other")
    for text in (capsys.readouterr().out, card):
        assert ("vocabulary can hold words of theirs, such as names" in text) == (initialisation == "random")


def test_a_dry_run_pushes_nothing(pushed, model, hub):
    before, files = len(hub.commits), {path: path.read_bytes() for path in model.iterdir()}
    done = push(model, None, "--repo-id", "hospital/dry", "--dry-run")
    assert files == {path: path.read_bytes() for path in model.iterdir()}
    assert done.returncode == 0 and "would push to hospital/dry (private)" in done.stdout
    assert len(hub.commits) == before and "hospital/dry" not in hub.repos


@pytest.mark.parametrize(
    ("split_by", "patients", "several", "expected"),
    [
        ("patient", 17, 0, "Split by patient, so that none is in several splits."),
        ("note", 17, 5, "Split by note: 5 patients are in several splits."),
        ("note", 0, 0, "Split by note: a patient may be in several splits."),
        ("admission", 17, 0, "Split by admission: a patient may be in several splits."),
    ],
)
def test_the_card_says_no_more_of_patients_than_is_known(split_by, patients, several, expected):
    corpus = FACTS["data"][0]
    splits = {name: counts | {"patients": patients} for name, counts in corpus["splits"].items()}
    data = [corpus | {"split_by": split_by, "patients_in_several_splits": several, "splits": splits}]
    card = render_model_card({**FACTS, "data": data}, repo_id="org/m", license="other")
    assert expected in card and ("| patients |" in card) == bool(patients)
    assert ("held-out patients" in card) == (split_by == "patient")
