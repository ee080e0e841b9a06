"""Transforms of an image and its label together, by NumPy and Pillow; values keep their type.

Images are RGB, uint8 [H, W, 3], or bands, [H, W, C] of uint8, uint16 or float32; labels are uint8 [H, W], or of several
classes a pixel [H, W, classes]. Transforms return views where possible, so that pixels are copied only once, when
`place` puts them into a batch.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.special
from PIL import Image, ImageEnhance, ImageFilter

from gcn_jax.data.band_transforms import blurred, each_band, is_rgb, jittered
from gcn_jax.data.samples import Sample
from gcn_jax.data.specs import VOID

_REDRAWS = 10  # of a crop that one class fills
Window = tuple[slice, slice]  # rows and columns


class Turn(NamedTuple):
    """How a sample is turned.

    Attributes:
      angle: about its centre, degrees against the clock.
      zoom: by which it is enlarged before, at least 1; both take one interpolation.
      mean: the colour of the pixels that lie outside of it.
    """

    angle: float
    zoom: float
    mean: Sequence[float]


def flip(sample: Sample, rng: np.random.Generator) -> Sample:
    """Mirrors left and right with probability 1/2."""
    if rng.random() < 0.5:
        return sample
    return {**sample, "image": sample["image"][:, ::-1], "label": sample["label"][:, ::-1]}


def scale(sample: Sample, factor: float) -> Sample:
    """Resizes by a factor: images bilinearly with antialiasing, labels by nearest pixel."""
    height, width = _scaled(sample["label"].shape, factor)
    label = _each_plane(sample["label"], lambda plane: plane.resize((width, height), Image.Resampling.NEAREST))
    return {**sample, "image": resize(sample["image"], height, width), "label": label}


def _each_plane(label: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Changes a label, [H, W], or each plane of [H, W, classes], as a picture."""
    if label.ndim == 2:
        return np.asarray(change(Image.fromarray(label)))
    return np.stack([np.asarray(change(Image.fromarray(plane))) for plane in np.moveaxis(label, -1, 0)], axis=-1)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an image of RGB or bands bilinearly, with antialiasing; bands of whole numbers are rounded."""
    if is_rgb(image):
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    return each_band(image, lambda plane, _: plane.resize((width, height), Image.Resampling.BILINEAR))


def _scaled(shape: tuple[int, ...], factor: float) -> tuple[int, int]:
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def crop(
    sample: Sample,
    size: int,
    rng: np.random.Generator,
    *,
    max_class_share: float = 1.0,
    turn: Turn | None = None,
) -> Sample:
    """Cuts out a random window of at most size x size pixels; a side that is not larger than size stays whole.

    Args:
      sample: to cut from.
      size: of the window, at most.
      rng: by which the window is drawn.
      max_class_share: the window is drawn again, up to 10 times, while it is void alone or one class covers more of its
        other pixels.
      turn: what is done to the sample before; of the image, only the window is computed.
    """
    image, label = sample["image"], sample["label"]
    if turn:
        label = _turned_label(label, turn)  # whole, since several windows of it may be tried
    is_larger = max(label.shape[:2]) > size
    window = _draw_window(label.shape, size, rng)
    for _ in range(_REDRAWS if is_larger and max_class_share < 1 else 0):
        if _largest_share(label[window]) <= max_class_share:
            break
        window = _draw_window(label.shape, size, rng)
    image = turned(image, turn, turn.mean, window) if turn else image[window]
    return {**sample, "image": image, "label": label[window]}


def _draw_window(shape: tuple[int, ...], size: int, rng: np.random.Generator) -> Window:
    height, width = shape[:2]
    top = rng.integers(max(height - size, 0), endpoint=True)
    left = rng.integers(max(width - size, 0), endpoint=True)
    return slice(top, min(top + size, height)), slice(left, min(left + size, width))


def _largest_share(label: np.ndarray) -> float:
    """The share of the pixels that are not void which the largest class covers; 1 if there are none."""
    if label.ndim == 3:  # where no class is counts as one more
        held, is_known = label == 1, (label != VOID).any(-1)
        counts = [*held.sum((0, 1)), (is_known & ~held.any(-1)).sum()]
        return float(max(counts) / is_known.sum()) if is_known.any() else 1.0
    counts = Image.fromarray(label).histogram()[:VOID]
    return max(counts) / sum(counts) if any(counts) else 1.0


def _turned_label(label: np.ndarray, turn: Turn) -> np.ndarray:
    if label.ndim == 2:
        return turned(label, turn, VOID)
    return np.stack([turned(plane, turn, VOID) for plane in np.moveaxis(label, -1, 0)], axis=-1)


def turned(array: np.ndarray, turn: Turn, value: Sequence[float] | int, window: Window | None = None) -> np.ndarray:
    """Enlarges and turns an image or a label; the result has the enlarged array's size.

    Args:
      array: an image [H, W, C], interpolated bilinearly, or a label [H, W], of which the nearest pixel is taken.
      turn: how.
      value: a colour or a label for what lies outside of the array before.
      window: what is wanted of the result; None: all of it.

    Returns:
      The same of the window's size.
    """
    height, width = _scaled(array.shape, turn.zoom)
    rows, columns = window or (slice(0, height), slice(0, width))
    cos, sin = (round(f(math.radians(turn.angle)), 15) / turn.zoom for f in (math.cos, math.sin))  # exact at 90 degrees
    # What is now at (x, y) from the centre was at (cos x - sin y, sin x + cos y); x goes right, y down.
    x, y = columns.start - width / 2, rows.start - height / 2
    column = (cos, -sin, cos * x - sin * y + array.shape[1] / 2)
    row = (sin, cos, sin * x + cos * y + array.shape[0] / 2)
    if array.strides[1] < 0:  # a mirrored image: its pixels are where they were before, which saves a copy
        array, column = array[:, ::-1], (-column[0], -column[1], array.shape[1] - column[2])
    size = (columns.stop - columns.start, rows.stop - rows.start)
    if array.ndim == 3 and not is_rgb(array):
        way, fills = (size, Image.Transform.AFFINE, column + row, Image.Resampling.BILINEAR), np.array(value, float)
        return each_band(array, lambda plane, band: plane.transform(*way, fillcolor=float(fills[band])))
    fill = np.rint(value).astype(int).tolist()
    image = Image.fromarray(array).transform(
        size,
        Image.Transform.AFFINE,
        column + row,
        Image.Resampling.BILINEAR if array.ndim == 3 else Image.Resampling.NEAREST,
        fillcolor=tuple(fill) if array.ndim == 3 else fill,
    )
    return np.asarray(image)


def color_jitter(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    """Multiplies brightness, contrast and saturation, in random order, by factors in 1 - strength .. 1 + strength.

    Bands that are not RGB have no saturation; the contrast of each is about its own mean.
    """
    if not is_rgb(sample["image"]):
        return {**sample, "image": jittered(sample["image"], *rng.uniform(1 - strength, 1 + strength, 2))}
    image = Image.fromarray(sample["image"])
    enhancers = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    for i in rng.permutation(len(enhancers)):
        image = enhancers[i](image).enhance(rng.uniform(1 - strength, 1 + strength))
    return {**sample, "image": np.asarray(image)}


def blur(sample: Sample, largest: float, rng: np.random.Generator) -> Sample:
    """Blurs the image by a Gaussian, of RGB as Pillow approximates it, of a random sigma up to the largest, pixels."""
    sigma = rng.uniform(0, largest)
    if not is_rgb(sample["image"]):
        return {**sample, "image": blurred(sample["image"], sigma)}
    gaussian = ImageFilter.GaussianBlur(sigma)
    return {**sample, "image": np.asarray(Image.fromarray(sample["image"]).filter(gaussian))}


def noise(sample: Sample, largest: float, rng: np.random.Generator) -> Sample:
    """Adds Gaussian noise, of a random standard deviation up to the largest, to each value of the image by itself."""
    levels = np.rint(rng.uniform(0, largest) * _gaussian_levels()).astype(np.int16)
    noisy = levels[rng.integers(len(levels), size=sample["image"].shape, dtype=np.uint16)]
    noisy += sample["image"]
    return {**sample, "image": noisy.clip(0, 255, out=noisy).astype(np.uint8)}


@functools.cache
def _gaussian_levels() -> np.ndarray:
    """65,536 equally likely values of the normal distribution: to draw from them takes a quarter of the time."""
    return scipy.special.ndtri((np.arange(2**16) + 0.5) / 2**16)


def place(
    canvas: np.ndarray, array: np.ndarray, value: Sequence[float] | int, corner: tuple[int, int] = (0, 0)
) -> None:
    """Copies an image or a label into a larger canvas and fills the rest of the canvas.

    Args:
      canvas: [H, W, ...], changed in place.
      array: [h, w, ...], of the same type and at most as large as the canvas.
      value: a colour or a label that fills the rest. For images it is the mean colour, which normalisation turns to
        about 0.
      corner: the row and column of the canvas at which the array begins.
    """
    top, left = corner
    bottom, right = top + array.shape[0], left + array.shape[1]
    inside = canvas[top:bottom, left:right]
    if array.ndim == 3 and array.strides[1] < 0:  # a mirrored image: one channel at a time is five times as fast
        for channel in range(array.shape[2]):
            inside[..., channel] = array[..., channel]
    else:
        inside[...] = array
    filler = np.empty_like(canvas[0])  # a whole row, since NumPy copies rows fast and single colours slowly
    filler[...] = value if canvas.dtype.kind == "f" else np.rint(value)
    canvas[:top] = canvas[bottom:] = filler
    canvas[top:bottom, :left] = filler[:left]
    canvas[top:bottom, right:] = filler[right:]


def pad(array: np.ndarray, height: int, width: int, value: Sequence[float] | int) -> np.ndarray:
    """Pads an image with the mean colour, or a label with void, at the bottom and on the right, to height x width."""
    canvas = np.empty((height, width, *array.shape[2:]), array.dtype)
    place(canvas, array, value)
    return canvas
