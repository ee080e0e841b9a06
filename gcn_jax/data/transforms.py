"""Transforms of an image and its label together, in NumPy; everything stays uint8.

Images are [H, W, 3], labels [H, W]. Padding goes to the bottom and right: the mean colour, rounded, in images (so
that it is about 0 once normalised), void in labels.
"""

from collections.abc import Sequence

import numpy as np

from gcn_jax.data.sources import Sample
from gcn_jax.data.specs import VOID


class PaddedSample(Sample):
    """A sample after padding; size: rows and columns before it."""

    size: tuple[int, ...]


def pad(array: np.ndarray, height: int, width: int, value: Sequence[float] | int) -> np.ndarray:
    """Pads an image or a label at the bottom and right to height x width with a colour or a label value."""
    padded = np.empty((height, width, *array.shape[2:]), array.dtype)
    padded[: array.shape[0], : array.shape[1]] = array
    padded[array.shape[0] :] = padded[: array.shape[0], array.shape[1] :] = np.rint(value).astype(array.dtype)
    return padded


def pad_sample(sample: Sample, height: int, width: int, mean: Sequence[float]) -> PaddedSample:
    """Pads image and label to height x width, and notes the size that they had."""
    return {
        "image": pad(sample["image"], height, width, mean),
        "label": pad(sample["label"], height, width, VOID),
        "image_id": sample["image_id"],
        "size": sample["label"].shape,
    }


def flip(sample: Sample, rng: np.random.Generator) -> Sample:
    """Mirrors left and right, every second time."""
    if rng.random() < 0.5:
        return sample
    return {**sample, "image": sample["image"][:, ::-1], "label": sample["label"][:, ::-1]}


def crop(sample: Sample, size: int, rng: np.random.Generator) -> Sample:
    """Cuts out a random window where a side exceeds size; smaller sides stay whole."""
    height, width = sample["label"].shape
    top = rng.integers(max(height - size, 0), endpoint=True)
    left = rng.integers(max(width - size, 0), endpoint=True)
    window = (slice(top, top + size), slice(left, left + size))
    return {**sample, "image": sample["image"][window], "label": sample["label"][window]}


def padded_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """The shape to which an image is padded for whole-image inference: a few shapes serve images of every size.

    Images up to size x size share one shape. For larger ones the long side goes to size times a power of two, the
    short one to as much or half of that: three shapes for each doubling.
    """
    side = size
    while side < max(height, width):
        side *= 2
    if side == size:
        return size, size
    half = side // 2
    return (half if height <= half else side), (half if width <= half else side)
