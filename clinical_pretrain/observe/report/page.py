"""The report of a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clinical_pretrain.observe.report.costs import environment_section, goodput, goodput_section, time_section
from clinical_pretrain.observe.report.data import data_section, tokens_seen
from clinical_pretrain.observe.report.recipe import recipe_section, repeat_section
from clinical_pretrain.observe.report.results import curves, held_out_losses, measured
from clinical_pretrain.observe.report.run import RecordedRun, perplexity
from clinical_pretrain.observe.status import status
from clinical_pretrain.run_folder.metrics import duration
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import check_output_file, write_atomically
from tokenizer_tools.pages.html import page, paragraph, tiles
from tokenizer_tools.pages.wording import four_digits, percent
from tokenizer_tools.wording import short_count

REPORT_NAME = "report.html"
"""In the run folder, unless another file is named."""


def write_report(run_dir: Path, out: Path | None = None) -> dict[str, Any]:
    """Write the report of a run.

    Args:
        run_dir: the run folder.
        out: HTML file; None: `REPORT_NAME` in the run folder.

    Returns:
        page (the file) and the report's main figures, flat.

    Raises:
        UserError: it is no run folder, has no losses yet, or is damaged; or the page can't be written there.
    """
    out = html_file(out) if out else None
    run = RecordedRun.load(run_dir)
    out = out or html_file(run_dir / REPORT_NAME)
    figures = figures_of(run)
    write_atomically(out, make_page(run, figures))
    return {"page": str(out), **figures}


def html_file(path: Path) -> Path:
    """A file that a page can be written to.

    Raises:
        UserError: its name doesn't end in .html, or its folder isn't there or can't be written.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{path}: --out is a page, so its name must end with .html")
    check_output_file(path, "--out")
    return path


def figures_of(run: RecordedRun) -> dict[str, Any]:
    """A run's main figures, flat; None for what is unknown."""
    found, time = measured(run), goodput(run)
    tokens, epochs = tokens_seen(run)
    return {
        "run": run.name,
        "state": status(run.folder.path)["state"],
        "steps": run.step,
        "tokens_consumed": tokens,
        "epochs": epochs,
        "validation_loss_before": found.before.get("loss"),
        "validation_loss_after": found.after.get("loss"),
        "validation_accuracy_after": found.after.get("accuracy"),
        "restarts": len(run.starts) - 1,
        "lost_steps": time.get("lost_steps"),
        "seconds_running": time.get("seconds_running"),
        "effective_training_time": time.get("effective_training_time"),
    }


def make_page(run: RecordedRun, figures: dict[str, Any]) -> str:
    """The page as HTML. All names are escaped; nothing is loaded from elsewhere."""
    sections = {
        "Data": data_section(run),
        "Curves": curves(run),
        "Held-out loss": held_out_losses(run),
        "Recipe": recipe_section(run),
        "Where the time went": time_section(run),
        "Goodput": goodput_section(run),
        "Environment": environment_section(run),
        "Repeat it": repeat_section(run),
    }
    return page(f"{run.name}: report of a run", run.name, _lead(run, figures), sections, contents=True)


def _lead(run: RecordedRun, figures: dict[str, Any]) -> str:
    before, after = figures["validation_loss_before"], figures["validation_loss_after"]
    seconds, share = figures["seconds_running"], figures["effective_training_time"]
    shown = {
        "steps": f"{figures['steps']:,}",
        "tokens seen": short_count(figures["tokens_consumed"]),
        **({"held-out loss": f"{after:.3f}", "held-out perplexity": four_digits(perplexity(after))} if after else {}),
        **({"loss before": f"{before:.3f}"} if before else {}),
        **({"running time": duration(seconds), "spent training": percent(share)} if seconds else {}),
        "restarts": f"{figures['restarts']:,}",
    }
    return tiles(shown) + paragraph(_what(run, figures))


def _what(run: RecordedRun, figures: dict[str, Any]) -> str:
    """What was trained on what, in sentences."""
    config, last = run.last["config"], run.last
    base = run.run["base_model"]
    origin = f"{base} was trained further" if base else "A model from a local folder was trained further"
    if config["model"]["init"] == "random":
        origin = f"A {config['model']['family']} model with random weights was trained"
    ranks = last.get("world_size", 1)
    devices = f"{ranks:,} {'rank' if ranks == 1 else 'ranks'} ({last.get('device', 'unknown device')})"
    return (
        f"{origin} by masked-LM on clinical notes in sequences of {run.data['sequence_length']:,} tokens, "
        f"{config['batch']['train_batch_size']:,} a step, for {figures['steps']:,} steps: "
        f"{figures['tokens_consumed']:,} tokens, {figures['epochs']:.2f} epochs, on {devices}. "
        f"State: {figures['state']}. First start: {run.starts[0].get('time', 'unknown')[:10]}."
    )
