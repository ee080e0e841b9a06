"""CRF-as-RNN (Zheng et al., ICCV 2015): mean field as a layer of a network, trained with it.

From the network's logits u and, for each pixel, the classes' probabilities p, an iteration computes

    p = softmax(q);  q = u - (K_s p W_s + K_b p W_b) M

and starts with q = u. K_s is a Gaussian of the distance of two pixels, K_b of their distance and their colours', each
divided by its row sums, as in the authors' code (`mean_field` divides by the roots of both sums). W_s, W_b and M, the
compatibility, are learnt matrices of class by class; they start as 3 I, 5 I and -I, which is Potts' model. The last q
goes on to the loss.

The kernels are filtered on the permutohedral lattice of `lattice`. No gradient goes to the image or the kernels'
widths; to the values it goes by the transposed filter. Of each iteration p is kept for the backward pass.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from gcn_jax.crf import lattice
from gcn_jax.crf.dense_crf import features
from gcn_jax.crf.inputs import colors, is_inside, on_each_image
from gcn_jax.crf.params import Params
from gcn_jax.models.preprocessing import Preprocessing

Matrices = dict[str, jax.Array]
# Room for the bilateral kernel's lattice points, per pixel: a program for each, of which an image takes the smallest
# that suffices. The last always does; small images take it at once.
_ROOMS = (3 / 8, 3 / 4, 1.5, 6)
_SMALL = 1 << 14  # pixels


class RecurrentCRF(nn.Module):
    """CRF-as-RNN on top of a network's logits.

    Attributes:
      preprocessing: of the network's images, RGB or BGR, which is undone.
      iterations: in training, and afterwards.
      position_sigma, sigma_xy, sigma_rgb: the kernels' standard deviations, as published.
    """

    preprocessing: Preprocessing
    iterations: tuple[int, int] = (5, 10)
    position_sigma: float = 3.0
    sigma_xy: float = 160.0
    sigma_rgb: float = 3.0
    # The multiples of the identity that the matrices start as.
    starts: ClassVar[dict[str, float]] = {"spatial": 3.0, "bilateral": 5.0, "compatibility": -1.0}

    @nn.compact
    def __call__(self, images: jax.Array, logits: jax.Array, train: bool = False) -> jax.Array:
        """Refines logits, float32 [B, H, W, C], by their images, float32 [B, H, W, 3], normalised: the same shape.

        Pixels that are padding, see `is_inside`, keep their logits, and no other depends on them.
        """
        classes = logits.shape[-1]
        matrices = {name: self.param(name, self._start(name), (classes, classes)) for name in self.starts}
        params = Params(position_sigma=self.position_sigma, sigma_xy=self.sigma_xy, sigma_rgb=self.sigma_rgb)
        iterations = self.iterations[0 if train else 1]

        def of_image(image: jax.Array, logits: jax.Array, matrices: Matrices) -> jax.Array:
            image = colors(image, self.preprocessing)
            return refine_logits(image, logits, matrices, params, iterations, is_inside(image, self.preprocessing))

        return on_each_image(of_image, images, logits, matrices)

    def _start(self, name: str) -> Callable[[Any, tuple[int, int]], jax.Array]:
        return lambda _, shape: jnp.asarray(self.initial_value(name, shape))

    def initial_value(self, name: str, shape: tuple[int, ...], rng: np.random.Generator | None = None) -> np.ndarray:
        """What a matrix starts as; nothing is drawn."""
        del rng
        return self.starts[name] * np.eye(*shape, dtype=np.float32)


def refine_logits(
    image: jax.Array,
    logits: jax.Array,
    matrices: Matrices,
    params: Params,
    iterations: int,
    is_valid: jax.Array | None = None,
) -> jax.Array:
    """The iterations of `RecurrentCRF` on one image; differentiable with respect to the logits and the matrices.

    Args:
      image: float32 [H, W, 3], RGB, 0-255.
      logits: float32 [H, W, C].
      matrices: "spatial", "bilateral" and "compatibility", float32 [C, C], from the class of a row to that of a column.
      params: of which the three standard deviations are used.
      iterations: static.
      is_valid: bool [H, W], False where the image is padded; None: all True.

    Returns:
      float32 [H, W, C], logits; at pixels that are not valid those that were given.
    """
    count, classes = math.prod(logits.shape[:2]), logits.shape[-1]
    is_valid = jnp.ones(logits.shape[:2], bool) if is_valid is None else is_valid
    position, bilateral = (lattice.locate(f, is_valid.reshape(-1)) for f in features(lax.stop_gradient(image), params))
    kernel = normalized(lattice.connect(position, _position_room(logits.shape[:2], params)))
    rooms = tuple(math.ceil(room * count) for room in (_ROOMS[-1:] if count <= _SMALL else _ROOMS))
    extra = -classes % 8  # classes are filtered in multiples of a vector register
    scores = jnp.pad(logits.reshape(count, classes), ((0, 0), (0, extra)), constant_values=-1e9)
    both = [_product(matrices[name], matrices["compatibility"]) for name in ("spatial", "bilateral")]
    mixing = jnp.pad(jnp.stack(both), ((0, 0), (0, extra), (0, extra)))
    refined = _recurrent(rooms, iterations, (kernel, bilateral), scores, mixing)[:, :classes].reshape(logits.shape)
    return jnp.where(is_valid[..., None], refined, logits)


def _position_room(shape: tuple[int, ...], params: Params) -> int:
    """At least as many lattice points as the position kernel has: they are 2 / sqrt(3) to a unit of area.

    A pixel's are at most 1 away, and a point's share of the plane reaches 1 / sqrt(3) around it.
    """
    sides = (length / float(params.position_sigma) + 2 * (1 + 1 / math.sqrt(3)) for length in shape)
    return min(3 * math.prod(shape), math.ceil(2 / math.sqrt(3) * math.prod(sides)))


class Kernel(NamedTuple):
    """A Gaussian filter whose rows sum to 1; 0 at pixels that do not count.

    Attributes:
      lattice: of N pixels.
      scale: [N, 1], by which the lattice's filter is multiplied.
    """

    lattice: lattice.Lattice
    scale: jax.Array

    def filter(self, values: jax.Array) -> jax.Array:
        """[N, C] -> [N, C]."""
        return lattice.filter_values(self.lattice, values) * self.scale

    def transposed(self, values: jax.Array) -> jax.Array:
        """The same by the transpose of the filter's matrix."""
        return lattice.filter_values(self.lattice, values * self.scale, True)


