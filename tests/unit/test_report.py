"""report: what the page says against the run folder, what it must not tell, and that it can be read by all."""

import html
import json
import math
import os
import re

import pytest
import yaml
from page_checks import check_page
from stored_runs import restore_run

from clinical_pretrain.cli import main
from clinical_pretrain.config.reading import flatten
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.observe.report.recipe import read_recipe
from clinical_pretrain.resources import resource_path
from tokenizer_tools.manifest import Manifest
from tokenizer_tools.pages.wording import four_digits

NAME = "rate-0.002-seed-1"
HOSTILE = "--><script>alert('1')</script> $x^2$ \x01\u202e"
SECRETS = ["Quibblewort", "/home/secret", "MRN990017", "node-of-ward-7"]


def part(loss, predicted, accuracy=0.5):
    return {"loss": loss, "accuracy": accuracy, "predicted": predicted}


@pytest.fixture
def run(tmp_path):
    return restore_run(NAME, tmp_path / "MRN990017" / "my-run")


@pytest.fixture
def rich(run):
    """As a long run has it: restarts, a roll-back, shares of the time, all parts of a validation, names of all kinds.

    The small counts, the rare category, paths and the host must not show.
    """
    facts = json.loads((run / "run.json").read_text())
    first = facts["starts"][0] | {"host": "node-of-ward-7", "to_step": 70}
    first["config"]["data"]["shards"] = "/home/secret/shards"
    changes = ["optim.weight_decay was 0.0, now 0.1"]
    second = json.loads(json.dumps(first)) | {"from_step": 60, "changes": changes, "world_size": 2}
    second["config"]["optim"]["weight_decay"] = 0.1
    facts["starts"] = [first, second]
    (run / "run.json").write_text(json.dumps(facts))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["start"] = int(line["step"] > 60)
        if line["kind"] == "train":
            line |= {"shares": {"data": 0.1, "forward": 0.3, "backward": 0.6}, "memory_gb": 1.25, "gradient_norm": 1.5}
    validations = [line for line in lines if line["kind"] == "validation"]
    for line, loss in ((validations[0], 7.0), (validations[-1], 5.0)):
        line["by_category"] = {
            "Nursing": part(loss, 4000), "Quibblewort, Ignatia": part(loss + 1, 60), HOSTILE: part(loss - 1, 500),
            "rare": part(loss + 2, 30),
        }  # fmt: skip
        line["by_position"] = {"0-63": part(loss, 2000), "64-127": part(loss - 0.5, 2000)}
        line["by_section"] = {"history": part(loss, 700)}
        line["by_words"] = {"drugs": part(loss + 0.25, 300)}
        line["general"] = part(loss + 3, 900)
        line["context"] = {"tokens": 512, "predicted": 800, "loss_whole": loss - 0.5, "loss_cut": loss}
    rollback = validations[2] | {"kind": "rollback", "first_sample": 5, "samples": 8}
    lines.insert(lines.index(validations[2]) + 1, {key: rollback[key] for key in rollback if key[:3] != "by_"})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = json.loads((run / "data.json").read_text())
    data["splits"]["validation"]["patients"], data["splits"]["test"]["patients"] = 7, 13
    (run / "data.json").write_text(json.dumps(data))
    for start in facts["starts"]:
        start["data"] = {key: value for key, value in data.items() if key != "format_version"}
    (run / "run.json").write_text(json.dumps(facts))
    return run


def cells(page, caption):
    """Rows of the table with this caption."""
    table = next(
        table for table in re.findall(r"<table.*?</table>", page, re.DOTALL) if caption in html.unescape(table)
    )
    rows = re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2], re.DOTALL)
    return {found[0]: found[1:] for row in rows
            if (found := [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)])}  # fmt: skip


def report(run, tmp_path):
    assert main(["report", str(run), "--json", str(tmp_path / "report.json")]) == 0
    return (run / "report.html").read_text(), json.loads((tmp_path / "report.json").read_text())


def test_a_run_as_it_was_trained(run, tmp_path, capsys):
    page, found = report(run, tmp_path)
    text = check_page(page, plots=4)
    assert capsys.readouterr().out == f"{run}/report.html\n"
    data = json.loads((run / "data.json").read_text())
    summary = json.loads((run / "summary.json").read_text())
    assert cells(page, f"Shards {data['fingerprint'][:12]}")["train"][-2:] == [
        f"{data['splits']['train'][name]:,}" for name in ("tokens", "sequences")
    ]
    for name in ("validation_loss_before", "validation_loss_after", "seconds_running", "lost_steps", "restarts"):
        assert found[name] == summary[name]
    assert found["tokens_consumed"] == summary["tokens_consumed"] == 120 * 8 * 128 and found["steps"] == 120
    assert cells(page, "Goodput")["Steps trained again after a restart"] == ["0"]
    assert "The shards no longer lie" in text and "An earlier version" not in text


