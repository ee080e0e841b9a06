"""A config's values as what functions take: the one place that takes a config apart."""

import pathlib
from dataclasses import dataclass, fields
from typing import Any

import ml_collections
import numpy as np

from gcn_jax.config.defaults import IMAGENET_MEAN, IMAGENET_STD, PREPROCESSING
from gcn_jax.crf import LAYERS
from gcn_jax.data import bands, sources
from gcn_jax.data.batches import Augmentation, Reading
from gcn_jax.data.sources import Datasets
from gcn_jax.data.specs import DatasetSpec
from gcn_jax.errors import UserError
from gcn_jax.models import Network, build_model
from gcn_jax.models.preprocessing import Preprocessing
from gcn_jax.runtime.processes import Meeting
from gcn_jax.training.losses import Loss, class_weights, parse_weights
from gcn_jax.training.multi_label import MultiLabelLoss
from gcn_jax.training.optimizer import Solver, make_optimizer
from gcn_jax.training.step import Recipe


@dataclass(frozen=True)
class Protocol:
    """How images are labelled; ``config.eval``.

    Attributes:
      size: of training's images; smaller ones are padded to it; ``config.data.size``.
      batch_size: images at a time, rounded up to a multiple of the mesh's data axis.
      scales: by which each image is resized; the probabilities are averaged.
      flip: also average over the mirrored image.
      window: side of the overlapping windows in which images are taken, pixels; 0: whole, if possible.
      stride: of the windows, at most; 0: two thirds of their side.
      crf: as `gcn_jax.crf.parse` takes it; "": none.
      temperature: by which scores are divided before they become probabilities; 0: 1.
      multi_label: whether a pixel may have several classes; ``config.data.multi_label``.
    """

    size: int
    batch_size: int = 1
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: int = 0
    stride: int = 0
    crf: str = ""
    temperature: float = 0.0
    multi_label: bool = False

    def window_stride(self, side: int) -> int:
        """How far apart windows of a side are, at most."""
        return min(self.stride or side * 2 // 3, side)


@dataclass(frozen=True)
class Serving:
    """Where a page is served, and what it takes; ``config.serve``.

    Attributes:
      host: the address to listen at.
      port: 0: any that is free.
      longest: side to which the page reduces photos, unless one chooses another; 0: as in training.
      max_megabytes: of a file.
      max_megapixels: of a photo.
      queue: photos that are received, wait or are labelled.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    longest: int = 0
    max_megabytes: int = 25
    max_megapixels: float = 50.0
    queue: int = 64


def cache_dir(config: ml_collections.ConfigDict) -> pathlib.Path:
    """The folder of ``config.cache_dir``."""
    return pathlib.Path(config.cache_dir).expanduser()


def datasets(config: ml_collections.ConfigDict) -> Datasets:
    """Which data a run takes, and from where."""
    others = {"data_dir": config.data_dir, "cache_dir": cache_dir(config), "seed": config.seed}
    return _of_group(Datasets, config.data, **others)


def spec_from(config: ml_collections.ConfigDict) -> DatasetSpec:
    """The classes of a config's data; raises `UserError` if training and evaluation data have different ones."""
    return sources.spec_from(datasets(config))


def model_from(config: ml_collections.ConfigDict) -> Network:
    """The model of a config; raises `UserError` naming the key of a wrong value."""
    num_classes = spec_from(config).num_classes
    chosen = bands.parse(config.data.channels)
    options = {key: value for key, value in config.model.items() if not key.startswith("crf")}
    try:
        model = build_model(num_classes, channels=len(chosen) or 3, **options)
    except ValueError as error:
        raise UserError(f"config.model.{error}") from error
    if not config.model.crf:
        return model
    options = {"iterations": tuple(config.model.crf_iterations)} if config.model.crf == "rnn" else {}
    return model.clone(crf=LAYERS[config.model.crf](preprocessing(config), **options))


def unmeasured(config: ml_collections.ConfigDict) -> list[str]:
    """What of bands is to be measured yet: their "mean", "std" and "depth", where these are at their defaults."""
    data = config.data
    if not bands.parse(data.channels):
        return []
    defaults = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "depth": ""}
    return [key for key, default in defaults.items() if _frozen(data[key]) == default]