def normalized(built: lattice.Lattice) -> Kernel:
    """The lattice's filter, divided by what it makes of ones."""
    ones = jnp.ones((built.weight.shape[1], 1), built.weight.dtype)
    return Kernel(built, 1 / (lattice.filter_values(built, ones) + 1e-20))


Pixels = tuple[Kernel, lattice.Points]  # the position kernel, and what the bilateral one is made of
Sums = tuple[jax.Array, jax.Array, jax.Array]  # gradients by q, the logits and mixing
_product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recurrent(
    rooms: tuple[int, ...], iterations: int, pixels: Pixels, logits: jax.Array, mixing: jax.Array
) -> jax.Array:
    """The iterations on logits [N, C]; mixing [2, C, C] are the products of each kernel's weights and compatibility."""
    return _forward(rooms, iterations, pixels, logits, mixing, keep=False)[0]


def _forward(
    rooms: tuple[int, ...], iterations: int, pixels: Pixels, logits: jax.Array, mixing: jax.Array, keep: bool = True
) -> tuple[jax.Array, Any]:
    def run(kernels: list[Kernel], logits: jax.Array, mixing: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        def step(q: jax.Array, _: None) -> tuple[jax.Array, jax.Array | None]:
            p = jax.nn.softmax(q)  # classes are mixed before they are filtered: no filtered values are kept
            message = sum(kernel.filter(_product(p, mix)) for kernel, mix in zip(kernels, mixing, strict=True))
            return logits - message, p if keep else None

        return lax.scan(step, logits, None, iterations)

    refined, probabilities = _of_size(run, rooms, pixels, logits, mixing)
    return refined, (pixels, probabilities, mixing)


def _backward(
    rooms: tuple[int, ...], iterations: int, kept: tuple[Pixels, jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[None, jax.Array, jax.Array]:
    del iterations
    pixels, probabilities, mixing = kept

    def run(kernels: list[Kernel], probabilities: jax.Array, mixing: jax.Array, cotangent: jax.Array) -> Any:
        def step(sums: Sums, p: jax.Array) -> tuple[Sums, None]:
            by_q, by_logits, by_mixing = sums
            filtered = [kernel.transposed(by_q) for kernel in kernels]
            by_mixing = by_mixing - jnp.stack([_product(p.T, values) for values in filtered])
            by_p = -sum(_product(values, mix.T) for values, mix in zip(filtered, mixing, strict=True))
            by_q = p * (by_p - (by_p * p).sum(-1, keepdims=True))
            return (by_q, by_logits + by_q, by_mixing), None

        start = cotangent, cotangent, jnp.zeros_like(mixing)
        return lax.scan(step, start, probabilities, reverse=True)[0][1:]

    return None, *_of_size(run, rooms, pixels, probabilities, mixing, cotangent)


_recurrent.defvjp(_forward, _backward)


def _of_size(run: Callable[..., Any], rooms: tuple[int, ...], pixels: Pixels, *args: Any) -> Any:
    """Runs ``run(kernels, *args)``, with as little room for the bilateral kernel's lattice points as they need."""

    def within(room: int, pixels: Pixels, *args: Any) -> Any:
        return run([pixels[0], normalized(lattice.connect(pixels[1], room))], *args)

    level = jnp.searchsorted(jnp.asarray(rooms, jnp.int32), pixels[1].size)
    return lax.switch(level, [functools.partial(within, room) for room in rooms], pixels, *args)
