"""Which runs and exported models have seen some notes of their shards, as `withdraw --runs` asks.

Nothing records which sequences a run has trained on, but their order is a function of the shards, the seed, the batch
size and the samples skipped, all of which its folder records. So they are found by computing the order again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clinical_pretrain.checkpoint.state import read_state
from clinical_pretrain.data.sampler import epoch_order, validation_sequences
from clinical_pretrain.observe.status import folders_in
from clinical_pretrain.release.facts_file import FACTS_NAME, read_facts
from clinical_pretrain.run_folder.history import lineage
from clinical_pretrain.run_folder.metrics import read_metrics
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.run_folder.starts import SkippedSamples, data_runs, read_skipped_samples
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import Manifest

TRAINED, VALIDATED, NOT_SEEN, UNKNOWN = "trained on", "validation only", "not seen", "unknown"
"""What a run or model may have done with the notes."""
_DAMAGED = (LookupError, TypeError, ValueError)
"""What a JSON file with other keys or values leads to."""


@dataclass(frozen=True)
class TracedNotes:
    """Notes of some patients, and where they stand in the shards."""

    manifest: Manifest
    """Of the shards."""
    fingerprint_without: str
    """Of the shards that were made without these notes."""
    sequences: Mapping[str, npt.NDArray[np.int64]]
    """By split: (n, 2), each sequence that holds some of the notes, and the number of the patient."""

    @property
    def fingerprint(self) -> str:
        """Of the shards with the notes."""
        return self.manifest.fingerprint

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        """Sequences by split, of these shards and of those that they were before notes were appended, by fingerprint:
        those are the first sequences of these."""
        before = {entry.fingerprint: entry.sequences for entry in self.manifest.appended if entry.sequences}
        return before | {self.fingerprint: {name: split.sequences for name, split in self.manifest.splits.items()}}


@dataclass(frozen=True)
class Exposure:
    """What a run or an exported model has seen of the notes."""

    path: str
    seen: str
    """TRAINED, VALIDATED, NOT_SEEN or UNKNOWN."""
    steps: int
    """Its own, as far as they are recorded."""
    patients: int = 0
    """Number of patients whose notes it was trained on."""
    sequences: int = 0
    """Number of sequences with the notes that it was trained on; one counts again in each epoch."""
    first_step: int | None = None
    """The first step that trained on the notes: checkpoints of earlier ones haven't seen them."""
    reason: str = ""
    """Why it isn't known, and what else there is to say."""


def exposures(paths: Sequence[Path], traced: TracedNotes) -> list[Exposure]:
    """What the runs and exported models among these folders, and up to two levels below them, have seen.

    Raises:
        UserError: there is none in one of the folders.
    """
    runs, models = find_runs_and_models(paths)
    by_id = {}
    for folder in runs:
        try:
            by_id[folder.read_run()["run_id"]] = folder
        except (UserError, *_DAMAGED):
            continue  # its own line says why
    return [
        *(_guarded(folder.path, partial(_of_run, folder, by_id, traced)) for folder in runs),
        *(_guarded(model, partial(_of_model, model, by_id, traced)) for model in models),
    ]


def find_runs_and_models(paths: Sequence[Path]) -> tuple[list[RunFolder], list[Path]]:
    """Run folders, and folders of exported models, in order.

    Raises:
        UserError: one of the paths leads to neither.
    """
    for path in paths:
        if not any(RunFolder(folder).exists or (folder / FACTS_NAME).exists() for folder in folders_in([path])):
            raise UserError(f"{path}: no run and no exported model here, or up to two levels below")
    folders = folders_in(paths)
    runs = [RunFolder(folder) for folder in folders if RunFolder(folder).exists]
    return runs, [folder for folder in folders if (folder / FACTS_NAME).exists()]


def table(found: Sequence[Exposure], patients: int) -> list[str]:
    """Lines of a table, one per run or model.

    Args:
        found: what each has seen.
        patients: how many were looked for.
    """
    rows = [("run or model", "seen", "from step", "of", "sequences", "")]
    for each in found:
        several = f" ({each.patients:,} of {patients:,} patients)" if each.seen == TRAINED and patients > 1 else ""
        first = f"{each.first_step:,}" if each.first_step else ""
        sequences = f"{each.sequences:,}" if each.sequences else ""
        rows.append((each.path, f"{each.seen}{several}", first, f"{each.steps:,}", sequences, each.reason))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


