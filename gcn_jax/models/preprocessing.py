"""From an image's bytes to the network's input."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


@dataclass(frozen=True)
class Preprocessing:
    """What a network's input is. Mean and std are in RGB order whether it is RGB or BGR.

    Attributes:
      mean: of each channel, 0-255, which is subtracted.
      std: of each channel, 0-255, by which the rest is divided; ones: mean subtraction alone, as in the paper.
      channels: "RGB", or "BGR" for weights that come from Caffe; or bands, such as "4,3,2": then mean and std are in
        this order, and as large as the bands' values.
      depth: the kind of the bands' values, "uint8", "uint16" or "float32"; RGB and BGR are uint8.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: str = "RGB"
    depth: str = ""

    @property
    def dtype(self) -> np.dtype:
        """Of the images' values."""
        return np.dtype(self.depth or "uint8")


def normalize(images: jax.Array, preprocessing: Preprocessing) -> jax.Array:
    """[B, H, W, C] -> float32, minus the mean, divided by the standard deviation, as RGB, BGR or the bands.

    RGB is uint8; bands may be uint16 or float32, too. NaN and infinite values become 0, as the mean does.
    """
    mean, std = (np.asarray(v, np.float32)[None, None, None] for v in (preprocessing.mean, preprocessing.std))
    is_float = jnp.issubdtype(images.dtype, jnp.floating)
    images = (images.astype(jnp.float32) - mean) / std
    if is_float:
        images = jnp.where(jnp.isfinite(images), images, 0)
    return images[..., ::-1] if preprocessing.channels == "BGR" else images
