"""Weights & Biases and MLflow: how each takes a run's figures. Their packages are imported when they are asked for."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tokenizer_tools.errors import UserError

BATCH, PARAMETERS = 1000, 100
"""Number of metrics, and of parameters, that MLflow takes in one call."""


@dataclass(frozen=True)
class Point:
    """A line of metrics.jsonl as numbers."""

    kind: str
    step: int
    time: float
    """Seconds since 1970."""
    figures: dict[str, float]
    """By names such as train/loss."""


@dataclass(frozen=True)
class Shipment:
    """What is sent to a tracker."""

    tracker: str
    project: str
    place: str
    """The tracker, where it keeps its data, and the project: what was sent is written down for each."""
    run_id: str | None
    """The tracker's run, if there is one."""
    new_id: str
    """For a new run, where the tracker lets us choose."""
    name: str
    settings: dict[str, Any]
    facts: dict[str, Any]
    points: list[Point]
    last_steps: dict[str, int]
    """By kind, after this shipment."""
    sent_until: float
    """Time of the last line, in seconds since 1970."""
    is_finished: bool
    """Whether the run is."""


class Sender(Protocol):
    """A tracker."""

    def place(self) -> str:
        """Where it keeps its data, without credentials."""

    def send(self, shipment: Shipment, folder: Path) -> tuple[str, str]:
        """Send it.

        Returns:
            The tracker's run, and where to look.

        Raises:
            UserError: the package is missing, or the tracker refuses.
        """


class WeightsAndBiases:
    """Weights & Biases. With WANDB_MODE=offline it writes to the run folder (or WANDB_DIR) for `wandb sync`."""

    def place(self) -> str:
        """Its server."""
        return _without_credentials(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))

    def send(self, shipment: Shipment, folder: Path) -> tuple[str, str]:
        """See Sender. Nothing is collected of this machine, process, code, or environment."""
        wandb = _package("wandb")
        quiet = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            host="",
            save_code=False,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        with _refusals(shipment, wandb.Error):
            run = wandb.init(
                project=shipment.project,
                name=shipment.name,
                id=shipment.run_id or shipment.new_id,
                resume="allow",
                config={**shipment.settings, **shipment.facts},
                dir=None if os.environ.get("WANDB_DIR") else str(folder),
                settings=quiet,
            )
            for kind in sorted(shipment.last_steps):  # saves are known some steps later: each kind has its own steps
                run.define_metric(f"{kind}/*", step_metric=f"{kind}/step")
            for point in shipment.points:
                run.log({**point.figures, f"{point.kind}/step": point.step})
            where = f"{Path(run.dir).parent}; wandb sync uploads it" if run.offline else str(run.url)
            run.finish()
        return run.id, where


class MLflow:
    """MLflow, at MLFLOW_TRACKING_URI: a server, or a local database such as sqlite:///mlflow.db."""

    def place(self) -> str:
        """Its server or database."""
        return _without_credentials(_package("mlflow").get_tracking_uri())

    def send(self, shipment: Shipment, folder: Path) -> tuple[str, str]:
        """See Sender. MlflowClient adds neither the user's name nor the script's path, as mlflow.start_run does."""
        mlflow = _package("mlflow")
        entities, uri = importlib.import_module("mlflow.entities"), self.place()
        with _refusals(shipment, mlflow.MlflowException):
            client = mlflow.MlflowClient()
            run_id = shipment.run_id or self._new_run(client, shipment)
            known = client.get_run(run_id).data.params
            values = {name: str(value) for name, value in {**shipment.settings, **shipment.facts}.items()}
            parameters = [entities.Param(name, value) for name, value in values.items() if name not in known]
            for start in range(0, len(parameters), PARAMETERS):
                client.log_batch(run_id, params=parameters[start : start + PARAMETERS])
            for name, value in values.items():  # a parameter can't be changed
                if known.get(name, value) != value:
                    client.set_tag(run_id, f"changed.{name}", value)
            metrics = [
                entities.Metric(name, value, round(point.time * 1000), point.step)
                for point in shipment.points
                for name, value in point.figures.items()
            ]
            for start in range(0, len(metrics), BATCH):
                client.log_batch(run_id, metrics=metrics[start : start + BATCH])
            if shipment.is_finished:
                client.set_terminated(run_id)
            else:
                client.update_run(run_id, status="RUNNING")
        return run_id, uri

    def _new_run(self, client: Any, shipment: Shipment) -> str:
        experiment = client.get_experiment_by_name(shipment.project)
        number = experiment.experiment_id if experiment else client.create_experiment(shipment.project)
        began = min((point.time for point in shipment.points), default=0.0)
        return str(client.create_run(number, start_time=round(began * 1000), run_name=shipment.name).info.run_id)


SENDERS: dict[str, Sender] = {"wandb": WeightsAndBiases(), "mlflow": MLflow()}


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _missing(name, error) from None


@contextmanager
def _refusals(shipment: Shipment, kind: type[Exception]) -> Iterator[None]:
    """Make a user's error of a tracker's."""
    try:
        yield
    except ImportError as error:  # such as the database's
        raise _missing(shipment.tracker, error) from None
    except kind as error:
        remedy = "; if its run is gone: --again sends everything to a new one" if shipment.run_id else ""
        raise UserError(f"{shipment.tracker} refuses: {' '.join(str(error).split()).rstrip('.')}{remedy}") from None


def _missing(name: str, error: ImportError) -> UserError:
    what = f"{name} is missing" if error.name == name else f"{name} can't be imported ({error})"
    return UserError(f"{what}, which --to {name} needs: pip install 'clinical-pretrain[{name}]'")


def _without_credentials(uri: str) -> str:
    return re.sub(r"^([\w+]+://)[^/]*@", r"\1", uri).partition("?")[0]
