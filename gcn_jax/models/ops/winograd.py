"""3x3 convolutions by Winograd's minimal algorithm F(m x m, 3x3) (Lavin and Gray, CVPR 2016).

    y = A [(G g G') * (B d B')] A'

d is a tile of n = m + 2 rows and columns of the image, one at every m-th, g the kernel, y m x m pixels of the result,
and ``*`` multiplies number by number: n n products in place of 9 m m, 16 for 36 (m = 2) or 36 for 144 (m = 4). Over all
channels each of them is a matrix product. The kernel's gradient is the same by the transposed matrices. Errors in
float32 are 1e-6 (m = 2) and 3e-6 (m = 4) of the largest value.

A transform by M from both sides is one product with the Kronecker product of M with itself.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from .xla import after

# Where the polynomials that stand for tile and kernel are evaluated, besides at infinity. Those of m = 4 are our
# choice: the usual 0, 1, -1, 2, -2 have four times the error.
_POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))}


@functools.cache
def _matrices(m: int) -> list[np.ndarray]:
    """A [m, n], G [n, 3] and B [n, n] by Toom and Cook: values at points, products of values, and interpolation.

    Each as its Kronecker product with itself.
    """

    def values(degree: int) -> np.ndarray:
        finite = np.vander(_POINTS[m], degree, increasing=True)
        return np.concatenate([finite, np.eye(degree)[-1:]])

    slopes = [np.prod([a - b for b in _POINTS[m] if b != a]) for a in _POINTS[m]] + [1.0]
    interpolation = np.linalg.inv(values(m + 2)).T
    matrices = values(m).T, values(3) / np.array(slopes)[:, None], interpolation * np.array(slopes)[:, None]
    return [np.kron(matrix, matrix).astype(np.float32) for matrix in matrices]


def convolve(x: jax.Array, kernel: jax.Array, m: int) -> jax.Array:
    """A convolution of stride 1 with zeros around: [B, H, W, C] and [3, 3, C, D] -> [B, H, W, D].

    Args:
      x: H and W multiples of m.
      kernel: from x's number of channels.
      m: 2 or 4.
    """
    batch, height, width, _ = x.shape
    a, g, b = _matrices(m)
    # Without `after` XLA transforms all kernels before the first convolution, and keeps them.
    kernel_tiles = _transformed(after(jnp.asarray(g), x), kernel.reshape(9, *kernel.shape[2:]))
    products = jnp.einsum("tnc,tcd->tnd", _transformed(b, _tiles(x, m)), kernel_tiles)
    y = _transformed(a, products).reshape(m, m, batch, height // m, width // m, -1)
    return y.transpose(2, 3, 0, 4, 1, 5).reshape(batch, height, width, -1)


def kernel_gradient(x: jax.Array, dy: jax.Array, m: int) -> jax.Array:
    """The gradient of `convolve` with respect to the kernel: [3, 3, C, D]."""
    batch, height, width, d = dy.shape
    a, g, b = _matrices(m)
    dy = dy.reshape(batch, height // m, m, width // m, m, d).transpose(2, 4, 0, 1, 3, 5).reshape(m * m, -1, d)
    sums = jnp.einsum("tnc,tnd->tcd", _transformed(b, _tiles(x, m)), _transformed(a.T, dy))
    return _transformed(g.T, sums).reshape(3, 3, *sums.shape[1:])


def _tiles(x: jax.Array, m: int) -> jax.Array:
    """[B, H, W, C] -> [n n, B H/m W/m, C]: n x n pixels, row by row, around each m x m.

    Each is a block of m x m and the first two rows and columns of the blocks beyond. That makes few copies: a slice for
    each of n n pixels would make thousands of kernels in a program, which take 5 s to load.
    """
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (1, m - 1), (1, m - 1), (0, 0)))
    blocks = x.reshape(batch, height // m + 1, m, width // m + 1, m, channels).transpose(2, 4, 0, 1, 3, 5)
    rows = jnp.concatenate([blocks[:, :, :, :-1], blocks[:2, :, :, 1:]], axis=0)
    tiles = jnp.concatenate([rows[:, :, :, :, :-1], rows[:, :2, :, :, 1:]], axis=1)
    return tiles.reshape((m + 2) ** 2, -1, channels)


def _transformed(matrix: np.ndarray | jax.Array, tiles: jax.Array) -> jax.Array:
    """By the matrix from the left and its transpose from the right: [n n, ...] -> [m m, ...] for [m m, n n]."""
    return jnp.einsum("st,tab->sab", matrix, tiles)
