"""What the benchmarks share: models of base size, hardware, memory, pairs."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoModelForMaskedLM, BigBirdConfig, LongformerConfig

from clinical_pretrain.run_folder.starts import git_commit, versions

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
M_MMAP_THRESHOLD = -3
BASE_SIZE = {
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "attention_window": 512,
}
"""Of both base models, by the names of `model.size`."""
VOCABULARY = {"longformer": 50265, "bigbird": 50358}


def base_config(model: str, layers: int, length: int, dropout: float = 0.0) -> Any:
    """As allenai/longformer-base-4096's or google/bigbird-roberta-base's, with so many layers and positions."""
    common = {
        "vocab_size": VOCABULARY[model],
        "num_hidden_layers": layers,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "layer_norm_eps": 1e-5 if model == "longformer" else 1e-12,
    }
    if model == "longformer":
        return LongformerConfig(
            **common, attention_window=512, type_vocab_size=1, max_position_embeddings=length + 2, pad_token_id=1
        )
    return BigBirdConfig(**common, max_position_embeddings=length, attention_type="block_sparse")


def stock_model(config: Any) -> Any:
    """Hugging Face's model with random weights, in training mode."""
    torch.manual_seed(0)
    model: Any = AutoModelForMaskedLM.from_config(config)
    return model.train()


def device() -> torch.device:
    """The GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hardware() -> str:
    """The machine, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{processor()}, {torch.get_num_threads()} threads"


def processor() -> str:
    """The CPU's name and what matters to matrix products."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"model name\s*: (.*)", text)
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if re.search(rf"\b{flag}\b", text)]
    return f"{name.group(1) if name else platform.machine()} ({' '.join(flags)})"


def facts() -> dict[str, Any]:
    """What every stored result says of where it comes from."""
    return {
        "command": "python " + " ".join([os.path.relpath(sys.argv[0], REPOSITORY), *sys.argv[1:]]),
        "hardware": hardware(),
        "versions": versions(),
        "git_commit": git_commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def timed(step: Callable[[], Any]) -> float:
    """Seconds of one call, the GPU's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def pairs(theirs: Callable[[], Any], ours: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Both in turn, `repeats` times: medians, and the median of the ratios of each pair."""
    times = [(timed(theirs), timed(ours)) for _ in range(repeats)]
    ratios = [first / second for first, second in times]
    return {
        "seconds_hugging_face": statistics.median(first for first, _ in times),
        "seconds_ours": statistics.median(second for _, second in times),
        "time_ratio": statistics.median(ratios),
        "time_ratio_lowest": min(ratios),
        "time_ratio_highest": max(ratios),
    }


def peak_memory(step: Callable[[], Any]) -> int | None:
    """Bytes that a call needs above what is held before it: on a CPU resident memory, and None where there is no
    Linux with glibc. Slows later calls down."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return int(torch.cuda.max_memory_allocated()) - before
    try:
        return_memory()
        Path("/proc/self/clear_refs").write_text("5")
        before = resident_memory()
        step()
        return resident_memory("VmHWM") - before
    except OSError:
        return None


def return_memory() -> None:
    """What is freed is given back to the system at once, from now on; earlier holes in the heap may be filled again,
    and then are not.

    Raises:
        OSError: this isn't Linux with glibc.
    """
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 16)
    libc.malloc_trim(0)


def resident_memory(name: str = "VmRSS") -> int:
    """Bytes of this process; VmHWM: the most so far."""
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found.group(1)) * 1024
