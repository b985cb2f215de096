"""How the processes of a job, one for each rank, tell each other what they have found: by small files in a folder that
all nodes see. It works where the network doesn't, and shows whether they do see one folder."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinical_pretrain.slurm_environment import rank_variables, slurm_step
from tokenizer_tools.files import write_json

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Place:
    """Which of a job's processes this is."""

    rank: int
    world_size: int
    local_rank: int
    host: str
    has_launcher: bool
    """Whether a launcher or srun has started one process for each rank."""

    @classmethod
    def of_this_process(cls) -> Place:
        """By the variables of a launcher, or else of srun; one rank without either."""
        variables = rank_variables() | dict(os.environ)
        rank, world_size, local_rank = (int(variables.get(name) or default) for name, default in
                                        (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))  # fmt: skip
        return cls(rank, world_size, local_rank, socket.gethostname(), "RANK" in variables)

    @property
    def leads(self) -> bool:
        """Whether this process checks its node for all of the node's ranks."""
        return self.local_rank == 0

    @property
    def environment(self) -> dict[str, str]:
        """The variables that torch wants."""
        numbers = {"RANK": self.rank, "WORLD_SIZE": self.world_size, "LOCAL_RANK": self.local_rank}
        return {name: str(number) for name, number in numbers.items()}


class Meeting:
    """What the processes of a job exchange.

    Args:
        place: which process this is.
        parent: folder that all nodes should see; a folder of the job's own is made in it, and deleted by close().

    Raises:
        OSError: nothing can be written there.
    """

    def __init__(self, place: Place, parent: Path) -> None:
        self.place, self.folder = place, parent / f".doctor-{slurm_step()}"
        self._made = [path for path in (parent, *parent.parents) if not path.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)

    def tell(self, topic: str, value: dict[str, Any]) -> None:
        """Give this rank's value of a topic to all."""
        write_json(self.folder / f"{topic}-{self.place.rank}.json", value)

    def hear(self, topic: str, ranks: Iterable[int], seconds: float) -> dict[int, dict[str, Any]]:
        """What these ranks tell of a topic, by rank; after so many seconds without those that haven't told theirs."""
        heard: dict[int, dict[str, Any]] = {}
        awaited, deadline = set(ranks), time.monotonic() + seconds
        while True:
            for rank in awaited - heard.keys():
                with suppress(OSError, ValueError):
                    heard[rank] = json.loads((self.folder / f"{topic}-{rank}.json").read_text())
            if heard.keys() == awaited or time.monotonic() > deadline:
                return dict(sorted(heard.items()))
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Delete what was made, on rank 0, which is the last to read."""
        if self.place.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):  # other files are there now
                for path in self._made:
                    path.rmdir()
