"""Look for garbage less often: among the objects of torch and transformers a search takes long, and finds nothing."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


def leave_garbage_at_exit() -> None:
    """Let this process end without a last search for unreachable cycles, which takes most of a second."""
    atexit.register(gc.freeze)


def collect_seldom() -> None:
    """Search after every 50,000 objects from now on. For processes that work on text: a cycle might hold a tensor."""
    gc.set_threshold(50_000, 20, 100)


@contextmanager
def collected_seldom() -> Iterator[None]:
    """collect_seldom() for a while."""
    before = gc.get_threshold()
    collect_seldom()
    try:
        yield
    finally:
        gc.set_threshold(*before)
