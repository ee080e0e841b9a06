"""The weights that a training starts from."""

import pathlib

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from gcn_jax.checkpoints import saved_config
from gcn_jax.checkpoints.carry_over import carry_over
from gcn_jax.checkpoints.manager import saved_steps
from gcn_jax.checkpoints.model_file import load_trained
from gcn_jax.checkpoints.model_metadata import is_model_file
from gcn_jax.checkpoints.named_weights import local_file
from gcn_jax.checkpoints.pretrained import read_backbone
from gcn_jax.config import settings
from gcn_jax.console import bar, say
from gcn_jax.data.batches import TrainBatches
from gcn_jax.data.samples import Source
from gcn_jax.errors import UserError
from gcn_jax.models import init_variables
from gcn_jax.models.preprocessing import PyTree, normalize
from gcn_jax.runtime.compilation import platform_jit
from gcn_jax.runtime.mesh import put_batch, read_share, replicated
from gcn_jax.training.batch_norm import has_folded_norms, reestimate_statistics
from gcn_jax.training.patterns import mask_patterns
from gcn_jax.training.step import Recipe

_PATTERN_IMAGES = 500  # from whose masks the patterns of `lrr` are made


def check_start(config: ml_collections.ConfigDict, workdir: pathlib.Path, is_resumed: bool) -> None:
    """Raises `UserError` unless the weights that the run would start from are there and fit the config's model."""
    if is_resumed:
        advice = "choose another --workdir, or delete this one to start again"
        saved_config.check_same_model(config, workdir, "--workdir", advice)
    elif config.init_from:
        source = _init_from(config)
        advice = "name another workdir or file, or start from random weights: --config.init_from="
        if not source.is_file() and not saved_steps(source):
            raise UserError(f"config.init_from={source}: holds no checkpoint; train that first, {advice}")
        if not source.is_file() or is_model_file(source):
            saved_config.check_same_backbone(config, source, "config.init_from", f"set the same, {advice}")


def _init_from(config: ml_collections.ConfigDict) -> pathlib.Path:
    return local_file("config.init_from", config.init_from)


def start_weights(config: ml_collections.ConfigDict, variables: dict[str, PyTree]) -> dict[str, PyTree]:
    """The weights in ``config.init_from``: a run's best, an exported model's, or those of a backbone alone.

    What a model of other classes lacks is as in `variables`, see `carry_over`.

    Args:
      config: of this run.
      variables: random ones, as NumPy arrays.

    Raises:
      UserError: naming what is wrong with the file.
    """
    source = _init_from(config)
    if source.is_file() and not is_model_file(source):
        try:
            variables, report = read_backbone(variables, source, config.init_stem)
        except ValueError as error:
            raise UserError(f"config.init_from={error}") from error
        for line in report.lines():
            say(line)
        _check_norms(config, variables)
        return variables
    step, trained = load_trained(source, "best")
    names, old_names = (settings.spec_from(c).class_names for c in (config, saved_config.load(source)))
    variables, lines = carry_over(variables, trained, settings.model_from(config), names, old_names)
    for line in [f"starting from step {step} of {source}", *lines]:
        say(line)
    _check_norms(config, variables)
    return variables


def _check_norms(config: ml_collections.ConfigDict, variables: dict[str, PyTree]) -> None:
    """Refuses new statistics where batch norm is part of the kernels, and warns of a batch's."""
    if not has_folded_norms(variables):
        return
    problem = f"config.init_from={config.init_from}: batch norm is part of the kernels there, and other statistics"
    if config.reestimate.batches and config.reestimate.part == "all":
        raise UserError(
            f"{problem} would change what they compute: set --config.reestimate.batches=0, or "
            f"--config.reestimate.part=decoder where that has norms"
        )
    if config.model.norm == "train":
        say(f"warning: {problem}, such as a batch's, change what they compute: --config.model.norm=frozen keeps it")


def with_own_patterns(
    config: ml_collections.ConfigDict, variables: dict[str, PyTree], source: Source
) -> dict[str, PyTree]:
    """The variables of `lrr` with the patterns of masks of training images, where these are still at their start."""
    start = init_variables(settings.model_from(config), config.seed)["batch_stats"]["patterns"]["patterns"]
    found = variables["batch_stats"]["patterns"]["patterns"]
    changed = np.any(np.asarray(found) != start, axis=(0, 1, 2))
    if changed.all():  # all classes of another run carried over
        return variables
    number = min(_PATTERN_IMAGES, len(source))
    with bar("patterns of masks", number, "image") as progress:

        def labels():
            for batch in _batches(config, source, 1, number):
                yield batch["label"]
                progress.update()

        patterns = np.where(changed, found, mask_patterns(labels(), start))
    stats = {**variables["batch_stats"], "patterns": {"patterns": patterns}}
    return {**variables, "batch_stats": stats}


def _batches(
    config: ml_collections.ConfigDict, source: Source, size: int, number: int, share: tuple[int, int] = (0, 1)
) -> TrainBatches:
    """Training batches, as many as are asked for; the share of each that this process reads."""
    return TrainBatches(
        source,
        settings.augmentation(config),
        settings.reading(config),
        batch_size=size,
        num_batches=number,
        seed=config.seed,
        share=share,
        rare_share=config.data.rare_share,
    )


def with_own_statistics(
    config: ml_collections.ConfigDict, recipe: Recipe, variables: dict[str, PyTree], source: Source, mesh: Mesh
) -> dict[str, PyTree]:
    """The variables with batch norm's statistics of ``config.reestimate.batches`` training batches."""
    batches = _batches(config, source, config.reestimate.batch_size, config.reestimate.batches, read_share(mesh))
    normalized = platform_jit(lambda images: normalize(images, recipe.preprocessing), recipe.model.dtype, mesh)
    with bar("statistics", config.reestimate.batches, "batch") as progress:

        def images():
            for batch in batches:
                arrays = put_batch(batch, mesh, recipe.model.takes_inside)
                yield normalized(arrays["image"]), arrays.get("inside")
                progress.update()

        try:
            on_mesh = jax.device_put(variables, replicated(mesh))
            return reestimate_statistics(recipe.model, on_mesh, images(), config.reestimate.part)
        except ValueError as error:
            raise UserError(f"config.reestimate.batches={config.reestimate.batches}: {error}") from error
