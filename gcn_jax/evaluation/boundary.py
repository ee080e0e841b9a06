"""Finds object boundaries: distances for the paper's table 5 and for trimaps, erosions for Boundary IoU.

There are two conventions; the paper gives neither (our choice):

* **Distance to the boundary.** A pixel lies on a boundary if one of its 4 neighbours has another label. Void is a label
  like any other here, since VOC outlines every object with it. The image's border is no boundary. The distance of a
  pixel is the exact Euclidean distance, between pixel centres, to the nearest pixel on a boundary, which itself has
  distance 0.
* **Boundary IoU** (Cheng et al., CVPR 2021), for each class: the boundary region of a mask is made of those of its
  pixels that d erosions with a 3x3 square remove. Whatever is outside the image or void counts as outside the mask. d
  is 2% of the image's diagonal.
"""

from collections.abc import Callable, Iterator

import numpy as np

# Half the widths of the trimaps, in pixels, ascending. What is within BOUNDARY_WIDTH is the paper's boundary (table 5).
WIDTHS = (1, 2, 3, 5, 7, 10, 15, 20)
BOUNDARY_WIDTH = 7
_EROSION_RATIO = 0.02  # of the diagonal
_ROWS = 32  # that are handled at a time


def on_boundary(label: np.ndarray) -> np.ndarray:
    """Whether a pixel has one of its 4 neighbours with another label: uint8 [H, W] -> bool [H, W]."""
    found = np.zeros(label.shape, bool)
    differs = label[:, 1:] != label[:, :-1]
    found[:, 1:] |= differs
    found[:, :-1] |= differs
    differs = label[1:] != label[:-1]
    found[1:] |= differs
    found[:-1] |= differs
    return found


def distance_band(label: np.ndarray) -> np.ndarray:
    """The narrowest trimap that holds each pixel.

    The squared distance is separable. First comes the vertical distance to the nearest boundary pixel in each column;
    then, along each row, the least of (its square + the squared horizontal distance). Both stop at the largest width.

    Args:
      label: uint8 [H, W].

    Returns:
      uint8 [H, W], an index of `WIDTHS`; ``len(WIDTHS)`` for pixels outside the widest trimap.
    """
    most, (height, width) = WIDTHS[-1], label.shape
    vertical = _vertical_distance(on_boundary(label), most + 1)
    band_of_square = np.searchsorted(np.square(WIDTHS), np.arange((most + 1) ** 2 + 1)).astype(np.uint8)
    band = np.empty(label.shape, np.uint8)
    # A few rows are handled at a time, so that they stay in the processor's cache. They are one flat array, since NumPy
    # is several times slower row by row; what is shifted past the end of a row falls into the gap before the next.
    for top in range(0, height, _ROWS):
        some = vertical[top : top + _ROWS]
        spaced = np.full((len(some), width + most), most + 1, np.uint8)
        spaced[:, :width] = some
        squares = np.square(spaced, dtype=np.uint16).reshape(-1)
        least, shifted = squares.copy(), np.empty_like(squares)
        for distance in range(1, most + 1):
            np.add(squares, np.uint16(distance**2), out=shifted)
            np.minimum(least[distance:], shifted[:-distance], out=least[distance:])
            np.minimum(least[:-distance], shifted[distance:], out=least[:-distance])
        band[top : top + _ROWS] = band_of_square.take(least.reshape(spaced.shape)[:, :width])
    return band


def _vertical_distance(is_source: np.ndarray, most: int) -> np.ndarray:
    """The rows from each pixel to the nearest source in its column, at most `most`: bool [H, W] -> uint8 [H, W]."""
    distance = np.where(is_source, np.uint8(0), np.uint8(most))
    for step in _doublings(most + 1):  # after each step, sources up to 1, 3, 7, ... rows away are known
        farther = distance + np.uint8(step)
        np.minimum(distance[step:], farther[:-step], out=distance[step:])
        np.minimum(distance[:-step], farther[step:], out=distance[:-step])
    return distance


def erosions(height: int, width: int) -> int:
    """The number of erosions with a 3x3 square that Boundary IoU needs for an image of height x width pixels."""
    return max(1, round(_EROSION_RATIO * float(np.hypot(height, width))))


def survives_erosion(label: np.ndarray, times: int) -> np.ndarray:
    """Which pixels remain in their own class's mask after erosions with a 3x3 square: uint8 [H, W] -> bool [H, W].

    A pixel remains if all pixels up to `times` rows and columns away are in the image and have the same class. One
    minimum and one maximum over that square therefore do the work for all classes' masks. (To erode the label map
    itself, as a grey image, would be wrong: regions of one class would move into those of others.)
    """
    least = _over_square(label, times, np.minimum)
    most = _over_square(label, times, np.maximum)
    inside = np.zeros(label.shape, bool)
    inside[times : len(label) - times, times : label.shape[1] - times] = True
    return (least == most) & inside


def _over_square(label: np.ndarray, reach: int, operation: Callable[..., np.ndarray]) -> np.ndarray:
    """A minimum or maximum over 2 reach + 1 rows and columns, as far as they are inside the image."""
    rows = np.pad(label, ((reach, reach), (0, 0)), mode="edge")
    for step in _doublings(2 * reach + 1):
        rows = operation(rows[:-step], rows[step:])
    columns = np.pad(rows, ((0, 0), (reach, reach)), mode="edge")
    for step in _doublings(2 * reach + 1):
        columns = operation(columns[:, :-step], columns[:, step:])
    return columns


def _doublings(wanted: int) -> Iterator[int]:
    """Yields shifts that, one after another, join 1 element to 2, 2 to 4 and so on, up to the wanted number."""
    length = 1
    while length < wanted:
        step = min(length, wanted - length)
        yield step
        length += step
