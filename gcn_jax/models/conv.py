"""Every convolution, transposed convolution and pooling of the network.

The other model files say what is computed; this one says how. All tensors are NHWC, all kernels HWIO.
Padding is explicit and symmetric, ``k // 2`` on each side, as in Caffe and PyTorch: XLA's ``"SAME"`` pads
a stride-2 convolution on the bottom and right alone, which shifts features by a pixel against every
published set of ResNet weights.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Dtype = Any
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """2-D convolution with symmetric zero padding.

    Args:
      x: [B, H, W, C].
      kernel: [kh, kw, C, D], kh and kw odd.
      stride: the same for rows and columns.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), D], in x's dtype.
    """
    if kernel.shape[:2] == (1, 1):
        return jnp.einsum("bhwc,cd->bhwd", x[:, ::stride, ::stride], kernel[0, 0])
    return _conv2d(x, kernel, stride)


def _plain(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    kh, kw = kernel.shape[:2]
    padding = ((kh // 2, kh // 2), (kw // 2, kw // 2))
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_DIMENSIONS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv2d(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return _plain(x, kernel, stride)


def _conv2d_forward(x: jax.Array, kernel: jax.Array, stride: int):
    return _plain(x, kernel, stride), (x, kernel)


def _conv2d_backward(stride: int, saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    def as_matmuls(x, kernel, dy):
        return _input_gradient(x, kernel, dy, stride), _kernel_gradient(x, kernel, dy, stride)

    def as_xla(x, kernel, dy):
        return jax.vjp(functools.partial(_plain, stride=stride), x, kernel)[1](dy)

    return jax.lax.platform_dependent(*saved, dy, cpu=as_matmuls, default=as_xla)


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def _input_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: int) -> jax.Array:
    """Of stride 1 a plain convolution with the flipped kernel."""
    if stride == 1:
        return _plain(dy, kernel[::-1, ::-1].swapaxes(2, 3), 1)
    return jax.vjp(lambda x: _plain(x, kernel, stride), x)[1](dy)[0]


def _kernel_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: int) -> jax.Array:
    """A matrix product for each tap, of the output's gradient and the input that the tap saw.

    The factor that all taps share comes first: it is the one that XLA transposes, once.
    """
    kh, kw, c, d = kernel.shape
    if stride == 1 and c > d:  # shift the one with fewer channels
        taps = _shifts(dy, kh, kw, 1, dy.shape[1:3])[::-1]
        taps = [jnp.einsum("bhwc,bhwd->cd", x, tap, preferred_element_type=jnp.float32) for tap in taps]
        return jnp.stack(taps).reshape(kernel.shape).astype(kernel.dtype)
    taps = _shifts(x, kh, kw, stride, dy.shape[1:3])
    taps = [jnp.einsum("bhwd,bhwc->dc", dy, tap, preferred_element_type=jnp.float32) for tap in taps]
    return jnp.stack(taps).reshape(kh, kw, d, c).swapaxes(2, 3).astype(kernel.dtype)


def _shifts(x: jax.Array, kh: int, kw: int, stride: int, size: tuple[int, ...]) -> list[jax.Array]:
    """What each tap of a kernel sees: kh kw arrays [B, *size, C]."""
    padded = jnp.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    rows, columns = (stride * (length - 1) + 1 for length in size)
    return [padded[:, i : i + rows : stride, j : j + columns : stride] for i in range(kh) for j in range(kw)]


def conv_transpose2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed 2-D convolution ("deconvolution") of stride 2, padding 1: the adjoint of a strided convolution.

    ``y[2 i + a - 1] += x[i] kernel[a]`` for each tap a, in both axes, as Caffe's ``Deconvolution`` and
    PyTorch's ``ConvTranspose2d(kernel_size=4, stride=2, padding=1)``.

    Computed as a 3x3 convolution to 4 D channels, the 2x2 outputs that lie at each input pixel, which are then laid
    out in space. The usual form, a convolution over an input dilated with zeros, is slow on CPU; and under spatial
    partitioning XLA (jax 0.10.2) computes its kernel's gradient wrongly, as it does for any convolution whose rows
    do not divide evenly over the devices (a 2x2 convolution would have H + 1).

    Args:
      x: [B, H, W, C].
      kernel: [4, 4, C, D].

    Returns:
      [B, 2 H, 2 W, D], in x's dtype.
    """
    assert kernel.shape[:2] == (4, 4), kernel.shape
    batch, height, width, _ = x.shape
    c, d = kernel.shape[2:]
    # Output 2 i + r takes input i + 1 - j by tap 2 j + r - 1, for j of 0, 1, 2: taps -1 and 4 are zero.
    taps = jnp.pad(kernel, ((1, 1), (1, 1), (0, 0), (0, 0))).reshape(3, 2, 3, 2, c, d)[::-1, :, ::-1]
    taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(3, 3, c, 4 * d)
    y = conv2d(x, taps).reshape(batch, height, width, 2, 2, d)
    return y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, d)


