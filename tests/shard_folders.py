"""What tests of shard folders share: what lies in one, and builds that are killed."""

import signal
import subprocess
import time

import pyarrow as pa

from tokenizer_tools.manifest import SPLITS
from tokenizer_tools.shard_reading import record_batches


def content(folder):
    """The bytes of all files, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def shard_files(folder):
    """The same of the shard files alone."""
    return {name: data for name, data in content(folder).items() if name.startswith(SPLITS)}


def notes_table(folder):
    """The columns of notes.arrow."""
    return pa.Table.from_batches(record_batches(folder / "notes.arrow")).to_pydict()


def kill_when_there(call, path):
    """Run a command, and kill it as soon as a file is there, if it hasn't ended before."""
    process = subprocess.Popen(call, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not path.exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
