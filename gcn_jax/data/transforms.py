"""Transforms of an image and its label together, in NumPy; everything stays uint8.

Images are [H, W, 3], labels [H, W]. Transforms return views where possible, so that pixels are copied only once, when
`place` puts them into a batch.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageEnhance

from gcn_jax.data.samples import Sample


def flip(sample: Sample, rng: np.random.Generator) -> Sample:
    """Mirrors left and right with probability 1/2."""
    if rng.random() < 0.5:
        return sample
    return {**sample, "image": sample["image"][:, ::-1], "label": sample["label"][:, ::-1]}


def scale(sample: Sample, low: float, high: float, rng: np.random.Generator) -> Sample:
    """Resizes by a random factor from low to high: images bilinearly with antialiasing, labels by nearest pixel."""
    factor = rng.uniform(low, high)
    height, width = (max(1, round(side * factor)) for side in sample["label"].shape)
    image = Image.fromarray(sample["image"]).resize((width, height), Image.Resampling.BILINEAR)
    label = Image.fromarray(sample["label"]).resize((width, height), Image.Resampling.NEAREST)
    return {**sample, "image": np.asarray(image), "label": np.asarray(label)}


def crop(sample: Sample, size: int, rng: np.random.Generator) -> Sample:
    """Cuts out a random window of at most size x size pixels; a side that is not larger than size stays whole."""
    height, width = sample["label"].shape
    top = rng.integers(max(height - size, 0), endpoint=True)
    left = rng.integers(max(width - size, 0), endpoint=True)
    window = (slice(top, top + size), slice(left, left + size))
    return {**sample, "image": sample["image"][window], "label": sample["label"][window]}


def color_jitter(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    """Multiplies brightness, contrast and saturation, in random order, by factors in 1 - strength .. 1 + strength."""
    image = Image.fromarray(sample["image"])
    enhancers = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    for i in rng.permutation(len(enhancers)):
        image = enhancers[i](image).enhance(rng.uniform(1 - strength, 1 + strength))
    return {**sample, "image": np.asarray(image)}


def place(
    canvas: np.ndarray, array: np.ndarray, value: Sequence[float] | int, corner: tuple[int, int] = (0, 0)
) -> None:
    """Copies an image or a label into a larger canvas and fills the rest of the canvas.

    Args:
      canvas: uint8 [H, W, ...], changed in place.
      array: uint8 [h, w, ...], at most as large as the canvas.
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
    filler[...] = np.rint(value)
    canvas[:top] = canvas[bottom:] = filler
    canvas[top:bottom, :left] = filler[:left]
    canvas[top:bottom, right:] = filler[right:]


def pad(array: np.ndarray, height: int, width: int, value: Sequence[float] | int) -> np.ndarray:
    """Pads an image with the mean colour, or a label with void, at the bottom and on the right, to height x width."""
    canvas = np.empty((height, width, *array.shape[2:]), array.dtype)
    place(canvas, array, value)
    return canvas
