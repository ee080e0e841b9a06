"""Where object boundaries are: distances for the paper's table 5 and for trimaps, erosions for Boundary IoU.

Two conventions, neither given by the paper (our choice):

* **Distance to the boundary.** A pixel lies on a boundary if its label differs from that of one of its 4 neighbours.
  Void is a label like any other here, since VOC outlines every object with it; the image's border is no boundary. The
  distance of a pixel is the exact Euclidean one, between pixel centres, to the nearest pixel on a boundary: 0 on it.
* **Boundary IoU** (Cheng et al., CVPR 2021), class by class: a mask's boundary region are its pixels that d erosions
  with a 3x3 square remove, where all outside the image counts as outside the mask, and so does void. d is 2% of the
  image's diagonal.
"""

from collections.abc import Callable, Iterator

import numpy as np

# Pixels: half the widths of trimaps, ascending. The paper's table 5 calls what is within BOUNDARY_WIDTH the boundary.
WIDTHS = (1, 2, 3, 5, 7, 10, 15, 20)
BOUNDARY_WIDTH = 7
_EROSION_RATIO = 0.02  # of the diagonal
_ROWS = 32


def on_boundary(label: np.ndarray) -> np.ndarray:
    """Which pixels have a 4-neighbour of another label: uint8 [H, W] -> bool [H, W]."""
    found = np.zeros(label.shape, bool)
    differs = label[:, 1:] != label[:, :-1]
    found[:, 1:] |= differs
    found[:, :-1] |= differs
    differs = label[1:] != label[:-1]
    found[1:] |= differs
    found[:-1] |= differs
    return found


def distance_band(label: np.ndarray) -> np.ndarray:
    """In which trimap a pixel first lies: uint8 [H, W] -> uint8 [H, W], an index of WIDTHS, or their number beyond all.

    The squared distance is separable: first the vertical distance to the nearest boundary pixel of each column, then
    the least of (its square + the horizontal distance squared) along each row; both end at the largest width.
    """
    most, (height, width) = WIDTHS[-1], label.shape
    vertical = _vertical_distance(on_boundary(label), most + 1)
    band_of_square = np.searchsorted(np.square(WIDTHS), np.arange((most + 1) ** 2 + 1)).astype(np.uint8)
    band = np.empty(label.shape, np.uint8)
    # Some rows at a time, which stay in the processor's cache, as one array: what shifts past the end of a row falls
    # into the gap before the next, of no boundary. NumPy is several times slower on rows of their own.
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
    """Rows between a pixel and the nearest source in its column, at most `most`: bool [H, W] -> uint8 [H, W]."""
    distance = np.where(is_source, np.uint8(0), np.uint8(most))
    for step in _doublings(most + 1):  # to sources up to 1, 3, 7, ... rows away
        farther = distance + np.uint8(step)
        np.minimum(distance[step:], farther[:-step], out=distance[step:])
        np.minimum(distance[:-step], farther[step:], out=distance[:-step])
    return distance


def erosions(height: int, width: int) -> int:
    """How many erosions Boundary IoU takes for an image's size."""
    return max(1, round(_EROSION_RATIO * float(np.hypot(height, width))))


def survives_erosion(label: np.ndarray, times: int) -> np.ndarray:
    """Which pixels are left of their own class's mask after erosions with a 3x3 square: uint8 [H, W] -> bool [H, W].

    That is where all pixels up to `times` rows and columns away are of the same class and in the image; so one minimum
    and one maximum over that square serve all classes' masks. (Eroding the label map itself, as a grey image, would be
    another thing: it moves the bands into other classes.)
    """
    least = _over_square(label, times, np.minimum)
    most = _over_square(label, times, np.maximum)
    inside = np.zeros(label.shape, bool)
    inside[times : len(label) - times, times : label.shape[1] - times] = True
    return (least == most) & inside


def _over_square(label: np.ndarray, reach: int, operation: Callable[..., np.ndarray]) -> np.ndarray:
    """A minimum or maximum over 2 reach + 1 rows and columns; beyond the image, over what is inside of it."""
    rows = np.pad(label, ((reach, reach), (0, 0)), mode="edge")
    for step in _doublings(2 * reach + 1):
        rows = operation(rows[:-step], rows[step:])
    columns = np.pad(rows, ((0, 0), (reach, reach)), mode="edge")
    for step in _doublings(2 * reach + 1):
        columns = operation(columns[:, :-step], columns[:, step:])
    return columns


def _doublings(wanted: int) -> Iterator[int]:
    """Shifts that, one after the other, join 1 to 2, 2 to 4 and so on, up to the wanted number."""
    length = 1
    while length < wanted:
        step = min(length, wanted - length)
        yield step
        length += step
