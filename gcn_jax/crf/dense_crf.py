"""Mean-field inference in the fully connected CRF of Krähenbühl and Koltun (NeurIPS 2011).

A labelling x, which gives pixel i the class x_i, has the energy

    E(x) = sum_i u_i(x_i) + sum_{i < j} mu(x_i, x_j) (w_p k_p(i, j) + w_b k_b(i, j))

with u = -logits and, for positions p (pixels) and colours c (0-255), the position kernel k_p = exp(-|p_i - p_j|^2 /
(2 s_p^2)) and the bilateral kernel k_b = exp(-|p_i - p_j|^2 / (2 s_xy^2) - |c_i - c_j|^2 / (2 s_rgb^2)). mu is the
Potts model, mu(a, b) = [a != b], or any other matrix. Each iteration filters the classes' probabilities q with both
kernels and sets

    q = softmax(-u - mu (w_p K_p q + w_b K_b q))

Three details are as in the authors' code. K is the kernel's matrix, whose rows and columns are divided by the square
roots of its row sums. A pixel is its own neighbour, too. The Potts model is computed as mu(a, b) = -[a = b], which
gives the same probabilities.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gcn_jax.crf import lattice
from gcn_jax.crf.params import Params, check_params
from gcn_jax.runtime.compilation import platform_jit

FILTERS = ("lattice", "exact")
LARGEST_EXACT = 1 << 14  # most pixels for the exact filter, whose two matrices then take 2 GiB
# The most that `refine` takes: pixels, and pixels times classes. docs/crf.md says how much memory that needs.
LARGEST, MOST_VALUES = 1 << 22, 1 << 27
LEAST_PROBABILITY = 1e-5  # as in pydensecrf's `unary_from_softmax`
_LANES = 8  # classes are filtered in multiples of a vector register
# Room for lattice points, per pixel. There are few sizes, so that few programs are compiled; they lie close together,
# so that little time goes to room that stays empty.
_CAPACITIES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1, 1.25, 1.5, 2, 2.5, 3, 4, 6)


def log_probabilities(probabilities: Any) -> Any:
    """The natural logarithm of probabilities, which `refine` and `mean_field` take as logits.

    Args:
      probabilities: NumPy or JAX array of any shape, 0-1. Values below 1e-5 count as 1e-5, so that every class stays
        possible at every pixel.

    Returns:
      An array of the same kind, shape and dtype.
    """
    xp = np if isinstance(probabilities, np.ndarray) else jnp
    return xp.log(xp.clip(probabilities, LEAST_PROBABILITY, 1))


def features(image: jax.Array, params: Params) -> tuple[jax.Array, jax.Array]:
    """The pixels' features that the two kernels compare, each divided by its standard deviation.

    Args:
      image: [H, W, 3], RGB, 0-255.
      params: for the standard deviations.

    Returns:
      For the position kernel float32 [2, N], x and y; for the bilateral kernel float32 [5, N], x, y, R, G and B.
      N = H W.
    """
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
    """The refined class probabilities of one image: a pure function, to be jitted, mapped or differentiated.

    It is differentiable with respect to the logits, the weights and the compatibility.

    Args:
      image: [H, W, 3], RGB, 0-255.
      logits: float32 [H, W, C].
      params: of the CRF; ``iterations`` is static.
      is_valid: bool [H, W], False where the image is padded; no other pixel depends on what is there. None: all True.
      filter: "lattice", an approximation in time linear in pixels; or "exact", which compares all pairs of pixels, in
        time and memory O(N^2), for images of up to `LARGEST_EXACT` pixels.
      capacity: room for lattice points of the position kernel and of the bilateral kernel, static. None: 3 and 6 per
        pixel, which are always enough. The time of an iteration grows with it. If it is too small for an image, or a
        sigma is so small that a lattice point needs a key of more than 64 bits, the result is NaN. `refine` finds out
        how much is needed.

    Returns:
      float32 [H, W, C], probabilities; meaningless at pixels that are not valid.

    Raises:
      ValueError: if the shapes do not fit together, or the image is too large for the exact filter.
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
    """The refined class probabilities of one image: `mean_field`, compiled so that most images share programs.

    Images are padded to one of a few sizes (4 lengths for each doubling of a side). Lattice points are counted before
    the iterations, so that there is room for few more than the image has.

    Args:
      image: uint8 [H, W, 3], RGB.
      logits: float32 [H, W, C]; `log_probabilities` makes them from probabilities.
      params: of the CRF; None: the defaults of `Params`.
      filter: "lattice" or "exact", as in `mean_field`.

    Returns:
      float32 [H, W, C], probabilities.

    Raises:
      ValueError: if the shapes do not fit together, logits are not finite, a parameter is out of range, or the image
        is too large.

    Examples:
      >>> import numpy as np
      >>> from gcn_jax import crf
      >>> image = np.zeros((16, 16, 3), np.uint8)
      >>> image[:, 8:] = 255  # the right half is white
      >>> coarse = np.zeros((16, 16, 2), np.float32)
      >>> coarse[:, :8] = 0.8, 0.2
      >>> coarse[:, 8:] = 0.2, 0.8
      >>> coarse[4, 4] = 0.4, 0.6  # one black pixel looks like those of the right half
      >>> refined = crf.refine(image, crf.log_probabilities(coarse))
      >>> refined.shape, refined.dtype
      ((16, 16, 2), dtype('float32'))
      >>> label = refined.argmax(-1)
      >>> bool((label[:, :8] == 0).all()), bool((label[:, 8:] == 1).all())
      (True, True)
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


@functools.lru_cache(maxsize=2)  # all images of one size share it
def _position_lattice(shape: tuple[int, int], padded: tuple[int, int], sigma: float) -> lattice.Lattice:
    is_valid = np.pad(np.ones(shape, bool), [(0, large - small) for small, large in zip(shape, padded, strict=True)])
    params = Params(position_sigma=sigma)
    return _lattice(features(jnp.zeros((*padded, 3)), params)[0], is_valid, params)


def _lattice(features: jax.Array, is_valid: np.ndarray, params: Params) -> lattice.Lattice:
    """A normalised lattice that has room for few more points than the image needs."""
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
    """A jitted function; made when it is first used, since the user may choose a platform after importing this."""
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
    """The length rounded up to one of 32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, ..."""
    step = max(32, 1 << max(0, (length - 1).bit_length() - 3))
    return math.ceil(length / step) * step


def _normalized(points: lattice.Points, capacity: int) -> lattice.Lattice:
    """A lattice whose filter's matrix K is normalised: rows and columns divided by the square roots of its row sums."""
    built = lattice.connect(points, capacity)
    scale = jax.lax.rsqrt(lattice.filter_values(built, jnp.ones((built.weight.shape[1], 1)))[:, 0] + 1e-20)
    return built._replace(weight=built.weight * scale[None], block_weight=built.block_weight * scale[built.block_pixel])


def _iterate_on(lattices: list[lattice.Lattice], logits: jax.Array, params: Params) -> jax.Array:
    return _iterate([functools.partial(lattice.filter_values, built) for built in lattices], logits, params)


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
    """Mean field from logits, float32 [H, W, C], to probabilities, float32 [N, C]."""
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
