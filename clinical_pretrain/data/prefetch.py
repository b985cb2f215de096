"""Work done ahead of time by a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def prefetch(make: Callable[[Key], Value], keys: Iterator[Key], depth: int = 2) -> Generator[Value]:
    """make(key) for each key, in order, computed up to `depth` keys ahead. An exception is raised where its value would
    have been returned."""
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        waiting = deque(pool.submit(make, key) for key in islice(keys, depth))
        while waiting:
            value = waiting.popleft().result()
            waiting.extend(pool.submit(make, key) for key in islice(keys, 1))
            yield value
