#!/bin/bash
# end.sh CODE SECONDS: what becomes of a job whose ranks ended with this code, after so many seconds. Called last by
# pretrain.sh and by the jobs of `clinical-pretrain submit`.
code=$1 seconds=$2
case $code in
    75) why="saved ahead of the time limit" ;;
    138 | 140) why="the time limit is near" ;; # ended by SIGUSR1 or SIGUSR2 itself: nothing was to be saved
    76 | 137)
        if [ "$seconds" -lt "${MIN_SECONDS:-120}" ]; then
            echo "a rank was lost after $seconds s: so soon that the job isn't queued again; see the logs"
            exit "$code"
        fi
        why="a rank was lost"
        ;;
    77) # SIGTERM: of scancel, or of pre-emption, which requeues only jobs that are still there when the grace time ends
        scontrol show job "$SLURM_JOB_ID" | grep -q 'PreemptTime=[0-9]' || exit "$code"
        why="pre-empted, and saved"
        ;;
    *) exit "$code" ;;
esac
if [ "${SLURM_RESTART_COUNT:-0}" -ge "${MAX_RESTARTS:-500}" ]; then
    echo "$why, but the job has been queued again $SLURM_RESTART_COUNT times; start it again by hand to go on"
    exit "$code"
fi
echo "$why; back into the queue"
# An array's id without a task's number is all of its tasks.
scontrol requeue "${SLURM_ARRAY_TASK_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"
exit "$code"
