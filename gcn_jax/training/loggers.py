"""Hands what a run logs to Weights & Biases, MLflow and Comet; imports the packages that `config.loggers` names alone.

Where these keep runs, and whether they are online, is theirs to be told, by their own environment variables.
"""

import importlib.util
import json
import os
import pathlib
import time
import uuid
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from PIL import Image

from gcn_jax.console import say
from gcn_jax.errors import UserError
from gcn_jax.files import RunFile, write_json

PROJECT = "gcn_jax"  # unless the environment says otherwise


class Logger(Protocol):
    """A place that runs are logged to.

    It is made of the run's name, the id it got before (None: it is new) and its config, and has its id.
    """

    id: str

    def __init__(self, name: str, known: str | None, config: dict[str, Any]): ...

    def scalars(self, step: int, values: dict[str, float]) -> None: ...

    def picture(self, step: int, name: str, picture: Image.Image) -> None: ...

    def close(self) -> None: ...


class WandB:
    """A run of Weights & Biases."""

    def __init__(self, name: str, known: str | None, config: dict[str, Any]):
        import wandb

        self.id = known or uuid.uuid4().hex
        self._picture = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            id=self.id,
            resume="allow",
            config=config,
            settings=wandb.Settings(console="off"),
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self._run.log({name: self._picture(picture)}, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow."""

    def __init__(self, name: str, known: str | None, config: dict[str, Any]):
        import mlflow

        self._metric, self._client = mlflow.entities.Metric, mlflow.MlflowClient()
        if known:
            self._client.update_run(known, status="RUNNING")
        self.id = known or self._client.create_run(self._experiment(), run_name=name).info.run_id
        self._client.log_dict(self.id, config, RunFile.CONFIG)

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(self.id, [self._metric(name, value, now, step) for name, value in values.items()])

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self._client.log_image(self.id, picture, key=name, step=step)

    def close(self) -> None:
        self._client.set_terminated(self.id)


class Comet:
    """An experiment of Comet."""

    def __init__(self, name: str, known: str | None, config: dict[str, Any]):
        import comet_ml

        self.id = known or uuid.uuid4().hex
        automatic = (
            "log_code", "log_git_metadata", "log_git_patch", "parse_args",
            "auto_output_logging", "auto_param_logging", "auto_metric_logging",
        )  # fmt: skip
        self._experiment = comet_ml.start(
            project_name=os.environ.get("COMET_PROJECT_NAME", PROJECT),
            experiment_key=self.id,
            mode="get_or_create",
            experiment_config=comet_ml.ExperimentConfig(name=name, **dict.fromkeys(automatic, False)),
        )
        self._experiment.log_parameters(config)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._experiment.log_metrics(values, step=step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self._experiment.log_image(picture, name=name, step=step)

    def close(self) -> None:
        self._experiment.end()


# What `config.loggers` may name -> its package and its class.
_LOGGERS: dict[str, tuple[str, type[Logger]]] = {
    "wandb": ("wandb", WandB),
    "mlflow": ("mlflow", MLflow),
    "comet": ("comet_ml", Comet),
}
FORM = f"one or more of {', '.join(_LOGGERS)}, with commas, or empty"


def parse(text: str) -> tuple[str, ...]:
    """The names in ``config.loggers``, such as "wandb,mlflow"; raises `ValueError` for others."""
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    if not set(names) <= set(_LOGGERS) or len(set(names)) < len(names):
        raise ValueError(FORM)
    return names


def check_installed(text: str) -> None:
    """Raises `UserError` for a logger of ``config.loggers`` whose package is not installed."""
    for name in parse(text):
        if importlib.util.find_spec(_LOGGERS[name][0]) is None:
            raise UserError(f'config.loggers={name}: needs a library: pip install -c requirements.txt ".[{name}]"')


class Loggers:
    """The loggers of a run, of which there may be none. If one fails later on, a line says so once; the run goes on.

    The ids that a run has in them are kept in its workdir, so that it is the same run there when it is resumed.

    Args:
      text: ``config.loggers``.
      workdir: of the run, which gives it its name.
      config: of the run.

    Raises:
      UserError: if one cannot be started.
    """

    def __init__(self, text: str, workdir: pathlib.Path, config: dict[str, Any]):
        self._open: dict[str, Logger] = {}
        self._failed: set[str] = set()
        path = workdir / RunFile.LOGGERS
        ids = _read_ids(path) if text else {}
        for name in parse(text):
            try:
                self._open[name] = _LOGGERS[name][1](str(workdir), ids.get(name), config)
            except Exception as error:
                self.close()
                raise UserError(
                    f"config.loggers={name}: {_line(error)}; without it: --config.loggers= ; to start another run "
                    f"there, delete {path}"
                ) from error
            ids[name] = self._open[name].id
            write_json(path, ids)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Logs values by their names."""
        self._each(lambda logger: logger.scalars(step, values))

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Logs pictures, uint8 [H, W, 3], by their names."""

        def show(logger: Logger) -> None:
            for name, picture in pictures.items():
                logger.picture(step, name, Image.fromarray(picture))

        self._each(show)

    def close(self) -> None:
        """Waits until everything has arrived; nothing can be logged after that."""
        self._each(lambda logger: logger.close())

    def _each(self, act: Callable[[Logger], None]) -> None:
        for name, logger in self._open.items():
            try:
                act(logger)
            except Exception as error:
                if name not in self._failed:
                    say(f"config.loggers={name}: {_line(error)}; the run goes on, and {RunFile.METRICS} has all of it")
                self._failed.add(name)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _read_ids(path: pathlib.Path) -> dict[str, str]:
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(ids, dict) or not all(isinstance(value, str) for value in ids.values()):
            raise ValueError("it holds no ids")
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it, and new runs are started") from error
    return ids
