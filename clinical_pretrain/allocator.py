"""Keep the memory of freed tensors for later ones, on a CPU.

By itself glibc's malloc returns the memory of large tensors to the kernel when they are freed. The next step then pays
for mapping and clearing the same pages again: benchmarks/limit.py measures how much.

Tensors of more than 32 MB are returned all the same. Kept, they would never be returned (M_MMAP_MAX 0), and where sizes
change from step to step, as those of the logits at the masked positions do, the heap would grow without end.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of mallopt(3), by their numbers in malloc.h."""
KEPT_BYTES = 32 << 20
"""Largest block that is kept; the largest M_MMAP_THRESHOLD that glibc takes."""
TOP_PAD_BYTES = 64 << 20
"""Bytes that the heap grows by beyond what is asked for."""
OTHER_ALLOCATORS = ("mallctl", "MallocExtension_ReleaseFreeMemory", "mi_version")
"""A function of jemalloc, tcmalloc and mimalloc each, which is found where they are loaded in malloc's place."""


def keep_freed_memory() -> bool:
    """Let malloc keep freed blocks of up to 32 MB, in this process, from now on. Results don't change; the process
    holds on to the most memory that it has needed for them.

    Returns:
        Whether it does: False, and nothing is changed, where malloc isn't glibc's (musl's, macOS's, or a preloaded
        jemalloc, tcmalloc or mimalloc, which have settings of their own).
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version") or any(hasattr(libc, name) for name in OTHER_ALLOCATORS):
        return False
    # mallopt returns 1 where it knows the parameter.
    settings = {M_MMAP_THRESHOLD: KEPT_BYTES, M_TRIM_THRESHOLD: -1, M_TOP_PAD: TOP_PAD_BYTES}
    return all(libc.mallopt(parameter, value) == 1 for parameter, value in settings.items())
