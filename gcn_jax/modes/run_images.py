"""What a run keeps of its images from start to start: which ones it trains on, and what was measured of their bands."""

import json
import pathlib
from collections.abc import Mapping

import ml_collections
import numpy as np

from gcn_jax.checkpoints import saved_config
from gcn_jax.checkpoints.model_metadata import is_model_file
from gcn_jax.checkpoints.named_weights import local_file
from gcn_jax.config import settings
from gcn_jax.console import say
from gcn_jax.data import bands
from gcn_jax.data.samples import Source, Split
from gcn_jax.data.sources import open_folder, trained_bands, uses_folder
from gcn_jax.data.splits import digests
from gcn_jax.errors import UserError
from gcn_jax.files import RunFile


def keep_split(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Sets what was drawn or measured for this run, or for the one that it starts from, in its first start.

    These are ``data.held_out``, and, unless the user set them, ``white`` and of bands ``mean``, ``std`` and ``depth``.
    """
    runs = [workdir, local_file("config.init_from", config.init_from)] if config.init_from else [workdir]
    for run in runs:
        if (run / RunFile.CONFIG).is_file() or (run.is_file() and is_model_file(run)):
            saved = saved_config.load(run).data
            config.data.held_out = saved.held_out
            config.data.white = config.data.white or saved.white
            if bands.parse(saved.channels) == bands.parse(config.data.channels):
                for key in settings.unmeasured(config):
                    config.data[key] = saved[key]
            break


def settle_folder(config: ml_collections.ConfigDict, splits: Mapping[str, Split]) -> None:
    """Notes in the config what the user's own folder decided: its val images if they were drawn, its white, its bands.

    Says so if the images are not those that would be drawn today.
    """
    data = settings.datasets(config)
    if not uses_folder(data):
        return
    measure_bands(config, splits)
    labelled = open_folder(data)
    config.data.white = config.data.white or labelled.survey.white
    if labelled.is_drawn:
        val, others = labelled.splits["val"], len(labelled.splits["train"])
        config.data.held_out = ()
        if val != open_folder(settings.datasets(config)).splits["val"]:
            say(f"val stays the {len(val)} images of this run's first start; all other {others} are trained on")
        config.data.held_out = digests(val)


def measure_bands(config: ml_collections.ConfigDict, splits: Mapping[str, Split]) -> None:
    """Sets what of the bands' mean, std and depth is not set to what the images to train on have; says so.

    Raises:
      UserError: if a band holds no finite value.
    """
    data, keys = config.data, settings.unmeasured(config)
    if not keys:
        return
    moments, depth = trained_bands(settings.datasets(config), splits)
    std = moments.std()
    for band, count, mean, spread in zip(bands.parse(data.channels), moments.count, moments.mean, std, strict=True):
        if not count:
            raise UserError(f"config.data.channels={data.channels}: band {band} has no finite value in {data.train}")
        if not spread and "std" in keys:
            say(f"warning: band {band} is {mean:g} in all images to train on; its std is set to 1")
    found = {"mean": moments.mean, "std": np.where(std > 0, std, 1)}
    for key in {"mean", "std"}.intersection(keys):
        data[key] = tuple(found[key].tolist())
    data.depth = depth
    texts = {key: ",".join(f"{number:.8g}" for number in data[key]) for key in ("mean", "std")}
    flags = " ".join(f"--config.data.{key}={text}" for key, text in texts.items())
    say(f"bands {data.channels} of {data.train}, {depth}: {flags}")


def check_unseen(workdir: pathlib.Path, train: Source, evaluation: Source, *, is_resumed: bool) -> dict[str, list[str]]:
    """Checks that no image to evaluate on was trained on in an earlier start of a run.

    Args:
      workdir: of the run.
      train: the images to train on now.
      evaluation: the images to evaluate on.
      is_resumed: whether the run goes on from a checkpoint; otherwise nothing counts as trained on.

    Returns:
      What to write to ``images.json`` once the run starts: all ids that will have been trained on, and those evaluated.

    Raises:
      UserError: naming such an image.
    """
    path, seen = workdir / RunFile.IMAGES, set()
    if is_resumed and path.is_file():
        try:
            seen = set(json.loads(path.read_text(encoding="utf-8"))["train"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: damaged ({error}); delete it if no image was moved from train to val") from error
    if both := sorted(seen & set(evaluation.image_ids)):
        raise UserError(
            f"--workdir={workdir}: was trained on {len(both)} image(s) of config.data.eval before, such as {both[0]}; "
            f"take them out of the evaluation, or start anew in another --workdir"
        )
    return {"train": sorted(seen.union(train.image_ids)), "eval": list(evaluation.image_ids)}