def preprocessing(config: ml_collections.ConfigDict) -> Preprocessing:
    """How images become the network's input; what is `unmeasured` is 0, 1 and uint8, which only a plan can use."""
    values = {key: _frozen(config.data[key]) for key in PREPROCESSING}
    if chosen := bands.parse(config.data.channels):
        stand_ins = {"mean": (0.0,) * len(chosen), "std": (1.0,) * len(chosen), "depth": "uint8"}
        values |= {key: stand_ins[key] for key in unmeasured(config)}
    return Preprocessing(**values)


def augmentation(config: ml_collections.ConfigDict) -> Augmentation:
    """What training does to its images."""
    return _of_group(Augmentation, config.data, mean=preprocessing(config).mean)


def reading(config: ml_collections.ConfigDict) -> Reading:
    """How images are read ahead."""
    return _of_group(Reading, config.data)


def solver(config: ml_collections.ConfigDict) -> Solver:
    """How parameters are updated."""
    rates = tuple(config.optimizer.crf_rates) if config.model.crf else ()
    return _of_group(Solver, config.optimizer, num_steps=config.num_steps, crf_rates=rates)


def loss(config: ml_collections.ConfigDict, pixels: np.ndarray | None = None) -> Loss:
    """What training minimises.

    Args:
      config: of the run.
      pixels: the number of pixels of each label value in the training data, int64 [256], for class weights that follow
        from them; None: these weights are 1, which only a plan can make use of.

    Raises:
      UserError: if the number of weights is not that of the classes.
    """
    classes = spec_from(config).num_classes
    weights = parse_weights(config.loss.class_weights)
    if isinstance(weights, str):
        weights = (1.0,) * classes if pixels is None else class_weights(weights, pixels[:classes])
    if weights and len(weights) != classes:
        raise UserError(f"config.loss.class_weights: {len(weights)} weights, but the data have {classes} classes")
    kind = MultiLabelLoss if config.data.multi_label else Loss
    return _of_group(kind, config.loss, reduction=config.optimizer.loss, weights=weights)


def recipe(config: ml_collections.ConfigDict, pixels: np.ndarray | None = None) -> Recipe:
    """What a training step is made of; raises `UserError` naming the key of a wrong value. For pixels see `loss`."""
    optimizer = make_optimizer(solver(config))
    return Recipe(
        model_from(config), optimizer, preprocessing(config), loss(config, pixels), config.optimizer.ema_decay
    )


def protocol(config: ml_collections.ConfigDict) -> Protocol:
    """How images are labelled."""
    return _of_group(Protocol, config.eval, size=config.data.size, multi_label=config.data.multi_label)


def serving(config: ml_collections.ConfigDict) -> Serving:
    """Where a page is served, and what it takes."""
    return _of_group(Serving, config.serve)


def meeting(config: ml_collections.ConfigDict) -> Meeting:
    """Where the processes of a training meet."""
    return _of_group(Meeting, config.distributed)


def batch_sizes(config: ml_collections.ConfigDict) -> dict[str, int]:
    """Images in each kind of batch that training makes, by the key that says so."""
    sizes = {"batch_size": config.batch_size}
    if config.reestimate.batches:
        sizes["reestimate.batch_size"] = config.reestimate.batch_size
    return sizes


def _of_group(kind: type, group: ml_collections.ConfigDict, **others: Any) -> Any:
    """Makes a dataclass of the values of the same names in a group of a config, and of others."""
    names = {field.name for field in fields(kind)} - set(others)
    return kind(**{name: _frozen(group[name]) for name in names}, **others)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value
