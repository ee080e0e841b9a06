"""Mean and standard deviation of each band over many images, exact in float64, from one pass; and the bands' kind."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gcn_jax.errors import UserError

# What a folder's survey keeps of its bands, as JSON: "kinds", an image's name for each kind of values, and for each
# split the `Moments` of its images; {} for photographs.
Found = dict[str, Any]


@dataclass(frozen=True)
class Moments:
    """What mean and standard deviation follow from: float64 [bands] each.

    Attributes:
      count: of the finite values.
      mean: of these.
      squares: the sum of the squared differences from the mean.
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of_image(cls, image: np.ndarray) -> "Moments":
        """Those of an image [H, W, bands]. NaN and infinite values are left out."""
        rows = []
        for band in np.moveaxis(image, -1, 0):  # one at a time, since float64 takes room
            values = band[np.isfinite(band)].astype(np.float64)
            mean = values.mean() if values.size else 0.0
            rows.append((values.size, mean, np.square(values - mean).sum()))
        return cls(*np.array(rows, np.float64).T)

    def merge(self, other: "Moments") -> "Moments":
        """Those of both sets of images together (Chan, Golub and LeVeque, 1979)."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        apart = other.mean - self.mean
        squares = self.squares + other.squares + np.square(apart) * self.count * share
        return Moments(count, self.mean + apart * share, squares)

    def std(self) -> np.ndarray:
        """The standard deviation of each band, float64 [bands]."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))


def note(found: Found, split: str, name: str, image_kind: str, moments: Moments) -> None:
    """Adds an image of a split to what a survey keeps, in place."""
    found.setdefault("kinds", {}).setdefault(image_kind, name)
    if split in found:
        moments = Moments(*map(np.array, found[split])).merge(moments)
    found[split] = [part.tolist() for part in (moments.count, moments.mean, moments.squares)]


def moments_of(found: Found, split: str) -> Moments:
    """The moments of a split's images."""
    return Moments(*map(np.array, found[split]))


def kind_of(found: Found, where: str, wanted: str) -> str:
    """The one kind of values that all images have.

    Args:
      found: of the survey; not {}.
      where: the folder, for messages.
      wanted: the kind that they must have; "": any.

    Raises:
      UserError: naming images whose values are of different kinds, or of another kind than wanted.
    """
    kinds = found["kinds"]
    if len(kinds) > 1:
        examples = " and ".join(f"{name} has {kind}" for kind, name in kinds.items())
        raise UserError(f"{where}: {examples}; all images must have one kind of values: convert them")
    (kind, name), *_ = kinds.items()
    if wanted and kind != wanted:
        raise UserError(
            f"{where}: {name} has {kind}, but config.data.depth={wanted}, what the model was trained on; convert it"
        )
    return kind
