"""Look for garbage less often: among the objects of torch and transformers each search takes long and finds nothing."""

from __future__ import annotations

import atexit
import gc


def collect_seldom() -> None:
    """Let this process look for unreachable cycles less often than by Python's own thresholds, and not when it ends. It
    then starts and ends half a second sooner each, with transformers loaded."""
    gc.set_threshold(50_000, 20, 100)
    atexit.register(gc.freeze)
