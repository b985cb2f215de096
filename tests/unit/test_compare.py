"""compare: noise and differences, on stored runs (benchmarks/compare_runs.py) and where the truth is known."""

import json
import subprocess
import sys

import numpy as np
import pytest
from page_checks import check_page
from stored_runs import STORED, losses_of, restore_run, write_losses

from clinical_pretrain.cli import main
from clinical_pretrain.observe.report.bootstrap import Difference, difference, resampled_losses, seed_spread
from clinical_pretrain.observe.report.verdict import ComparedRun, Findings, Verdict
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.run_folder.validation_losses import ValidationLosses
from clinical_pretrain.tasks.scores.bootstrap import Resampling

GOOD, NEAR, LOW = ([f"rate-{rate}-seed-{seed}" for seed in (1, 2, 3)] for rate in ("0.002", "0.0019", "0.0005"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs at three learning rates, three seeds each, as they were trained."""
    root = tmp_path_factory.mktemp("runs")
    for name in STORED["runs"]:
        restore_run(name, root / name)
    return root


@pytest.fixture
def pair(tmp_path):
    """Two runs of two rates, to be changed."""
    return [restore_run(name, tmp_path / name) for name in (LOW[0], GOOD[0])]


@pytest.fixture
def compare(runs, tmp_path):
    def compared(*names, options=()):
        report = tmp_path / "report.json"
        assert main(["compare", *[str(runs / name) for name in names], *options, "--json", str(report)]) == 0
        return json.loads(report.read_text())

    return compared


def test_two_seeds_are_within_the_noise(compare):
    """Though the two models do differ: the interval over sequences says so of two seeds as of anything."""
    found = compare(*GOOD[:2])
    (verdict,) = found["verdicts"]
    assert verdict["within_noise"] and verdict["text"].startswith("within the noise")
    assert STORED["verdicts"]["two seeds"] == [verdict["text"]]
    assert verdict["same_settings"] and not verdict["difference"]["covers_seeds"]
    losses = [run["loss"] for run in found["runs"]]
    assert found["seed_deviation"] == pytest.approx(abs(losses[0] - losses[1]) / 2**0.5)
    assert found["settings"] == {"seed": ["1", "2"]} and not found["same_masks"]


def test_two_learning_rates_that_differ(compare, capsys):
    """With a seed of each, and with three: then the interval covers the seed, too."""
    for names, covered in (([LOW[0], GOOD[0]], False), (LOW + GOOD, True)):
        found = compare(*names)
        (verdict,) = found["verdicts"]
        assert not verdict["within_noise"] and verdict["difference"]["high"] < 0
        assert verdict["difference"]["covers_seeds"] is covered
        assert found["settings"]["optim.learning_rate"][0] == "0.0005"
        output = " ".join(capsys.readouterr().out.split())
        sides = [
            f"{letter} (optim.learning_rate {rate}, 3 seeds)" for letter, rate in (("A", "0.0005"), ("B", "0.002"))
        ]
        worse, better = sides if covered else names
        assert f"{better} is better than {worse}" in output
        assert ("seed of training is not covered" in output) is not covered


def test_rates_that_hardly_differ_are_within_the_noise_of_seeds(compare):
    found = compare(*GOOD, *NEAR)
    (verdict,) = found["verdicts"]
    assert verdict["within_noise"] and verdict["difference"]["covers_seeds"] and not verdict["same_settings"]
    assert found["groups"] == {"A": [0, 1, 2], "B": [3, 4, 5]}
    assert STORED["verdicts"]["two rates that hardly differ, three seeds of each"] == [verdict["text"]]


def test_two_runs_say_little_of_a_spread(compare):
    """With one degree of freedom the interval is wide, and the output says what helps."""
    found = compare(LOW[0], GOOD[0], GOOD[1])
    assert found["verdicts"][0]["within_noise"] and "from 2 seeds, which say little" in " ".join(found["scope"])
    assert "which say little" not in " ".join(compare(*LOW, *GOOD)["scope"])


def test_repeats_of_a_seed_are_no_other_seeds(compare, runs, tmp_path):
    """As of a copied run, or of one by another number of ranks: they say nothing of the seeds' spread."""
    repeat = restore_run(GOOD[0], tmp_path / "repeat")
    found = compare(GOOD[0], repeat)
    assert (
        found["seed_deviation"] is None
        and "the same settings and seed, and differ by 0.0000" in found["verdicts"][0]["text"]
    )
    found, alone = compare(GOOD[0], repeat, LOW[0]), compare(GOOD[0], LOW[0])
    (verdict,), (expected,) = found["verdicts"], alone["verdicts"]
    assert verdict["difference"] == pytest.approx(expected["difference"]) and not verdict["difference"]["covers_seeds"]
    assert "2 runs of 1 seed" in verdict["text"] and "seed of training is not covered" in " ".join(found["scope"])
    found, alone = compare(*GOOD, repeat, *LOW), compare(*GOOD, *LOW)
    assert found["seed_deviation"] == pytest.approx(alone["seed_deviation"])
    assert found["verdicts"][0]["difference"] == pytest.approx(alone["verdicts"][0]["difference"])


def test_the_perplexity_agrees_with_the_difference():
    """Both are of the mean of seeds, each the mean of its repeats."""
    runs = [
        ComparedRun(f"run {number}", group, seed, 10, loss, loss, loss, 100)
        for number, (group, seed, loss) in enumerate(
            [("A", 1, 1.0), ("A", 1, 1.0), ("A", 1, 1.0), ("A", 2, 3.0), ("B", 1, 1.9)]
        )
    ]
    findings = Findings(runs, {"A": [0, 1, 2, 3], "B": [4]}, {"A": "", "B": ""}, [], 20, True, 1.4, Resampling())
    better = Verdict([4], [0, 1, 2, 3], Difference(-0.1, -0.2, -0.05, True), same_settings=False)
    assert "run 4 is better than A" in findings.sentence(better)
    assert f"perplexity {np.exp(1.9):.2f} instead of {np.exp(2.0):.2f}" in findings.sentence(better)


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:80] + b"\0" * 40 + content[120:]])
def test_a_damaged_file_of_losses_is_one_line(pair, damage, capsys):
    (file,) = (pair[1] / "validation_losses").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert main(["compare", *map(str, pair)]) == 2
    assert capsys.readouterr().err == f"error: {file}: damaged; restore it from a backup\n"


