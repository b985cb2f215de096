"""What a run has reached: curves, and the held-out loss by category, position and the like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clinical_pretrain.observe.report.curves import Curve, Plot, draw
from clinical_pretrain.observe.report.run import RecordedRun, perplexity
from clinical_pretrain.run_folder.history import Validations, validations, validations_by_set
from clinical_pretrain.run_folder.metrics import damaged_lines
from tokenizer_tools.manifest import held_out
from tokenizer_tools.pages.html import paragraph, table
from tokenizer_tools.pages.wording import four_digits, percent

LEAST_PREDICTED = 100
"""Fewest masked tokens of a category that is named: a loss over fewer says little, and rare names can give a patient
away."""
DIVISIONS = {
    "by_category": ("note category", "Loss by note category"),
    "by_section": ("section", "Loss by section of the note"),
    "by_position": ("position", "Loss by position in the sequence"),
    "by_words": ("words", "Loss on words of a list"),
}
"""How the figures of a validation are divided: what the rows are, and the table's caption."""


@dataclass(frozen=True)
class Measured:
    """A loss over some masked tokens."""

    loss: float
    accuracy: float
    predicted: int

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return perplexity(self.loss)


def measured(run: RecordedRun) -> Validations:
    """The first and last validation, if they compare; else the last alone, as `before` is empty."""
    found = validations(run.folder, run.starts, run.step)
    if found.differences:
        return Validations({}, found.after, found.differences)
    return Validations({}, found.before, []) if found.before and not found.after else found


def curves(run: RecordedRun) -> str:
    """Plots of losses, learning rate, gradient norm and speed, with restarts and roll-backs."""
    marks = {"restarts": [start["from_step"] for start in run.starts[1:]], "rollbacks": run.rollbacks}
    losses = [
        Curve("validation" if number == 1 else f"validation, changed ({number})", _points(same, "loss"), True, number)
        for number, same in enumerate(validations_by_set(run.folder, run.starts), 1)
    ]
    plots = [
        Plot(
            "loss",
            f"Masked-LM loss: training, and validation on {held_out(run.data['split_by'])}.",
            "nats per masked token",
            [Curve("training", _points(run.train, "loss"), is_faint=True), *losses],
            **marks,
        ),
        _plot(run, "learning_rate", "Learning rate.", "learning rate", marks),
        _plot(run, "gradient_norm", "L2 norm of the gradient before clipping.", "gradient norm", marks),
        _plot(run, "tokens_per_second", "Speed of all ranks together.", "tokens per second", marks),
    ]
    return f'<div class="pair">{"".join(draw(plot) for plot in plots)}</div>{_left_out(run)}'


def _left_out(run: RecordedRun) -> str:
    count = len(damaged_lines(run.folder))
    return paragraph(f"Left out: {count:,} of the lines of metrics.jsonl, which can't be read.") if count else ""


def _plot(run: RecordedRun, key: str, caption: str, value: str, marks: dict[str, list[int]]) -> Plot:
    return Plot(key, caption, value, [Curve(value, _points(run.train, key))], **marks)


def _points(lines: list[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(line["step"], line[key]) for line in lines if isinstance(line.get(key), int | float)]


def held_out_losses(run: RecordedRun) -> str:
    """The last validation's figures: overall, by category and the like, with less context, on general text."""
    found = measured(run)
    after, before = found.after, found.before
    if not (whole := _measured(after)):
        has_none = not run.data["splits"].get("validation", {}).get("sequences")
        reason = "the shards have no held-out sequences" if has_none else "none in metrics.jsonl has a loss"
        return paragraph(f"No validation: {reason}.")
    rows = [_row("all masked tokens", whole, _measured(before))]
    if general := _measured(after.get("general", {})):
        rows.append(_row("general text, which is no clinical note", general, _measured(before.get("general", {}))))
    where = f"{held_out(run.data['split_by']).capitalize()}, at step {after['step']:,}"
    parts = [_losses(f"{where}: loss, overall", "text", rows, bool(before))]
    if found.differences:
        parts.append(paragraph(f"No loss from before training compares with it: {', '.join(found.differences)}."))
    for key, (what, caption) in DIVISIONS.items():
        if after.get(key):
            rows = _division(after[key], before.get(key, {}), in_order=key == "by_position")
            parts.append(_losses(caption, what, rows, bool(before)))
    context = after.get("context") or {}
    if all(isinstance(context.get(key), int | float) for key in ("tokens", "predicted", "loss_whole", "loss_cut")):
        parts.append(_context(context))
    parts.append(
        paragraph(
            f"Losses are in nats per masked token, perplexity is exp(loss), accuracy the share of masked tokens "
            f"predicted right. Names with fewer than {LEAST_PREDICTED} masked tokens are put together. The others come "
            "from the data: look through them before you share this page."
        )
    )
    return "".join(parts)


def _division(after: Mapping[str, Any], before: Mapping[str, Any], in_order: bool) -> list[list[str]]:
    """A row for each name that is frequent enough, and one for all others together; in order, else frequent ones
    first."""
    named = {name: found for name, values in after.items() if (found := _measured(values))}
    rare = [name for name, found in named.items() if found.predicted < LEAST_PREDICTED]
    rows = [
        _row(name, found, _measured(before.get(name, {})))
        for name, found in sorted(named.items(), key=lambda item: 0 if in_order else -item[1].predicted)
        if name not in rare
    ]
    if rare:
        others = [_measured(before.get(name, {})) for name in rare]
        known = [found for found in others if found]
        earlier = _together(known) if len(known) == len(rare) else None
        rows.append(_row(f"other ({len(rare):,})", _together([named[name] for name in rare]), earlier))
    return rows


def _together(found: list[Measured]) -> Measured:
    predicted = sum(each.predicted for each in found)
    loss = sum(each.loss * each.predicted for each in found) / predicted
    return Measured(loss, sum(each.accuracy * each.predicted for each in found) / predicted, predicted)


def _measured(values: Mapping[str, Any]) -> Measured | None:
    """What a part of a validation's line holds; None for one that isn't there, or without a loss."""
    if values.get("loss") is None or not values.get("predicted"):
        return None
    return Measured(values["loss"], values.get("accuracy") or 0.0, values["predicted"])


def _row(name: str, after: Measured, before: Measured | None) -> list[str]:
    was = [f"{before.loss:.4f}", f"{after.loss - before.loss:+.4f}"] if before else ["–", "–"]
    return [
        "".join(character if character.isprintable() else "\ufffd" for character in name)[:60],
        f"{after.loss:.4f}",
        *was,
        four_digits(after.perplexity),
        percent(after.accuracy),
        f"{after.predicted:,}",
    ]


def _losses(caption: str, what: str, rows: list[list[str]], has_before: bool) -> str:
    header = [what, "loss", "before", "change", "perplexity", "accuracy", "masked tokens"]
    if not has_before:
        header, rows = header[:2] + header[4:], [row[:2] + row[4:] for row in rows]
    return table(caption, header, rows)


def _context(context: Mapping[str, Any]) -> str:
    tokens, gain = context["tokens"], context["loss_cut"] - context["loss_whole"]
    rows = [
        ["the whole sequence", f"{context['loss_whole']:.4f}"],
        [f"{tokens:,} tokens", f"{context['loss_cut']:.4f}"],
        ["what longer context gains", f"{gain:.4f}"],
    ]
    return table(
        f"Loss on the same {context['predicted']:,} masked tokens with their context cut", ["context", "loss"], rows
    )
