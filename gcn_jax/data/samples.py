"""What all data sets have in common: samples, and random access to them.

A sample is ``{"image": uint8 [H, W, 3] RGB, "label": uint8 [H, W], "image_id": str}``.
"""

from collections.abc import Sequence
from typing import Protocol, TypedDict

import numpy as np


class Sample(TypedDict):
    """One image and its truth."""

    image: np.ndarray
    label: np.ndarray
    image_id: str


class Source(Protocol):
    """A finite random-access collection of samples; what grain reads from."""

    @property
    def image_ids(self) -> Sequence[str]:
        """Of all samples, in order; reads no image."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class Split(Source, Protocol):
    """A whole split of a data set."""

    def pixels(self) -> np.ndarray:
        """How many pixels there are of each label value: int64 [256]."""
        ...


class Selection:
    """Some samples of several sources, as one source."""

    def __init__(self, sources: Sequence[Source], chosen: Sequence[tuple[int, int]]):
        """Takes sample j of source i for each (i, j) in chosen."""
        self._sources, self._chosen = sources, np.array(chosen, np.int32).reshape(-1, 2)

    @property
    def image_ids(self) -> Sequence[str]:
        return [self._sources[i].image_ids[j] for i, j in self._chosen]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int, /) -> Sample:
        i, j = self._chosen[int(index)]
        return self._sources[i][j]