def test_everything_that_a_long_run_has(rich, tmp_path):
    page, _ = report(rich, tmp_path)
    text = check_page(page, plots=5)
    categories = cells(page, "Loss by note category")
    assert categories["Nursing"] == ["5.0000", "7.0000", "-2.0000", "148.4", "50.0 %", "4,000"]
    assert categories["other (2)"][0] == f"{(6 * 60 + 7 * 30) / 90:.4f}" and categories["other (2)"][-1] == "90"
    assert cells(page, "Loss by position")["64-127"][0] == "4.5000"
    assert (
        cells(page, "Loss by section")["history"][-1] == "700" and cells(page, "Loss on words")["drugs"][0] == "5.2500"
    )
    assert cells(page, "loss, overall")["general text, which is no clinical note"][:3] == [
        "8.0000",
        "10.0000",
        "-2.0000",
    ]
    assert cells(page, "Loss on the same 800")["what longer context gains"] == ["0.5000"]
    shares = cells(page, "Where the time went, over the whole run")
    assert shares == {"backward": ["60.0 %"], "forward": ["30.0 %"], "data": ["10.0 %"]}
    assert cells(page, "Speed and memory")["Largest memory of the first rank, GB"] == ["1.25"]
    starts = cells(page, "Starts of the run")
    assert starts["2"][1:] == ["60", "2 × cpu", "0", "optim.weight_decay was 0.0, now 0.1"]
    loss = next(
        svg for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if "Masked" not in svg and "training:" in svg
    )
    assert "Restarts from step 60." in loss and "Roll-backs to step 60." in loss and ">restart<" in loss
    assert "Settings were changed after step 60; these are the last." in text
    assert cells(page, "Settings that decide the weights")["optim.weight_decay"] == [
        "0.1", "this run (the recipe has 0 [run_mlm])"
    ]  # fmt: skip
    assert cells(page, "Machines and versions")["Ranks"] == ["2 (before: 1)"]


def test_what_the_page_does_not_tell(rich, tmp_path):
    page, _ = report(rich, tmp_path)
    for secret in [*SECRETS, str(tmp_path), ">7<", "<script"]:
        assert secret not in page
    counts = cells(page, "Shards ")
    assert [row[0] for row in counts.values()][1:] == ["<10", "≥10"]  # 13 alone would give the 7 away
    assert "alert('1')" in html.unescape(page) and "\x01" not in page and "\u202e" not in page


def test_a_run_can_be_repeated_from_the_page(rich, tmp_path):
    """The config on the page and the command's options give the settings of the last start."""
    page, _ = report(rich, tmp_path)
    config, command = (html.unescape(block) for block in re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL))
    found = flatten(RunConfig().to_dict()) | flatten(yaml.safe_load(config))
    last = flatten(json.loads((rich / "run.json").read_text())["starts"][-1]["config"])
    paths = {"run_dir", "data.shards"}
    assert {key: found[key] for key in last if key not in paths} == {key: last[key] for key in last if key not in paths}
    assert "changed settings on its way (see Recipe), which the command does not repeat" in page
    assert command == (
        "clinical-pretrain run --num_gpus 2 --config config.yaml --data.shards SHARDS --run_dir runs/my-run-again"
    )


def test_shards_that_are_there_are_described(run, shards, tmp_path):
    manifest = Manifest.load(shards)
    facts = json.loads((run / "run.json").read_text())
    facts["starts"][-1]["config"]["data"]["shards"] = str(shards)
    (run / "run.json").write_text(json.dumps(facts))
    assert "How the shards were made" not in report(run, tmp_path)[0]  # others
    data = json.loads((run / "data.json").read_text()) | {"fingerprint": manifest.fingerprint}
    (run / "data.json").write_text(json.dumps(data))
    page, _ = report(run, tmp_path)
    made = cells(page, "How the shards were made")
    assert made["Tokenizer"][0].startswith("tokenizer, 1,000 entries, sha256 ")  # its folder isn't named
    assert made["Cleaning rules"] == [", ".join(manifest.cleaning_rules)] and str(shards) not in page


