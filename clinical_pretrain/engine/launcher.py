"""DeepSpeed's launcher, which starts one rank per GPU of this machine."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from tokenizer_tools.errors import UserError

OPTIONS = {
    "--num_gpus": "ranks (default: one per GPU; without a GPU: 1, or with numactl one per NUMA node)",
    "--include": "GPUs to use, such as localhost:0,2",
    "--exclude": "GPUs not to use, such as localhost:1",
    "--master_port": "TCP port at which the ranks meet (default: a free one)",
}
"""The launcher's own options that we pass on. Several machines are SLURM's business, or `deepspeed --hostfile`'s."""


def launch(module: str, launcher_arguments: Sequence[str], arguments: Sequence[str]) -> None:
    """Run a module on each rank. On Ctrl-C wait until the ranks have saved, rather than end with a traceback.

    Args:
        module: such as `clinical_pretrain.run`.
        launcher_arguments: names and values of `OPTIONS`.
        arguments: of the module.

    Raises:
        SystemExit: a rank failed; with the launcher's exit code.
        UserError: the launcher refuses its options.
    """
    signal.signal(signal.SIGINT, lambda number, frame: None)
    from clinical_pretrain.distributed import free_port, import_deepspeed

    import_deepspeed()
    from deepspeed.launcher import runner

    if "--master_port" not in launcher_arguments:
        launcher_arguments = ["--master_port", str(free_port()), *launcher_arguments]
    sys.stdout.flush()
    try:
        runner.main(["-q", *launcher_arguments, "--module", module, *arguments])
    except ValueError as error:  # no such GPU, or both --include and --exclude
        raise UserError(f"DeepSpeed's launcher: {error}") from None
