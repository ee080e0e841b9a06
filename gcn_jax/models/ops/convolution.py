"""Every convolution, transposed convolution and pooling of the network.

The other model files say what is computed; this one says how. All tensors are NHWC, all kernels HWIO.
Padding is explicit and symmetric, ``k // 2`` on each side, as in Caffe and PyTorch: XLA's ``"SAME"`` pads
a stride-2 convolution on the bottom and right alone, which shifts features by a pixel against every
published set of ResNet weights.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gcn_jax.models.ops import cpu as one_cpu
from gcn_jax.models.ops import plain as pixels
from gcn_jax.models.ops import tpu as strips
from gcn_jax.models.ops.plain import DENSE, depth_to_space, shifts, space_to_depth
from gcn_jax.models.ops.xla import after, by_platform, on_one_cpu, once, traced_once

Dtype = Any
Stride = int | tuple[int, int]  # of rows and columns; a number: of both
_LARGE = 2**16  # numbers of a kernel


@functools.partial(traced_once, static_argnames="stride")
def conv2d(x: jax.Array, kernel: jax.Array, *, stride: Stride = 1) -> jax.Array:
    """2-D convolution with symmetric zero padding.

    Args:
      x: [B, H, W, C].
      kernel: [kh, kw, C, D], kh and kw odd.
      stride: of rows and columns.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), D], in x's dtype.
    """
    stride = (stride, stride) if isinstance(stride, int) else stride
    kernel = _replicated(kernel, like=x)
    if kernel.shape[:2] == (1, 1):
        return _product(x[:, :: stride[0], :: stride[1]], kernel[0, 0])
    conv = functools.partial(_conv2d, stride=stride)
    if stride == DENSE and 1 in kernel.shape[:2] and 4 * kernel.shape[3] <= kernel.shape[2]:
        return by_platform(x, kernel, tpu=conv, default=_long_conv)
    if stride == (2, 2) and x.shape[3] <= 4:
        return on_one_cpu(one_cpu.convolve_pairs, conv, x, kernel)
    return conv(x, kernel)


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 1x1 convolution: [B, H, W, C] and [C, D] -> [B, H, W, D]."""
    return _einsum("bhwc,cd->bhwd", x, kernel)


def _product_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved

    def fewer_first(x, dy):
        """On a CPU the kernel's gradient is faster with the fewer channels first; 1024 to 256: 4.7 -> 3.2 ms."""
        if x.shape[-1] <= dy.shape[-1]:
            return _einsum("bhwc,bhwd->cd", x, dy)
        return once(_einsum("bhwd,bhwc->dc", dy, x)).T

    kernel_gradient = on_one_cpu(fewer_first, functools.partial(jnp.einsum, "bhwc,bhwd->cd"), x, dy)
    return _einsum("bhwd,cd->bhwc", dy, kernel), kernel_gradient


def _einsum(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """`jnp.einsum`. On a CPU one of bfloat16 is summed to float32 and then rounded: XLA has a fast product for that."""

    def in_float32(x, y):
        return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32).astype(x.dtype)

    plain = functools.partial(jnp.einsum, equation)
    return plain(x, y) if x.dtype == jnp.float32 else on_one_cpu(in_float32, plain, x, y)


_product.defvjp(lambda x, kernel: (_product(x, kernel), (x, kernel)), _product_backward)