def test_a_run_that_goes_on_and_one_without_validation(run, tmp_path):
    (run / "summary.json").unlink()
    (run / "stop.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["kind"] == "train"][:4]
    (run / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    page, found = report(run, tmp_path)
    text = check_page(page, plots=4)
    assert found["validation_loss_after"] is None and found["steps"] == 20 and found["state"] == "lost"
    assert (
        "No validation: none in metrics.jsonl has a loss." in text and "Goodput is known from the first save on" in text
    )


def test_lines_that_cannot_be_read_are_said(run, tmp_path, capsys):
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join(['{"step', *lines[1:]]) + "\n")
    page, _ = report(run, tmp_path)
    assert "Left out: 1 of the lines of metrics.jsonl" in page
    assert capsys.readouterr().err == f"warning: {log}: left out 1 line that can't be read (first: line 1)\n"


def test_a_last_line_that_is_cut_off(run, tmp_path, capsys):
    """Of a finished run nobody writes it on; of one that trains it will be whole in a moment."""
    log, summary = run / "metrics.jsonl", run / "summary.json"
    log.write_text(log.read_text()[:-9])
    page, _ = report(run, tmp_path)
    count = len(log.read_text().splitlines())
    assert f"left out 1 line that can't be read (first: line {count})" in capsys.readouterr().err
    assert "Left out: 1 of the lines" in page
    summary.unlink()
    report(run, tmp_path)
    assert not capsys.readouterr().err


def test_a_loss_beyond_all_measure(run, tmp_path):
    """As of a run at too high a learning rate."""
    log = run / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    *_, first, last = [line for line in lines if line["kind"] == "validation"]
    first["loss"], last["loss"] = 177.5, 800.0
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    page, _ = report(run, tmp_path)
    assert cells(page, "loss, overall")["all masked tokens"][3] == "inf"
    assert four_digits(math.exp(177.5)) == "1.223e+77" and four_digits(12_345.6) == "12,346"


def test_a_run_folder_whose_name_isnt_utf8(run, tmp_path, capsys):
    other = run.with_name(os.fsdecode(b"L\xe4uf"))
    run.rename(other)
    for command, key in (("report", "page"), ("plot", "picture")):
        assert main([command, str(other), "--json", str(tmp_path / "found.json")]) == 0
        assert json.loads((tmp_path / "found.json").read_text())[key].startswith(str(other))
    assert "<title>L?uf" in (other / "report.html").read_text()


def test_a_run_that_ended_before_it_trained(run, capsys):
    (run / "metrics.jsonl").unlink()
    assert main(["report", str(run)]) == 2
    assert capsys.readouterr().err == f"error: {run}: no losses yet; the run has ended: finished\n"


@pytest.mark.parametrize(("words", "message"), [
    ("report nowhere", "nowhere: not a run folder"),
    ("report my-run --out page.txt", "page.txt: --out is a page"),
    ("report my-run --out none/page.html", "none/page.html: there is no folder none; make it first"),
    ("report my-run", "my-run/data.json: damaged, not a JSON object"),
])  # fmt: skip
def test_mistakes(words, message, run, monkeypatch, capsys):
    monkeypatch.chdir(run.parent)
    (run / "data.json").write_text("[")
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and len(error.splitlines()) == 1
    assert not list(run.parent.rglob("*.html"))


def test_a_run_folder_that_cannot_be_written(run, monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda *arguments, **options: False)
    assert main(["report", str(run)]) == 2
    error = capsys.readouterr().err
    assert error.endswith("my-run can't be written; name a file in another by --out\n") and len(error.splitlines()) == 1
    assert not list(run.rglob("*.html"))


@pytest.mark.parametrize("name", ["clinical_longformer", "clinical_bigbird"])
def test_sources_of_the_recipes(name):
    """Every setting of a recipe has a source in brackets, but for where the run lies."""
    text = resource_path(f"configs/{name}.yaml").read_text()
    found, values = read_recipe(text), flatten(yaml.safe_load(text))
    assert found.keys() == values.keys() - {"run_dir"}
    assert found["optim.learning_rate"][0] == values["optim.learning_rate"] == 3e-5
    assert found["optim.learning_rate"][1].startswith("[paper]") and found["masking.probability"] == (0.15, "[run_mlm]")
    assert {source for _, sources in found.values() for source in re.findall(r"\[.*?\]", sources)} <= {
        "[paper]", "[issue 3]", "[run_mlm]", "[ours]"
    }  # fmt: skip
