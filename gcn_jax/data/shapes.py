"""`shapes`: a data set whose images are drawn by a program, for the demo and the tests; it needs no file.

Textured objects of five classes overlap on a textured grey background. Each class has a typical hue, but hues vary so
much that neighbouring classes share them, so that only the shape tells the class for sure. Outlines are void, as in
VOC. Sample i of a split depends only on the split and on i.
"""

import colorsys
import functools
from collections.abc import Callable, Sequence

import numpy as np

from gcn_jax.data.samples import Sample
from gcn_jax.data.specs import SHAPES, VOID

SPLIT_SIZES = {"train": 4000, "val": 200}
Draw = Callable[[str, int], tuple[np.ndarray, np.ndarray]]  # split and index -> image and label
_SIDE = (48, 64)  # pixels, both ends included
_RADIUS = (9.0, 19.0)  # pixels
_OUTLINE = 0.75  # pixels on each side of an object's edge
_HUE_SCATTER = 0.07  # standard deviation, in turns of the colour circle; classes lie 0.2 apart


def _signed_distance(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The distance to a shape's edge, negative inside, in units of its radius; u and v are centred coordinates."""
    if name == "disk":
        return np.hypot(u, v) - 0.9
    if name == "square":
        return np.maximum(abs(u), abs(v)) - 0.8
    if name == "triangle":
        return np.maximum(v - 0.5, abs(u) * np.sqrt(0.75) - v / 2 - 0.5)
    if name == "ring":
        return abs(np.hypot(u, v) - 0.75) - 0.25
    if name == "cross":
        return np.maximum(np.minimum(abs(u), abs(v)) - 0.28, np.maximum(abs(u), abs(v)) - 1.0)
    raise AssertionError(name)


def _color(rng: np.random.Generator, class_id: int) -> np.ndarray:
    """A random colour, float [3], 0-255: near grey for the background (class 0), near the class's hue for objects."""
    hue = class_id / (SHAPES.num_classes - 1) + rng.normal(0, _HUE_SCATTER)
    saturation = rng.uniform(0, 0.2) if class_id == 0 else rng.uniform(0.4, 1)
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, rng.uniform(0.2, 1)))


def _texture(rng: np.random.Generator, class_id: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Stripes of two random colours of a class, with noise: float [H, W, 3], about 0-255."""
    first, second = _color(rng, class_id), _color(rng, class_id)
    frequency, angle, phase = rng.uniform(0.1, 0.8), rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    wave = np.sin(frequency * (np.cos(angle) * x + np.sin(angle) * y) + phase)[..., None]
    mix = 0.5 + rng.uniform(0.1, 0.5) * wave
    return first * mix + second * (1 - mix) + rng.normal(0, 6, (*y.shape, 3))


def draw(split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws a sample.

    Args:
      split: a key of `SPLIT_SIZES`.
      index: of the sample in the split.

    Returns:
      The image, uint8 [H, W, 3], and its label, uint8 [H, W]; height and width are 48 to 64 pixels.
    """
    rng = np.random.default_rng((list(SPLIT_SIZES).index(split), index))
    height, width = rng.integers(_SIDE[0], _SIDE[1], 2, endpoint=True)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    image, label = _texture(rng, 0, y, x), np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, 4)):
        class_id = int(rng.integers(1, SHAPES.num_classes))
        radius, angle = rng.uniform(*_RADIUS), rng.uniform(0, 2 * np.pi)
        dy, dx = (y - rng.uniform(0, height)) / radius, (x - rng.uniform(0, width)) / radius
        u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
        distance = radius * _signed_distance(SHAPES.classes[class_id].name, u, v)
        inside = distance < 0
        image[inside] = _texture(rng, class_id, y, x)[inside]
        label[inside] = class_id
        label[abs(distance) < _OUTLINE] = VOID
    return image.clip(0, 255).astype(np.uint8), label


@functools.cache
def _counts(draw: Draw, split: str) -> np.ndarray:
    """The pixels of each label value in each sample, int64 [N, 256]; all samples are drawn for it."""
    labels = (draw(split, index)[1].reshape(-1) for index in range(SPLIT_SIZES[split]))
    return np.array([np.bincount(label, minlength=256) for label in labels])


class ShapesSource:
    """A drawn data set, `shapes` unless told otherwise; each image is drawn whenever it is asked for."""

    def __init__(self, split: str, draw: Draw = draw):
        self._split, self._draw = split, draw

    @property
    def image_ids(self) -> Sequence[str]:
        return [f"{self._split}_{index:06d}" for index in range(len(self))]

    def pixels(self) -> np.ndarray:
        return _counts(self._draw, self._split).sum(0)

    def class_presence(self) -> np.ndarray:
        return _counts(self._draw, self._split) > 0

    def __len__(self) -> int:
        return SPLIT_SIZES[self._split]

    def __getitem__(self, index: int, /) -> Sample:
        image, label = self._draw(self._split, int(index))
        return {"image": image, "label": label, "image_id": f"{self._split}_{index:06d}"}
