"""Convolutions as matrix products: 1x1, and k x 1 or 1 x k to few channels. Each with its gradients."""

import functools

import jax
import jax.numpy as jnp

from .plain import DENSE, shifts
from .xla import once, select


def _einsum(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """`jnp.einsum`. On a CPU one of bfloat16 is summed to float32 and then rounded: XLA has a fast product for that."""

    def in_float32(x, y):
        return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32).astype(x.dtype)

    as_given = functools.partial(jnp.einsum, equation)
    one_cpu = as_given if x.dtype == jnp.float32 else in_float32
    return select(x, y, one_cpu=one_cpu, elsewhere=as_given)


def convolve_1x1(x: jax.Array, kernel: jax.Array, stride: tuple[int, int] = DENSE) -> jax.Array:
    """[B, H, W, C] and [1, 1, C, D] -> [B, H, W, D], stride 1."""
    assert stride == DENSE, stride
    return _einsum("bhwc,cd->bhwd", x, kernel[0, 0])


def gradients_1x1(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: tuple[int, int] = DENSE
) -> tuple[jax.Array, jax.Array]:
    """Those of `convolve_1x1` with respect to x and the kernel."""
    assert stride == DENSE, stride

    def fewer_first(x, dy):
        """On a CPU the kernel's gradient is faster with the fewer channels first; 1024 to 256: 4.7 -> 3.2 ms."""
        if x.shape[-1] <= dy.shape[-1]:
            return _einsum("bhwc,bhwd->cd", x, dy)
        return once(_einsum("bhwd,bhwc->dc", dy, x)).T

    as_given = functools.partial(jnp.einsum, "bhwc,bhwd->cd")
    kernel_gradient = select(x, dy, one_cpu=fewer_first, elsewhere=as_given)
    return _einsum("bhwd,cd->bhwc", dy, kernel[0, 0]), kernel_gradient[None, None]


def convolve_long(x: jax.Array, kernel: jax.Array, stride: tuple[int, int] = DENSE) -> jax.Array:
    """A k x 1 or 1 x k convolution to few channels: each pixel's products with all taps first, then shifted sums.

    One product to k D channels keeps a matrix unit busy; D alone would not, and XLA moves as many copies of x as there
    are taps. On CPU, 128x128, 15x1, 256 to 21 channels: 65 -> 30 ms.
    """
    assert stride == DENSE, stride
    taps = _taps_as_channels(kernel)
    taps = jnp.pad(taps, ((0, 0), (0, -taps.shape[1] % 8)))  # 315 to 320: 23 -> 18 ms of it
    products = jnp.einsum("bhwc,cn->bhwn", x, taps, preferred_element_type=jnp.float32)
    kh, kw, _, d = kernel.shape
    terms = [shift[..., i * d : (i + 1) * d] for i, shift in enumerate(shifts(products, kh, kw))]
    return functools.reduce(jnp.add, terms).astype(x.dtype)


def gradients_long(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: tuple[int, int] = DENSE
) -> tuple[jax.Array, jax.Array]:
    """Those of `convolve_long` with respect to x and the kernel."""
    assert stride == DENSE, stride
    kh, kw, c, d = kernel.shape
    shifted = jnp.concatenate(shifts(dy, kh, kw)[::-1], axis=-1)
    dx = _einsum("bhwn,cn->bhwc", shifted, _taps_as_channels(kernel))
    sums = jnp.einsum("bhwc,bhwn->cn", x, shifted, preferred_element_type=jnp.float32)
    return dx, jnp.moveaxis(sums.reshape(c, kh, kw, d), 0, 2).astype(kernel.dtype)


def _taps_as_channels(kernel: jax.Array) -> jax.Array:
    """[kh, kw, C, D] -> [C, kh kw D]."""
    return jnp.moveaxis(kernel, 2, 0).reshape(kernel.shape[2], -1)
