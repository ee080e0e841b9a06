"""Layers with parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .ops.convolution import Dtype, Stride, add_shift, conv2d, conv_transpose2d, scaled_conv2d
from .ops.packed import BiasedConv


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
    stride: Stride = 1
    use_bias: bool = False
    dtype: Dtype = jnp.float32
    gain: float = 2.0

    @nn.compact
    def weights(self, channels: int) -> tuple[jax.Array, jax.Array | None]:
        """The kernel for this number of input channels, and the bias if there is one: float32."""
        kernel_init = nn.initializers.variance_scaling(self.gain, "fan_in", "normal")
        kernel = self.param("kernel", kernel_init, (*self.kernel_size, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        return kernel, bias

    def with_weights(self, channels: int) -> BiasedConv:
        """The convolution as a function of an image with this number of channels; it has stride 1 and a bias."""
        assert self.stride == 1, self
        kernel, bias = self.weights(channels)
        assert bias is not None, self
        return BiasedConv(kernel.astype(self.dtype), bias.astype(self.dtype))

    def __call__(self, x: jax.Array, scale: jax.Array | None = None, shift: jax.Array | None = None) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features]: convolved, times scale, plus shift."""
        kernel, bias = self.weights(x.shape[-1])
        x = x.astype(self.dtype)
        if scale is None:
            y = conv2d(x, kernel.astype(self.dtype), stride=self.stride)
        else:
            y = scaled_conv2d(x, kernel, scale, self.stride)
        shift = bias if shift is None else shift
        return y if shift is None else add_shift(y, shift.astype(self.dtype))


class ConvTranspose(nn.Module):
    """`conv_transpose2d` with its parameter ``kernel`` [4, 4, C, C], which starts as bilinear interpolation."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", lambda key: jnp.asarray(bilinear_kernel(x.shape[-1])))
        return conv_transpose2d(x.astype(self.dtype), kernel.astype(self.dtype))
