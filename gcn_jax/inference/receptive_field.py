"""How far a trained model really sees, the paper's figure 3.

The valid (effective) receptive field of an output pixel is the gradient of its predicted class's logit with respect to
the network's input: absolute values, summed over channels, averaged over images (Luo et al., "Understanding the
Effective Receptive Field in Deep Convolutional Neural Networks", NIPS 2016).

Our choices: images are taken at the one of the protocol's scales that is nearest to 1, in a canvas of the protocol's
size squared, or of its window if images are evaluated in windows. So that the pixel lies within each image and at the
same place of each canvas, an image is placed, or cut if it is larger, where its pixel at the chosen fractions of its
height and width meets the canvas's. Lengths are pixels of the network's input.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gcn_jax.config.settings import Protocol
from gcn_jax.console import bar
from gcn_jax.data.samples import Source
from gcn_jax.data.transforms import place, resize
from gcn_jax.inference.segmenter import Segmenter
from gcn_jax.inference.views import inside_of
from gcn_jax.models import Network
from gcn_jax.models.backbones.resnet import STRIDE
from gcn_jax.models.preprocessing import Preprocessing, PyTree, normalize
from gcn_jax.runtime.compilation import platform_jit

_EFFECTIVE = 1 - 0.9545  # of the maximum: Luo et al.'s bound, two standard deviations of a Gaussian


Fractions = tuple[float, float]  # of the height and the width
Gradient = Callable[[dict[str, PyTree], np.ndarray, np.ndarray, int, int], jax.Array]


def make_gradient(model: Network, preprocessing: Preprocessing) -> Gradient:
    """Returns the jitted function ``(variables, image, inside, row, column) -> field`` of one image and output pixel.

    The image is uint8 [H, W, 3], or bands; its part that is no padding int32 [1, 4], see `Network`; the field float32
    [H, W], with respect to the normalised image.
    """

    def gradient(
        variables: dict[str, PyTree], image: jax.Array, inside: jax.Array, row: jax.Array, column: jax.Array
    ) -> jax.Array:
        def score(images):
            logits: Any = model.apply(variables, images, train=False, **inside_of(model, inside))
            scores = logits[0, row, column]
            return scores[jnp.argmax(scores)]

        return jnp.abs(jax.grad(score)(normalize(image[None], preprocessing))[0]).sum(-1)

    return platform_jit(gradient, model.dtype)


def pixel_at(fractions: Sequence[float], height: int, width: int) -> tuple[int, int]:
    """Row and column of the pixel at fractions of the height and the width; 1 is the last."""
    row, column = (min(int(part * length), length - 1) for part, length in zip(fractions, (height, width), strict=True))
    return row, column


def canvas_of(
    image: np.ndarray, fractions: Sequence[float], side: int, mean: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """An image's part of a square canvas on which its pixel at these fractions is at the same fractions.

    Args:
      image: uint8 [H, W, 3], or bands.
      fractions: of height and width, 0..1.
      side: of the canvas.
      mean: the colour of what the image does not cover.

    Returns:
      The same of [side, side, C]; and where the part lies in it, int32 [1, 4], see `Network`.
    """
    ours, theirs = pixel_at(fractions, side, side), pixel_at(fractions, *image.shape[:2])
    top, left = (a - b for a, b in zip(ours, theirs, strict=True))
    part = image[max(-top, 0) :, max(-left, 0) :][:side, :side]
    canvas = np.empty((side, side, image.shape[2]), image.dtype)
    corner = (max(top, 0), max(left, 0))
    place(canvas, part, mean, corner)
    return canvas, np.array([[*corner, *np.add(corner, part.shape[:2])]], np.int32)


def view(protocol: Protocol) -> tuple[float, int]:
    """The scale at which images are taken, and the side of the canvas."""
    scale = min(protocol.scales, key=lambda scale: abs(math.log(scale)))
    if not protocol.window:
        return scale, protocol.size
    return scale, math.ceil(protocol.window * scale / STRIDE) * STRIDE


def mean_fields(segmenter: Segmenter, source: Source, places: Sequence[int], pixels: Sequence[Fractions]) -> np.ndarray:
    """The fields of all chosen pixels, each averaged over images: float64 [pixels, side, side].

    Args:
      segmenter: the trained model.
      source: of the images.
      places: of the images in the source.
      pixels: as fractions of the height and the width.
    """
    (scale, side), model = view(segmenter.protocol), segmenter.model
    model = model.clone(backbone=model.backbone.clone(freeze=""))  # no gradient comes through what is fixed
    gradient = make_gradient(model, segmenter.preprocessing)
    total = np.zeros((len(pixels), side, side))
    with bar("receptive field", len(places) * len(pixels), "gradient", leave=False) as progress:
        for index in places:
            image = _resized(source[index]["image"], scale)
            for i, fractions in enumerate(pixels):
                canvas, inside = canvas_of(image, fractions, side, segmenter.preprocessing.mean)
                total[i] += gradient(segmenter.variables, canvas, inside, *pixel_at(fractions, side, side))
                progress.update()
    return total / len(places)


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    return resize(image, height, width)


def measure(field: np.ndarray, row: int, column: int) -> dict[str, Any]:
    """The size of a field [H, W] around its pixel.

    Returns:
      ``radius_50`` and ``radius_90``, of the smallest discs around the pixel that hold these parts of the sum;
      ``effective_area``, how many values exceed 4.55 % of the maximum (Luo et al.), and ``effective_side``, its root.
    """
    height, width = field.shape
    distances = np.hypot(np.arange(height)[:, None] - row, np.arange(width) - column).ravel()
    order = np.argsort(distances)
    held = np.cumsum(field.ravel()[order])
    area = int(np.sum(field > _EFFECTIVE * field.max()))
    return {
        **{f"radius_{p}": float(distances[order][np.searchsorted(held, p / 100 * held[-1])]) for p in (50, 90)},
        "effective_area": area,
        "effective_side": math.sqrt(area),
    }
