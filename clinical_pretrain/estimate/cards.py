"""GPUs, by the names that `plan` takes. Peaks, bandwidths and watts are those of the makers' data sheets."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from tokenizer_tools.errors import UserError

GIB = 1 << 30


@dataclass(frozen=True)
class Card:
    """One model of GPU."""

    name: str
    memory_gib: float
    """What torch reports as total memory, rounded down: less than the name says, as the driver keeps some."""
    capability: float
    """CUDA's compute capability."""
    peak_flops: float
    """Per second, of dense half-precision matrix products."""
    memory_bandwidth: float
    """Bytes per second."""
    link_bandwidth: float
    """Bytes per second and direction to the other GPUs of a node: NVLink, or PCIe 4.0 x16."""
    watts: float
    """Thermal design power."""
    pattern: str
    """What torch's name of the device must hold."""

    @property
    def memory_bytes(self) -> int:
        """Total memory."""
        return int(self.memory_gib * GIB)

    @property
    def has_bf16(self) -> bool:
        """From Ampere on."""
        return self.capability >= 8


CARDS = (
    Card("v100-16gb", 15.7, 7.0, 125e12, 0.90e12, 150e9, 300, r"V100-SXM\w*-16GB"),
    Card("v100-32gb", 31.7, 7.0, 125e12, 0.90e12, 150e9, 300, r"V100-SXM\w*-32GB"),
    Card("a100-40gb", 39.3, 8.0, 312e12, 1.555e12, 300e9, 400, r"A100-SXM\w*-40GB"),
    Card("a100-80gb", 79.1, 8.0, 312e12, 2.039e12, 300e9, 400, r"A100-SXM\w*-80GB"),
    Card("a10-24gb", 22.0, 8.6, 125e12, 0.60e12, 32e9, 150, r"A10\b"),
    Card("l40s-48gb", 44.3, 8.9, 362e12, 0.864e12, 32e9, 350, r"L40S\b"),
    Card("h100-80gb", 79.1, 9.0, 989e12, 3.35e12, 450e9, 700, r"H100\b(?!.*(PCIe|NVL))"),
    Card("h200-141gb", 139.0, 9.0, 989e12, 4.8e12, 450e9, 700, r"H200\b(?!.*NVL)"),
)
"""SXM modules, but for A10 and L40S."""


def card_named(name: str) -> Card:
    """The card of this name.

    Raises:
        UserError: there is none.
    """
    for card in CARDS:
        if card.name == name.lower():
            return card
    names = [card.name for card in CARDS]
    near = difflib.get_close_matches(name.lower(), names, n=1)
    raise UserError(f"--gpu {name}: unknown{f' (did you mean {near[0]}?)' if near else ''}; known: {', '.join(names)}")


def card_of_device(device_name: str) -> Card | None:
    """The card by the name that torch gives the device; None where it isn't known."""
    return next((card for card in CARDS if re.search(rf"\b{card.pattern}", device_name)), None)
