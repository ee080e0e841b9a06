"""A trained model for other programs: any image in, labels out."""

import pathlib
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from gcn_jax import checkpoints
from gcn_jax import config as config_lib
from gcn_jax.data.sources import spec_from
from gcn_jax.data.specs import DatasetSpec
from gcn_jax.data.transforms import pad, padded_shape
from gcn_jax.models import GCN
from gcn_jax.steps import PyTree, normalize


@dataclass(frozen=True)
class Segmenter:
    """A model with its weights, preprocessing and classes; made by `load`."""

    model: GCN
    variables: dict[str, PyTree]
    config: ml_collections.ConfigDict
    _apply: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        def apply(variables: dict[str, PyTree], images: jax.Array) -> Any:
            return self.model.apply(variables, normalize(images, self.config), train=False)

        object.__setattr__(self, "_apply", jax.jit(apply))

    @property
    def spec(self) -> DatasetSpec:
        """Class names and colours."""
        return spec_from(self.config)

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Scores an image of any size: it is padded to one of a few shapes, see `padded_shape`.

        Args:
          image: uint8 [H, W, 3], RGB.

        Returns:
          float32 [H, W, num_classes].

        Raises:
          ValueError: if the image has another type or shape.
        """
        return np.asarray(self._padded_logits(image))[0, : image.shape[0], : image.shape[1]]

    def predict(self, image: np.ndarray) -> np.ndarray:
        """The class id of each pixel: uint8 [H, W, 3] RGB -> uint8 [H, W]."""
        labels = jnp.argmax(self._padded_logits(image), axis=-1).astype(jnp.uint8)
        return np.asarray(labels)[0, : image.shape[0], : image.shape[1]]

    def _padded_logits(self, image: np.ndarray) -> jax.Array:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
            raise ValueError(f"image must be uint8 [H, W, 3]. Got {image.dtype} {image.shape}")
        height, width = image.shape[:2]
        shape = padded_shape(height, width, self.config.data.size)
        return self._apply(self.variables, pad(image, *shape, self.config.data.mean)[None])


def load(workdir: str | pathlib.Path, checkpoint: str = "best") -> Segmenter:
    """Loads a trained model from the workdir of its run.

    Args:
      workdir: such as "runs/voc/stage3".
      checkpoint: "best" by mean IoU (the newest if none was evaluated) or "latest".

    Raises:
      UserError: (a `ValueError`) if there is no checkpoint.
    """
    workdir = pathlib.Path(workdir)
    config = config_lib.load(workdir)
    _, variables = checkpoints.load_variables(workdir, checkpoint, averaged=config.optimizer.ema_decay > 0)
    return Segmenter(config_lib.model_from(config), variables, config)
