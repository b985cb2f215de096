"""A comparison of runs, as one HTML page and for the terminal."""

from __future__ import annotations

import textwrap

from clinical_pretrain.observe.report.compare import Comparison
from clinical_pretrain.observe.report.curves import Curve, Plot, draw
from clinical_pretrain.run_folder.history import validations_by_set
from tokenizer_tools.manifest import held_out
from tokenizer_tools.pages.html import page, paragraph, table
from tokenizer_tools.pages.wording import four_digits

_WIDTH = 100
"""Characters of a terminal's line."""


def make_page(compared: Comparison) -> str:
    """The page as HTML. All names are escaped; nothing is loaded from elsewhere."""
    findings = compared.findings
    sections = {
        "Verdict": "".join(paragraph(capitalised(findings.sentence(each)), "verdict") for each in findings.verdicts)
        + table(*verdict_rows(compared))
        + "".join(paragraph(sentence) for sentence in findings.scope()),
        "Held-out loss": table(*run_rows(compared)) + _curves(compared),
        "Settings that differ": _settings(compared),
    }
    title = f"{', '.join(run.name for run in findings.runs)}: compared"
    lead = paragraph(
        f"{len(findings.runs)} runs on the same {findings.sequences:,} held-out sequences of "
        f"{compared.recorded[0].data['sequence_length']:,} tokens ({held_out(compared.recorded[0].data['split_by'])})."
    )
    return page(title, f"{len(findings.runs)} runs compared", lead, sections, contents=True)


def lines(compared: Comparison) -> list[str]:
    """The comparison for a terminal."""
    findings, found = compared.findings, list[str]()
    for _, header, rows in (run_rows(compared), _setting_rows(compared)):
        if rows:
            widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
            found += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                      for row in (header, *rows)] + [""]  # fmt: skip
    found += [line for each in findings.verdicts for line in textwrap.wrap(findings.sentence(each), _WIDTH)]
    return [*found, "", *(line for sentence in findings.scope() for line in textwrap.wrap(sentence, _WIDTH))]


def run_rows(compared: Comparison) -> tuple[str, list[str], list[list[str]]]:
    """Caption, header and rows of the runs' losses."""
    header = ["run", "settings", "seed", "step", "loss", "95 % interval", "perplexity", "masked tokens"]
    rows = [
        [
            run.name,
            run.group,
            str(run.seed),
            f"{run.step:,}",
            f"{run.loss:.4f}",
            f"{run.low:.4f} to {run.high:.4f}",
            four_digits(run.perplexity),
            f"{run.predicted:,}",
        ]
        for run in compared.findings.runs
    ]
    return "Loss on the held-out sequences that all runs have, in nats per masked token", header, rows


def verdict_rows(compared: Comparison) -> tuple[str, list[str], list[list[str]]]:
    """Caption, header and rows of the verdicts."""
    findings = compared.findings
    level = f"{100 * findings.resampling.level:g} % interval"
    rows = [
        [
            *(
                findings.runs[numbers[0]].name if len(numbers) == 1 else findings.runs[numbers[0]].group
                for numbers in (each.runs, each.baseline)
            ),
            f"{each.difference.nats:+.4f}",
            f"{each.difference.low:+.4f} to {each.difference.high:+.4f}",
            four_digits(findings.perplexity(each.runs)),
            four_digits(findings.perplexity(each.baseline)),
            "noise" if each.is_noise else "better" if each.difference.nats < 0 else "worse",
        ]
        for each in findings.verdicts
    ]
    header = ["of", "against", "loss difference", level, "perplexity", "of the other", "verdict"]
    return "Differences of the loss, in nats per masked token: negative is better", header, rows


def _curves(compared: Comparison) -> str:
    """Losses of all runs over each other. Runs of the same settings share a colour if there are others."""
    validation, training = list[Curve](), list[Curve]()
    groups = list(compared.findings.groups.values())
    look = {number: (colour, dash) for colour, group in enumerate(groups) for dash, number in enumerate(group)}
    for number, run in enumerate(compared.recorded):
        name, same = compared.findings.runs[number].name, validations_by_set(run.folder, run.starts)[-1]
        colour, dash = look[number] if len(groups) > 1 else (number, number)
        validation.append(Curve(name, [(line["step"], line["loss"]) for line in same], True, colour, dash))
        training.append(Curve(name, [(line["step"], line["loss"]) for line in run.train], False, colour, dash))
    unit, caption = "nats per masked token", "Validation loss, each run on all its held-out sequences."
    plots = [
        Plot("validation_loss", caption, unit, validation),
        Plot("training_loss", "Training loss.", unit, training),
    ]
    return f'<div class="pair">{"".join(draw(plot) for plot in plots)}</div>'


def _setting_rows(compared: Comparison) -> tuple[str, list[str], list[list[str]]]:
    names = [run.name for run in compared.findings.runs]
    rows = [[key, *values] for key, values in compared.settings.items()]
    return "Settings, data and surroundings that aren't the same for all", ["setting", *names], rows


def _settings(compared: Comparison) -> str:
    caption, header, rows = _setting_rows(compared)
    return table(caption, header, rows) if rows else paragraph("None: the runs have the same settings.")


def capitalised(text: str) -> str:
    """A sentence with a capital letter and a full stop; a run's name at its start stays as it is."""
    return text[0].upper() + text[1:] + "." if text.startswith("within") else text + "."
