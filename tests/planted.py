"""Real faults of a machine, for the tests of doctor: what the C library does is replaced by LD_PRELOAD, and disks and
firewalls are made in a namespace of a process's own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

NO_LOCKS = """
#include <errno.h>
int flock(int file, int operation) { errno = ENOLCK; return -1; }
"""
"""flock() as on a network disk without a lock server."""
CLOCK_AHEAD = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += 90;
    return code;
}
"""
"""The clock is 90 s ahead."""


def needs(condition, what):
    """Skip a test where something is missing, or fail where CI is set."""
    if not condition:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {what}")


def shared_object(source: str, out: Path) -> str:
    """Compile a shared library. Returns its path."""
    needs(shutil.which("cc"), "a C compiler")
    call = ["cc", "-shared", "-fPIC", "-o", str(out), f"-Wl,-soname,{out.name}", "-x", "c", "-", "-ldl"]
    subprocess.run(call, input=source, text=True, check=True)
    return str(out)


def python(code: str, prepare: str = "", **variables: str) -> str:
    """Run Python, and before it, in namespaces of its own, commands of root's shell. Returns what it prints."""
    call = [sys.executable, "-c", code]
    if prepare:
        needs(os.getuid() == 0 and shutil.which("unshare") and shutil.which("ip"), "root, unshare and ip")
        call = ["unshare", "--mount", "--net", "sh", "-c", f'set -e\n{prepare}\nexec "$@"', "sh", *call]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), **variables}
    done = subprocess.run(call, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
