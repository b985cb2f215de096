"""A trace of a few steps by torch's profiler, which TensorBoard and Perfetto open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from clinical_pretrain.training.run import Run

STEPS_BEFORE = 2
"""Steps that warm up, and another one in which the profiler does."""


@contextmanager
def traced(run: Run) -> Iterator[Callable[[], None]]:
    """Trace as many steps as config.profile says, on rank 0, into the run folder; 0: none. A trace holds names of
    functions and times, but neither tokens nor weights.

    Yields:
        What is to be called at the end of each step.
    """
    if not run.config.profile or not run.ranks.is_first:
        yield lambda: None
        return
    write = torch.profiler.tensorboard_trace_handler(str(run.folder.traces), worker_name="rank-0", use_gzip=True)

    def write_and_say(profile: Any) -> None:
        write(profile)
        run.say(f"trace of {run.config.profile} steps up to step {run.step:,}: {run.folder.traces}")

    schedule = torch.profiler.schedule(skip_first=STEPS_BEFORE, wait=0, warmup=1, active=run.config.profile, repeat=1)
    with torch.profiler.profile(schedule=schedule, on_trace_ready=write_and_say) as profile:
        yield profile.step
