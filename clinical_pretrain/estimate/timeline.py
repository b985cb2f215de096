"""A replay of what a training step allocates and frees: the peak, and what it is made of."""

from __future__ import annotations

from collections import Counter


class Timeline:
    """Tensors that are alive, by name, each of a part such as `activations`; and the moment when they were the most."""

    def __init__(self) -> None:
        self._alive: dict[str, tuple[str, int]] = {}
        self._by_part: Counter[str] = Counter()
        self._total = 0
        self.phase = "start"
        """What the step is doing, for the report."""
        self.peak_bytes = 0
        self.peak_phase = self.phase
        self.peak_by_part: dict[str, int] = {}
        """Bytes of each part at the peak."""
        self.largest_bytes = 0
        """Of a tensor that is allocated in a step."""

    def allocate(self, part: str, **tensors: float) -> None:
        """Tensors of these names and numbers of bytes. A name that is alive is an error of the replay."""
        for name, size in tensors.items():
            assert name not in self._alive, name
            self._alive[name] = part, int(size)
            self._by_part[part] += int(size)
            self._total += int(size)
            self.largest_bytes = max(self.largest_bytes, int(size))
        if self._total > self.peak_bytes:
            self.peak_bytes, self.peak_phase, self.peak_by_part = self._total, self.phase, dict(self._by_part)

    def free(self, *names: str) -> None:
        """Free tensors by their names."""
        for name in names:
            part, size = self._alive.pop(name)
            self._by_part[part] -= size
            self._total -= size

    def is_alive(self, name: str) -> bool:
        """Whether a tensor of this name is allocated."""
        return name in self._alive
