"""Work done ahead of time on a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def prefetch(make: Callable[[Key], Value], keys: Iterator[Key], depth: int = 2) -> Iterator[Value]:
    """make(key) for each key in turn, `depth` of them ahead. An exception comes out where its value would have."""
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        waiting = deque(pool.submit(make, key) for key in islice(keys, depth))
        while waiting:
            value = waiting.popleft().result()
            waiting.extend(pool.submit(make, key) for key in islice(keys, 1))
            yield value
