"""Layers with parameters."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .ops.convolution import Dtype, Stride, add_shift, conv2d, conv_transpose2d, scaled_conv2d
from .ops.dilated import depthwise_conv2d, dilated_conv2d
from .ops.packed import BiasedConv
from .ops.sampling import overlap_add


def bilinear_kernel(channels: int) -> np.ndarray:
    """The kernel with which `conv_transpose2d` interpolates bilinearly, channel by channel: float32 [4, 4, C, C]."""
    taps = np.array([0.25, 0.75, 0.75, 0.25], np.float32)
    return np.einsum("h,w,cd->hwcd", taps, taps, np.eye(channels, dtype=np.float32))


class Conv(nn.Module):
    """`conv2d` with its parameters: ``kernel`` [kh, kw, C, features] and, if asked for, ``bias`` [features].

    The kernel starts normally distributed with variance ``gain / (kh kw C)``: 2 before a ReLU (He et al., 2015), 1
    where none follows, 0 for zeros. The bias starts at 0. The taps are `dilation` pixels apart; then the stride is 1.
    """

    features: int
    kernel_size: tuple[int, int]
    stride: Stride = 1
    use_bias: bool = False
    dtype: Dtype = jnp.float32
    gain: float = 2.0
    dilation: int = 1

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
        if self.dilation != 1:
            kernel = kernel if scale is None else kernel * scale[None, None, None]
            y = dilated_conv2d(x, kernel.astype(self.dtype), self.dilation)
        elif scale is None:
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


class Norm(nn.Module):
    """Batch normalisation with fixed statistics ("frozen") or those of the global batch ("train").

    Scale and bias are learnt in both. Frozen is the default, since the statistics of one image are poor (our choice;
    the paper does not say). In "train" the running statistics follow the batch's; under jit with a sharded batch these
    are taken over the whole batch, on all devices.

    Attributes:
      initial_scale: where the scale starts.
      momentum: of the running statistics; 0: they are the last batch's.
    """

    mode: str = "frozen"
    initial_scale: float = 1.0
    momentum: float = 0.9

    @nn.compact
    def __call__(self, features: int, x: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """The scale and the shift that normalise, float32 [features].

        Args:
          features: channels.
          x: [B, H, W, features], whose statistics are used, and which the running ones follow; None: use the running
            ones.
        """
        scale = self.param("scale", nn.initializers.constant(self.initial_scale), (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,))
        mean, var = running_mean.value, running_var.value
        if x is not None:
            if self.momentum and x.size == features and not self.is_initializing():
                raise ValueError("norm='train' needs more than one value a channel: a batch of more images")
            mean = jnp.mean(x, axis=(0, 1, 2), dtype=jnp.float32)
            var = jnp.mean(jnp.square(x.astype(jnp.float32) - mean[None, None, None]), axis=(0, 1, 2))
            if not self.is_initializing():
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
        if x is None and self.has_variable("folded", "scale"):  # by the caller, for all norms at once
            return self.get_variable("folded", "scale"), self.get_variable("folded", "shift")
        return folded(scale, bias, mean, var)


def folded(scale: jax.Array, bias: jax.Array, mean: jax.Array, var: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A norm as one scale and one shift: all are float32 [n], of one norm or of many one after the other."""
    scale = scale * jax.lax.rsqrt(var + 1e-5)
    return scale, bias - mean * scale


def normalized(conv: Conv, norm: Norm, x: jax.Array, train: bool) -> jax.Array:
    """Convolves and normalises: fixed statistics are the convolution's scale and shift."""
    if not (train and norm.mode == "train"):
        return conv(x, *norm(conv.features, None))
    y = conv(x)
    scale, shift = norm(conv.features, y)
    return y * scale.astype(y.dtype)[None, None, None] + shift.astype(y.dtype)[None, None, None]


