#!/bin/bash
# end.sh CODE: what becomes of a job whose ranks ended with this code. Called last by pretrain.sh and by the jobs of
# `clinical-pretrain submit`.
code=$1
[ "$code" -ne 0 ] || exit 0
# An array's id without a task's number is all of its tasks.
job=$SLURM_JOB_ID
[ -z "${SLURM_ARRAY_TASK_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
again() { # SLURM may be too busy to answer
    for _ in 1 2 3 4 5; do
        if "$@"; then return 0; fi
        sleep "${PAUSE:-5}"
    done
    return 1
}
if ! facts=$(again scontrol show job "$job"); then
    echo "SLURM doesn't say how this job stands, so it isn't queued again; submit it again to go on"
    exit "$code"
fi
is() { grep -q "$1" <<<"$facts"; }
# SLURM has ended the job itself, and decided what becomes of it: after scancel, a requeue by hand, a grace time's end. Not
# so at the time limit, where the save was late.
if is 'JobState=C' && ! is 'Reason=TimeLimit'; then exit "$code"; fi

case $code in
    75) why="saved ahead of the time limit" ;;
    77 | 143) # SIGTERM. Preemption requeues only jobs that are still there when the grace time ends
        if is 'Reason=TimeLimit'; then
            why="the time limit"
        elif is 'PreemptTime=[0-9]'; then
            why="preempted"
        else
            exit "$code"
        fi
        ;;
    138 | 140) why="the time limit is near" ;; # ended by SIGUSR1 or SIGUSR2 itself: nothing was to be saved
    76 | 134 | 135 | 137 | 139 | 253)          # a task is lost: aborted, killed, or out of memory
        why="a task was lost"
        echo lost >>"$TRIES_FILE"
        if [ "$(grep -c lost "$TRIES_FILE" || true)" -ge "${MAX_LOSSES:-3}" ]; then
            echo "$why ${MAX_LOSSES:-3} times, and no checkpoint since; mend what the log says, and submit it again"
            exit "$code"
        fi
        ;;
    *) exit "$code" ;;
esac
if [ "${SLURM_RESTART_COUNT:-0}" -ge "${MAX_RESTARTS:-500}" ]; then
    echo "$why, but the job has been queued again $SLURM_RESTART_COUNT times; submit it again to go on"
    exit "$code"
fi
echo "$why; back into the queue"
again scontrol requeue "$job"
exit "$code"
