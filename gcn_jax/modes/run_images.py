"""Which images a run trains and is evaluated on, kept from start to start: no score is of an image trained on."""

import json
import pathlib

import ml_collections

from gcn_jax.checkpoints import saved_config
from gcn_jax.checkpoints.model_metadata import is_model_file
from gcn_jax.config import settings
from gcn_jax.console import say
from gcn_jax.data.samples import Source
from gcn_jax.data.sources import open_folder, uses_folder
from gcn_jax.data.splits import digests
from gcn_jax.errors import UserError
from gcn_jax.files import RunFile


def keep_split(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Sets ``data.held_out`` to what was drawn for this run, or for the one that it starts from, if that was drawn."""
    source = pathlib.Path(config.init_from).expanduser()
    runs = [workdir, source] if config.init_from else [workdir]
    for run in runs:
        if (run / RunFile.CONFIG).is_file() or (run.is_file() and is_model_file(run)):
            config.data.held_out = saved_config.load(run).data.held_out
            break


def settle_folder(config: ml_collections.ConfigDict) -> None:
    """Notes in the config what the user's own folder decided: its val images if they were drawn, and its white.

    Says so if the images are not those that would be drawn today.
    """
    data = settings.datasets(config)
    if not uses_folder(data):
        return
    labelled = open_folder(data)
    config.data.white = config.data.white or labelled.survey.white
    if labelled.is_drawn:
        val, others = labelled.splits["val"], len(labelled.splits["train"])
        config.data.held_out = ()
        if val != open_folder(settings.datasets(config)).splits["val"]:
            say(f"val stays the {len(val)} images of this run's first start; all other {others} are trained on")
        config.data.held_out = digests(val)


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
