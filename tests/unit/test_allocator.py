"""Freed memory is kept where that was asked for, and only in glibc's malloc."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from clinical_pretrain import keep_freed_memory

SCRIPT = """
import resource
import numpy as np
from clinical_pretrain import keep_freed_memory
{call}
def fill():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(30 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
fill()
print(fill())
"""


@pytest.mark.parametrize(("call", "is_kept"), [("assert keep_freed_memory()", True), ("", False)])
def test_pages_are_kept(call, is_kept):
    """A second array of the same size needs no new pages; without the call it does."""
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(call=call)], capture_output=True, text=True, check=True)
    faults, fewest = int(done.stdout), 50  # pages of 2 MB, or many more of 4 kB
    assert faults < 10 if is_kept else faults >= fewest / 2


# VmHWM, not ru_maxrss: that also counts what the process that started this one had.
STEPS = """
import random
import re
import torch
from clinical_pretrain import keep_freed_memory
{call}
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
random.seed(0)
before = peak()
weight = torch.randn(20_000, 16, requires_grad=True)
for _ in range(40):
    labels = torch.zeros(random.randint(540, 680), dtype=torch.long)
    torch.nn.functional.cross_entropy(torch.randn(len(labels), 16) @ weight.T, labels).backward()
    weight.grad = None
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_sizes_that_change():
    """Of logits at another number of positions in each step: with all freed memory kept, it is three times as much."""
    peaks = [
        int(subprocess.run([sys.executable, "-c", STEPS.format(call=call)], capture_output=True, check=True).stdout)
        for call in ("", "assert keep_freed_memory()")
    ]
    assert peaks[1] < 1.6 * peaks[0]


@pytest.mark.parametrize(
    "names", [("mallopt",), ("mallopt", "gnu_get_libc_version", "mallctl"), ("gnu_get_libc_version", "mi_version")]
)
def test_other_allocators_are_left_alone(names, monkeypatch):
    def called(*arguments):
        raise AssertionError("mallopt was called")

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(**dict.fromkeys(names, called)))
    assert not keep_freed_memory()