def materialize(x: jax.Array) -> jax.Array:
    """The identity, which on a CPU makes XLA compute x, and its gradient, once: [B, H, W, C] -> the same.

    Else XLA (jax 0.10) takes additions and ReLUs for so cheap that it computes them anew for each of their uses: every
    residual block starts over from the first of its stage. A division it computes once, and it cannot know that
    this one is by 1, since 0 times a number is not 0 if that is not finite.
    """

    def divided(x):
        return x / (1 + 0 * jax.lax.stop_gradient(x))

    return jax.lax.platform_dependent(x, cpu=divided, default=lambda x: x)


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum of stride 2, padding 1: [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C]."""

    def as_window(x):
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    def as_maxima(x):
        for axis in (1, 2):
            length = -(-x.shape[axis] // 2)
            padding = [(0, 0)] * 4
            padding[axis] = (1, 2 * length - x.shape[axis])
            padded = jnp.pad(x, padding, constant_values=-jnp.inf)
            first, second, third = (jax.lax.slice_in_dim(padded, i, i + 2 * length - 1, 2, axis) for i in range(3))
            x = jnp.maximum(jnp.maximum(first, second), third)
        return x

    return jax.lax.platform_dependent(x, cpu=as_maxima, default=as_window)


def bilinear_kernel(channels: int) -> np.ndarray:
    """The kernel with which `conv_transpose2d` interpolates bilinearly, channel by channel: float32 [4, 4, C, C]."""
    taps = np.array([0.25, 0.75, 0.75, 0.25], np.float32)
    return np.einsum("h,w,cd->hwcd", taps, taps, np.eye(channels, dtype=np.float32))


class Conv(nn.Module):
    """`conv2d` with its parameters: ``kernel`` [kh, kw, C, features] and, if asked for, ``bias`` [features].

    The kernel starts normally distributed with variance ``gain / (kh kw C)``: 2 before a ReLU (He et al., 2015), 1
    where none follows, 0 for zeros. The bias starts at 0.
    """

    features: int
    kernel_size: tuple[int, int]
    stride: int = 1
    use_bias: bool = False
    dtype: Dtype = jnp.float32
    gain: float = 2.0

    @nn.compact
    def __call__(self, x: jax.Array, scale: jax.Array | None = None, shift: jax.Array | None = None) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features]: convolved, times scale, plus shift.

        The scale, [features], is multiplied into the kernel: its gradient is then a sum over the kernel, not over all
        pixels of two large maps.
        """
        kernel_init = nn.initializers.variance_scaling(self.gain, "fan_in", "normal")
        kernel = self.param("kernel", kernel_init, (*self.kernel_size, x.shape[-1], self.features))
        if scale is not None:
            kernel *= scale[None, None, None]
        y = conv2d(x.astype(self.dtype), kernel.astype(self.dtype), stride=self.stride)
        if self.use_bias:
            shift = self.param("bias", nn.initializers.zeros, (self.features,))
        return y if shift is None else y + shift.astype(self.dtype)[None, None, None]


class ConvTranspose(nn.Module):
    """`conv_transpose2d` with its parameter ``kernel`` [4, 4, C, C], started as bilinear interpolation."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", lambda key: jnp.asarray(bilinear_kernel(x.shape[-1])))
        return conv_transpose2d(x.astype(self.dtype), kernel.astype(self.dtype))
