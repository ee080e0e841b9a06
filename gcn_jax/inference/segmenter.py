"""A trained model with all that it needs to label images: the public object."""

import dataclasses
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ml_collections
import numpy as np

from gcn_jax.checkpoints import saved_config, temperature
from gcn_jax.checkpoints.model_file import load_trained
from gcn_jax.checkpoints.named_weights import local_file
from gcn_jax.config import settings
from gcn_jax.config.checks import check_values
from gcn_jax.config.settings import Protocol
from gcn_jax.data.specs import DatasetSpec
from gcn_jax.errors import UserError
from gcn_jax.inference import large_images
from gcn_jax.inference.labeller import Labeller
from gcn_jax.inference.large_images import LargeImage, Needs
from gcn_jax.inference.maps import Maps
from gcn_jax.models import Network
from gcn_jax.models.preprocessing import Preprocessing, PyTree


@dataclass(frozen=True)
class Segmenter:
    """A trained model with all that it needs to label images; made by `load`.

    Attributes:
      model: the network.
      variables: its weights, ``{"params": ..., "batch_stats": ...}``.
      spec: names and colours of the classes.
      preprocessing: of the network's input.
      protocol: how images are labelled.
    """

    model: Network
    variables: dict[str, PyTree]
    spec: DatasetSpec
    preprocessing: Preprocessing
    protocol: Protocol
    _labeller: Labeller = field(init=False, repr=False)

    def __post_init__(self) -> None:
        protocol = dataclasses.replace(self.protocol, batch_size=1)
        object.__setattr__(self, "_labeller", Labeller(self.model, self.preprocessing, protocol))

    def predict(self, image: np.ndarray) -> np.ndarray:
        """The class id of each pixel.

        Args:
          image: uint8 [H, W, 3], RGB, of any size; or [H, W, bands] of the type that the model was trained on, its
            ``preprocessing.dtype``.

        Returns:
          uint8 [H, W]. Where a pixel may have several classes (``spec.multi_label``), bool [H, W, num_classes]: whether
          a class's probability is above 1/2.

        Raises:
          ValueError: if the image has another type or shape.
        """
        return self._labeller.start(self.variables, [self._checked(image)])()[0]["labels"]

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """The probability of each class at each pixel: as `predict`, but float32 [H, W, num_classes]."""
        return self._labeller.probabilities(self.variables, self._checked(image))

    def rows(self, image: np.ndarray, wanted: tuple[str, ...]) -> Iterator[Maps]:
        """Several maps of one pass, in parts from top to bottom, so that those of a large image need not fit in memory.

        Args:
          image: as of `predict`.
          wanted: of "labels", as `predict` returns them; "probabilities", float32 [h, W, num_classes]; and, where a
            pixel has one class, "confidence", the largest of these, and "entropy", theirs as a fraction of the largest
            possible, both float32 [h, W].
        """
        return self._labeller.rows(self.variables, self._checked(image), wanted)

    def rows_of_large(self, image: LargeImage, wanted: tuple[str, ...]) -> Iterator[tuple[int, int, Maps]]:
        """As `rows`, of an image that is read window by window; see `gcn_jax.inference.large_images.rows`."""
        needs = Needs(self.model.num_classes, self.preprocessing.mean, self.protocol.crf)
        return large_images.rows(self._labeller, self.variables, image, wanted, needs)

    def _checked(self, image: np.ndarray) -> np.ndarray:
        dtype, channels = self.preprocessing.dtype, self.model.channels
        if image.dtype != dtype or image.ndim != 3 or image.shape[-1] != channels or 0 in image.shape:
            raise ValueError(f"image must be {dtype} [H, W, {channels}]. Got {image.dtype} {image.shape}")
        return image


def load(source: str | pathlib.Path, checkpoint: str = "best", **protocol: Any) -> Segmenter:
    """Loads a trained model from the workdir of its run, or from a file of ``--mode=export``.

    Args:
      source: such as "runs/voc/stage3", "model.safetensors" or "hf://user/model@revision", of the Hugging Face Hub,
        which needs the extra ``hub``.
      checkpoint: of a workdir: "best" by mean IoU (the newest if none was evaluated) or "latest".
      **protocol: values of ``config.eval`` that differ from the run's, such as ``scales=(0.75, 1.0, 1.25)``,
        ``flip=True``, ``window=1024`` or ``crf="voc"``. Probabilities are by the temperature that is kept with the
        model, if ``--mode=calibrate`` was run; ``temperature=1`` leaves it out.

    Raises:
      UserError: (a `ValueError`) if there is no checkpoint, the file is damaged or cannot be fetched, or a value of the
        protocol is wrong.

    Examples:
      Here of a file; a workdir such as "runs/shapes" goes as well.

      >>> import gcn_jax, numpy as np
      >>> segmenter = gcn_jax.load("model.safetensors", flip=True)
      >>> segmenter.spec.class_names[:3]
      ['background', 'disk', 'square']
      >>> segmenter.predict(np.zeros((50, 70, 3), np.uint8)).shape
      (50, 70)
    """
    source = local_file("source", str(source))
    config = saved_config.load(source)
    for key, value in protocol.items():
        if key not in config.eval:
            raise UserError(f"config.eval.{key}: unknown key; known: {', '.join(config.eval)}")
        config.eval[key] = value
    check_values(config)
    step, variables = load_trained(source, checkpoint)
    return make_segmenter(temperature.settled(config, source, step), variables)


def make_segmenter(config: ml_collections.ConfigDict, variables: dict[str, PyTree]) -> Segmenter:
    """A trained model with the classes, the preprocessing and the protocol of a config."""
    return Segmenter(
        settings.model_from(config),
        variables,
        settings.spec_from(config),
        settings.preprocessing(config),
        settings.protocol(config),
    )
