"""The demo: the whole pipeline on a CPU, through the same commands that a user types."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinical_pretrain.exit_codes import USER_ERROR
from clinical_pretrain.observe.report.page import REPORT_NAME
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.command_line import typed
from tokenizer_tools.corpus.input_options import find_sources
from tokenizer_tools.corpus.read_notes import check_first_notes
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import write_json
from tokenizer_tools.manifest import Manifest, held_out

RANKS = 2
MADE_OF = "demo.json"
"""Records the notes and options of a demo, so that its tokenizer and shards aren't used for a demo of others."""
EXAMPLES = (
    "He denies chest <mask>, fever, chills.",
    "Treated with metoprolol tartrate 25 <mask> PO BID.",
    "O2 sat 97% on room <mask>",
)


def run_demo(out: Path, options: dict[str, Any], input_arguments: Sequence[str]) -> dict[str, Any]:
    """Notes, tokenizer, shards, training on two CPU ranks under ZeRO 2, export, examples.

    Args:
        out: folder for all output; the same folder again resumes a demo that was stopped.
        options: notes (none: synthetic ones are made), reading and split, as for `build_shards`.
        input_arguments: the same options as a user types them.

    Returns:
        What `OUT/summary.json` holds.

    Raises:
        UserError: a step failed; its own message has been printed. Or `out` holds a demo of other notes.
    """
    started, notes = time.monotonic(), options["notes"]
    has_notes = bool(notes or options["reading"].sources)
    inputs = find_sources(notes, options["reading"]) if has_notes else []
    check_first_notes(inputs, options["reading"], options["split"])  # find mistakes before writing anything
    made_of = {"notes": [str(path.resolve()) for path in notes], "arguments": list(input_arguments)}
    if (out / MADE_OF).exists():
        if json.loads((out / MADE_OF).read_text()) != made_of:
            raise UserError(f"{out}: holds a demo of other notes or options; choose another --out, or delete it")
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: not empty, and holds no demo; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MADE_OF, made_of)
    if not has_notes:
        input_arguments = ["--notes", str(out / "NOTEEVENTS.csv.gz"), *input_arguments]
        if not (out / "NOTEEVENTS.csv.gz").exists():
            _step("synthetic notes", "make-notes", "--out", out / "NOTEEVENTS.csv.gz")
    tokenizer, shards, run_dir, model = (
        out / "tokenizer",
        out / "shards",
        out / "runs" / "demo",
        out / "model",
    )
    if not tokenizer.exists():
        _step("a tokenizer", "train-tokenizer", *input_arguments, "--out", tokenizer)
    _step("notes to shards", "build-shards", *input_arguments, "--tokenizer", tokenizer,
          "--out", shards, "--patient-key", out / "patient_key")  # fmt: skip
    _step("training", "run", "--num_gpus", RANKS, "--config", "configs/demo_cpu.yaml",
          "--data.shards", shards, "--run_dir", run_dir)  # fmt: skip
    result = out / "export.json"
    _step("a Hugging Face model", "export", run_dir, "--out", model, "--json", result)
    _step("a plot of the loss", "plot", run_dir)
    _step("a report", "report", run_dir)
    run = RunFolder(run_dir).read_summary() or {}
    summary = {
        "validation_loss_before": run["validation_loss_before"],
        "validation_loss_after": run["validation_loss_after"],
        "steps": run["steps"],
        "seconds": round(time.monotonic() - started, 1),
        "model_dir": str(model),
        "max_logit_difference": json.loads(result.read_text())["max_logit_difference"],
    }
    write_json(out / "summary.json", summary)
    _tell(summary, run_dir, model, shards)
    return summary


def _step(title: str, *arguments: object) -> None:
    command = [str(argument) for argument in arguments]
    print(f"\n== {title}\n$ {shlex.join(['clinical-pretrain', *command])}", flush=True)
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "true"}
    call = [sys.executable, "-m", "clinical_pretrain", *command]
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    interrupted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: interrupted.append(number))  # the step gets it, too
    try:
        code = subprocess.run(call, env=environment).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt
    if code == USER_ERROR:
        sys.exit(USER_ERROR)  # a user's mistake: the step has printed its message
    if code:
        raise UserError(f"demo: '{title}' ended with exit code {code}; see its message above")


def _tell(summary: dict[str, Any], run_dir: Path, model: Path, shards: Path) -> None:
    before, after = summary["validation_loss_before"], summary["validation_loss_after"]
    print("\n== result")
    if before is None:
        print("no note of this corpus fell into the validation split, so no held-out loss was measured")
    else:
        on = held_out(Manifest.load(shards).split_by)
        print(f"validation loss ({on}): {before:.2f} before, {after:.2f} after {summary['steps']} steps")
    print(f"exported model gives the trained model's logits to {summary['max_logit_difference']:.1e}")
    print("\nfill-mask, with plain transformers:")
    for text, guesses in fill_masks(model):
        print(f"  {text:<52} {guesses}")
    print(f"\nmodel           {model}")
    print(f"loss plot       {run_dir / 'loss.png'}")
    print(f"report          {run_dir / REPORT_NAME}")
    print(f"summary         {model.parent / 'summary.json'}")
    print(f"curves          {typed('tensorboard')} --logdir {shlex.quote(str(run_dir.parent))}")
    base = "allenai/longformer-base-4096"
    print("\nnext, on a GPU with your notes:")
    activate = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("clinical-pretrain") is None and activate.exists():
        print(f"  source {shlex.quote(os.path.relpath(activate))}")
    print(f"  clinical-pretrain build-shards --notes NOTEEVENTS.csv.gz --tokenizer {base} --out shards/")
    config = "--config configs/clinical_longformer.yaml --data.shards shards/"
    print(f"  clinical-pretrain doctor {config}")
    print(f"  clinical-pretrain run {config}")
    print("  clinical-pretrain watch runs/clinical_longformer")


def fill_masks(model_dir: Path) -> list[tuple[str, str]]:
    """Three sentences with a gap, and the model's three best guesses for each."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    fill = transformers.pipeline("fill-mask", model=str(model_dir))
    results = []
    for text in EXAMPLES:
        text = text.replace("<mask>", fill.tokenizer.mask_token)
        guesses = [f"{_visible(guess['token_str'])} {guess['score']:.0%}" for guess in fill(text, top_k=3)]
        results.append((text, " · ".join(guesses)))
    return results


def _visible(token: str) -> str:
    return token.strip() or ("(newline)" if "\n" in token else "(blank)")
