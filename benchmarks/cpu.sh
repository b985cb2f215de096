#!/bin/bash
# Every stored figure that needs no GPU: about eight hours on two cores, and 18 GB of memory.
#   benchmarks/cpu.sh [longformer|bigbird ...]
# MTSAMPLES: a folder with notes/mtsamples_all.jsonl.gz and tokenizers/{longformer,bigbird}; RESULTS: where figures go.
# DATATROVE: the Python of an environment with datatrove, which is compared if there is one.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
data=${MTSAMPLES:-../shared/data}
results=${RESULTS:-benchmarks/results}
mkdir -p "$results"

bench() { # bench NAME SCRIPT [OPTION ...]: a figure, into results/NAME.json
    echo "== $1"
    "$python" "benchmarks/$2" "${@:3}" --json "$results/$1.json" >/dev/null
}

[ $# -gt 0 ] || set -- longformer bigbird
for model in "$@"; do
    for precision in fp32 bf16; do
        options=(--model "$model" --precision "$precision")
        bench "train_step_${model}_12_$precision" train_step.py "${options[@]}"
        bench "limit_${model}_12_$precision" limit.py "${options[@]}" --hugging-face-rounds 2
        bench "train_step_${model}_2_$precision" train_step.py "${options[@]}" --layers 2 --parts
        bench "attention_${model}_$precision" attention.py "${options[@]}"
    done
    for length in 1024 4096; do
        bench "finetune_step_${model}_$length" finetune_step.py --model "$model" --sequence-length "$length"
    done
    for kind in attention full; do
        bench "checkpointing_${model}_$kind" train_step.py --model "$model" --activation-checkpointing "$kind" --repeats 3
    done
    bench "parity_$model" parity.py --model "$model"
    bench "lengths_$model" lengths.py --model "$model" --layers 2 --repeats 3
    bench "mtsamples_$model" mtsamples.py --family "$model" --notes "$data/notes/mtsamples_all.jsonl.gz" \
        --tokenizer "$data/tokenizers/$model"
    bench "unknown_tokens_$model" unknown_tokens.py --tokenizer "$model"
    bench "copied_paragraphs_$model" copied_paragraphs.py --model "$model"
    options=(--model "$model" --tokenizers "$data/tokenizers" ${DATATROVE:+--datatrove "$DATATROVE"})
    bench "shards_$model" shards.py "${options[@]}"
    bench "shards_${model}_1000" shards.py "${options[@]}" --megabytes 1000 --repeats 1
    bench "run_mlm_baseline_$model" run_mlm_baseline.py --steps 1 --repeats 5 --config benchmarks/mtsamples.yaml \
        --model.family "$model" --data.shards "runs/mtsamples/shards_$model" --model.size.hidden_size 768 \
        --model.size.num_attention_heads 12 --model.size.intermediate_size 3072 --model.size.attention_window 512
done
bench mts_dialog_bigbird mtsamples.py --corpus mts_dialog --family bigbird
bench open_tasks open_tasks.py
bench open_tasks_folds covid_qa_folds.py
bench near_duplicates near_duplicates.py
bench near_duplicates_mtsamples near_duplicates.py --corpus mtsamples
"$python" benchmarks/report.py
