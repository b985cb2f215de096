"""Which runs and exported models have seen notes: compared with the sampler itself, step by step."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders import write_metrics

from clinical_pretrain.checkpoint.state import RunState
from clinical_pretrain.data.sampler import Sampler
from clinical_pretrain.observe import exposure
from clinical_pretrain.observe.exposure import NOT_SEEN, TRAINED, UNKNOWN, VALIDATED, TracedNotes, exposures, table
from clinical_pretrain.release.facts_file import FORMAT_VERSION
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.run_folder.starts import SkippedSamples, data_position
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import write_json
from tokenizer_tools.manifest import Appending, Manifest, SplitInfo, TokenizerInfo, UnknownTokens, Withdrawal

SEQUENCES, FEWER = 23, 15
THESE, CLEAN, OTHER, EARLIER, BEFORE = (letter * 64 for letter in "abcde")
NONE = np.zeros((0, 2), np.int64)


def traced(train=((3, 0), (4, 0), (11, 1)), validation=()):
    splits = {name: SplitInfo(SEQUENCES, 0, 0, 9, 0) for name in ("train", "validation", "test")}
    tokenizer = TokenizerInfo("", "", "", 9, 0, 1, 2, 3, "", 4, None, None)
    manifest = Manifest(16, tokenizer, splits, {}, {"by": "patient"}, 0, UnknownTokens(0, 0.0, {}, ""), [], 9, {}, "",
                        {}, THESE, withdrawn=[Withdrawal(1, 2, 3, EARLIER)],
                        appended=[Appending(1, 9, 9, 9, {}, {}, BEFORE, dict.fromkeys(splits, FEWER))])  # fmt: skip
    pairs = {"train": train, "validation": validation, "test": ()}
    return TracedNotes(manifest, CLEAN, {name: np.array([*NONE, *found], np.int64).reshape(-1, 2)
                                         for name, found in pairs.items()})  # fmt: skip


def start(from_step=0, fingerprint=THESE, seed=1, batch=4, model=None, max_sequences=0):
    config = {"seed": seed, "batch": {"train_batch_size": batch}, "validation": {"max_sequences": max_sequences},
              "model": model or {"init": "random", "name_or_path": ""}}  # fmt: skip
    return {"from_step": from_step, "data": {"fingerprint": fingerprint}, "config": config}


def write_run(path, starts, steps, skipped=(), **facts):
    path.mkdir(parents=True)
    folder = RunFolder(path)
    facts = {"run_id": path.name, "base_model": None, "skipped_samples": list(skipped)} | facts
    folder.write_run({**facts, "starts": starts})
    write_metrics(path, [{"step": steps, "kind": "train", "start": len(starts) - 1, "time": 0.0}])
    return folder


def write_model(path, data, recipe, **facts):
    path.mkdir(parents=True)
    origin = {"run_id": "run", "base_model": "org/name", "initialisation": "pretrained"} | facts
    write_json(path / "pretraining.json", {"format_version": FORMAT_VERSION, **origin, "data": data, "recipe": recipe})
    return path


def steps_of(first, last, **values):
    return {"first_step": first, "last_step": last, **values}


def one(paths, notes):
    (found,) = exposures(paths, notes)
    return found


SPANS = st.lists(
    st.tuples(st.integers(1, 20), st.integers(1, 9), st.integers(0, 3), st.sampled_from([THESE, BEFORE, OTHER, CLEAN])),
    min_size=1,
    max_size=4,
)
SKIPPED = st.lists(st.tuples(st.integers(0, 150), st.integers(1, 40)), max_size=3)


@settings(max_examples=150)
@given(SPANS, SKIPPED, st.sets(st.integers(0, SEQUENCES - 1), max_size=3))
def test_the_sampler_agrees(spans, skipped, wanted):
    """Batch sizes, seeds and shards that changed at a resume, samples skipped, and any number of epochs."""
    skipped = [SkippedSamples(*each) for each in skipped]
    expected, made, step, consumed = [], [], 0, 0
    for steps, batch, seed, fingerprint in spans:
        made.append(exposure._Span(step + 1, step + steps, fingerprint, seed, batch))
        sampler = Sampler(FEWER if fingerprint == BEFORE else SEQUENCES, seed)
        for _ in range(steps):
            step += 1
            numbers = [sampler.sample(data_position(consumed + i, skipped)).sequence for i in range(batch)]
            expected += [(step, number) for number in numbers if fingerprint in (THESE, BEFORE) and number in wanted]
            consumed += batch
    sequences, at_steps = exposure._consumed(made, skipped, traced([(number, 0) for number in wanted]))
    assert sorted(zip(at_steps.tolist(), sequences.tolist(), strict=True)) == sorted(expected)


def order(seed=1, epoch=0):
    sampler = Sampler(SEQUENCES, seed)
    return [sampler.sample(epoch * SEQUENCES + i).sequence for i in range(SEQUENCES)]


def test_a_run_has_seen_what_its_steps_took(tmp_path):
    """Two patients, whose sequences are the 6th, and the 15th and 16th; steps take four."""
    notes = traced([(order()[5], 1), (order()[14], 0), (order()[15], 0)])
    for steps, seen in {1: (NOT_SEEN, 0, 0, None), 2: (TRAINED, 1, 1, 2), 4: (TRAINED, 2, 3, 2)}.items():
        write_run(tmp_path / f"{steps}", [start()], steps)
        found = one([tmp_path / f"{steps}"], notes)
        assert (found.seen, found.patients, found.sequences, found.first_step) == seen
        assert found.steps == steps
    lines = table(exposures([tmp_path], notes), patients=2)
    assert [" ".join(line.split()) for line in lines] == [
        "run or model seen from step of sequences",
        f"{tmp_path}/1 not seen 1",
        f"{tmp_path}/2 trained on (1 of 2 patients) 2 2 1",
        f"{tmp_path}/4 trained on (2 of 2 patients) 2 4 3",
    ]


@pytest.mark.parametrize(
    ("starts", "steps", "seen", "reason"),
    [
        ([], 0, NOT_SEEN, "no step yet"),
        ([start(fingerprint=CLEAN)], 9, NOT_SEEN, ""),
        ([start(fingerprint=OTHER)], 9, UNKNOWN, "trained on other shards (fingerprint cccccccccccc)"),
        ([start(fingerprint=BEFORE)], 9, NOT_SEEN, ""),  # before the sequence was appended
        ([start(fingerprint=EARLIER)], 9, UNKNOWN, "trained on the shards that these were made from by an earlier"),
        ([start(), start(1, CLEAN)], 9, NOT_SEEN, ""),  # the notes would have come in step 2
        ([start(), start(1, OTHER)], 9, UNKNOWN, "trained on other shards"),
        ([start(), start(9, OTHER)], 11, TRAINED, "also trained on other shards"),
        ([start(), start(0, CLEAN)], 9, NOT_SEEN, ""),  # killed before its first checkpoint
    ],
)
def test_other_shards(tmp_path, starts, steps, seen, reason):
    write_run(tmp_path / "run", starts, steps)
    found = one([tmp_path], traced([(order()[5], 0)]))
    assert found.seen == seen and found.reason.startswith(reason) and bool(found.reason) == bool(reason)


@pytest.mark.parametrize(
    ("metrics", "summary", "saved", "steps"),
    [
        ([(9, 0), (2, 2)], {}, [], 2),  # killed before it could delete the metrics of the first start
        ([(2, 2)], {"steps": 9, "restarts": 0}, [], 2),  # the summary of the first start
        ([(2, 2)], {"steps": 9, "restarts": 2}, [], 9),
        ([(2, 2)], {"steps": 9}, [], 9),  # it isn't known whose
        ([(2, 2)], {}, [9], 9),
        ([], {}, [], 1),
    ],
)
def test_steps_of_a_superseded_start_do_not_count(tmp_path, metrics, summary, saved, steps):
    """The first start came to step 9; the last one resumed after step 1, on shards whose 6th sequence is looked for,
    which step 2 takes. Its 15th comes in step 4."""
    folder = write_run(tmp_path / "run", [start(fingerprint=CLEAN), start(7, CLEAN), start(1)], 1)
    write_metrics(
        folder.path, [{"step": step, "kind": "train", "start": made_by, "time": 0.0} for step, made_by in metrics]
    )
    if summary:
        folder.write_versioned(folder.summary_file, summary)
    for step in saved:
        folder.checkpoint(step).mkdir(parents=True)
        write_json(folder.checkpoint(step) / "state.json", vars(RunState(step, 4 * step, 1, 0, "fp32", THESE)))
    found = one([tmp_path], traced([(order()[5], 0), (order()[14], 0)]))
    assert (found.steps, found.sequences) == (steps, {1: 0, 2: 1, 9: 2}[steps])


def test_validation_takes_some_sequences_only(tmp_path):
    """Of 23 held-out sequences, two are taken: 0 and 11."""
    for number, sequence, most, seen in ((0, 5, 0, VALIDATED), (1, 5, 2, NOT_SEEN), (2, 11, 2, VALIDATED)):
        folder = write_run(tmp_path / f"{number}", [start(max_sequences=most)], 9)
        assert one([folder.path], traced((), [(sequence, 0)])).seen == seen


def test_samples_left_out_after_a_rollback(tmp_path):
    """The 6th sequence is among those of step 2, which was left out."""
    notes = traced([(order()[5], 0)])
    write_run(tmp_path / "run", [start()], 4, [{"at": 4, "count": 4}])
    assert one([tmp_path / "run"], notes).seen == NOT_SEEN
    later = traced([(order()[17], 0)])  # which step 4 takes, as no step takes four of them
    assert one([tmp_path / "run"], later).first_step == 4


def test_a_run_that_contradicts_itself_is_unknown(tmp_path):
    folder = write_run(tmp_path / "run", [start()], 4)
    folder.checkpoint(4).mkdir(parents=True)
    state = RunState(4, 16, 1, 0, "fp32", THESE)
    for said, seen in ((16, TRAINED), (17, UNKNOWN)):
        write_json(folder.checkpoint(4) / "state.json", vars(replace(state, samples_consumed=said)))
        assert one([tmp_path], traced([(order()[5], 0)])).seen == seen
    folder.run_file.write_text("{")
    found = one([tmp_path], traced())
    assert found.seen == UNKNOWN and "run.json: damaged" in found.reason


def test_an_exported_model_tells_by_its_facts(tmp_path):
    recipe = [steps_of(1, 1, seed=1, train_batch_size=4), steps_of(2, 9, seed=1, train_batch_size=2)]
    model = write_model(tmp_path / "model", [steps_of(1, 9, fingerprint=THESE)], recipe)
    assert one([model], traced([(order()[5], 0)])).first_step == 2
    unlucky = one([model], traced([(order()[22], 0)]))
    assert unlucky.seen == UNKNOWN
    assert unlucky.reason == "only its run tells whether samples were skipped; give the run, too"
    run = write_run(tmp_path / "run", [start(), start(1, batch=2)], 9, base_model="org/name").path
    assert [each.seen for each in exposures([model, run], traced([(order()[22], 0)]))] == [NOT_SEEN, NOT_SEEN]
    assert one([model], traced((), [(4, 0)])).seen == VALIDATED
    local = write_model(tmp_path / "local", [steps_of(1, 9, fingerprint=CLEAN)], recipe, base_model=None)
    assert one([local], traced()).reason == "it began with a local model, which only its run names; give the run, too"
    (local / "pretraining.json").write_text(json.dumps({"format_version": 1}))
    assert "format_version 1" in one([local], traced()).reason


def test_a_run_may_have_begun_with_a_model_that_has_seen_them(tmp_path):
    notes, recipe = traced([(order()[5], 0)]), [steps_of(1, 9, seed=1, train_batch_size=4)]
    base = write_model(tmp_path / "bases" / "own", [steps_of(1, 9, fingerprint=THESE)], recipe)
    (tmp_path / "bases" / "downloaded").mkdir()
    for name, seen, reason in (
        ("own", TRAINED, f"it began with {base}, trained on them"),
        ("downloaded", NOT_SEEN, ""),
        ("deleted", UNKNOWN, f"it began with the model in {base.parent}/deleted, which isn't there"),
    ):
        model = {"init": "pretrained", "name_or_path": f"{base.parent}/{name}"}
        folder = write_run(tmp_path / "runs" / name, [start(fingerprint=CLEAN, model=model)], 9)
        found = one([folder.path], notes)
        assert (found.seen, found.reason) == (seen, reason)


def test_an_export_over_the_base_model_of_its_own_run_ends(tmp_path):
    recipe = [steps_of(1, 9, seed=1, train_batch_size=4)]
    base = write_model(tmp_path / "model", [steps_of(1, 9, fingerprint=CLEAN)], recipe, base_model=None)
    run = write_run(
        tmp_path / "run", [start(0, CLEAN, model={"init": "pretrained", "name_or_path": str(base)})], 9
    ).path
    assert [each.seen for each in exposures([run, base], traced())] == [UNKNOWN, UNKNOWN]


def test_each_path_must_lead_to_a_run_or_model(tmp_path):
    write_run(tmp_path / "runs" / "one", [start()], 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no run and no exported model here, or up to two levels below"):
        exposures([tmp_path / "runs", tmp_path / "empty"], traced())
