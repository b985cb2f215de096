"""The entry for launchers: `deepspeed -q clinical_pretrain/run.py --config FILE [--any.key value]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Launchers put this file's folder, or the working directory, first on the path. The packages are one folder above: put
# that there instead, unless the path has it already (an installed package: the standard library comes first).
packages = str(Path(__file__).resolve().parent.parent)
sys.path[:1] = [] if packages in sys.path[1:] else [packages]

from clinical_pretrain.console import console, make_output_lenient
from clinical_pretrain.exit_codes import USER_ERROR
from clinical_pretrain.training.signals import hold_signals

hold_signals()
make_output_lenient()

from clinical_pretrain.config.command_line import load_config, without_dry_run
from clinical_pretrain.engine.deepspeed_config import resolve
from clinical_pretrain.slurm_environment import rank_variables
from clinical_pretrain.training.preflight import check_files
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import write_report
from tokenizer_tools.garbage import leave_garbage_at_exit


def main() -> int:
    """Parse, train, and turn a user's mistake into one line and exit code 2."""
    os.umask(0o077)
    leave_garbage_at_exit()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # One line per node: an error may be of one node alone. Asked before initialise() makes LOCAL_RANK the GPU's number.
    ranks = rank_variables() | dict(os.environ)
    speaks = ranks.get("LOCAL_RANK", "0") == "0"
    argv = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    argv, is_dry = without_dry_run(argv)
    try:
        config, json_file = load_config(argv, needs_file=True)
        check_files(config)
        if world_size := os.environ.get("WORLD_SIZE"):
            resolve(config, int(world_size))
        if ranks.get("RANK", "0") == "0":
            console.progress(["loading PyTorch, transformers and DeepSpeed"])
        from clinical_pretrain.distributed import shut_down
        from clinical_pretrain.training.dry_run import dry_run
        from clinical_pretrain.training.train import train

        try:
            summary = dry_run(config) if is_dry else train(config)
        finally:
            shut_down()
    except UserError as error:
        if speaks:
            console.say(f"error: {error}", error=True)
        return USER_ERROR
    if json_file and os.environ.get("RANK", "0") == "0":
        try:
            write_report(json_file, summary)
        except OSError as error:
            console.say(
                f"error: {json_file}: cannot be written ({error.strerror}); the run itself is saved", error=True
            )
            return USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
