"""A script on CUDA's build of torch without a GPU: on stand-ins for CUDA's libraries that allocate and compute nothing.

    benchmarks/gpu_dry_run.sh launches      # installs CUDA's build of torch into build/cuda, once
    python benchmarks/gpu_dry_run/run.py --torch build/cuda --capability 9.0 benchmarks/gpu_memory.py --rows 3

Torch's allocator, its choice of kernels, DeepSpeed, torch.compile's code generation and ptxas are real: peaks of memory
are those of a GPU, and what can't be compiled for it fails. Results of kernels are whatever lies in memory, and speed
means nothing: flags and norms read back are 0. Needs gcc and binutils; one rank, one GPU. ../gpu_dry_run.sh does all.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LIBRARIES = re.compile(r"lib(cu|nccl|nv)")
FUNCTIONS = re.compile(r"(cuda|cublas|cudnn|cufft|curand|cusolver|cusparse|p?nccl|nv|cupti|cuFile|__cuda|cu[A-Z])")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", type=Path, required=True, help="folder with CUDA's build of torch, and triton")
    parser.add_argument("--capability", default="9.0", help="of the GPU to be: 7.0 is a V100, 8.0 an A100, 9.0 an H100")
    parser.add_argument("--headers", type=Path, help="folder with cuda.h (default: those that come with triton)")
    parser.add_argument("script", nargs=argparse.REMAINDER, help="a Python script and its options")
    args = parser.parse_args()
    headers = args.headers or args.torch / "triton" / "backends" / "nvidia" / "include"
    if not args.script or not (args.torch / "torch" / "lib").is_dir() or not (headers / "cuda.h").exists():
        parser.error("needs a script, torch and triton in --torch, and cuda.h in --headers")
    root = args.torch.resolve()
    libraries = root / "stand_ins"
    if not libraries.is_dir():
        build(root / "torch" / "lib", headers, libraries)
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    environment |= {
        "GPU_CAPABILITY": args.capability,
        "LD_LIBRARY_PATH": str(libraries),
        "TRITON_LIBCUDA_PATH": str(libraries),
        "PYTHONPATH": str(root),
        # Code is compiled for a GPU that isn't there: keep it apart.
        "TORCHINDUCTOR_CACHE_DIR": str(root / f"inductor-{args.capability}"),
        "TRITON_CACHE_DIR": str(root / f"triton-{args.capability}"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        # There is nothing to time: of the kernels for flex_attention's backward pass, one will do.
        "TORCHINDUCTOR_AUTOTUNE_CHOICE_DESC_REGEX": "^(?!.*BLOCK_M1=)|BLOCK_M1=32, BLOCK_M2=32,.*num_stages=1,",
    }
    os.execve(sys.executable, [sys.executable, *args.script], environment)


def build(torch_libraries: Path, headers: Path, out: Path) -> None:
    """Make every library that torch's link to and that isn't there: each holds all functions."""
    paths = sorted(torch_libraries.glob("*.so*"))
    needed = {name for path in paths for name in re.findall(r"NEEDED.*\[(.*?)\]", output("readelf", "-d", path))}
    missing = sorted(name for name in needed - {path.name for path in paths} if LIBRARIES.match(name))
    wanted: set[str] = set()
    there = set(re.findall(r"\b(\w+)\([^;{}]*\)\s*\{", (FOLDER / "stand_ins.c").read_text()))
    for kind, name in (symbol for path in paths for symbol in symbols(path)):
        (wanted if kind == "U" else there).add(name)
    for header, function in (("cuda.h", r"CUDAAPI\s+(cu[A-Z]\w+)\("), ("nvrtc.h", r"nvrtcResult\s+(nvrtc\w+)\(")):
        if (headers / header).exists():  # what is looked up by name while it runs
            found = re.findall(function, (headers / header).read_text())
            wanted |= {*found, *(f"{name}_v2" for name in found)}
    made = out.with_name(f"{out.name}.tmp")
    made.mkdir(parents=True, exist_ok=True)
    rest = sorted(name for name in wanted - there if FUNCTIONS.match(name))
    (made / "rest.c").write_text("".join(f"long {name}(void) {{ return 0; }}\n" for name in rest))
    compiler = ["gcc", "-O1", "-w", "-fPIC", "-fno-builtin", f"-I{headers}"]
    for source in (FOLDER / "stand_ins.c", made / "rest.c"):
        subprocess.run([*compiler, "-c", source, "-o", made / f"{source.stem}.o"], check=True)
    for name in missing:
        objects = [made / "stand_ins.o", made / "rest.o"]
        subprocess.run(["gcc", "-shared", "-o", made / name, f"-Wl,-soname,{name}", *objects], check=True)
    made.rename(out)


def symbols(path: Path) -> Iterator[tuple[str, str]]:
    """Kind and name of a library's dynamic symbols: U where it wants them."""
    for line in output("nm", "-D", path).splitlines():
        *_, kind, name = line.split()
        yield kind, name.split("@")[0]


def output(*command: str | Path) -> str:
    """Of a program."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
