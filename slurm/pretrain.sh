#!/bin/bash
# Pretraining on SLURM: sbatch slurm/pretrain.sh configs/clinical_longformer.yaml [--any.key value]
# Edit the next four lines for your cluster; everything else is found from the job.
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-gpu=4
#SBATCH --time=24:00:00
#SBATCH --job-name=clinical-pretrain
#SBATCH --output=slurm-%x-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=USR1@300
#SBATCH --requeue
set -euo pipefail

usage="usage: sbatch slurm/pretrain.sh CONFIG.yaml [--any.key value]"
config=${1:?$usage}
shift
[ -f "$config" ] || { echo "error: $config: no such config file; $usage" >&2; exit 2; }

# sbatch runs a copy of this file: the repository is where sbatch was called.
repository=${CLINICAL_PRETRAIN_HOME:-${SLURM_SUBMIT_DIR:-$PWD}}
entry=$repository/clinical_pretrain/run.py
[ -f "$entry" ] || { echo "error: $entry: not found; call sbatch in the repository, or set CLINICAL_PRETRAIN_HOME" >&2; exit 2; }
python=${PYTHON:-$repository/.venv/bin/python}
[ -x "$python" ] || { echo "error: $python: not found; run 'make setup', or set PYTHON" >&2; exit 2; }

# One task per GPU (one per node without GPUs), no ssh between nodes.
tasks_per_node=${TASKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
export HF_HUB_OFFLINE=1  # compute nodes seldom have internet: fetch models on the login node
unset SLURM_CPUS_PER_GPU  # the tasks share the node's CPUs: --overcommit asks for no more than the job has

code=0
srun --overcommit --ntasks-per-node="$tasks_per_node" --ntasks=$((SLURM_JOB_NUM_NODES * tasks_per_node)) --kill-on-bad-exit=1 \
    "$python" -u "$entry" --config "$config" "$@" || code=$?

# 75: stopped by a signal and saved. Ahead of the time limit SLURM sends USR1, and the job goes back into the queue.
if [ "$code" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
    echo "saved ahead of the time limit; going back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