@dataclass(frozen=True)
class _Span:
    """Steps with the same shards, seed and batch size."""

    first_step: int
    last_step: int
    """Included."""
    fingerprint: str
    seed: int
    batch_size: int

    @property
    def samples(self) -> int:
        return (self.last_step - self.first_step + 1) * self.batch_size


def _guarded(path: Path, judge: Callable[[], Exposure]) -> Exposure:
    try:
        return judge()
    except UserError as error:  # the others can be told
        return Exposure(str(path), UNKNOWN, 0, reason=str(error))
    except _DAMAGED as error:
        return Exposure(str(path), UNKNOWN, 0, reason=f"its files are damaged ({type(error).__name__})")


def _of_run(folder: RunFolder, runs: Mapping[str, RunFolder], traced: TracedNotes) -> Exposure:
    starts = folder.starts()
    steps = _steps_reached(folder, starts)
    spans = [
        _Span(
            period.first_step,
            period.last_step,
            period.start["data"]["fingerprint"],
            period.start["config"]["seed"],
            period.start["config"]["batch"]["train_batch_size"],
        )
        for period in (lineage(starts, steps) if starts else [])
    ]
    found = _judge(folder.path, spans, read_skipped_samples(folder), _is_validated(starts, traced), traced)
    if steps in folder.saved_steps():
        said, computed = read_state(folder, steps).samples_consumed, sum(span.samples for span in spans)
        if said != computed:
            reason = f"its checkpoint has consumed {said:,} samples, its starts {computed:,}"
            found = Exposure(str(folder), UNKNOWN, steps, reason=reason)
    return _with_base(found, _base_of_run(folder, runs, traced))


def _of_model(model: Path, runs: Mapping[str, RunFolder], traced: TracedNotes) -> Exposure:
    facts = read_facts(model)
    spans = [
        _Span(
            max(data["first_step"], recipe["first_step"]),
            min(data["last_step"], recipe["last_step"]),
            data["fingerprint"],
            recipe["seed"],
            recipe["train_batch_size"],
        )
        for data in facts["data"]
        for recipe in facts["recipe"]
        if data["first_step"] <= recipe["last_step"] and recipe["first_step"] <= data["last_step"]
    ]
    run = runs.get(facts["run_id"])
    if run:
        found = _judge(model, spans, read_skipped_samples(run), _is_validated(run.starts(), traced), traced)
        return _with_base(found, _base_of_run(run, runs, traced))
    found, base = _judge(model, spans, None, bool(len(traced.sequences["validation"])), traced), None
    if facts["initialisation"] == "pretrained" and facts["base_model"] is None:
        reason = "it began with a local model, which only its run names; give the run, too"
        base = Exposure(str(model), UNKNOWN, 0, reason=reason)
    return _with_base(found, base)


def _is_validated(starts: Sequence[dict[str, Any]], traced: TracedNotes) -> bool:
    """Whether a validation on these shards takes sequences with the notes."""
    held_out = traced.sequences["validation"][:, 0]
    for start in starts:
        if counts := traced.counts.get(start["data"]["fingerprint"]):
            measured = validation_sequences(counts["validation"], start["config"]["validation"]["max_sequences"])
            if np.isin(held_out, measured).any():
                return True
    return False


def _steps_reached(folder: RunFolder, starts: Sequence[dict[str, Any]]) -> int:
    """The last step that the last start has made, or that it began after.

    What earlier starts made after that step is in no weights: their checkpoints of later steps were renamed when it
    began. Their metrics and their summary may still be there if it was killed then.
    """
    if not starts:
        return 0
    last, summary = len(starts) - 1, folder.read_summary()
    metrics = [line["step"] for line in read_metrics(folder) if line["start"] == last]
    ended = [summary["steps"]] if summary and summary.get("restarts", last) == last else []
    return max([starts[-1]["from_step"], *folder.saved_steps(), *metrics, *ended])


