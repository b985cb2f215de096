#!/bin/bash
# end.sh CODE: requeue the job whose ranks ended with this code, or let it end. Called last by pretrain.sh and by the jobs
# of `clinical-pretrain submit`; see PROTOCOL.md.
STOPPED=75 LOST=76 ENDED=77 # as in clinical_pretrain/exit_codes.py
code=$1
[ "$code" -ne 0 ] || exit 0
# An array's id without a task's number is all of its tasks.
job=$SLURM_JOB_ID
[ -z "${SLURM_ARRAY_TASK_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
retry() { # SLURM may be too busy to answer
    for _ in 1 2 3 4 5; do
        if "$@"; then return 0; fi
        sleep "${PAUSE:-5}"
    done
    return 1
}
if ! facts=$(retry scontrol show job "$job"); then
    echo "SLURM doesn't say how this job stands, so it isn't requeued; submit it again to resume"
    exit "$code"
fi
is() { grep -q "$1" <<<"$facts"; }
# SLURM has ended the job itself, and decided what becomes of it: after scancel, a requeue by hand, a grace time's end. Not
# so at the time limit, where the save was late.
if is 'JobState=C' && ! is 'Reason=TimeLimit'; then exit "$code"; fi

case $code in
    "$STOPPED") why="saved before the time limit" ;;
    "$ENDED" | 143) # SIGTERM. Preemption requeues only jobs that still exist when the grace time ends
        if is 'Reason=TimeLimit'; then
            why="the time limit"
        elif is 'PreemptTime=[0-9]'; then
            why="preempted"
        else
            exit "$code"
        fi
        ;;
    138 | 140) why="the time limit is near" ;; # SIGUSR1 or SIGUSR2 before training began: nothing to save
    "$LOST" | 134 | 135 | 137 | 139 | 253)     # a task is lost: aborted, killed, or out of memory
        why="a task was lost"
        echo lost >>"$TRIES_FILE"
        if [ "$(grep -c lost "$TRIES_FILE" || true)" -ge "${MAX_LOSSES:-3}" ]; then
            echo "$why ${MAX_LOSSES:-3} times without a new checkpoint; see the log, and submit it again to resume"
            exit "$code"
        fi
        ;;
    *) exit "$code" ;;
esac
if [ "${SLURM_RESTART_COUNT:-0}" -ge "${MAX_RESTARTS:-500}" ]; then
    echo "$why, but the job has been requeued $SLURM_RESTART_COUNT times already; submit it again to resume"
    exit "$code"
fi
echo "$why; requeued"
retry scontrol requeue "$job"
exit "$code"
