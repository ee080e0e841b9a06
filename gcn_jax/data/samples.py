"""What all data sets have in common: samples, and random access to them.

A sample is ``{"image": uint8 [H, W, 3] RGB, "label": uint8 [H, W], "image_id": str}``; of bands that are not RGB the
image is [H, W, C] of uint8, uint16 or float32. A multi-label sample, whose pixels may have several classes, has a label
uint8 [H, W, classes]: 1 where a class is, 0 where it is not, 255 where it is void.
"""

from collections.abc import Sequence
from typing import Protocol, TypedDict

import numpy as np


class Sample(TypedDict):
    """One image and its truth.

    Attributes:
      image: uint8 [H, W, 3], RGB; or bands.
      label: uint8 [H, W], class ids; 255 is void. Multi-label: uint8 [H, W, classes] of 0, 1 and 255.
      image_id: the image's name, unique in its data set.
    """

    image: np.ndarray
    label: np.ndarray
    image_id: str


Placed = tuple[Sample, tuple[int, int]]  # a sample, and the row and column of its first pixel in the padded image


class Source(Protocol):
    """A finite collection of samples with random access, from which grain reads."""

    @property
    def image_ids(self) -> Sequence[str]:
        """The ids of all samples, in order; no image is read for them."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...

    def class_presence(self) -> np.ndarray:
        """Whether a sample holds a label value, bool [N, 256]; may read all labels when it is first asked for.

        Of multi-label samples: whether it holds a class.
        """
        ...


class Split(Source, Protocol):
    """A whole split of a data set."""

    def pixels(self) -> np.ndarray:
        """The number of pixels of each label value, int64 [256].

        Of multi-label samples: of each class, of void over all classes, and, at `legend.NO_CLASS`, of all pixels.
        """
        ...


class Selection:
    """A source made of some samples of several sources."""

    def __init__(self, sources: Sequence[Source], chosen: Sequence[tuple[int, int]]):
        """Makes a source that has sample j of source i for each (i, j) in chosen, in that order."""
        self._sources, self._chosen = sources, np.array(chosen, np.int32).reshape(-1, 2)

    @property
    def image_ids(self) -> Sequence[str]:
        return [self._sources[i].image_ids[j] for i, j in self._chosen]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int, /) -> Sample:
        i, j = self._chosen[int(index)]
        return self._sources[i][j]

    def class_presence(self) -> np.ndarray:
        presence = [source.class_presence() for source in self._sources]
        return np.array([presence[i][j] for i, j in self._chosen], bool).reshape(-1, 256)
