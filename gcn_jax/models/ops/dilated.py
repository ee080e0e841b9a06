"""Convolutions whose taps lie apart, and those of each channel alone."""

import jax
import jax.numpy as jnp
import numpy as np

from .convolution import conv2d
from .gpu import with_eights
from .plain import DENSE, DIMENSIONS
from .products import convolve_1x1
from .xla import select


def dilated_conv2d(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """`conv2d` whose taps are `dilation` pixels apart: [B, H, W, C] and [kh, kw, C, D] -> [B, H, W, D].

    On one CPU device as an ordinary convolution over dilation x dilation images, each of every so many pixels: 32x32,
    256 to 256 channels, 4 apart, with its gradients, 300 -> 21 ms. If these were of 2 pixels or fewer on a side, as a
    product for each tap that meets the map: 16x16, 1024 to 128 channels, 12 apart, 40 s -> 0.3 s. Elsewhere XLA's own,
    on a GPU by eights of channels.
    """
    forms = {"one_cpu": _on_one_cpu, "gpu": with_eights(_xla_own), "elsewhere": _xla_own}
    return select(x, kernel, **forms, dilation=dilation)


def _on_one_cpu(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    is_far = 2 * dilation >= min(x.shape[1:3])
    return (_by_taps if is_far else _over_images)(x, kernel, dilation)


def _xla_own(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    padding = [(dilation * (k // 2),) * 2 for k in kernel.shape[:2]]
    apart = (dilation, dilation)
    return jax.lax.conv_general_dilated(x, kernel, DENSE, padding, rhs_dilation=apart, dimension_numbers=DIMENSIONS)


def _over_images(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    batch, height, width, channels = x.shape
    rows, columns = -(-height // dilation), -(-width // dilation)
    x = jnp.pad(x, ((0, 0), (0, rows * dilation - height), (0, columns * dilation - width), (0, 0)))
    x = x.reshape(batch, rows, dilation, columns, dilation, channels).transpose(0, 2, 4, 1, 3, 5)
    y = conv2d(x.reshape(-1, rows, columns, channels), kernel)
    y = y.reshape(batch, dilation, dilation, rows, columns, -1).transpose(0, 3, 1, 4, 2, 5)
    return y.reshape(batch, rows * dilation, columns * dilation, -1)[:, :height, :width]


def _by_taps(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    sides = x.shape[1:3]
    total = jnp.zeros((*x.shape[:3], kernel.shape[3]), x.dtype)
    for tap in np.ndindex(*kernel.shape[:2]):
        shift = [dilation * (i - k // 2) for i, k in zip(tap, kernel.shape[:2], strict=True)]
        if any(abs(distance) >= side for distance, side in zip(shift, sides, strict=True)):
            continue
        rows, columns = (slice(max(d, 0), side + min(d, 0)) for d, side in zip(shift, sides, strict=True))
        product = convolve_1x1(x[:, rows, columns], kernel[tap][None, None])
        around = [(max(-distance, 0), max(distance, 0)) for distance in shift]
        total += jnp.pad(product, ((0, 0), *around, (0, 0)))
    return total


def depthwise_conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Each channel convolved with a kernel of its own: [B, H, W, C] and [kh, kw, 1, C] -> [B, H, W, C]."""
    padding, groups = [(k // 2, k // 2) for k in kernel.shape[:2]], x.shape[-1]
    return jax.lax.conv_general_dilated(
        x, kernel, DENSE, padding, dimension_numbers=DIMENSIONS, feature_group_count=groups
    )
