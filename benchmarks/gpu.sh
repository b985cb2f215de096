#!/bin/bash
# Every figure that needs a GPU, on a machine with torch and transformers and without internet: torch 2.11, one H200.
#
#   benchmarks/gpu.sh pack                 where there is internet, after 'make setup': into .gpu/, at most 64 MiB
#   benchmarks/gpu.sh PART MODEL           there, in a copy of the repository with .gpu/; MODEL: longformer or bigbird
#
# Parts, each under 9 minutes: parity attention step memory lengths baseline profile train. 'all' runs one after the other.
# Figures go to benchmarks/results/gpu_*; then: python benchmarks/report.py
set -euo pipefail
cd "$(dirname "$0")/.."

bring=${PACKED:-.gpu}
results=${RESULTS:-benchmarks/results}
# Smaller ones are for a rehearsal on a CPU.
layers=${LAYERS:-12} length=${LENGTH:-4096} precision=${PRECISION:-bf16} rows=${ROWS:-4 8 16 32 64}
training_seconds=${TRAINING_SECONDS:-420}

pack() {
    local python=.venv/bin/python data=${MTSAMPLES:-../shared/data} model notes shards
    rm -rf "$bring" && mkdir -p "$bring/wheels"
    DS_BUILD_OPS=0 "$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$bring/wheels" \
        "$(grep ^deepspeed== constraints.txt)" .
    # What deepspeed and jsonargparse need and a machine for deep learning may lack.
    local names="annotated-types docstring_parser einops hjson jsonargparse msgpack py-cpuinfo pydantic pydantic_core
        typeshed_client typing-inspection"
    # shellcheck disable=SC2086
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "${GPU_PYTHON:-3.12}" \
        --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 --constraint constraints.txt --dest "$bring/wheels" $names
    for model in longformer bigbird; do
        if [ -d "$data" ]; then
            notes=$data/notes/mtsamples_all.jsonl.gz
            shards=("$notes" --tokenizer "$data/tokenizers/$model" --columns.category specialty --split.by note)
        else # synthetic notes, and the real vocabularies from the Hub
            notes=$bring/notes.csv.gz
            [ -f "$notes" ] || .venv/bin/clinical-pretrain make-notes --patients 2000 --out "$notes"
            shards=("$notes" --tokenizer allenai/longformer-base-4096)
            [ "$model" = longformer ] || shards=("$notes" --tokenizer google/bigbird-roberta-base)
        fi
        .venv/bin/clinical-pretrain build-shards --out "$bring/shards_$model" --notes "${shards[@]}"
    done
    rm -f "$bring/notes.csv.gz"
    local megabytes
    megabytes=$(du -sm "$bring" | cut -f 1)
    [ "$megabytes" -le 64 ] || { echo "error: $bring holds $megabytes MiB, more than 64" >&2; exit 2; }
    echo "$bring: $megabytes MiB; take it along with the repository"
}

use_wheels() { # what the machine's own python lacks, into a folder of its own
    python=${PYTHON:-python3}
    local site=${TMPDIR:-/tmp}/clinical-pretrain-gpu-site wheels=$bring/wheels
    [ -d "$wheels" ] || { echo "error: no $wheels; run 'benchmarks/gpu.sh pack' where there is internet" >&2; exit 2; }
    if [ ! -d "$site" ]; then
        rm -rf "$site.tmp"
        "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site.tmp" "$wheels"/*.whl
        mv "$site.tmp" "$site"
    fi
    export PYTHONPATH=$PWD:$site PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
    "$python" -c "import deepspeed, jsonargparse, torch, transformers; print('torch', torch.__version__, 'transformers',
        transformers.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')"
    mkdir -p "$results"
}

bench() { # bench NAME SCRIPT [OPTION ...]: a figure, into results/NAME.json; one that fails doesn't stop the others
    echo "== $1 ($SECONDS s)"
    local log=$results/$1.log
    if "$python" "benchmarks/$2" "${@:3}" --json "$results/$1.json" >"$log" 2>&1; then rm "$log"; else
        echo "failed:" && tail -n 15 "$log"
    fi
}

parity() { bench "gpu_parity_$model" parity.py --model "$model" --sequence-length "$length"; }

attention() {
    local precision
    for precision in bf16 fp32; do
        bench "gpu_attention_${model}_$precision" attention.py --model "$model" --precision "$precision" --batch 8 \
            --sequence-length "$length" --repeats 20
    done
}

at_most_16() { # the largest number of sequences that both sides can take
    local n found=1
    for n in $rows; do [ "$n" -gt 16 ] || found=$n; done
    echo "$found"
}

step() { # both sides by sequences at once, then with something computed again
    local n kind
    for n in $rows; do
        bench "gpu_train_step_${model}_$n" train_step.py "${options[@]}" --repeats 10 --micro-batch "$n"
    done
    for kind in attention full; do
        bench "gpu_checkpointing_${model}_$kind" train_step.py "${options[@]}" --repeats 10 \
            --micro-batch "$(at_most_16)" --activation-checkpointing "$kind"
    done
}

memory() { # to compare with the peaks without a GPU, of gpu_dry_run/
    local kind
    for kind in none attention full; do
        bench "gpu_memory_${model}_$kind" gpu_memory.py --model "$model" --precision "$precision" --activation-checkpointing "$kind" \
            --rows 1 6 18 36
    done
}

lengths() {
    bench "gpu_lengths_$model" lengths.py --model "$model" --layers "$layers" --precision "$precision" \
        --tokens "$((16 * length))"
}

baseline() { # the stock recipe: its own attention dropout, and its largest number of sequences that fits
    bench "gpu_run_mlm_baseline_$model" run_mlm_baseline.py --steps 10 --repeats 3 --stock-micro-batch 9 "${run[@]}" \
        --validation.every_steps 0
}

profile() {
    bench "gpu_profile_$model" train_step.py "${options[@]}" --micro-batch "$(at_most_16)" --ours-only \
        --profile "$results/gpu_profile_$model.txt"
}

train() { # until SIGUSR1, upon which the run is saved and ends with 75; then the export, compared with what was trained
    local dir=runs/gpu_$model log=$results/gpu_train_$model.log code=0
    rm -rf "$dir" "$dir-model"
    echo "== gpu_train_$model ($SECONDS s)"
    timeout --preserve-status --signal=USR1 --kill-after=60 "$training_seconds" \
        "$python" clinical_pretrain/run.py "${run[@]}" --run_dir "$dir" >"$log" 2>&1 || code=$?
    tail -n 15 "$log"
    [ "$code" -eq 75 ] || { echo "failed: exit code $code instead of 75, $log" && return; }
    cp "$dir/metrics.jsonl" "$results/gpu_train_$model.jsonl"
    cp "$dir/run.json" "$results/gpu_run_$model.json"
    "$python" -m clinical_pretrain export "$dir" --out "$dir-model" --json "$results/gpu_export_$model.json"
    rm "$log"
}

part=${1:-help}
model=${2:-longformer}
options=(--model "$model" --layers "$layers" --sequence-length "$length" --precision "$precision")
run=(--config benchmarks/gpu.yaml --model.family "$model" --data.shards "$bring/shards_$model" --precision "$precision"
    --model.size.num_hidden_layers "$layers" "${@:3}")
case $part in
    pack) pack ;;
    parity | attention | step | memory | lengths | baseline | profile | train)
        use_wheels
        "$part"
        ;;
    all)
        use_wheels
        for part in parity attention step memory lengths baseline profile train; do "$part"; done
        ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
