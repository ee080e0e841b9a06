"""Maps in another size: enlarged, averaged into bins, their maxima spread or put back.

Enlarging and averaging are products with a small constant matrix along each axis: so are their gradients, and rows may
be spread over devices.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def resize(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Bilinear interpolation: [B, H, W, C] -> [B, *size, C].

    Pixels are areas, as in PyTorch's ``interpolate(align_corners=False)`` and, inside a map that is doubled, in a
    deconvolution of 4 x 4 bilinear taps. It does not average where it makes a map smaller.
    """
    return _by_axis(x, [_bilinear(length, new) for length, new in zip(x.shape[1:3], size, strict=True)])


def pool_to_bins(x: jax.Array, bins: int) -> jax.Array:
    """The means of bins x bins parts of a map: [B, H, W, C] -> [B, bins, bins, C].

    Part i of n of a length L is from floor(i L / n) to ceil((i + 1) L / n), so that parts overlap where L does not
    divide, as PyTorch's ``AdaptiveAvgPool2d`` has them.
    """
    return _by_axis(x, [_bins(length, bins) for length in x.shape[1:3]])


def _by_axis(x: jax.Array, matrices: list[np.ndarray]) -> jax.Array:
    rows, columns = (jnp.asarray(matrix, x.dtype) for matrix in matrices)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    x = product("ph,bhwc->bpwc", rows, x).astype(x.dtype)
    return product("qw,bpwc->bpqc", columns, x).astype(x.dtype)


@functools.cache
def _bilinear(length: int, new: int) -> np.ndarray:
    """[new, length]: in each row the weights of the two pixels that are nearest to a new one."""
    place = np.clip((np.arange(new) + 0.5) * length / new - 0.5, 0, length - 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(length))).astype(np.float32)


@functools.cache
def _bins(length: int, bins: int) -> np.ndarray:
    """[bins, length]: in each row the same weight for all pixels of a part."""
    first = np.arange(bins) * length // bins
    end = -(-np.arange(1, bins + 1) * length // bins)
    is_inside = (np.arange(length) >= first[:, None]) & (np.arange(length) < end[:, None])
    return (is_inside / (end - first)[:, None]).astype(np.float32)


def max_around(x: jax.Array, side: int) -> jax.Array:
    """The maximum over side x side pixels around each: [B, H, W, C] -> the same; side odd.

    By maxima of shifted pixels along each axis, as in `max_pool`.
    """
    for axis in (1, 2):
        padding = [(0, 0)] * 4
        padding[axis] = (side // 2, side // 2)
        filled, length = jnp.pad(x, padding, constant_values=-jnp.inf), x.shape[axis]
        shifted = [jax.lax.slice_in_dim(filled, i, i + length, axis=axis) for i in range(side)]
        x = functools.reduce(jnp.maximum, shifted)
    return x


def overlap_add(tiles: jax.Array) -> jax.Array:
    """Adds up tiles of 8 x 8 pixels that lie 4 pixels apart: [B, H, W, 8, 8, C] -> [B, 4 H, 4 W, C].

    The first tile begins 2 pixels above and left of the map: what reaches beyond it is cut off. A transposed
    convolution of stride 4 and padding 2 does the same with its products.
    """
    batch, rows, columns, *_, channels = tiles.shape
    for axis in (1, 2):
        halves = jnp.split(tiles, 2, axis=axis + 2)  # the second half lies on the next tile's first
        before, after = [(0, 0)] * 6, [(0, 0)] * 6
        before[axis], after[axis] = (1, 0), (0, 1)
        tiles = jnp.pad(halves[0], after) + jnp.pad(halves[1], before)
    blocks = tiles.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 4 * rows + 4, 4 * columns + 4, channels)
    return blocks[:, 2:-2, 2:-2]


def unpool(x: jax.Array, like: jax.Array) -> jax.Array:
    """Puts each number where a larger map has the largest of 2 x 2 pixels, the first of equals, and 0 elsewhere.

    Args:
      x: [B, ceil(H / 2), ceil(W / 2), C].
      like: [B, H, W, C]; only the places of its maxima are used, so that it gets no gradient.

    Returns:
      [B, H, W, C]. Beyond an odd side there is nothing to choose.
    """
    batch, height, width, channels = like.shape
    rows, columns = x.shape[1:3]
    padding = ((0, 0), (0, 2 * rows - height), (0, 2 * columns - width), (0, 0))
    like = jnp.pad(jax.lax.stop_gradient(like), padding, constant_values=-jnp.inf)
    tiles = like.reshape(batch, rows, 2, columns, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    chosen = jnp.argmax(tiles.reshape(batch, rows, columns, 4, channels), axis=3)  # 2 bits a number: no scatter
    placed = jnp.where(chosen[:, :, :, None] == jnp.arange(4)[None, None, None, :, None], x[:, :, :, None], 0)
    placed = placed.reshape(batch, rows, columns, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return placed.reshape(batch, 2 * rows, 2 * columns, channels)[:, :height, :width]
