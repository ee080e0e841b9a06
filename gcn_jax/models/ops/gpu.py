"""Convolutions on a GPU: channels by eights, as its matrix units take them, and gradients in the kernels' own order."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from . import plain

_CHANNELS = 8  # a matrix unit takes 16 bytes at a time: 8 numbers in bfloat16


def with_eights(convolve: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A convolution of [B, H, W, C] and [kh, kw, C, D] with zeros for the channels that are missing to multiples of 8.

    XLA (jax 0.10.2) does so itself in float16, but not in bfloat16. The zeros are laid into what it writes anyway.
    """

    def form(x: jax.Array, kernel: jax.Array, *args: Any, **options: Any) -> jax.Array:
        return convolve(by_eights(x), by_eights(kernel, (2, 3)), *args, **options)[..., : kernel.shape[3]]

    return form


convolve = with_eights(plain.convolve)


def by_eights(x: jax.Array, axes: tuple[int, ...] = (-1,)) -> jax.Array:
    """With zeros at the end of some axes, so that their lengths are multiples of 8."""
    widths = [(0, 0)] * x.ndim
    for axis in axes:
        widths[axis] = (0, -x.shape[axis] % _CHANNELS)
    return jnp.pad(x, widths)


def in_own_order(gradient: jax.Array) -> jax.Array:
    """The identity, which lays out a kernel's gradient as the kernel is: [kh, kw, C, D] -> the same.

    cuDNN gives another order, in which XLA would update the kernel, and then copy all of it.
    """
    return with_layout_constraint(gradient, Layout(tuple(range(gradient.ndim))))
