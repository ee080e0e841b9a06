"""Every convolution, transposed convolution and pooling of the network.

The other model files say what is computed; this one says how. All tensors are NHWC, all kernels HWIO.
Padding is explicit and symmetric, ``k // 2`` on each side, as in Caffe and PyTorch: XLA's ``"SAME"`` pads
a stride-2 convolution on the bottom and right alone, which shifts features by a pixel against every
published set of ResNet weights.
"""

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
    kh, kw = kernel.shape[:2]
    padding = ((kh // 2, kh // 2), (kw // 2, kw // 2))
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_DIMENSIONS)


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


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum of stride 2, padding 1: [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C]."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


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
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel_init = nn.initializers.variance_scaling(self.gain, "fan_in", "normal")
        kernel = self.param("kernel", kernel_init, (*self.kernel_size, x.shape[-1], self.features))
        y = conv2d(x.astype(self.dtype), kernel.astype(self.dtype), stride=self.stride)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y += bias.astype(self.dtype)[None, None, None]
        return y


class ConvTranspose(nn.Module):
    """`conv_transpose2d` with its parameter ``kernel`` [4, 4, C, C], started as bilinear interpolation."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", lambda key: jnp.asarray(bilinear_kernel(x.shape[-1])))
        return conv_transpose2d(x.astype(self.dtype), kernel.astype(self.dtype))
