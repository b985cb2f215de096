#!/bin/bash
# Pretraining on SLURM: sbatch slurm/pretrain.sh configs/clinical_longformer.yaml [--any.key value]
# Edit the next three lines, and slurm/site_setup.sh for what is particular to your cluster.
#SBATCH --nodes=1
#SBATCH --gpus-per-node=2
#SBATCH --time=24:00:00
#SBATCH --cpus-per-gpu=4
#SBATCH --job-name=clinical-pretrain
#SBATCH --output=slurm-%x-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=USR1@300
#SBATCH --requeue
set -euo pipefail

fail() { echo "error: $*" >&2; exit 2; }
[ -n "${SLURM_JOB_ID:-}" ] || fail "this is a SLURM job; type: sbatch $0 CONFIG.yaml (without SLURM: deepspeed -q clinical_pretrain/run.py --config CONFIG.yaml)"
[ "${1:-}" != --config ] || shift
[ $# -ge 1 ] || fail "no config; type: sbatch slurm/pretrain.sh CONFIG.yaml [--any.key value]"
config=$1; shift
options=("$@")
set -- # what is sourced would take them for its own

# sbatch runs a copy of this file: the repository is where sbatch was called.
repository=${CLINICAL_PRETRAIN_HOME:-${SLURM_SUBMIT_DIR:-$PWD}}
entry=$repository/clinical_pretrain/run.py
[ -f "$entry" ] || fail "$entry: not found; call sbatch in the repository, or set CLINICAL_PRETRAIN_HOME"
logs=$PWD/slurm-$SLURM_JOB_NAME-$SLURM_JOB_ID
export TRIES_FILE=$logs/tries
mkdir -p "$logs"
chmod go= "$logs"
chmod go= /proc/self/fd/1 2>/dev/null || true # SLURM has made the log by a umask of its own; it may be no file of ours
SITE_SETUP=${SITE_SETUP:-$repository/slurm/site_setup.sh}
python=("${PYTHON:-$repository/.venv/bin/python}") # $SITE_SETUP may set others
# shellcheck source=slurm/begin.sh
. "$repository/slurm/begin.sh"
set -euo pipefail # begin.sh ends without

[ -f "$config" ] || fail "$config: no such config file; there are $(echo "$repository"/configs/*.yaml)"
command -v "${python[0]}" >/dev/null || fail "${python[0]}: not found; run 'make setup', or set python=(…) in $SITE_SETUP"

# One task per GPU (one per node without GPUs); they find each other at the first node, without ssh.
tasks_per_node=${TASKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
cpus_per_task=$((SLURM_CPUS_ON_NODE / tasks_per_node))
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
WARNING_SECONDS=${WARNING_SECONDS:-$(sed -n 's/^#SBATCH --signal=[^@]*@\([0-9]*\).*/\1/p' "$0")}
export MASTER_ADDR WARNING_SECONDS
left=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %L | awk -F '[-:]' '{ print $NF + 60 * $(NF - 1) + 3600 * $(NF > 2 ? NF - 2 : NF + 1) + 86400 * $(NF > 3 ? NF - 3 : NF + 1) }' || true)
if [ "${left:-0}" -gt 0 ] && [ "$left" -le "${WARNING_SECONDS:-0}" ]; then
    echo "note: this job has $left s, but is told to stop $WARNING_SECONDS s ahead of its end, that is, at once; sbatch --time=1:00:00 …" \
        "gives it more, WARNING_SECONDS=30 sbatch --signal=USR1@30 … a shorter warning"
fi
unset SLURM_CPUS_PER_GPU # says the same as --cpus-per-task, which srun doesn't take beside it

touch "$logs/rank-0.log" "$logs/start"
shown=$(stat -c %s "$logs/rank-0.log")
echo "$(date '+%F %T') start ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST, $tasks_per_node per node; each rank's log: ${logs##*/}/"
srun --ntasks-per-node="$tasks_per_node" --ntasks=$((SLURM_JOB_NUM_NODES * tasks_per_node)) \
    --cpus-per-task=$((cpus_per_task > 0 ? cpus_per_task : 1)) --kill-on-bad-exit=0 --wait=60 \
    --output="$logs/rank-%t.log" --open-mode=append \
    "${python[@]}" -u "$entry" --config "$config" ${options[@]+"${options[@]}"} &
ranks=$!
tail --pid=$ranks -c +$((shown + 1)) -F "$logs/rank-0.log" 2>/dev/null &
while kill -0 $ranks 2>/dev/null; do wait $ranks || true; done  # a signal ends `wait` before srun has ended
code=0
wait $ranks || code=$?
wait
# What another rank has said in this start, and the first hasn't.
[ $code -eq 0 ] || find "$logs" -name 'rank-*.log' -newer "$logs/start" -exec tail -q -n 3 {} + | grep '^error:' |
    sort -u | grep -vxF -f <(tail -n 9 "$logs/rank-0.log") || true
exec "$repository/slurm/end.sh" $code
