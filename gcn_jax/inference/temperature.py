"""The temperature by which a trained model's probabilities say best how often they are right (Guo et al., ICML 2017).

It minimises the negative log-likelihood (NLL) of the true labels over all pixels, which is convex in 1 / temperature.
One pass over the images sums the NLL and its first two derivatives for a grid of temperatures. Between two of these the
first derivative is taken as the cubic polynomial of its values and slopes.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import CubicHermiteSpline

from gcn_jax.console import bar
from gcn_jax.data.samples import Sample, Source
from gcn_jax.data.specs import VOID
from gcn_jax.data.transforms import pad
from gcn_jax.inference.labeller import Labeller
from gcn_jax.inference.views import inside_of
from gcn_jax.models import Network
from gcn_jax.models.preprocessing import Preprocessing, PyTree, normalize
from gcn_jax.runtime.compilation import platform_jit

HOTTEST = 20.0
_FACTORS = np.geomspace(1 / HOTTEST, HOTTEST, 33)  # 1 / temperature; 1 is one of them


@dataclass(frozen=True)
class Fit:
    """A temperature, the number of pixels it was fitted on, and their mean NLL at a temperature of 1 and at this."""

    temperature: float
    pixels: int
    nll_before: float
    nll: float


def sum_over(
    model: Network,
    preprocessing: Preprocessing,
    labeller: Labeller,
    variables: dict[str, PyTree],
    source: Source,
    multi_label: bool = False,
) -> tuple[np.ndarray, int]:
    """The sums that `fit` takes, over all images, at scale 1 and not mirrored; and the number of pixels, without void.

    Where a pixel may have several classes, each of them counts as a pixel.

    Args:
      model: the network.
      preprocessing: of its input.
      labeller: says what the network sees of an image: all of it, or its windows.
      variables: of the model.
      source: of images with labels.
      multi_label: whether a pixel may have several classes.
    """
    sums_of = _make_sums_of_each if multi_label else _make_sums
    program = platform_jit(sums_of(model, preprocessing), model.dtype)
    sums, pixels = np.zeros((len(_FACTORS), 3)), 0
    with bar("calibrating", len(source), "image") as progress:
        for i in range(len(source)):
            sample = source[i]
            for image, label, inside in _inputs(labeller, sample, preprocessing.mean):
                arrays = jnp.asarray(image[None]), jnp.asarray(label), jnp.asarray(inside)
                rows = np.asarray(program(variables, *arrays), np.float64)
                sums += rows.sum(-1)
                pixels += int((label != VOID).sum())
            progress.update()
    return sums, pixels


def _inputs(labeller: Labeller, sample: Sample, mean: Sequence[float]) -> Iterator[tuple[np.ndarray, ...]]:
    """What the network sees of an image at scale 1: all of it or its windows, padded; and its labels.

    Beside them is the part that is no padding, int32 [1, 4], see `Network`.
    """
    size = sample["label"].shape[:2]
    shape = labeller.canvas(*size)
    (tops, lefts), seen = np.zeros((2, 1), np.int32), size
    if shape is None:
        side, tops, lefts, seen = labeller.grid(*size)
        shape = side, side
    height, width = (max(pair) for pair in zip(shape, size, strict=True))
    image, label = pad(sample["image"], height, width, mean), pad(sample["label"], height, width, VOID)
    for top, left in itertools.product(tops, lefts):
        window = (slice(top, top + shape[0]), slice(left, left + shape[1]))
        yield image[window], label[window], np.array([[0, 0, *seen]], np.int32)


def _make_sums(model: Network, preprocessing: Preprocessing) -> Any:
    """The function that gives the sums of each row, [factors, 3, H].

    It takes variables, an image [1, H, W, 3], its label [H, W] and what of it is no padding, [1, 4].
    """

    def sums(variables: dict[str, PyTree], image: jax.Array, label: jax.Array, inside: jax.Array) -> jax.Array:
        part = inside_of(model, inside)
        logits: Any = model.apply(variables, normalize(image, preprocessing), train=False, **part)[0]
        scores, is_counted = logits - logits.max(-1, keepdims=True), label != VOID
        true = jnp.take_along_axis(scores, jnp.where(is_counted, label, 0)[..., None], -1)[..., 0]

        def at(factor: jax.Array) -> jax.Array:
            weights = jnp.exp(factor * scores)
            total = weights.sum(-1)
            mean = (weights * scores).sum(-1) / total
            variance = (weights * (scores - mean[..., None]) ** 2).sum(-1) / total
            return (jnp.stack([jnp.log(total) - factor * true, mean - true, variance]) * is_counted[None]).sum(-1)

        return jax.lax.map(at, jnp.asarray(_FACTORS, jnp.float32))

    return sums


def _make_sums_of_each(model: Network, preprocessing: Preprocessing) -> Any:
    """As `_make_sums`, of a label [H, W, C] whose classes are decisions of their own."""

    def sums(variables: dict[str, PyTree], image: jax.Array, label: jax.Array, inside: jax.Array) -> jax.Array:
        part = inside_of(model, inside)
        scores: Any = model.apply(variables, normalize(image, preprocessing), train=False, **part)[0]
        margins, is_counted = jnp.where(label == 1, -scores, scores), label != VOID

        def at(factor: jax.Array) -> jax.Array:
            wrong = jax.nn.sigmoid(factor * margins)
            terms = [jax.nn.softplus(factor * margins), margins * wrong, margins**2 * wrong * (1 - wrong)]
            return (jnp.stack(terms) * is_counted[None]).sum((-1, -2))

        return jax.lax.map(at, jnp.asarray(_FACTORS, jnp.float32))

    return sums


def fit(sums: np.ndarray, pixels: int) -> Fit | None:
    """The temperature of the least NLL; None if that is not between 1 / `HOTTEST` and `HOTTEST`.

    Args:
      sums: float64 [factors, 3], of the NLL and its derivatives by 1 / temperature, the first and the second.
      pixels: how many were summed.
    """
    nll, slope, curvature = sums.T / max(pixels, 1)
    if not slope[0] < 0 < slope[-1]:
        return None
    places = np.log(_FACTORS)
    place = CubicHermiteSpline(places, slope, curvature * _FACTORS).roots(extrapolate=False)[0]
    least = CubicHermiteSpline(places, nll, slope * _FACTORS)(place)
    before = nll[len(nll) // 2]
    return Fit(float(f"{np.exp(-place):.6g}"), pixels, float(before), float(least))
