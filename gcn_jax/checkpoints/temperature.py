"""The temperature that is kept with a trained model, in ``temperature.json`` or in the config of an exported file."""

import json
import math
import pathlib

import ml_collections

from gcn_jax.checkpoints import saved_config
from gcn_jax.console import say
from gcn_jax.errors import UserError
from gcn_jax.files import RunFile, output_path


def settled(config: ml_collections.ConfigDict, source: pathlib.Path, step: int) -> ml_collections.ConfigDict:
    """A copy of a config in which ``eval.temperature``, where it is 0, is what is kept with a model, or 1.

    Args:
      config: of this run.
      source: the model's workdir or file.
      step: of its weights. A temperature that was fitted for another step is not used, and a line says so.

    Raises:
      UserError: if ``temperature.json`` is damaged.
    """
    config = config.copy_and_resolve_references()
    config.eval.temperature = float(config.eval.temperature or _kept(source, step))
    return config


def _kept(source: pathlib.Path, step: int) -> float:
    path = output_path(source, RunFile.TEMPERATURE)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        temperature, own_step = float(kept["temperature"]), int(kept["step"])
        if not 0 < temperature < math.inf:
            raise ValueError(f"its temperature is {temperature}")
    except FileNotFoundError:
        return (source.is_file() and saved_config.load(source).eval.temperature) or 1.0
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it, or fit it again: --mode=calibrate") from error
    if own_step != step:
        say(f"{path}: not used: it was fitted for step {own_step}, not {step}; fit it again: --mode=calibrate")
        return 1.0
    return temperature
