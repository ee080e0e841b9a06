"""A trained model as one file to give to others: writes such files, and reads those that somebody else wrote.

The file is safetensors. It holds the arrays of ``params`` and ``batch_stats``, float32, named by their paths, and as
metadata:

* ``format``: `FORMAT`.
* ``config``: the config of the run, as JSON, without folders. It tells how to build the model and normalise images, and
  the temperature that its scores are divided by.
* ``classes``: the classes' names and colours (RGB, 0-255) in the order of their ids, and void's colour, as JSON;
  ``multi_label`` is true in it if a pixel may have several classes, whose scores then go through a sigmoid each;
  ``preprocessing``: mean and std (RGB order, 0-255) and the order of the channels, or mean, std, numbers and kind of
  bands, as JSON. Both follow from the config and are there for other programs.
* ``step``, and ``miou`` if the run was evaluated at that step.

Nobody has to trust the author of a file: before anything is built or computed from it, its parts are checked against
each other.
"""

import json
import pathlib
from typing import Any

import flax
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import safetensors.numpy

from gcn_jax.checkpoints import manager as checkpoints
from gcn_jax.checkpoints import saved_config
from gcn_jax.checkpoints.model_metadata import FORMAT
from gcn_jax.checkpoints.tensor_files import TensorFile, open_tensors, read_float32
from gcn_jax.config.defaults import FOLDERS, default
from gcn_jax.config.settings import model_from, spec_from
from gcn_jax.errors import UserError
from gcn_jax.files import write_bytes
from gcn_jax.models import Network, variable_shapes
from gcn_jax.models.preprocessing import PyTree

# These say nothing about the model, but something about the machines that it was trained on.
_OF_MACHINES = {**{key: default()[key] for key in FOLDERS}, "distributed": default().distributed.to_dict()}


def save(
    path: pathlib.Path,
    variables: dict[str, PyTree],
    config: ml_collections.ConfigDict,
    step: int,
    miou: float | None = None,
) -> None:
    """Writes a model to a file, which gets its name only when it is complete.

    Args:
      path: of the file, ending in ".safetensors".
      variables: see `to_bytes`, as the others.
      config: of the run.
      step: at which the run had these weights.
      miou: the weights' mean IoU.

    Raises:
      UserError: if it cannot be written.
    """
    data = to_bytes(variables, config, step, miou)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
    except OSError as error:
        raise UserError(f"--output={path}: cannot be written ({error.strerror})") from error


def to_bytes(
    variables: dict[str, PyTree], config: ml_collections.ConfigDict, step: int, miou: float | None = None
) -> bytes:
    """The contents of a model's file.

    Args:
      variables: of the config's model, ``{"params": ..., "batch_stats": ...}``.
      config: of the run.
      step: at which the run had these weights.
      miou: the weights' mean IoU, 0-1; None: not known.
    """
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in flat.items()}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(for_others(config)),
        **{key: json.dumps(value) for key, value in description(config).items()},
        "step": str(step),
        **({} if miou is None else {"miou": str(miou)}),
    }
    return safetensors.numpy.save(arrays, metadata)  # save_file writes with mode 0600


def for_others(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The values of a config that may be given to others."""
    return {**config.to_dict(), **_OF_MACHINES}


def description(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What other programs need to know about a config, in types that JSON has."""
    spec = spec_from(config)
    return {
        "classes": {
            "classes": [{"name": c.name, "color": list(c.color)} for c in spec.classes],
            "void_color": list(spec.void_color),
            **({"multi_label": True} if spec.multi_label else {}),
        },
        "preprocessing": {
            "channels": config.data.channels,
            "mean": list(config.data.mean),
            "std": list(config.data.std),
            **({"depth": config.data.depth} if config.data.depth else {}),
        },
    }


def load_trained(source: pathlib.Path, which: str) -> tuple[int, dict[str, PyTree]]:
    """Reads the weights of a trained model.

    Args:
      source: the workdir of a run, or a file that `save` wrote.
      which: which checkpoint of a workdir, "best" or "latest".

    Returns:
      The step, and the variables ``{"params": ..., "batch_stats": ...}``.

    Raises:
      UserError: if there is no model, or the file is damaged.
    """
    config = saved_config.load(source)
    if not source.is_file():
        return checkpoints.load_variables(source, which, averaged=config.optimizer.ema_decay > 0)
    model = model_from(config)
    try:
        with open_tensors(source) as file:
            _check_metadata(source, file.metadata, config)
            names = _check_shapes(source, file, model, config)
            flat = {name: read_float32(source, file, name) for name in names}
    except ValueError as error:
        raise UserError(str(error)) from error
    variables = flax.traverse_util.unflatten_dict(flat, sep="/")
    return int(file.metadata["step"]), jax.tree.map(jnp.asarray, variables)


def _check_metadata(path: pathlib.Path, metadata: dict[str, str], config: ml_collections.ConfigDict) -> None:
    """Raises `ValueError` unless a file's metadata are complete and agree with its config."""
    for key, expected in description(config).items():
        try:
            found = json.loads(metadata[key])
        except (KeyError, ValueError, RecursionError) as error:
            raise ValueError(f"{path}: damaged (its {key} are missing or not JSON)") from error
        if found != expected:
            raise ValueError(f"{path}: damaged (its {key} are not those of its config)")
    step = metadata.get("step", "")
    if not (step.isascii() and step.isdecimal() and len(step) < 16):
        raise ValueError(f"{path}: damaged (its step is no number)")


def _check_shapes(path: pathlib.Path, file: TensorFile, model: Network, config: ml_collections.ConfigDict) -> list[str]:
    """The names of a model's arrays; raises `ValueError` unless a file holds exactly these, in the same shapes."""
    largest = max((max(shape) for shape in file.shapes.values() if shape and min(shape) > 0), default=0)
    # Otherwise a file that claims, for example, kernels with a billion rows would keep us tracing its model for ever.
    is_gcn, is_stack = config.model.decoder == "gcn", config.model.head == "stack3x3"
    used = {"width", "stem_width"} | ({"kernel_size"} if is_gcn else set()) | ({"head_width"} if is_stack else set())
    for key, value in config.model.items():
        if key in used and value > largest:
            raise ValueError(f"{path}: damaged (its config.model.{key} is {value}, beyond what its arrays have)")
    expected = flax.traverse_util.flatten_dict(variable_shapes(model), sep="/")
    for name in sorted(expected.keys() ^ file.shapes.keys()):
        what = "lacks" if name in expected else "holds an unknown array,"
        raise ValueError(f"{path}: damaged, or of another version ({what} {ascii(name)[:200]})")
    for name, array in expected.items():
        if file.shapes[name] != array.shape:
            raise ValueError(f"{path}: damaged ({name} is {file.shapes[name]}; its config's model has {array.shape})")
    return list(expected)
