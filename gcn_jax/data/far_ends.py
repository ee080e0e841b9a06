"""`far_ends`: a drawn data set in which only the far end of an object tells its class.

Each image holds up to three bars of one width and of any length from 16 to 144 pixels, at any angle; none touches
another. A bar's first 12 pixels, its head, have a colour, which is its class; the rest of it looks the same in all
classes. The label of every pixel of a bar is its class. To classify the pixels at its tail, a network has to see as
far as the bar is long: what the paper asks of a segmentation network (section 3.1), and nothing else. Sample i of a
split depends only on the split and on i; the splits are as large as those of `shapes`.
"""

import colorsys
from dataclasses import dataclass

import numpy as np

from gcn_jax.data.shapes import SPLIT_SIZES
from gcn_jax.data.specs import FAR_ENDS, VOID

SIDE = 160  # of an image, pixels
WIDTH = 12.0  # of a bar, and the length of its head
LENGTHS = (16.0, 144.0)
_GAP = 6.0  # between two bars, at least
_OUTLINE = 0.75  # pixels on each side of a bar's edge that are void
_TRIES = 20  # to find a place for a bar


@dataclass(frozen=True)
class Bar:
    """A bar: its class, its length in pixels, and where it lies.

    Attributes:
      class_id: of all its pixels.
      length: from the beginning of the head to the tail, pixels.
      center: y and x of its middle, pixels.
      angle: from the x axis to the direction from tail to head, radians.
    """

    class_id: int
    length: float
    center: tuple[float, float]
    angle: float

    def from_head(self) -> np.ndarray:
        """How far each pixel lies behind the beginning of the head, along the bar: float [SIDE, SIDE]."""
        return self.length / 2 - self._along_and_across()[0]

    def distance(self) -> np.ndarray:
        """The distance to the bar's edge, negative inside (outside, up to a corner's shape): float [SIDE, SIDE]."""
        along, across = self._along_and_across()
        return np.maximum(abs(along) - self.length / 2, abs(across) - WIDTH / 2)

    def _along_and_across(self) -> tuple[np.ndarray, np.ndarray]:
        y, x = np.ogrid[:SIDE, :SIDE]
        dy, dx, (cos, sin) = y - self.center[0], x - self.center[1], (np.cos(self.angle), np.sin(self.angle))
        return cos * dx + sin * dy, cos * dy - sin * dx


def bars(split: str, index: int) -> list[Bar]:
    """The bars of a sample, one to three."""
    return _bars(_generator(split, index))


def draw(split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws a sample.

    Args:
      split: a key of `gcn_jax.data.shapes.SPLIT_SIZES`.
      index: of the sample in the split.

    Returns:
      The image, uint8 [160, 160, 3], and its label, uint8 [160, 160].
    """
    rng = _generator(split, index)
    found = _bars(rng)
    image, label = _stripes(rng, (0.1, 0.35)), np.zeros((SIDE, SIDE), np.uint8)
    for bar in found:
        distance, from_head = bar.distance(), bar.from_head()
        hue = (bar.class_id - 1) / (FAR_ENDS.num_classes - 1)
        color = np.array(colorsys.hsv_to_rgb(hue, 1, 1))
        body = _stripes(rng, (0.5, 0.9))
        body[from_head < WIDTH] *= 0.3 + 0.7 * color
        image[distance < 0] = body[distance < 0]
        label[distance < 0] = bar.class_id
        label[abs(distance) < _OUTLINE] = VOID
    image = 255 * image + rng.normal(0, 6, image.shape)
    return image.clip(0, 255).astype(np.uint8), label


def _generator(split: str, index: int) -> np.random.Generator:
    return np.random.default_rng((7, list(SPLIT_SIZES).index(split), index))


def _bars(rng: np.random.Generator) -> list[Bar]:
    found: list[Bar] = []
    for _ in range(rng.integers(1, 4)):
        class_id, length = int(rng.integers(1, FAR_ENDS.num_classes)), rng.uniform(*LENGTHS)
        for _ in range(_TRIES):
            angle = rng.uniform(0, 2 * np.pi)
            cos, sin = abs(np.cos(angle)), abs(np.sin(angle))
            margins = (length * sin + WIDTH * cos) / 2 + 1, (length * cos + WIDTH * sin) / 2 + 1
            bar = Bar(class_id, length, (_between(rng, margins[0]), _between(rng, margins[1])), angle)
            near = bar.distance() < _GAP
            if not any((near & (other.distance() < 0)).any() for other in found):
                found.append(bar)
                break
    return found


def _between(rng: np.random.Generator, margin: float) -> float:
    return rng.uniform(margin, SIDE - 1 - margin)


def _stripes(rng: np.random.Generator, brightness: tuple[float, float]) -> np.ndarray:
    """Grey stripes, float [SIDE, SIDE, 3], whose brightness is between two values, 0-1."""
    y, x = np.ogrid[:SIDE, :SIDE]
    frequency, angle, phase = rng.uniform(0.1, 0.8), rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    wave = 0.5 + 0.5 * np.sin(frequency * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    return np.repeat((brightness[0] + (brightness[1] - brightness[0]) * wave)[..., None], 3, axis=2)