class ConvNormRelu(nn.Module):
    """A convolution without bias, `Norm` and ReLU.

    Attributes:
      features, kernel_size, dilation, dtype: see `Conv`.
      norm: "frozen" or "train", see `Norm`.
      momentum: see `Norm`.
    """

    features: int
    kernel_size: tuple[int, int]
    norm: str = "frozen"
    momentum: float = 0.9
    dilation: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, features]."""
        conv = Conv(self.features, self.kernel_size, dilation=self.dilation, dtype=self.dtype, name="conv")
        return nn.relu(normalized(conv, Norm(self.norm, momentum=self.momentum, name="norm"), x, train))


class IdentityConv(nn.Module):
    """A 3x3 or 1x1 convolution with bias that starts as the identity of each class (Yu and Koltun, ICLR 2016).

    Attributes:
      features: channels, a multiple of classes.
      kernel_size: both sides are odd.
      classes: channel c, of the input as of the result, belongs to class c modulo classes: our order, in which a class
        is added or left out as in all other decoders.
      dilation: see `Conv`.
      dtype: of the computation.
    """

    features: int
    kernel_size: tuple[int, int]
    classes: int
    dilation: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, features]; C a multiple of classes, too."""

        def initial(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jnp.asarray(identity_kernel(shape, self.classes, jax.random.normal(key, shape)))

        kernel = self.param("kernel", initial, (*self.kernel_size, x.shape[-1], self.features)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        x = x.astype(self.dtype)
        dilated = self.dilation != 1
        return add_shift(dilated_conv2d(x, kernel, self.dilation) if dilated else conv2d(x, kernel), bias)


def identity_kernel(shape: tuple[int, ...], classes: int, noise: Any) -> Any:
    """The kernel with which `IdentityConv` starts: float32 [kh, kw, C, D].

    The centre takes the sum over the channels of the same class times classes / D. As in the authors' code all else is
    normal, of standard deviation 0.01 classes / D, where layers have more than one channel a class, and otherwise 0.

    Args:
      shape: of the kernel.
      classes: see `IdentityConv`.
      noise: standard normal, of this shape.
    """
    rows, columns, inputs, outputs = shape
    same = (np.arange(inputs) % classes)[:, None] == np.arange(outputs) % classes
    centre = np.zeros(shape, bool)
    centre[rows // 2, columns // 2] = same
    spread = 0.01 * (max(inputs, outputs) > classes)
    return np.float32(classes / outputs) * (centre + np.float32(spread) * noise * ~centre)


class DepthwiseConv(nn.Module):
    """`depthwise_conv2d` with its parameters: ``kernel`` [kh, kw, 1, C] and ``bias`` [C]; it starts like `Conv`."""

    kernel_size: tuple[int, int]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        kernel = self.param("kernel", kernel_init, (*self.kernel_size, 1, x.shape[-1]))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return add_shift(depthwise_conv2d(x.astype(self.dtype), kernel.astype(self.dtype)), bias.astype(self.dtype))


class Reconstruction(nn.Module):
    """Scores as sums of fixed patterns of 8 x 8 pixels, each at its place, 4 pixels apart, and of one class.

    The patterns are no parameters: ``patterns`` [8, 8, count, classes] of the collection "batch_stats". They start as
    `cosine_patterns`.
    """

    classes: int
    count: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Coefficients [B, H, W, count * classes], those of one pattern side by side, -> [B, 4 H, 4 W, classes]."""
        start = lambda: jnp.asarray(cosine_patterns(self.count, self.classes))  # noqa: E731
        patterns = self.variable("batch_stats", "patterns", start).value.astype(x.dtype)
        x = x.reshape(*x.shape[:-1], self.count, self.classes)
        return overlap_add(jnp.einsum("bhwkc,ijkc->bhwijc", x, patterns))


def cosine_patterns(count: int, classes: int) -> np.ndarray:
    """The smoothest of the two-dimensional cosines over 8 x 8 pixels, the same for all classes.

    Returns:
      float32 [8, 8, count, classes]; the squares of each pattern add up to 1.
    """
    waves = np.cos(np.pi * np.arange(8) * (np.arange(8)[:, None] + 0.5) / 8)
    waves /= np.linalg.norm(waves, axis=0)
    places = sorted(((u, v) for u in range(8) for v in range(8)), key=lambda place: (sum(place), place))
    patterns = np.stack([np.outer(waves[:, u], waves[:, v]) for u, v in places[:count]], axis=-1)
    return np.repeat(patterns[..., None], classes, axis=-1).astype(np.float32)


class L2Norm(nn.Module):
    """Each pixel's channels divided by their Euclidean norm, times a learnt ``scale`` [C]."""

    initial_scale: float = 10.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]; computed in float32."""
        scale = self.param("scale", nn.initializers.constant(self.initial_scale), (x.shape[-1],))
        squares = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
        return (x * jax.lax.rsqrt(squares + 1e-10) * scale[None, None, None]).astype(x.dtype)
