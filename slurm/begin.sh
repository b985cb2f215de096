# shellcheck shell=bash
# What a job does first. Sourced by pretrain.sh and by the jobs of `clinical-pretrain submit`.
umask 077
trap true TERM # of scancel and preemption: the ranks get it, too, and save
export SLURM_EXPORT_ENV=ALL
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1      # compute nodes seldom have internet
export MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000)) # below those that the system gives away

# Starts, and losses of tasks (see end.sh), since the training last saved: then it removes the file.
: "${TRIES_FILE:?}"
echo start >>"$TRIES_FILE" || true
if [ "$(grep -c start "$TRIES_FILE" || true)" -gt "${MAX_STARTS:-10}" ]; then
    echo "error: started ${MAX_STARTS:-10} times, and no checkpoint since: the log says what ended it; more time, or a lower" \
        "checkpoint.every_steps or validation.max_sequences, may help; submit it again to go on" >&2
    exit 2
fi
