"""Keep the memory of freed tensors for later ones, on a CPU.

By itself glibc's malloc returns the memory of each large tensor to the kernel when the tensor is freed. The next step
then pays for mapping and clearing the same pages again: benchmarks/limit.py measures how much.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of mallopt(3), by their numbers in malloc.h."""
TOP_PAD_BYTES = 64 << 20
"""Bytes that the heap grows by beyond what is asked for."""
OTHER_ALLOCATORS = ("mallctl", "MallocExtension_ReleaseFreeMemory", "mi_version")
"""A function of jemalloc, tcmalloc and mimalloc each, which is found where they are loaded in malloc's place."""


def keep_freed_memory() -> bool:
    """Let malloc keep what is freed, in this process, from now on. Results don't change; the process holds on to the
    most memory that it has needed.

    Returns:
        Whether it does: False, and nothing is changed, where malloc isn't glibc's (musl's, macOS's, or a preloaded
        jemalloc, tcmalloc or mimalloc, which have settings of their own).
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version") or any(hasattr(libc, name) for name in OTHER_ALLOCATORS):
        return False
    # mallopt returns 1 where it knows the parameter.
    done = [libc.mallopt(M_MMAP_MAX, 0), libc.mallopt(M_TRIM_THRESHOLD, -1), libc.mallopt(M_TOP_PAD, TOP_PAD_BYTES)]
    return done == [1, 1, 1]
