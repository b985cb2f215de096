"""A plot of a run's losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clinical_pretrain.observe.status import no_run
from clinical_pretrain.run_folder.history import validations_by_set
from clinical_pretrain.run_folder.metrics import read_metrics
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import check_output_file
from tokenizer_tools.manifest import held_out
from tokenizer_tools.wording import as_unicode

FORMATS = (".png", ".pdf", ".svg")


def check_picture(out: Path, option: str) -> None:
    """Check, before the work, that a picture can be written.

    Args:
        out: the picture's file.
        option: by which the user names it, for the message.

    Raises:
        UserError: the name doesn't end with one of `FORMATS`, or its folder isn't there or can't be written.
    """
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"{out}: unknown kind of picture; the name must end with {', '.join(FORMATS)}")
    check_output_file(out, option)


def plot_loss(run_dir: Path, out: Path | None = None) -> dict[str, Any]:
    """Draw training and validation loss against optimizer steps.

    Args:
        run_dir: the run folder.
        out: image file in one of `FORMATS`; default `loss.png` in the run folder.

    Raises:
        UserError: there are no losses yet, or the picture can't be written there.
    """
    folder = RunFolder(run_dir)
    if not folder.exists:
        raise no_run(run_dir)
    out = out or run_dir / "loss.png"
    check_picture(out, "--out")
    train, validation = (
        [line for line in read_metrics(folder, kind) if line["loss"] is not None] for kind in ("train", "validation")
    )
    if not train and not validation:
        raise UserError(f"{run_dir}: no metrics.jsonl with losses yet")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    split_by = folder.read_data()["split_by"]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120)
    axes.plot([p["step"] for p in train], [p["loss"] for p in train], color="#9db7d5", linewidth=1, label="training")
    for number, same in enumerate(validations_by_set(folder, folder.starts())):  # one line per validation set
        axes.plot(
            [p["step"] for p in same],
            [p["loss"] for p in same],
            color="#b2182b",
            marker="o",
            markersize=4,
            label=None if number else f"validation ({held_out(split_by)})",
        )
        for point in (same[0], same[-1]):
            axes.annotate(f"{point['loss']:.2f}", (point["step"], point["loss"]), (0, 8), textcoords="offset points")
    axes.set(
        xlabel="optimizer step",
        ylabel="masked-LM loss (nats per masked token)",
        title=as_unicode(run_dir.resolve().name),
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(out)
    pyplot.close(figure)
    return {"picture": str(out), "train_points": len(train), "validation_points": len(validation)}