def _judge(
    path: Path,
    spans: Sequence[_Span],
    skipped: list[SkippedSamples] | None,
    is_validated: bool,
    traced: TracedNotes,
) -> Exposure:
    """Judge by the steps of a run or model. `skipped` is None where it isn't known whether samples were skipped."""
    pairs = traced.sequences["train"]
    steps = spans[-1].last_step if spans else 0
    consumed, at_steps = _consumed(spans, skipped or [], traced)
    of_these = [span for span in spans if span.fingerprint in traced.counts]
    others = {span.fingerprint for span in spans} - {*traced.counts, traced.fingerprint_without}
    doubt = _other_shards(others, traced)
    if len(consumed):
        patients = np.unique(pairs[np.isin(pairs[:, 0], consumed), 1])
        also = f"also {doubt}" if doubt else ""
        return Exposure(str(path), TRAINED, steps, len(patients), len(consumed), int(at_steps.min()), also)
    if not doubt and of_these and len(pairs) and skipped is None:
        doubt = "only its run tells whether samples were skipped; give the run, too"
    if doubt:
        return Exposure(str(path), UNKNOWN, steps, reason=doubt)
    if is_validated and (of_these or not spans):
        return Exposure(str(path), VALIDATED, steps)
    return Exposure(str(path), NOT_SEEN, steps, reason="" if spans else "no step yet")


def _other_shards(others: set[str], traced: TracedNotes) -> str:
    if not others:
        return ""
    if others <= {entry.fingerprint for entry in traced.manifest.withdrawn}:
        return "trained on the shards that these were made from by an earlier withdrawal"
    return f"trained on other shards (fingerprint {', '.join(sorted(each[:12] for each in others))})"


def _consumed(
    spans: Sequence[_Span], skipped: list[SkippedSamples], traced: TracedNotes
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(n,): the sequences with the notes that were trained on, each as often as it was; (n,): at which steps."""
    is_traced = np.zeros(traced.manifest.splits["train"].sequences, dtype=bool)
    is_traced[traced.sequences["train"][:, 0]] = True
    found, steps, before = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for span in spans:
        if span.fingerprint in traced.counts:
            for sample, order in _orders(span, before, skipped, traced.counts[span.fingerprint]["train"]):
                hits = np.flatnonzero(is_traced[order])
                found.append(order[hits])
                steps.append(span.first_step + (sample + hits - before) // span.batch_size)
        before += span.samples
    return np.concatenate(found), np.concatenate(steps)


def _orders(
    span: _Span, before: int, skipped: list[SkippedSamples], sequences: int
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Yield the sequences that a span's steps took, in order, each time with the number of the first one's sample.

    Args:
        span: the steps.
        before: samples consumed before them.
        skipped: samples left out.
        sequences: number of sequences in the training split.
    """
    for sample, position, count in data_runs(before, before + span.samples, skipped):
        stop = sample + count
        while sample < stop:
            epoch, place = divmod(position, sequences)
            order = epoch_order(sequences, span.seed, epoch)[place : place + stop - sample]
            yield sample, order
            sample, position = sample + len(order), position + len(order)


def _base_of_run(folder: RunFolder, runs: Mapping[str, RunFolder], traced: TracedNotes) -> Exposure | None:
    """What the model that a run began with has seen; None where that is a model of the Hub, or no model."""
    run = folder.read_run()
    if not run["starts"] or run["base_model"] is not None or run["starts"][0]["config"]["model"]["init"] == "random":
        return None
    base = Path(run["starts"][0]["config"]["model"]["name_or_path"])
    if (base / FACTS_NAME).exists():
        # Without this run: its own export may lie there by now, and would lead here again.
        return _of_model(base, {run_id: other for run_id, other in runs.items() if other != folder}, traced)
    if not base.is_dir():
        return Exposure(str(base), UNKNOWN, 0, reason=f"it began with the model in {base}, which isn't there")
    return None


def _with_base(found: Exposure, base: Exposure | None) -> Exposure:
    """What a model has seen that began with another one."""
    if base is None or found.seen == TRAINED or base.seen not in (TRAINED, UNKNOWN):
        return found
    if base.seen == TRAINED:
        return replace(
            found, seen=TRAINED, patients=base.patients, reason=f"it began with {base.path}, trained on them"
        )
    return replace(found, seen=UNKNOWN, reason=found.reason or base.reason)
