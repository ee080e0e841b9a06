"""Mean-field inference in the fully connected CRF of Krähenbühl and Koltun (NeurIPS 2011).

The labels x of an image's pixels i have the energy

    E(x) = sum_i u_i(x_i) + sum_{i < j} mu(x_i, x_j) (w_p k_p(i, j) + w_b k_b(i, j))

with u = -logits, a position kernel k_p = exp(-|p_i - p_j|^2 / (2 s_p^2)), a bilateral kernel k_b = exp(-|p_i - p_j|^2 /
(2 s_xy^2) - |c_i - c_j|^2 / (2 s_rgb^2)) of positions p (pixels) and colours c (0-255), and the Potts model mu(a, b) =
[a != b] or any matrix. Each iteration filters the classes' probabilities q with both kernels and sets

    q = softmax(-u - mu (w_p K_p q + w_b K_b q))

As in the authors' code, K is the kernel's matrix with both sides divided by the square roots of its row sums, a pixel
counts among its own neighbours, and Potts is -[a = b], which is the same.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gcn_jax.crf import lattice
from gcn_jax.runtime.compilation import platform_jit

FILTERS = ("lattice", "exact")
LARGEST_EXACT = 1 << 14  # pixels, whose two matrices take 2 GiB
# What `refine` takes: pixels, and pixels times classes; docs/crf.md has the memory.
LARGEST, MOST_VALUES = 1 << 22, 1 << 27
LEAST_PROBABILITY = 1e-5  # as in pydensecrf's `unary_from_softmax`
FORMAT = (
    '"" for none, "voc", or six numbers: iterations, position weight, position sigma, bilateral weight, sigma_xy, '
    "sigma_rgb; sigmas above 0, such as 10,3,1,4,67,3"
)
_LANES = 8  # classes are filtered in multiples of a vector register
# Lattice points a pixel. Few sizes, so that few programs are compiled, and close, so that little time goes to none.
_CAPACITIES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1, 1.25, 1.5, 2, 2.5, 3, 4, 6)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "position_weight", "position_sigma", "bilateral_weight", "sigma_xy", "sigma_rgb", "compatibility"
    ],
    meta_fields=["iterations"],
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class Params:
    """The parameters of a CRF; the defaults are DeepLab-v2's for VOC (Chen et al., TPAMI 2018).

    Attributes:
      iterations: of mean field.
      position_weight, bilateral_weight: w_p, w_b of the kernels; 0 or more.
      position_sigma, sigma_xy: s_p and s_xy, pixels.
      sigma_rgb: s_rgb, on the scale 0-255.
      compatibility: float32 [C, C], the penalty mu(a, b) of class a where a neighbour is b; None: Potts.
    """

    iterations: int = 10
    position_weight: Any = 3.0
    position_sigma: Any = 1.0
    bilateral_weight: Any = 4.0
    sigma_xy: Any = 67.0
    sigma_rgb: Any = 3.0
    compatibility: Any = None


def parse(text: str) -> Params | None:
    """The parameters that a config names: "" none; "voc" the defaults; or the first six of `Params`, with commas.

    Raises:
      ValueError: if it is none of these.
    """
    if text in ("", "voc"):
        return Params() if text else None
    try:
        iterations, *numbers = [float(number) for number in text.split(",")]
        params = Params(int(iterations), *numbers)
        check_params(params)
    except (ValueError, OverflowError, TypeError) as error:
        raise ValueError(f"must be {FORMAT}") from error
    if len(numbers) != 5 or iterations != params.iterations:
        raise ValueError(f"must be {FORMAT}")
    return params


def check_params(params: Params) -> None:
    """Raises `ValueError` naming the parameter that cannot be."""
    if params.iterations < 0:
        raise ValueError(f"iterations must be 0 or more. Got {params.iterations}")
    for name in ("position_sigma", "sigma_xy", "sigma_rgb"):
        value = getattr(params, name)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive. Got {value}")
    for name in ("position_weight", "bilateral_weight"):
        value = getattr(params, name)
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be 0 or more. Got {value}")


def log_probabilities(probabilities: Any) -> Any:
    """The logits of probabilities, which are taken as at least 1e-5, so that no class is out of reach."""
    xp = np if isinstance(probabilities, np.ndarray) else jnp
    return xp.log(xp.clip(probabilities, LEAST_PROBABILITY, 1))


def features(image: jax.Array, params: Params) -> tuple[jax.Array, jax.Array]:
    """What the kernels compare, over the sigmas: float32 [2, N] of positions, [5, N] of positions and colours."""
    height, width = image.shape[:2]
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    position = jnp.stack([columns, rows]).reshape(2, -1).astype(jnp.float32)
    color = jnp.moveaxis(image, -1, 0).reshape(3, -1).astype(jnp.float32)
    bilateral = jnp.concatenate([position / params.sigma_xy, color / params.sigma_rgb])
    return position / params.position_sigma, bilateral


def mean_field(
    image: jax.Array,
    logits: jax.Array,
    params: Params,
    *,
    is_valid: jax.Array | None = None,
    filter: str = "lattice",
    capacity: tuple[int, int] | None = None,
) -> jax.Array:
    """The probabilities of the classes at each pixel: a pure function, to be jitted, mapped or differentiated.

    Differentiable with respect to logits, the weights and the compatibility.

    Args:
      image: [H, W, 3], RGB, 0-255.
      logits: float32 [H, W, C].
      params: ``iterations`` is static.
      is_valid: bool [H, W], False where an image is padded: no pixel then depends on what is there. None: all True.
      filter: "lattice", or "exact" for matrices of all pairs of pixels: O(N^2), up to `LARGEST_EXACT` pixels.
      capacity: the most lattice points of the position and the bilateral kernel, static. None: 3 and 6 for each pixel,
        which always suffice; the time of an iteration grows with them. Where they do not suffice, or a sigma is too
        small for keys of 64 bits, the outcome is NaN. `refine` finds what suffices.

    Returns:
      float32 [H, W, C]; at pixels that are not valid without meaning.

    Raises:
      ValueError: if shapes do not fit, or an image is too large for the exact filter.
    """
    _check_shapes(image, logits)
    count = logits.shape[0] * logits.shape[1]
    is_valid = jnp.ones(count, bool) if is_valid is None else is_valid.reshape(-1)
    image, sigmas = jax.lax.stop_gradient((image, params))
    both = features(image, sigmas)
    if filter == "exact":
        return _iterate([_exact(f, is_valid) for f in both], logits, params).reshape(logits.shape)
    capacity = capacity or (3 * count, 6 * count)
    lattices = [_normalized(lattice.locate(f, is_valid), size) for f, size in zip(both, capacity, strict=True)]
    return _iterate_on(jax.lax.stop_gradient(lattices), logits, params).reshape(logits.shape)


Kernel = Callable[[jax.Array], jax.Array]


def refine(
    image: np.ndarray, logits: np.ndarray, params: Params | None = None, *, filter: str = "lattice"
) -> np.ndarray:
    """The probabilities of the classes at each pixel of one image: `mean_field`, compiled for few shapes and sizes.

    Sides are padded to at most 4 lengths an octave; lattices are counted first, so that room is made for few more
    points than there are.

    Args:
      image: uint8 [H, W, 3], RGB.
      logits: float32 [H, W, C]; of probabilities: `log_probabilities`.
      params: None: the defaults.
      filter: as in `mean_field`.

    Returns:
      float32 [H, W, C].

    Raises:
      ValueError: if shapes do not fit, logits are not finite, a parameter is wrong, or the image is too large.
    """
    params = Params() if params is None else params
    _check(image, logits, params, filter)
    height, width = logits.shape[:2]
    margins = [(0, _padded(length) - length) for length in (height, width)]
    padded_image, padded = (np.pad(x, [*margins, (0, 0)]) for x in (image, logits))
    is_valid = np.pad(np.ones((height, width), bool), margins)
    if filter == "exact":
        refined = _jitted(mean_field, "filter")(padded_image, padded, params, is_valid=is_valid, filter=filter)
    else:
        position = _position_lattice((height, width), is_valid.shape, float(params.position_sigma))
        bilateral = _lattice(features(jnp.asarray(padded_image), params)[1], is_valid, params)
        refined = _jitted(_iterate_on)([position, bilateral], padded, params).reshape(padded.shape)
    return np.asarray(refined)[:height, :width]


@functools.lru_cache(maxsize=2)  # the same for all images of a size
def _position_lattice(shape: tuple[int, int], padded: tuple[int, int], sigma: float) -> lattice.Lattice:
    is_valid = np.pad(np.ones(shape, bool), [(0, large - small) for small, large in zip(shape, padded, strict=True)])
    params = Params(position_sigma=sigma)
    return _lattice(features(jnp.zeros((*padded, 3)), params)[0], is_valid, params)


def _lattice(features: jax.Array, is_valid: np.ndarray, params: Params) -> lattice.Lattice:
    """A normalised lattice with room for few more points than it has."""
    points = _jitted(lattice.locate)(features, is_valid.reshape(-1))
    if not points.fits:
        names = ("position_sigma", "sigma_xy", "sigma_rgb")
        sigmas = ", ".join(f"{name}={getattr(params, name)}" for name in names)
        raise ValueError(f"a sigma is too small for an image of {is_valid.sum()} pixels: {sigmas}")
    count = is_valid.size
    rooms = (math.ceil(ratio * count) for ratio in _CAPACITIES)
    return _jitted(_normalized, "capacity")(points, capacity=next(room for room in rooms if room >= points.size))


@functools.cache
def _jitted(function: Callable[..., Any], *static: str) -> Callable[..., Any]:
    """Not before the first use, since somebody may yet choose a platform."""
    return platform_jit(function, jnp.float32, static_argnames=static)


def _check(image: np.ndarray, logits: np.ndarray, params: Params, filter: str) -> None:
    check_params(params)
    if filter not in FILTERS:
        raise ValueError(f"filter must be one of {', '.join(FILTERS)}. Got {filter!r}")
    _check_shapes(image, logits)
    height, width, classes = logits.shape
    if 0 in logits.shape or not np.isfinite(logits).all():
        raise ValueError(f"logits {logits.shape} must be finite and not empty")
    padded = _padded(height) * _padded(width)
    if padded > LARGEST or padded * _lanes(classes) > MOST_VALUES:
        raise ValueError(
            f"an image of {width}x{height} pixels and {classes} classes is too large for the CRF; padded, it takes "
            f"{LARGEST} pixels and {MOST_VALUES} values"
        )
    matrix = params.compatibility
    if matrix is not None and (np.shape(matrix) != (classes, classes) or not np.isfinite(matrix).all()):
        raise ValueError(f"compatibility must be finite, [{classes}, {classes}]. Got the shape {np.shape(matrix)}")


def _check_shapes(image: Any, logits: Any) -> None:
    if image.ndim != 3 or image.shape[-1] != 3 or logits.ndim != 3 or image.shape[:2] != logits.shape[:2]:
        raise ValueError(f"image must be [H, W, 3] and logits [H, W, C]. Got {image.shape} and {logits.shape}")


def _lanes(classes: int) -> int:
    return math.ceil(classes / _LANES) * _LANES


def _padded(length: int) -> int:
    """Up to the next of 32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, ..."""
    step = max(32, 1 << max(0, (length - 1).bit_length() - 3))
    return math.ceil(length / step) * step


def _normalized(points: lattice.Points, capacity: int) -> lattice.Lattice:
    """A lattice whose filter has both sides divided by the square roots of its sums."""
    built = lattice.connect(points, capacity)
    scale = jax.lax.rsqrt(lattice.apply(built, jnp.ones((built.weight.shape[1], 1)))[:, 0] + 1e-20)
    return built._replace(weight=built.weight * scale[None], block_weight=built.block_weight * scale[built.block_pixel])


def _iterate_on(lattices: list[lattice.Lattice], logits: jax.Array, params: Params) -> jax.Array:
    return _iterate([functools.partial(lattice.apply, built) for built in lattices], logits, params)


def _exact(features: jax.Array, is_valid: jax.Array) -> Kernel:
    count = features.shape[1]
    if count > LARGEST_EXACT:
        raise ValueError(f"an image of {count} pixels is too large for the exact filter; it takes {LARGEST_EXACT}")
    distance = sum(jnp.square(f[:, None] - f[None, :]) for f in features)
    matrix = jnp.where(is_valid[:, None] & is_valid[None, :], jnp.exp(-0.5 * distance), 0)
    scale = jax.lax.rsqrt(matrix.sum(1) + 1e-20)
    matrix = scale[:, None] * matrix * scale[None, :]
    return lambda values: jnp.matmul(matrix, values, precision=jax.lax.Precision.HIGHEST)


def _iterate(kernels: list[Kernel], logits: jax.Array, params: Params) -> jax.Array:
    """Mean field: float32 [H, W, C] -> [N, C]."""
    classes = logits.shape[-1]
    lanes = _lanes(classes)
    logits = logits.reshape(-1, classes).astype(jnp.float32)
    logits = jnp.pad(logits, ((0, 0), (0, lanes - classes)), constant_values=-1e9)
    weights = (params.position_weight, params.bilateral_weight)

    def step(_: int, q: jax.Array) -> jax.Array:
        message = sum(weight * kernel(q) for weight, kernel in zip(weights, kernels, strict=True))
        if params.compatibility is not None:
            matrix = jnp.pad(-params.compatibility, ((0, lanes - classes),) * 2)
            message = jnp.matmul(message, matrix.T, precision=jax.lax.Precision.HIGHEST)
        return jax.nn.softmax(logits + message)

    return jax.lax.fori_loop(0, params.iterations, step, jax.nn.softmax(logits))[:, :classes]
