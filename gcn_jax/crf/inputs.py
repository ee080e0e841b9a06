"""What a CRF inside a network sees of its images: their colours, and which pixels are padding."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from gcn_jax.models.preprocessing import Preprocessing


def colors(images: jax.Array, preprocessing: Preprocessing) -> jax.Array:
    """Undoes `normalize`: float32 [..., 3], a network's input -> RGB, 0-255. No gradient passes."""
    shape = (1,) * (images.ndim - 1) + (3,)
    mean, std = (np.reshape(v, shape).astype(np.float32) for v in (preprocessing.mean, preprocessing.std))
    images = lax.stop_gradient(images)
    return (images[..., ::-1] if preprocessing.channels == "BGR" else images) * std + mean


def is_inside(image: jax.Array, preprocessing: Preprocessing) -> jax.Array:
    """Which pixels of an image, float32 [H, W, 3], RGB, are not padding: bool [H, W].

    Padding has the mean colour, rounded, and so has all that lies between it and one of the image's four sides, in its
    row or its column. That holds for what fills a batch or a canvas, on whichever side, and for the corners that a
    rotation leaves. A photograph's own pixels of exactly this colour at its border count as padding, too: our choice.
    """
    fill = jnp.asarray(np.rint(preprocessing.mean), jnp.float32)[None, None]
    is_fill = (jnp.abs(image - fill) < 0.25).all(-1).astype(jnp.int32)
    runs = [lax.cummin(is_fill, axis, reverse) for axis in (0, 1) for reverse in (False, True)]
    return jnp.stack(runs).max(0) == 0


def on_each_image(function: Callable[..., jax.Array], images: jax.Array, logits: jax.Array, params: Any) -> jax.Array:
    """Applies ``function(image, logits, params)`` to the images of a batch, one after the other: [B, H, W, C].

    On a mesh each device has its images whole: those that share the rows of one compute the same.
    """

    def of_batch(images: jax.Array, logits: jax.Array, params: Any) -> jax.Array:
        return lax.map(lambda pair: function(*pair, params), (images, logits))

    mesh = jax.typeof(logits).sharding.mesh
    if mesh.size <= 1:
        return of_batch(images, logits, params)
    data, whole = PartitionSpec("data"), PartitionSpec()
    sharded = jax.shard_map(of_batch, mesh=mesh, in_specs=(data, data, whole), out_specs=data, check_vma=False)
    return sharded(images, logits, params)