@jax.custom_vjp
def _long_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A k x 1 or 1 x k convolution to few channels: each pixel's products with all taps first, then shifted sums.

    One product to k D channels keeps a matrix unit busy; D alone would not, and XLA moves as many copies of x as there
    are taps. On CPU, 128x128, 15x1, 256 to 21 channels: 65 -> 30 ms.
    """
    taps = _taps_as_channels(kernel)
    taps = jnp.pad(taps, ((0, 0), (0, -taps.shape[1] % 8)))  # 315 to 320: 23 -> 18 ms of it
    products = jnp.einsum("bhwc,cn->bhwn", x, taps, preferred_element_type=jnp.float32)
    kh, kw, _, d = kernel.shape
    terms = [shift[..., i * d : (i + 1) * d] for i, shift in enumerate(shifts(products, kh, kw))]
    return functools.reduce(jnp.add, terms).astype(x.dtype)


def _taps_as_channels(kernel: jax.Array) -> jax.Array:
    """[kh, kw, C, D] -> [C, kh kw D]."""
    return jnp.moveaxis(kernel, 2, 0).reshape(kernel.shape[2], -1)


def _long_conv_forward(x: jax.Array, kernel: jax.Array):
    return _long_conv(x, kernel), (x, kernel)


def _long_conv_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    kh, kw, c, d = kernel.shape
    shifted = jnp.concatenate(shifts(dy, kh, kw)[::-1], axis=-1)
    dx = _einsum("bhwn,cn->bhwc", shifted, _taps_as_channels(kernel))
    sums = jnp.einsum("bhwc,bhwn->cn", x, shifted, preferred_element_type=jnp.float32)
    return dx, jnp.moveaxis(sums.reshape(c, kh, kw, d), 0, 2).astype(kernel.dtype)


_long_conv.defvjp(_long_conv_forward, _long_conv_backward)


def _as_elsewhere(x: jax.Array, kernel: jax.Array, stride: tuple[int, int]) -> jax.Array:
    """Where not one CPU device computes: XLA's own convolution, on a TPU that of strips."""
    on_tpu, elsewhere = (functools.partial(form, stride=stride) for form in (strips.convolve, pixels.convolve))
    return by_platform(x, kernel, tpu=on_tpu, default=elsewhere)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
@functools.partial(traced_once, static_argnums=3)
def _scaled_conv2d(x: jax.Array, kernel: jax.Array, scale: jax.Array, stride: Stride) -> jax.Array:
    """`conv2d` times scale, [D]. The scale's gradient is a sum over the kernel, not over all pixels of two maps.

    A CPU scales the result, and so reads the kernel once. Elsewhere the kernel is scaled: a TPU would keep the result
    in float32 beside its product.
    """

    def scaled_result(x, kernel, scale):
        return _scaled(conv2d(x, kernel.astype(x.dtype), stride=stride), scale)

    def scaled_kernel(x, kernel, scale):
        return conv2d(x, _scaled(kernel, scale).astype(x.dtype), stride=stride)

    return on_one_cpu(scaled_result, scaled_kernel, x, kernel, scale)


def _scaled(y: jax.Array, scale: jax.Array) -> jax.Array:
    return (y * scale[(None,) * (y.ndim - 1)]).astype(y.dtype)


def _scaled_conv2d_forward(x: jax.Array, kernel: jax.Array, scale: jax.Array, stride: Stride):
    return _scaled_conv2d(x, kernel, scale, stride), (x, kernel, scale)


