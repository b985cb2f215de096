# shellcheck shell=bash
# The beginning of a job. Sourced by pretrain.sh and by the jobs of `clinical-pretrain submit`; see PROTOCOL.md.
umask 077
trap true TERM # of scancel and preemption: the ranks get it, too, and save
export SLURM_EXPORT_ENV=ALL
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1      # compute nodes seldom have internet
export MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000)) # below the range that the system gives away

# Count the starts, and lost tasks (see end.sh), since the last checkpoint: after saving one, training removes the file.
: "${TRIES_FILE:?}"
echo start >>"$TRIES_FILE" || true
if [ "$(grep -c start "$TRIES_FILE" || true)" -gt "${MAX_STARTS:-10}" ]; then
    echo "error: started ${MAX_STARTS:-10} times without a new checkpoint; see the log for what ended it. A longer time limit, or" \
        "a lower checkpoint.every_steps or validation.max_sequences, may help; submit it again to resume" >&2
    exit 2
fi

# The site's own lines. Modules and conda fail under bash's strict options: who sources this sets them again.
if [ ! -r "${SITE_SETUP:?}" ]; then
    echo "error: $SITE_SETUP: no such file; set SITE_SETUP (sbatch) or setup_file (submit) to one like slurm/site_setup.sh" >&2
    exit 2
fi
set +eu +o pipefail
# shellcheck source=slurm/site_setup.sh
. "$SITE_SETUP"
