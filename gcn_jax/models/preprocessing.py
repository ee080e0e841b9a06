"""From an image's bytes to the network's input."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


@dataclass(frozen=True)
class Preprocessing:
    """What a network's input is. Mean and std are in RGB order whatever the order of the channels.

    Attributes:
      mean: of each channel, 0-255, which is subtracted.
      std: of each channel, 0-255, by which the rest is divided; ones: mean subtraction alone, as in the paper.
      channels: "RGB", or "BGR" for weights that come from Caffe.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str = "RGB"


def normalize(images: jax.Array, preprocessing: Preprocessing) -> jax.Array:
    """RGB uint8 [B, H, W, 3] -> float32, minus the mean, divided by the standard deviation, as RGB or BGR."""
    mean, std = (np.asarray(v, np.float32)[None, None, None] for v in (preprocessing.mean, preprocessing.std))
    images = (images.astype(jnp.float32) - mean) / std
    return images[..., ::-1] if preprocessing.channels == "BGR" else images