@functools.partial(traced_once, static_argnums=0)
def _scaled_conv2d_backward(
    stride: Stride, saved: tuple[jax.Array, jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, kernel, scale = saved
    scaled = _scaled(kernel, after(scale, dy))
    (dx,) = jax.vjp(lambda x: conv2d(x, scaled.astype(x.dtype), stride=stride), x)[1](dy)
    (sums,) = jax.vjp(lambda kernel: conv2d(x, kernel.astype(x.dtype), stride=stride), kernel)[1](dy)
    scale_gradient = _sum_to_channels(sums * kernel)
    if kernel.size >= _LARGE:  # the optimizer changes the kernel in place: after its last use, else XLA copies it first
        scale = after(after(scale, dx), scale_gradient)
    return dx, _scaled(sums, scale), scale_gradient


_scaled_conv2d.defvjp(_scaled_conv2d_forward, _scaled_conv2d_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv2d(x: jax.Array, kernel: jax.Array, stride: tuple[int, int]) -> jax.Array:
    ours, plain = (functools.partial(form, stride=stride) for form in (one_cpu.convolve, _as_elsewhere))
    return on_one_cpu(ours, plain, x, kernel)


def _conv2d_forward(x: jax.Array, kernel: jax.Array, stride: tuple[int, int]):
    return _conv2d(x, kernel, stride), (x, kernel)


def _conv2d_backward(
    stride: tuple[int, int], saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def ours(x, kernel, dy):
        kernel_gradient = one_cpu.kernel_gradient(after(x, dy), kernel, dy, stride)
        if kernel.size < _LARGE:  # one after the other: between few channels the copies for each are large
            kernel = after(kernel, kernel_gradient)
        return one_cpu.input_gradient(x, kernel, dy, stride), kernel_gradient

    def plain(x, kernel, dy):
        return jax.vjp(functools.partial(_as_elsewhere, stride=stride), x, kernel)[1](dy)

    return on_one_cpu(ours, plain, *saved, dy)


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def conv_transpose2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed 2-D convolution ("deconvolution") of stride 2, padding 1: the adjoint of a strided convolution.

    ``y[2 i + a - 1] += x[i] kernel[a]`` for each tap a, in both axes, as Caffe's ``Deconvolution`` and
    PyTorch's ``ConvTranspose2d(kernel_size=4, stride=2, padding=1)``.

    The usual form, a convolution over an input dilated with zeros, is slow on CPU; and under spatial partitioning XLA
    (jax 0.10.2) computes its kernel's gradient wrongly, as it does for any convolution whose rows do not divide evenly
    over the devices.

    Args:
      x: [B, H, W, C].
      kernel: [4, 4, C, D].

    Returns:
      [B, 2 H, 2 W, D], in x's dtype.
    """
    assert kernel.shape[:2] == (4, 4), kernel.shape
    return on_one_cpu(_transposed_by_corner, _transposed_by_pixel, x, kernel)


def _transposed_by_pixel(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """As a 3x3 convolution to the 2x2 outputs that lie at each pixel of x, which are then laid out in space."""
    c, d = kernel.shape[2:]
    # Output 2 i + r takes input i + 1 - j by tap 2 j + r - 1, for j of 0, 1, 2: taps -1 and 4 are zero.
    taps = jnp.pad(kernel, ((1, 1), (1, 1), (0, 0), (0, 0))).reshape(3, 2, 3, 2, c, d)[::-1, :, ::-1]
    return depth_to_space(conv2d(x, taps.transpose(0, 2, 4, 1, 3, 5).reshape(3, 3, c, 4 * d)))


def _transposed_by_corner(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """As a 2x2 convolution to the 2x2 outputs around each corner of x's pixels: fewer products, but an odd map.

    On CPU, 256x256, 21 channels, forward and backward: 107 -> 58 ms.
    """
    c, d = kernel.shape[2:]
    # Outputs 2 p - 1 + r, for r of 0, 1, take input p - j by tap 2 j + r.
    taps = kernel.reshape(2, 2, 2, 2, c, d)[::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5)
    return depth_to_space(_conv2d(x, taps.reshape(2, 2, c, 4 * d), DENSE))[:, 1:-1, 1:-1]


@traced_once
def refine(x: jax.Array, kernel1: jax.Array, shift1: jax.Array, kernel2: jax.Array, shift2: jax.Array) -> jax.Array:
    """``x + conv(relu(conv(x)))`` by two 3x3 convolutions with shifts: [B, H, W, C] -> the same.

    A TPU pads channels to 128: there it takes 2x2 pixels of up to 32 channels for one of four times as many, which are
    a quarter of the bytes. `conv_transpose2d` makes them in that order.
    """

    def plain(x, kernel1, shift1, kernel2, shift2):
        return x + add_shift(conv2d(nn.relu(add_shift(conv2d(x, kernel1), shift1)), kernel2), shift2)

    if x.shape[3] > 32 or x.shape[1] % 2 or x.shape[2] % 2:
        return plain(x, kernel1, shift1, kernel2, shift2)
    return by_platform(x, kernel1, shift1, kernel2, shift2, tpu=refine_packed, default=plain)


def refine_packed(
    x: jax.Array, kernel1: jax.Array, shift1: jax.Array, kernel2: jax.Array, shift2: jax.Array
) -> jax.Array:
    """`refine` with 2x2 pixels as channels."""
    x = space_to_depth(x)
    y = nn.relu(conv2d(x, _packed(kernel1)) + jnp.tile(shift1, 4)[None, None, None])
    return depth_to_space(x + conv2d(y, _packed(kernel2)) + jnp.tile(shift2, 4)[None, None, None])


def _packed(kernel: jax.Array) -> jax.Array:
    """The kernel that does to 2x2 pixels as channels what the given one does to pixels.

    [3, 3, C, D] -> [3, 3, (2, 2, C), (2, 2, D)]. Of the 6 rows in 3 packed ones, output row r takes 1 + r to 3 + r.
    """
    c, d = kernel.shape[2:]
    rows = np.zeros((3, 2, 2, 3), np.float32)  # [packed tap, row within, row of the output, tap]
    for row, tap in np.ndindex(2, 3):
        rows[(1 + row + tap) // 2, (1 + row + tap) % 2, row, tap] = 1
    taps = np.einsum("iapu,jbqv->ijabpquv", rows, rows).reshape(9, 4, 4, 9)
    kernel = jnp.einsum(
        "nabt,tcd->nacbd", taps.astype(kernel.dtype), kernel.reshape(9, c, d), precision=jax.lax.Precision.HIGHEST
    )
    return kernel.reshape(3, 3, 4 * c, 4 * d)


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum of stride 2, padding 1: [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C].

    By maxima of shifted pixels along each axis. The gradient of XLA's own is a scatter, which is slow on a CPU (64
    channels, 256x256: 134 -> 45 ms with the maxima), and whose sums a GPU adds up in any order.
    """
    for axis in (1, 2):
        length = -(-x.shape[axis] // 2)
        padding = [(0, 0)] * 4
        padding[axis] = (1, 2 * length - x.shape[axis])
        padded = jnp.pad(x, padding, constant_values=-jnp.inf)
        first, second, third = (jax.lax.slice_in_dim(padded, i, i + 2 * length - 1, 2, axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(first, second), third)
    return x


@jax.custom_vjp
def add_shift(x: jax.Array, shift: jax.Array) -> jax.Array:
    """Adds a number to each channel: [B, H, W, C] + [C]."""
    return x + shift[None, None, None]


@traced_once
def _shift_gradient(_: None, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return dy, _sum_to_channels(dy).astype(dy.dtype)


def _sum_to_channels(x: jax.Array) -> jax.Array:
    """[..., C] -> float32 [C].

    On a CPU a matrix product with ones over about the root of the rows (32x32, 1024 channels: 2.3 -> 0.1 ms) and a sum
    over the others; a product over all of them would be no faster and lose digits.
    """

    def as_product(x):
        channels = x.shape[-1]
        count = x.size // channels
        rows = next(n for n in range(max(math.isqrt(count), 1), 0, -1) if count % n == 0)
        ones = jnp.ones(rows, x.dtype)
        sums = jnp.einsum("r,rn->n", ones, x.reshape(rows, -1), preferred_element_type=jnp.float32)
        return jnp.sum(sums.reshape(-1, channels), axis=0)

    def as_sum(x):
        return jnp.sum(x, axis=tuple(range(x.ndim - 1)), dtype=jnp.float32)

    return on_one_cpu(as_product, as_sum, x)


add_shift.defvjp(lambda x, shift: (add_shift(x, shift), None), _shift_gradient)


def _replicated(kernel: jax.Array, like: jax.Array) -> jax.Array:
    """Keeps a kernel whole on each device of the mesh that holds the images.

    Else XLA (jax 0.10 and 0.12) may split one that is computed, if only cast to bfloat16, and then computes a 3x3
    convolution of stride 2 wrongly.
    """
    mesh = jax.typeof(like).sharding.mesh
    if mesh.size <= 1:
        return kernel
    return jax.lax.with_sharding_constraint(kernel, NamedSharding(mesh, PartitionSpec()))
