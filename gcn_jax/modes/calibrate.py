"""``--mode=calibrate``: fits a temperature, by which the probabilities say how often they are right."""

import dataclasses
import pathlib

import ml_collections

from gcn_jax.checkpoints.model_file import load_trained
from gcn_jax.config import settings
from gcn_jax.console import say
from gcn_jax.data.sources import open_source
from gcn_jax.errors import UserError
from gcn_jax.files import RunFile, make_workdir, output_path, write_json
from gcn_jax.inference.labeller import Labeller
from gcn_jax.inference.temperature import HOTTEST, fit, sum_over


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Fits a temperature on ``config.data.eval`` and writes ``temperature.json`` to the workdir.

    Raises:
      UserError: if one is given, or none fits.
    """
    if config.eval.temperature:
        raise UserError(
            f"config.eval.temperature={config.eval.temperature:g}: --mode=calibrate finds one; leave it at 0"
        )
    make_workdir(workdir)
    step, variables = load_trained(workdir, config.eval.checkpoint)
    source = open_source("eval", settings.datasets(config))
    model, preprocessing = settings.model_from(config), settings.preprocessing(config)
    labeller = Labeller(model, preprocessing, settings.protocol(config))
    say(f"calibrating step {step} of {workdir} on {len(source)} images of {config.data.eval}")
    found = fit(*sum_over(model, preprocessing, labeller, variables, source, config.data.multi_label))
    if found is None:
        raise UserError(
            f"config.data.eval={config.data.eval}: no temperature from {1 / HOTTEST:g} to {HOTTEST:g} fits, as where "
            "all pixels are right, none is counted, or the model has learnt nothing; take other images, or train on"
        )
    path = output_path(workdir, RunFile.TEMPERATURE)
    write_json(path, {"step": step, "data": config.data.eval, "num_images": len(source), **dataclasses.asdict(found)})
    print(
        f"temperature {found.temperature:.4g}: mean NLL {found.nll_before:.4g} -> {found.nll:.4g}, over "
        f"{found.pixels:,} pixels",
        flush=True,
    )
    say(f"written: {path}; eval, predict, export and gcn_jax.load take it from there")
