"""Every convolution, transposed convolution and pooling of the network.

The other model files say what is computed; this one says how (`dilated` and `sampling` have what only the decoders of
related work need). All tensors are NHWC, all kernels HWIO.
Padding is explicit and symmetric, ``k // 2`` on each side, as in Caffe and PyTorch: XLA's ``"SAME"`` pads
a stride-2 convolution on the bottom and right alone, which shifts features by a pixel against every
published set of ResNet weights.

Which kernel takes which form, from C channels to D. `_forms` implements it; `xla.select` knows the device:

====================================== ==================================== ====================== ===================
kernel                                 one CPU device                       TPU, one or several    several CPUs
====================================== ==================================== ====================== ===================
1 x 1                                  a matrix product                     the same               the same
k x 1 or 1 x k, stride 1, 4 D <= C     products with all taps, shifted sums strips of rows         as on one CPU
stride 2, C <= 4                       stride 1 over packed 2 x 2 pixels    strips of rows         XLA's own
3 x 3, C and D >= 128, bfloat16        a product for each tap               strips of rows         XLA's own
3 x 3, stride 1, C and D 128 to 512,   Winograd's algorithm                 strips of rows         XLA's own
float32, even sides
others                                 XLA's own, with zeros laid around    strips of rows         XLA's own
4 x 4 transposed, stride 2             2 x 2 around each corner of pixels   3 x 3 around each      as on a TPU
                                                                            pixel
3 x 3 of a refinement, C <= 32,        as others                            over packed 2 x 2      XLA's own
even sides                                                                  pixels
====================================== ==================================== ====================== ===================

A GPU takes XLA's own, which is cuDNN's, except for matrix products and the transposed: with zeros for the channels that
are missing to a multiple of 8, and gradients in the kernel's own order.

The modules are `products`, `cpu` and `winograd`, `tpu` (strips), `gpu`, `packed` (the refinement) and
`plain` (XLA's own). How a form's gradients are computed is said there. `xla.convolutions`, which
``build_model(convolutions="plain")`` sets, turns all of it off: every device then takes XLA's own convolutions, and
JAX's gradients of them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from . import cpu, gpu, plain, products, tpu
from .plain import DENSE, depth_to_space
from .shift import add_shift, sum_to_channels
from .xla import after, apart, is_on_mesh, is_plain, select, traced_once

__all__ = ["Dtype", "Stride", "add_shift", "conv2d", "conv_transpose2d", "max_pool", "scaled_conv2d"]

Dtype = Any
Stride = int | tuple[int, int]  # of rows and columns; a number: of both


class Form(NamedTuple):
    """A way to compute a convolution.

    Attributes:
      convolve: ``(x, kernel, stride) -> y``.
      gradients: ``(x, kernel, dy, stride) -> (dx, kernel's gradient)``.
    """

    convolve: Callable[..., jax.Array]
    gradients: Callable[..., tuple[jax.Array, jax.Array]]


def _differentiated(convolve: Callable[..., jax.Array]) -> Form:
    """With the gradients that JAX makes of a form."""

    def gradients(x, kernel, dy, stride):
        return jax.vjp(functools.partial(convolve, stride=stride), x, kernel)[1](dy)

    return Form(convolve, gradients)


def _of_gpu(convolve: Callable[..., jax.Array]) -> Form:
    """With these gradients, the kernel's laid out as the kernel is."""
    form = _differentiated(convolve)

    def gradients(x, kernel, dy, stride):
        dx, kernel_gradient = form.gradients(x, kernel, dy, stride)
        return dx, gpu.in_own_order(kernel_gradient)

    return Form(convolve, gradients)


_PRODUCT = Form(products.convolve_1x1, products.gradients_1x1)
_LONG = Form(products.convolve_long, products.gradients_long)
_ONE_CPU = Form(cpu.convolve, cpu.gradients)
_PAIRS, _STRIPS, _XLA_OWN = (_differentiated(form) for form in (cpu.convolve_pairs, tpu.convolve, plain.convolve))
_CUDNN, _CUDNN_BY_EIGHTS = (_of_gpu(form) for form in (plain.convolve, gpu.convolve))


def _forms(kernel: jax.Array, stride: tuple[int, int]) -> dict[str, Form]:
    """The table above, except for the choice within `cpu`: the arguments of `select`."""
    kh, kw, c, d = kernel.shape
    if kh == kw == 1:
        return {"one_cpu": _PRODUCT, "tpu": _PRODUCT, "elsewhere": _PRODUCT}
    if stride == DENSE and 1 in (kh, kw) and 4 * d <= c:
        return {"one_cpu": _LONG, "tpu": _STRIPS, "gpu": _CUDNN_BY_EIGHTS, "elsewhere": _LONG}
    if stride == (2, 2) and c <= 4:
        return {"one_cpu": _PAIRS, "tpu": _STRIPS, "gpu": _CUDNN, "elsewhere": _XLA_OWN}
    return {"one_cpu": _ONE_CPU, "tpu": _STRIPS, "gpu": _CUDNN_BY_EIGHTS, "elsewhere": _XLA_OWN}


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
    if is_plain():
        return plain.convolve(x, kernel, stride)
    if kernel.shape[:2] == (1, 1):
        x = x if stride == DENSE else apart(x[:, :: stride[0], :: stride[1]])
        return _conv2d(x, kernel, DENSE)
    return _conv2d(x, kernel, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv2d(x: jax.Array, kernel: jax.Array, stride: tuple[int, int]) -> jax.Array:
    forms = {device: form.convolve for device, form in _forms(kernel, stride).items()}
    return select(x, kernel, **forms, stride=stride)


def _conv2d_forward(x: jax.Array, kernel: jax.Array, stride: tuple[int, int]):
    return _conv2d(x, kernel, stride), (x, kernel)


def _conv2d_backward(
    stride: tuple[int, int], saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    forms = {device: form.gradients for device, form in _forms(saved[1], stride).items()}
    return select(*saved, dy, **forms, stride=stride)


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def scaled_conv2d(x: jax.Array, kernel: jax.Array, scale: jax.Array, stride: Stride) -> jax.Array:
    """`conv2d` times scale, [D], in x's dtype; kernel and scale are float32.

    The scale's gradient is a sum over the kernel, not over all pixels of two maps. A CPU scales the result, and so
    reads the kernel once. Elsewhere the kernel is scaled: a TPU would keep the result in float32 beside its product.
    """
    return (_scale_result if is_plain() else _scaled_conv2d)(x, kernel, scale, stride)


def _scale_result(x: jax.Array, kernel: jax.Array, scale: jax.Array, stride: Stride) -> jax.Array:
    return _scaled(conv2d(x, kernel.astype(x.dtype), stride=stride), scale)


def _scale_kernel(x: jax.Array, kernel: jax.Array, scale: jax.Array, stride: Stride) -> jax.Array:
    return conv2d(x, _scaled(kernel, scale).astype(x.dtype), stride=stride)


def _scaled(y: jax.Array, scale: jax.Array) -> jax.Array:
    return (y * scale[(None,) * (y.ndim - 1)]).astype(y.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
@functools.partial(traced_once, static_argnums=3)
def _scaled_conv2d(x: jax.Array, kernel: jax.Array, scale: jax.Array, stride: Stride) -> jax.Array:
    return select(x, kernel, scale, one_cpu=_scale_result, elsewhere=_scale_kernel, stride=stride)


def _scaled_conv2d_forward(x: jax.Array, kernel: jax.Array, scale: jax.Array, stride: Stride):
    return _scaled_conv2d(x, kernel, scale, stride), (x, kernel, scale)


@functools.partial(traced_once, static_argnums=0)
def _scaled_conv2d_backward(
    stride: Stride, saved: tuple[jax.Array, jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, kernel, scale = saved
    scaled = _scaled(kernel, after(scale, dy))
    (dx,) = jax.vjp(lambda x: conv2d(x, scaled.astype(x.dtype), stride=stride), x)[1](dy)
    (sums,) = jax.vjp(lambda kernel: conv2d(x, kernel, stride=stride), kernel.astype(x.dtype))[1](dy)
    sums = sums.astype(kernel.dtype)
    scale_gradient = sum_to_channels(sums * kernel)
    if kernel.size >= cpu.LARGE:  # the optimizer changes a kernel in place: XLA would copy it if a use could follow
        scale = after(after(scale, dx), scale_gradient)
    return dx, _scaled(sums, scale), scale_gradient


_scaled_conv2d.defvjp(_scaled_conv2d_forward, _scaled_conv2d_backward)


def conv_transpose2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed 2-D convolution ("deconvolution") of stride 2, padding 1: the adjoint of a strided convolution.

    ``y[2 i + a - 1] += x[i] kernel[a]`` for each tap a, in both axes, as Caffe's ``Deconvolution`` and
    PyTorch's ``ConvTranspose2d(kernel_size=4, stride=2, padding=1)``.

    The usual form, a convolution over an input dilated with zeros, is slow on CPU; and under spatial partitioning XLA
    (jax 0.10.2) computes its kernel's gradient wrongly, as it does for any convolution whose rows do not divide evenly
    over the devices. So on a mesh not even `is_plain` takes it.

    Args:
      x: [B, H, W, C].
      kernel: [4, 4, C, D].

    Returns:
      [B, 2 H, 2 W, D], in x's dtype.
    """
    assert kernel.shape[:2] == (4, 4), kernel.shape
    if is_plain() and not is_on_mesh(x):
        return plain.convolve_transposed(x, kernel)
    return select(x, kernel, one_cpu=_transposed_by_corner, elsewhere=_transposed_by_pixel)


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


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum of stride 2, padding 1: [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C].

    By maxima of shifted pixels along each axis, on every device. The gradient of XLA's own is a scatter, which is slow
    on a CPU (64 channels, 256x256: 134 -> 45 ms with the maxima), and whose sums a GPU adds up in any order.
    """
    for axis in (1, 2):
        length = -(-x.shape[axis] // 2)
        padding = [(0, 0)] * 4
        padding[axis] = (1, 2 * length - x.shape[axis])
        filled = jnp.pad(x, padding, constant_values=-jnp.inf)
        first, second, third = (jax.lax.slice_in_dim(filled, i, i + 2 * length - 1, 2, axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(first, second), third)
    return x


def _replicated(kernel: jax.Array, like: jax.Array) -> jax.Array:
    """Keeps a kernel whole on each device of the mesh that holds the images.

    Otherwise XLA (jax 0.10 and 0.12) may split a kernel that is computed, even one that is only cast to bfloat16, and
    then computes a 3x3 convolution of stride 2 wrongly.
    """
    if not is_on_mesh(like):
        return kernel
    mesh = jax.typeof(like).sharding.mesh
    return jax.lax.with_sharding_constraint(kernel, NamedSharding(mesh, PartitionSpec()))
