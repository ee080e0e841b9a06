"""The Deep Parsing Network's layers (Liu et al., ICCV 2015): one mean-field iteration with richer pairwise terms.

From the network's logits u and the classes' probabilities p = softmax(u) at each pixel,

    m_j(v) = sum_z d(j, z) p_z(v)                       how far label v prevails around pixel j
    f_i(k, l) = sum_{j, v} contexts(j - i, v, k, l) m_j(v)      the penalty of label l in mixture k of contexts
    result_i(l) = u_i(l) - min_k f_i(k, l)

The triple penalty relates pixel i to j and to j's surroundings z; label contexts are 9 x 9 pixels, of 5 mixtures, of
which the one of least penalty counts (block min pooling). The result goes on to the loss.

The paper has no code. Our choices: the scores of a softmax in place of sigmoids; d is a softmax over z of minus half
the squared distance in position and colour, each divided by a standard deviation and times a learnt weight that starts
as 1; the contexts start as -1 for the label itself at pixel i, Potts' model, and noise that tells the mixtures apart.

m is an approximation: z are not the pixels of a window of 50 x 50, but the means of cells of 8 x 8 pixels, 7 x 7 of
them around j's. This is the bilateral kernel, truncated to the window.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from gcn_jax.crf.inputs import colors, is_inside
from gcn_jax.models.ops.convolution import conv2d
from gcn_jax.models.preprocessing import Preprocessing

CELL = 8  # pixels
REACH = 3  # cells on each side
CONTEXT = 9  # pixels
MIXTURES = 5


class DeepParsing(nn.Module):
    """DPN's layers on top of a network's logits.

    Attributes:
      preprocessing: of the network's images, RGB or BGR, which is undone.
      sigma_xy, sigma_rgb: the standard deviations by which distances are divided.
    """

    preprocessing: Preprocessing
    sigma_xy: float = 16.0
    sigma_rgb: float = 16.0

    @nn.compact
    def __call__(self, images: jax.Array, logits: jax.Array, train: bool = False) -> jax.Array:
        """Refines logits, float32 [B, H, W, C], by their images, float32 [B, H, W, 3], normalised: the same shape.

        Pixels that are padding, see `is_inside`, keep their logits, and count for no other.
        """
        del train
        classes = logits.shape[-1]
        weights = self.param("distance", nn.initializers.ones, (2,))
        shape = (CONTEXT, CONTEXT, classes, MIXTURES * classes)
        contexts = self.param("contexts", lambda key, shape: _potts(jax.random.normal(key, shape)), shape)
        image = colors(images, self.preprocessing)
        is_valid = jax.vmap(lambda one: is_inside(one, self.preprocessing))(image)[..., None]
        probabilities = jnp.where(is_valid, jax.nn.softmax(logits), 0)
        scales = weights / jnp.asarray((self.sigma_xy, self.sigma_rgb), jnp.float32)
        around = jnp.where(is_valid, surroundings(image, probabilities, is_valid, scales), 0)
        penalties = conv2d(around, contexts)
        return jnp.where(is_valid, logits - least_of_mixtures(penalties, MIXTURES), logits)

    def initial_value(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        """What a parameter starts as."""
        return np.ones(shape, np.float32) if name == "distance" else _potts(rng.standard_normal(shape, np.float32))


def _potts(noise: Any) -> Any:
    """The contexts' start, of standard normal noise, [9, 9, C, 5 C]."""
    middle = np.zeros((CONTEXT, CONTEXT, 1, 1), np.float32)
    middle[CONTEXT // 2, CONTEXT // 2] = 1
    return 0.01 * noise - middle * np.tile(np.eye(noise.shape[2], dtype=np.float32), MIXTURES)[None, None]


def surroundings(image: jax.Array, probabilities: jax.Array, is_valid: jax.Array, scales: jax.Array) -> jax.Array:
    """The means m of probabilities around each pixel, by distance in position and colour.

    It is differentiable with respect to the probabilities and the scales.

    Args:
      image: float32 [B, H, W, 3], RGB, 0-255.
      probabilities: float32 [B, H, W, C], 0 at pixels that are not valid.
      is_valid: bool [B, H, W, 1].
      scales: [2], by which distances in position and in colour are multiplied.

    Returns:
      float32 [B, H, W, C].
    """
    height, width, classes = probabilities.shape[1:]
    pixels = in_cells(jnp.concatenate([image * is_valid, probabilities, is_valid.astype(jnp.float32)], -1))
    sums = pixels.sum(3)  # [B, h, w, 3 + C + 1]
    cells = sums / jnp.maximum(sums[..., -1:], 1)
    cells = jnp.concatenate([cells[..., :-1], jnp.log(jnp.maximum(sums[..., -1:], 1e-20))], -1)
    rows, columns = cells.shape[1:3]
    margins = ((0, 0), (REACH, REACH), (REACH, REACH))
    beyond = jnp.pad(cells[..., -1], margins, constant_values=np.log(1e-20))  # cells without a pixel
    cells = jnp.concatenate([jnp.pad(cells[..., :-1], (*margins, (0, 0))), beyond[..., None]], -1)
    steps = list(itertools.product(range(2 * REACH + 1), repeat=2))
    near = jnp.stack([cells[:, i : i + rows, j : j + columns] for i, j in steps], 3)  # [B, h, w, 49, 3 + C + 1]
    apart = _positions()[None, None, None] * scales[0] ** 2
    for channel in range(3):
        of_pixel, of_cell = pixels[..., channel, None], near[..., None, :, channel]
        apart = apart + jnp.square(of_pixel - of_cell) * scales[1] ** 2
    shares = jax.nn.softmax(near[..., None, :, -1] - apart / 2)  # [B, h, w, 64, 49]
    near = near[..., 3 : 3 + classes]
    found = jnp.einsum("bhwqz,bhwzc->bhwqc", shares, near, precision=lax.Precision.HIGHEST)
    found = found.reshape(*found.shape[:3], CELL, CELL, classes).swapaxes(2, 3)
    return found.reshape(found.shape[0], rows * CELL, columns * CELL, classes)[:, :height, :width]


def in_cells(values: jax.Array) -> jax.Array:
    """The pixels of each cell: [B, H, W, C] -> [B, ceil(H / 8), ceil(W / 8), 64, C], beyond the image 0."""
    batch, height, width, channels = values.shape
    values = jnp.pad(values, ((0, 0), (0, -height % CELL), (0, -width % CELL), (0, 0)))
    rows, columns = values.shape[1] // CELL, values.shape[2] // CELL
    values = values.reshape(batch, rows, CELL, columns, CELL, channels).swapaxes(2, 3)
    return values.reshape(batch, rows, columns, CELL * CELL, channels)


def _positions() -> np.ndarray:
    """Squared distances of a cell's pixels from the middles of the cells around it, pixels: float32 [64, 49]."""
    within = np.indices((CELL, CELL)).reshape(2, -1, 1)
    middles = CELL * (np.indices((2 * REACH + 1,) * 2).reshape(2, 1, -1) - REACH) + (CELL - 1) / 2
    return np.square(within - middles).sum(0).astype(np.float32)


def least_of_mixtures(penalties: jax.Array, mixtures: int) -> jax.Array:
    """Block min pooling: [..., mixtures * C], one mixture's classes after another's -> [..., C], the least of each."""
    return penalties.reshape(*penalties.shape[:-1], mixtures, -1).min(-2)
