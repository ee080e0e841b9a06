"""From an image's bytes to the network's input."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

PyTree = Any


def normalize(images: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """RGB uint8 [B, H, W, 3] -> float32, minus the mean, divided by the standard deviation, as RGB or BGR."""
    mean, std = (np.asarray(config.data[key], np.float32)[None, None, None] for key in ("mean", "std"))
    images = (images.astype(jnp.float32) - mean) / std
    return images[..., ::-1] if config.data.channels == "BGR" else images
