"""Convolutions on one CPU device, and their gradients, in the forms that XLA compiles to fast code there.

The numbers in comments are milliseconds, XLA's own -> this, on two cores.
"""

import functools

import jax
import jax.numpy as jnp

from . import plain, winograd
from .plain import DENSE, DIMENSIONS, convolve_inside, padded, shifts, space_to_depth
from .xla import after

LARGE = 2**16  # numbers of a kernel
_CHANNELS = 128  # a matrix product of fewer rows or columns is slow


def _tile(x: jax.Array, kernel: jax.Array, stride: tuple[int, int], widest: int) -> int:
    """The side of the tiles with which Winograd's algorithm is faster; 0 if it is not.

    Larger tiles need fewer products, but larger transforms of the kernel: tiles of 4 are for up to `widest` channels.
    """
    kh, kw, c, d = kernel.shape
    if (kh, kw) != (3, 3) or stride != DENSE or x.dtype != jnp.float32 or min(c, d) < _CHANNELS:
        return 0
    limits = {4: widest, 2: 4 * _CHANNELS}
    return next((m for m in limits if max(c, d) <= limits[m] and x.shape[1] % m == x.shape[2] % m == 0), 0)


def convolve(x: jax.Array, kernel: jax.Array, stride: tuple[int, int]) -> jax.Array:
    """With ``k // 2`` zeros around, laid there beforehand: XLA's own padding has a slower loop."""
    kh, kw, c, d = kernel.shape
    if m := _tile(x, kernel, stride, widest=_CHANNELS):  # 32x32, 256 to 256 channels: 6.3 -> 4.4
        return winograd.convolve(x, kernel, m)
    if x.dtype == jnp.bfloat16 and (kh, kw) == (3, 3) and min(c, d) >= _CHANNELS:  # XLA's own is slower than float32's
        taps = zip(shifts(x, kh, kw, stride), kernel.reshape(9, c, d), strict=True)
        sums = [jnp.einsum("bhwc,cd->bhwd", tap, k, preferred_element_type=jnp.float32) for tap, k in taps]
        return functools.reduce(jnp.add, sums).astype(x.dtype)
    return convolve_inside(padded(x, kh // 2, kw // 2), kernel, stride)  # 512x512, 3x3, 21 to 21 channels: 37 -> 24


def convolve_pairs(x: jax.Array, kernel: jax.Array, stride: tuple[int, int] = (2, 2)) -> jax.Array:
    """Stride 2, as stride 1 over packed 2x2 pixels. The kernel's gradient, 512x512, 7x7, 3 to 64: 71 -> 21."""
    assert stride == (2, 2), stride
    x = space_to_depth(jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0))))
    padding, ends = [], []
    for k in kernel.shape[:2]:
        padding.append(((k // 2 + 1) // 2, k // 2 // 2))
        ends.append((k // 2 % 2, 1 - k // 2 % 2))  # zero taps, so that the kernel begins and ends with a pair
    kernel = jnp.pad(kernel, (*ends, (0, 0), (0, 0)))
    kh, kw, c, d = kernel.shape
    kernel = kernel.reshape(kh // 2, 2, kw // 2, 2, c, d).transpose(0, 2, 1, 3, 4, 5)
    return convolve_inside(jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel.reshape(kh // 2, kw // 2, 4 * c, d))


def gradients(x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Those of `convolve` with respect to x and the kernel."""
    kernel_gradient = _kernel_gradient(after(x, dy), kernel, dy, stride)
    if kernel.size < LARGE:  # one after the other: between few channels the copies for each are large
        kernel = after(kernel, kernel_gradient)
    return _input_gradient(x, kernel, dy, stride), kernel_gradient


def _input_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: tuple[int, int]) -> jax.Array:
    """With stride 1 it is a convolution with the flipped kernel."""
    if stride == DENSE:
        flipped = kernel[::-1, ::-1].swapaxes(2, 3)
        return convolve_inside(dy, flipped) if kernel.shape[:2] == (2, 2) else convolve(dy, flipped, stride)
    return jax.vjp(lambda x: plain.convolve(x, kernel, stride), x)[1](dy)[0]


def _kernel_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: tuple[int, int]) -> jax.Array:
    """The sums over all pixels of x, shifted by each tap, times dy: [kh, kw, C, D]."""
    kh, kw, c, d = kernel.shape
    if m := _tile(x, kernel, stride, widest=2 * _CHANNELS):  # 32x32, 256 to 256 channels, of `_sum_by_tap`: 8.5 -> 4.1
        return winograd.kernel_gradient(x, dy, m)
    if stride == DENSE and min(c, d) <= _CHANNELS // 2:  # 512x512, 3x3, 21 to 21 channels: 92 -> 36
        return _correlate(x, dy, kh, kw).astype(kernel.dtype)
    if stride == DENSE or c >= _CHANNELS:  # 64x64, 3x3, 128 to 128 channels: 19 -> 9
        return _sum_by_tap(x, dy, kh, kw, stride).astype(kernel.dtype)
    return jax.vjp(lambda kernel: plain.convolve(x, kernel, stride), kernel)[1](dy)[0]


def _sum_by_tap(x: jax.Array, dy: jax.Array, kh: int, kw: int, stride: tuple[int, int]) -> jax.Array:
    """A matrix product for each tap.

    The factor that all taps share comes first: it is the one that XLA transposes, once.
    """
    sums = [
        jnp.einsum("bhwd,bhwc->dc", dy, tap, preferred_element_type=jnp.float32) for tap in shifts(x, kh, kw, stride)
    ]
    return jnp.stack(sums).reshape(kh, kw, dy.shape[-1], x.shape[-1]).swapaxes(2, 3)


def _correlate(x: jax.Array, dy: jax.Array, kh: int, kw: int) -> jax.Array:
    """One convolution, whose images are the channels of x or dy, whichever has fewer, and whose kernel is the other.

    That is what XLA itself does, except that the zeros are laid around the images beforehand, and for the axes' order.
    """
    sums = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=DENSE,
        padding="VALID",
        dimension_numbers=DIMENSIONS,
        preferred_element_type=jnp.float32,
    )
    if x.shape[-1] < dy.shape[-1]:
        x = padded(x, kh // 2, kw // 2)
        return sums(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)).transpose(1, 2, 0, 3)
    dy = padded(dy, (kh - 1) // 2, (kw - 1) // 2)
    return sums(dy.transpose(3, 1, 2, 0), x.transpose(1, 2, 0, 3))[:, ::-1, ::-1].transpose(1, 2, 3, 0)