def test_seeds_that_end_at_other_steps_are_one_recipe(compare, runs, tmp_path):
    """By early stopping. A run that still trains is at another point of it."""
    early, half = (restore_run(GOOD[0], tmp_path / name) for name in ("early", "half"))
    last = json.loads((early / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    for run in (early, half):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            line["step"] -= line["step"] == last
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        losses = run / "validation_losses"
        (losses / f"step-{last}.npz").rename(losses / f"step-{last - 1}.npz")
    assert compare(half, *GOOD[1:])["groups"] == {"A": [0], "B": [1, 2]}
    RunFolder(early).write_versioned(RunFolder(early).summary_file, {"steps": last - 1, "stopped_early": True})
    found = compare(early, *GOOD[1:])
    assert found["groups"] == {"A": [0, 1, 2]} and all(each["same_settings"] for each in found["verdicts"])


def test_losses_are_those_of_the_metrics(compare, runs):
    """All runs have all sequences: a ratio of sums is the validation's own loss."""
    found = compare(*GOOD)
    for run in found["runs"]:
        lines = [json.loads(line) for line in (runs / run["name"] / "metrics.jsonl").read_text().splitlines()]
        last = [line for line in lines if line["kind"] == "validation"][-1]
        assert run["loss"] == pytest.approx(last["loss"], rel=1e-6) and run["predicted"] == last["predicted"]
        assert run["low"] < run["loss"] < run["high"] and run["perplexity"] == pytest.approx(np.exp(run["loss"]))


def test_several_comparisons_hold_together(compare):
    """Two at 97.5 % each; the first run's settings are the baseline of both."""
    found = compare(*GOOD, *NEAR, *LOW)
    assert found["level"] == pytest.approx(0.975) and len(found["verdicts"]) == 2
    assert [verdict["baseline"] for verdict in found["verdicts"]] == [[0, 1, 2]] * 2
    assert [verdict["within_noise"] for verdict in found["verdicts"]] == [True, False]
    assert compare(*GOOD, *NEAR, *LOW) == found  # seeded


def test_what_tells_groups_apart_is_shown(compare, pair, tmp_path):
    """Base models in folders of the same name, and settings that were changed on the way; never a path."""
    for number, run in enumerate(pair):
        facts = json.loads((run / "run.json").read_text())
        (start,) = facts["starts"]
        start["config"] |= {"model": start["config"]["model"] | {"init": "pretrained", "name_or_path": f"/x{number}/m"}}
        earlier = json.loads(json.dumps(start))
        earlier["config"]["optim"]["weight_decay"] = 0.5
        start["from_step"] = 60 if number else 0
        facts["starts"] = [earlier, start] if number else [start]
        (run / "run.json").write_text(json.dumps(facts))
        lines = [json.loads(line) | {"start": number} for line in (run / "metrics.jsonl").read_text().splitlines()]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = tmp_path / "report.json"
    assert main(["compare", *map(str, pair), "--json", str(report)]) == 0
    found = json.loads(report.read_text())
    assert found["settings"].pop("optim.learning_rate") and found["groups"] == {"A": [0], "B": [1]}
    assert found["settings"] == {"settings changed after step": ["–", "60"],
                                 "folder of the base model": ["number 1", "number 2"]}  # fmt: skip


def test_sequences_that_both_have_are_compared(compare, pair, capsys, tmp_path):
    stored = losses_of(GOOD[0])
    kept = {name: values[::2] for name, values in stored.items()}
    write_losses(pair[1], STORED["runs"][GOOD[0]]["step"], **kept)
    change_validation(pair[1], sum(kept["loss"]) / sum(kept["predicted"]), sum(kept["predicted"]))
    report = tmp_path / "report.json"
    assert main(["compare", *map(str, pair), "--json", str(report)]) == 0
    found = json.loads(report.read_text())
    assert found["sequences"] == len(kept["loss"]) and found["runs"][0]["predicted"] < sum(stored["predicted"])
    assert not found["verdicts"][0]["within_noise"]


def change_validation(run_dir, loss, predicted):
    """What metrics.jsonl says of the last validation."""
    path = run_dir / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    last = [line for line in lines if line["kind"] == "validation"][-1]
    last |= {"loss": loss, "predicted": predicted}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def change_set(run_dir, **values):
    path = run_dir / "run.json"
    facts = json.loads(path.read_text())
    facts["starts"][-1]["validation_set"] |= values
    path.write_text(json.dumps(facts))


def losses_file(run_dir):
    (path,) = (run_dir / "validation_losses").iterdir()
    return path


@pytest.mark.parametrize(("change", "message"), [
    (lambda run: change_set(run, **{"held-out sequences": "f" * 64}), "validated on other held-out sequences (fing"),
    (lambda run: change_set(run, masks={"seed": 1, "probability": 0.3}), "validated in another way (masking.probabi"),
    (lambda run: losses_file(run).unlink(), "no losses by sequence for step 120 (validation_losses/step-120.npz); the"),
    (lambda run: losses_file(run).write_bytes(b"PK\3\4 no zip"), "step-120.npz: damaged"),
    (lambda run: change_validation(run, 1.0, 7), "not of the validation that metrics.jsonl has at step 120"),
    (lambda run: (run / "metrics.jsonl").write_text(""), "no losses yet"),
])  # fmt: skip
def test_what_does_not_compare_is_refused_in_one_line(change, message, pair, capsys):
    change(pair[1])
    assert main(["compare", *map(str, pair)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and message in captured.err and len(captured.err.splitlines()) == 1
    assert not captured.out


@pytest.mark.parametrize(("words", "message"), [
    (f"compare {LOW[0]}", "give two or more runs, each once"),
    (f"compare {LOW[0]} {LOW[0]}/../{LOW[0]}", "give two or more runs, each once"),
    (f"compare {LOW[0]} nowhere", "nowhere: not a run folder"),
    (f"compare {LOW[0]} {GOOD[0]} --step 77", "no validation at step 77; there are those at step 0, 30, 60, 90, 120"),
    (f"compare {LOW[0]} {GOOD[0]} --step 60", "no losses by sequence for step 60"),
    (f"compare {LOW[0]} {GOOD[0]} --step x", "--step is x, must be a whole number"),
    (f"compare {LOW[0]} {GOOD[0]} --out page.pdf", "page.pdf: --out is a page, so its name must end with .html"),
    (f"compare {LOW[0]} {GOOD[0]} --out none/page.html", "none/page.html: there is no folder none"),
    (f"compare . {LOW[0]}", ".: a folder of runs; give one of them: "),
])  # fmt: skip
def test_mistakes(words, message, runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_page(compare, tmp_path):
    page = tmp_path / "page.html"
    found = compare(LOW[0], GOOD[0], GOOD[1], options=["--out", str(page)])
    text = check_page(page.read_text(), plots=2)
    assert found["verdicts"][0]["text"][1:] in text and all(sentence in text for sentence in found["scope"])
    assert "optim.learning_rate" in text and str(tmp_path) not in text


def test_nothing_heavy_is_imported(runs, tmp_path):
    """Neither for help nor for a verdict; matplotlib draws the page alone."""
    code = """
import sys
from clinical_pretrain.cli import main
for words, allowed in CALLS:
    try:
        assert main(words) == 0
    except SystemExit:
        pass
    found = {"torch", "transformers", "deepspeed", "scipy", "matplotlib"} & sys.modules.keys()
    assert found <= set(allowed), (words, found)
"""
    two = [str(runs / GOOD[0]), str(runs / LOW[0])]
    calls = [(["compare", "--help"], []), (["report", "--help"], []), (["compare", *two], []),
             (["compare", *two, "--out", str(tmp_path / "a.html")], ["matplotlib"]),
             (["report", two[0], "--out", str(tmp_path / "b.html")], ["matplotlib"])]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", f"CALLS = {calls!r}\n{code}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def drawn_losses(generator, sequences, models, mask_noise):
    """Losses of models on sequences that differ in difficulty; each model has masks of its own."""
    difficulty = generator.normal(6, 1, sequences)
    found = []
    for shift in models:
        predicted = generator.integers(10, 40, sequences)
        mean = difficulty + shift + generator.normal(0, mask_noise, sequences)
        found.append(ValidationLosses(np.arange(sequences), mean * predicted, predicted))
    return found


def wrong_verdicts(spread, seeds, covers_seeds, trials=200):
    """Share of comparisons of equal settings that call one better."""
    generator, wrong = np.random.default_rng(1), 0
    for _ in range(trials):
        shifts = generator.normal(0, spread, 2 * seeds)
        losses = drawn_losses(generator, 80, shifts, mask_noise=0.2)
        resampling = Resampling(resamples=400)
        resampled = resampled_losses(losses, resampling)
        groups = [[[first + number] for number in range(seeds)] for first in (0, seeds)]
        noise = seed_spread(resampled[0], groups) if covers_seeds else (0.0, 0)
        wrong += not difference(resampled, *groups, noise, resampling).is_noise
    return wrong / trials


def test_equal_settings_are_rarely_told_apart():
    """5 % of the time is what 95 % intervals promise. Where seeds differ, sequences alone would tell them apart as
    models, and several seeds are what says that their settings don't differ."""
    assert 0.01 <= wrong_verdicts(spread=0, seeds=1, covers_seeds=False) <= 0.1
    assert wrong_verdicts(spread=0.2, seeds=1, covers_seeds=False) > 0.5
    assert wrong_verdicts(spread=0.2, seeds=2, covers_seeds=True) <= 0.08
    assert wrong_verdicts(spread=0.2, seeds=3, covers_seeds=True) <= 0.08


def test_a_pairing_finds_a_difference_that_is_small_beside_that_of_sequences():
    losses = drawn_losses(np.random.default_rng(2), 200, [0, 0.3], mask_noise=0.1)
    resampled = resampled_losses(losses, Resampling())
    found = difference(resampled, [[1]], [[0]], (0.0, 0), Resampling())
    assert 0.15 < found.low < found.nats < found.high < 0.45
    alone = np.quantile(resampled[1:, 0], [0.025, 0.975])
    assert alone[1] - alone[0] > 1.5 * (found.high - found.low)
