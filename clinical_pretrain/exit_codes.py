"""Exit codes of the training and of the commands. slurm/end.sh decides by them what becomes of a job."""

USER_ERROR = 2
"""The user can fix it: a wrong setting, file or option. Repeating the same command would fail again."""
STOPPED = 75
"""SIGUSR1 or SIGUSR2 announced a time limit: the run is saved, and should be started again."""
LOST = 76
"""A rank was lost, or a step hung: the same command resumes from the last checkpoint."""
ENDED = 77
"""SIGTERM, SIGINT or SIGHUP ended the run: it is saved, and can be resumed."""
INTERRUPTED = 130
"""Ctrl-C before there was anything to save, or a second Ctrl-C: 128 + SIGINT, as shells say it."""
