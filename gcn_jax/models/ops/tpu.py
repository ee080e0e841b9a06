"""Convolutions on a TPU: each image as strips of its rows, which to XLA are the images of a larger batch.

A TPU works on tiles of 8 x 128 numbers: 128 channels of 8 images. If there are fewer, XLA (libtpu 0.0.42) fills the 8
with pieces of the images' columns: it cuts them before each convolution, which then has to shift them within a tile,
and joins them after it. Strips of rows are cut by the same layout that all other operations take, and what they need of
one another is a row or two, copied. `docs/performance.md` has the figures.
"""

import jax
import jax.numpy as jnp

from . import plain

_IMAGES = 8  # of a TPU's tile


def convolve(x: jax.Array, kernel: jax.Array, stride: tuple[int, int]) -> jax.Array:
    """With ``k // 2`` zeros around: [B, H, W, C] and [kh, kw, C, D] -> [B, H / stride, W / stride, D], rounded up.

    On a mesh a strip lies within one device's part of an image, which is some of its rows where "space" spreads them.
    """
    mesh = jax.typeof(x).sharding.mesh
    data, space = (mesh.shape.get(axis, 1) if mesh.size > 1 else 1 for axis in ("data", "space"))
    images = max(x.shape[0] // data, 1)  # on a device
    count = max(_IMAGES // images, 1)
    if data * space != max(mesh.size, 1) or (space > 1 and (images > 1 or x.shape[1] % space)):
        count = space = 1  # a mesh of other axes, or rows that XLA cannot cut without moving them
    if kernel.shape[0] > kernel.shape[1] == 1:  # strips of columns need none of their neighbours' pixels
        y = _convolve_strips(x.swapaxes(1, 2), kernel.swapaxes(0, 1), stride[::-1], count)
        return y.swapaxes(1, 2)
    if space > 1:
        rows = x.shape[1] // space // stride[0]
        count = space * next(n for n in range(count, 0, -1) if rows % n == 0)
    return _convolve_strips(x, kernel, stride, count)


def _convolve_strips(x: jax.Array, kernel: jax.Array, stride: tuple[int, int], count: int) -> jax.Array:
    if count == 1:
        return plain.convolve(x, kernel, stride)
    batch, height, width, channels = x.shape
    kh, kw = kernel.shape[:2]
    rows = (height + 2 * (kh // 2) - kh) // stride[0] + 1  # of the result
    needed = -(-rows // count) * count * stride[0]
    x = jnp.pad(x, ((0, 0), (0, needed - height), (0, 0), (0, 0)))
    x = x.reshape(batch, count, -1, width, channels)
    x = _with_neighbours(x, before=kh // 2, after=max(kh - kh // 2 - stride[0], 0))
    x = x.reshape(batch * count, -1, width, channels)
    padding = (0, 0), (kw // 2, kw // 2)
    y = jax.lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=plain.DIMENSIONS)
    return y.reshape(batch, -1, *y.shape[2:])[:, :rows]


def _with_neighbours(x: jax.Array, before: int, after: int) -> jax.Array:
    """Strips with the rows beside them, zeros at the ends: [B, n, R, W, C] -> [B, n, before + R + after, W, C]."""
    count, rows = x.shape[1:3]

    def of_strip(distance: int, needed: int) -> jax.Array:
        """The part of the `needed` rows that each strip takes from the strip at this distance (below 0: before it)."""
        taken = min(needed - (abs(distance) - 1) * rows, rows)
        part = x[:, :, :taken] if distance > 0 else x[:, :, -taken:]
        zeros = jnp.zeros_like(part[:, : min(abs(distance), count)])
        return jnp.concatenate([part[:, distance:], zeros] if distance > 0 else [zeros, part[:, :distance]], axis=1)

    above = [of_strip(-i, before) for i in range(-(-before // rows), 0, -1)]
    below = [of_strip(i, after) for i in range(1, -(-after // rows) + 1)]
    return jnp.concatenate([*above, x, *below], axis=2)
