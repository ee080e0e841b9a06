"""Maps in another size: enlarged, averaged into bins, their maxima spread or put back.

Enlarging and averaging are products with a small matrix along each axis: so are their gradients, and rows may be spread
over devices. The matrix is a constant; or each image has its own, where it takes up a part of its map alone: `inside`,
int32 [B, 4], the part's first row and column, and the row and column behind its last.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def resize(x: jax.Array, size: Sequence[int], inside: jax.Array | None = None) -> jax.Array:
    """Bilinear interpolation: [B, H, W, C] -> [B, *size, C].

    Pixels are areas, as in PyTorch's ``interpolate(align_corners=False)`` and, inside a map that is doubled, in a
    deconvolution of 4 x 4 bilinear taps. It does not average where it makes a map smaller.

    Args:
      x: the maps.
      size: of the result.
      inside: the part of the result that a map is resized to; beyond it its border is repeated. None: all of it.
    """
    lengths = zip(x.shape[1:3], size, _spans(size, inside), strict=True)
    return _by_axis(x, [_bilinear(length, new, *span) for length, new, span in lengths])


def pool_to_bins(x: jax.Array, bins: int, inside: jax.Array | None = None) -> jax.Array:
    """The means of bins x bins parts of a map: [B, H, W, C] -> [B, bins, bins, C].

    Part i of n of a length L is from floor(i L / n) to ceil((i + 1) L / n), so that parts overlap where L does not
    divide, as PyTorch's ``AdaptiveAvgPool2d`` has them.

    Args:
      x: the maps.
      bins: the number of parts along each axis.
      inside: the part of the map that is divided into them; None: all of it.
    """
    lengths = zip(x.shape[1:3], _spans(x.shape[1:3], inside), strict=True)
    return _by_axis(x, [_bins(length, bins, *span) for length, span in lengths])


def max_of_all(x: jax.Array, inside: jax.Array | None = None) -> jax.Array:
    """The maxima of the whole map, or of its part inside: [B, H, W, C] -> [B, 1, 1, C]."""
    if inside is not None:
        (top, bottom), (left, right) = _spans(x.shape[1:3], inside)
        rows, columns = _count(x.shape[1])[None, :, None], _count(x.shape[2])[None, None]
        is_inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
        x = jnp.where(is_inside[..., None], x, -jnp.inf)
    return jnp.max(x, axis=(1, 2), keepdims=True)


def rescaled(inside: jax.Array, size: Sequence[int], new: Sequence[int]) -> jax.Array:
    """The part inside maps of a size, int32 [B, 4], in maps of a new size: each pixel that has some of it."""
    factor, divisor = np.array(new)[None], np.array(size)[None]
    return jnp.concatenate([inside[:, :2] * factor // divisor, -(-inside[:, 2:] * factor // divisor)], axis=1)


def _spans(size: Sequence[int], inside: jax.Array | None) -> list[tuple[Any, Any]]:
    """Where the part inside begins and ends along each axis: numbers, or int32 [B, 1, 1] of each image."""
    if inside is None:
        return [(0, length) for length in size]
    return [(inside[:, axis, None, None], inside[:, axis + 2, None, None]) for axis in range(2)]


def _count(length: Any) -> Any:
    """0, 1, ...: constants, or int32 of a length that is not known yet."""
    return np.arange(length) if isinstance(length, int) else jnp.arange(length)


def _by_axis(x: jax.Array, matrices: list[Any]) -> jax.Array:
    """[B, H, W, C] times a matrix of the rows and one of the columns, [1, new, old] constants or [B, new, old]."""
    for axes, matrix in zip(("ph,bhwc->bpwc", "qw,bpwc->bpqc"), matrices, strict=True):
        factor = jnp.asarray(matrix.astype(np.float32) if isinstance(matrix, np.ndarray) else matrix, x.dtype)
        factor, terms = (factor[0], axes) if matrix.shape[0] == 1 else (factor, f"b{axes}")
        x = jnp.einsum(terms, factor, x, preferred_element_type=jnp.float32).astype(x.dtype)
    return x


def _bilinear(length: int, new: int, first: Any, end: Any) -> Any:
    """[B, new, length]: in each row the weights of the two pixels that are nearest to a new one."""
    pixel = (_count(new)[None, :, None] - first).clip(0, end - first - 1)
    place = (pixel + 0.5) * length / (end - first) - 0.5
    return (1 - abs(place.clip(0, length - 1) - _count(length)[None, None])).clip(0, None)


def _bins(length: int, bins: int, first: Any, end: Any) -> Any:
    """[B, bins, length]: in each row the same weight for all pixels of a part."""
    i, places = np.arange(bins)[None, :, None], _count(length)[None, None]
    begin, stop = first + i * (end - first) // bins, first - (i + 1) * (first - end) // bins
    return ((places >= begin) & (places < stop)) / (stop - begin)


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
        first, second = jnp.split(tiles, 2, axis=axis + 2)  # the second half lies on the next tile's first
        before, after = [(0, 0)] * 4, [(0, 0)] * 4
        before[axis], after[axis] = (1, 0), (0, 1)
        flat = (*first.shape[:3], math.prod(first.shape[3:]))  # LiteRT pads no more than 5 axes
        total = jnp.pad(first.reshape(flat), after) + jnp.pad(second.reshape(flat), before)
        tiles = total.reshape(*total.shape[:3], *first.shape[3:])
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
