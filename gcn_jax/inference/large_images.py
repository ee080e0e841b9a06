"""Images that are read window by window, since they may not fit into memory."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from gcn_jax.data.transforms import pad
from gcn_jax.errors import UserError
from gcn_jax.inference.labeller import Labeller
from gcn_jax.inference.maps import Maps
from gcn_jax.models.preprocessing import PyTree

SUM_BYTES = 2**28  # that the sum of a row of windows takes at most


class Needs(NamedTuple):
    """What `rows` needs to know of a model and its protocol."""

    num_classes: int
    mean: Sequence[float]  # of each channel; pads an image that is smaller than a window
    crf: str


class LargeImage(Protocol):
    """An image that is read in windows, [H, W, channels]; see `gcn_jax.data.rasters.Raster`."""

    shape: tuple[int, int, int]

    def read(self, top: int, left: int, bottom: int, right: int, /) -> np.ndarray: ...


def rows(
    labeller: Labeller, variables: dict[str, PyTree], image: LargeImage, wanted: tuple[str, ...], needs: Needs
) -> Iterator[tuple[int, int, Maps]]:
    """Several maps of an image that is read window by window, with the same result as if it were in memory.

    Wide images are taken in blocks of columns, from left to right, so that the sum of a row of windows takes
    `SUM_BYTES` at most. Windows that reach over the border of two blocks are computed twice.

    Args:
      labeller: applies the model.
      variables: of the model.
      image: to label.
      wanted: which of `Maps`.
      needs: of the model and the protocol.

    Yields:
      The row and the column of a part's first pixel, and its maps.

    Raises:
      UserError: if a CRF is to refine an image that is taken in windows.
    """
    height, width = image.shape[:2]
    if labeller.canvas(height, width):
        yield 0, 0, labeller.start(variables, [image.read(0, 0, height, width)], wanted)()[0]
        return
    if needs.crf:
        text = f"the CRF takes a whole image; one of {width}x{height} pixels is read in windows"
        raise UserError(f"config.eval.crf={needs.crf}: {text}")
    side, tops, lefts, size = labeller.grid(height, width)
    most = max(SUM_BYTES // (4 * side * needs.num_classes), 2 * side)
    shape = height, min(most, max(width, side))  # the same for all blocks, so that one program is compiled
    for first, last, begin, end in blocks(lefts, side, width, most):
        start, own = lefts[first], lefts[first : last + 1] - lefts[first]
        part, top = Columns(image, start, needs.mean), 0
        for maps, count in labeller.window_rows(variables, part, (side, tops, own, size), shape, wanted, None):
            here = (slice(count), slice(begin - start, end - start))
            yield top, begin, {name: np.asarray(values)[here] for name, values in maps.items()}
            top += count


class Columns:
    """Some columns of a large image, as an array that is read where it is indexed; beyond the image is the mean."""

    def __init__(self, image: LargeImage, start: int, mean: Sequence[float]):
        self._image, self._start, self._mean = image, start, mean

    def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray:
        (top, bottom), (left, right) = ((part.start, part.stop) for part in place)
        height, width = self._image.shape[:2]
        ends = min(bottom, height), min(right + self._start, width)
        pixels = self._image.read(top, left + self._start, *ends)
        return pad(pixels, bottom - top, right - left, self._mean)


def blocks(lefts: np.ndarray, side: int, width: int, most: int) -> Iterator[tuple[int, int, int, int]]:
    """Divides an image into blocks of columns.

    Args:
      lefts: of the windows.
      side: of the windows.
      width: of the image.
      most: columns that the windows of a block may span together, two sides or more.

    Yields:
      The first and the last window of a block, and where its own columns begin and end.
    """
    begin, last = 0, -1
    while last < len(lefts) - 1:
        first = int(np.argmax(lefts + side > begin))
        last = int(np.flatnonzero(lefts + side - lefts[first] <= most)[-1])
        end = int(lefts[last + 1]) if last < len(lefts) - 1 else width
        yield first, last, begin, end
        begin = end
