#!/bin/bash
# What a training step asks of a GPU, and the peaks of its memory, found without a GPU (gpu_dry_run/): after 'make setup',
# with gcc, binutils, and 3 GB for CUDA's build of torch, which is installed into build/cuda.
#   benchmarks/gpu_dry_run.sh launches [longformer|bigbird ...]     a minute for each model
#   benchmarks/gpu_dry_run.sh memory [longformer|bigbird ...]       an hour
#   benchmarks/gpu_dry_run.sh plan                                  an hour: how near plan's estimates come
# RESULTS: where figures go; CUDA_TORCH: another folder than build/cuda.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
folder=${CUDA_TORCH:-build/cuda}
results=${RESULTS:-benchmarks/results}

install() { # === leaves the CPU's build out; the libraries of CUDA, on which both depend, are what the stand-ins are for
    local version triton
    version=$(sed -n 's/^torch==//p' constraints.txt)
    [ ! -d "$folder" ] || return 0
    rm -rf "$folder.tmp"
    "$python" -m pip install --quiet --no-deps --target "$folder.tmp" "torch===$version"
    triton=$(sed -n 's/^Requires-Dist: \(triton==[0-9.]*\).*/\1/p' "$folder.tmp"/torch-*.dist-info/METADATA)
    "$python" -m pip install --quiet --no-deps --target "$folder.tmp" "$triton"
    mv "$folder.tmp" "$folder"
}

bench() { # bench NAME CAPABILITY SCRIPT [OPTION ...]: a figure, into results/NAME.json
    echo "== $1"
    "$python" benchmarks/gpu_dry_run/run.py --torch "$folder" --capability "$2" "benchmarks/$3" "${@:4}" \
        --json "$results/$1.json"
}

launches() { bench "launches_$1" 9.0 gpu_launches.py --model "$1"; }

memory() { # an H100 in bf16, and a V100 in fp16 and without torch.compile
    local kind few many
    few="1 2 4 6 12" many="2 12 36"
    [ "$1" = bigbird ] || few="1 3 6 9 18" many="3 18 36"
    for kind in none attention full; do
        # shellcheck disable=SC2086
        bench "memory_$1_9.0_$kind" 9.0 gpu_memory.py --model "$1" --activation-checkpointing "$kind" --rows $many
        # shellcheck disable=SC2086
        bench "memory_$1_7.0_$kind" 7.0 gpu_memory.py --model "$1" --activation-checkpointing "$kind" --rows $few \
            --precision fp16 --compile off
    done
}

case ${1:-help} in
    launches | memory | plan) ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
part=$1 && shift
[ $# -gt 0 ] || set -- longformer bigbird
install
mkdir -p "$results"
if [ "$part" = plan ]; then
    "$python" benchmarks/plan.py gpu --torch "$folder" --results "$results"
    exec "$python" benchmarks/plan.py fit --torch "$folder" --results "$results"
fi
for model in "$@"; do "$part" "$model"; done
