"""Pastes a part of one sample into another."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gcn_jax.data.samples import Placed, Sample
from gcn_jax.data.specs import VOID
from gcn_jax.data.transforms import Window, place

MIXES = ("cutmix", "classmix")


def mix(kind: str, first: Placed, second: Placed, size: int, mean: Sequence[float], rng: np.random.Generator) -> Placed:
    """Pastes a part of the second sample, with its label, into the first one.

    Args:
      kind: "cutmix": a rectangle within the second, of a random share of its area (Yun et al., ICCV 2019); or
        "classmix": the pixels of half of its classes, rounded down (Olsson et al., WACV 2021). Void is no class. Other
        classes of these pixels come with them, where pixels may have several.
      first: the sample that is pasted into.
      second: the sample that is pasted from; its pixels keep their places in the padded image.
      size: height and width of the padded image.
      mean: the colour of the padding.
      rng: by which the part is drawn.

    Returns:
      A sample of size x size, padded, with the first one's id.
    """
    (sample, corner), (other, (top, left)) = first, second
    image = np.empty((size, size, sample["image"].shape[2]), sample["image"].dtype)
    label = np.empty((size, size, *sample["label"].shape[2:]), np.uint8)
    place(image, sample["image"], mean, corner)
    place(label, sample["label"], VOID, corner)
    part: Any = _rectangle(other, rng) if kind == "cutmix" else _classes(other, rng)
    height, width = other["label"].shape[:2]
    area = slice(top, top + height), slice(left, left + width)
    image[area][part], label[area][part] = other["image"][part], other["label"][part]
    return {**sample, "image": image, "label": label}, (0, 0)


def _rectangle(sample: Sample, rng: np.random.Generator) -> Window:
    height, width = sample["label"].shape[:2]
    side = math.sqrt(rng.random())  # to that of the sample
    rows, columns = round(height * side), round(width * side)
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    return slice(top, top + rows), slice(left, left + columns)


def _classes(sample: Sample, rng: np.random.Generator) -> np.ndarray:
    if sample["label"].ndim == 3:
        planes = sample["label"] == 1
        held = np.flatnonzero(planes.any((0, 1)))
        return planes[..., rng.choice(held, len(held) // 2, replace=False)].any(-1)
    held = np.flatnonzero(np.bincount(sample["label"].reshape(-1), minlength=256)[:VOID])
    is_chosen = np.zeros(256, bool)
    is_chosen[rng.choice(held, len(held) // 2, replace=False)] = True
    return is_chosen[sample["label"]]
