"""Each formulation of `models/conv.py` against XLA's plain one and PyTorch's: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcn_jax.models.conv import conv2d, conv_transpose2d, max_pool


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_same(function, reference, *args):
    """Values and gradients (of a random projection) within 1e-5 of the largest."""
    ours, pullback = jax.vjp(jax.jit(function), *args)
    theirs, reference_pullback = jax.vjp(jax.jit(reference), *args)
    assert ours.shape == theirs.shape
    cotangent = normal(*ours.shape, seed=9)
    for a, b in zip((ours, *pullback(cotangent)), (theirs, *reference_pullback(cotangent)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def dilated(x, kernel):
    """The usual transposed convolution: over an input with zeros between its pixels."""
    numbers = ("NHWC", "HWIO", "NHWC")
    pad = ((2, 2), (2, 2))
    return jax.lax.conv_general_dilated(x, kernel[::-1, ::-1], (1, 1), pad, (2, 2), dimension_numbers=numbers)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 8)])
def test_transposed_convolution(size):
    assert_same(conv_transpose2d, dilated, normal(2, *size, 3), normal(4, 4, 3, 5, seed=1))


@pytest.mark.parametrize("size", [(7, 9), (8, 8)])
def test_pooling_and_convolutions_are_pytorchs(size):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    x = normal(2, *size, 3)
    x_torch = torch.from_numpy(x.transpose(0, 3, 1, 2))
    pooled = torch.nn.functional.max_pool2d(x_torch, 3, 2, 1)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), pooled.numpy().transpose(0, 2, 3, 1))
    for shape, stride in (((7, 7), 2), ((3, 3), 1), ((3, 3), 2), ((1, 1), 2), ((5, 1), 1), ((1, 5), 1)):
        kernel = normal(*shape, 3, 4, seed=1)
        weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        padding = (shape[0] // 2, shape[1] // 2)
        expected = torch.nn.functional.conv2d(x_torch, weight, stride=stride, padding=padding)
        ours = conv2d(jnp.asarray(x), jnp.asarray(kernel), stride=stride)
        np.testing.assert_allclose(ours, expected.numpy().transpose(0, 2, 3, 1), atol=1e-5)
