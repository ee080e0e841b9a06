"""What the user's own folders have in common, of masks or of annotations: they become sources in one way."""

import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gcn_jax.console import say
from gcn_jax.data import band_statistics
from gcn_jax.data.legend import Legend
from gcn_jax.data.samples import Sample


class OwnSurvey(Protocol):
    """What a folder's files hold; see `gcn_jax.data.folder.Survey`."""

    @property
    def stored(self) -> list[str]: ...

    @property
    def either(self) -> list[str]: ...

    @property
    def white(self) -> int: ...

    @property
    def bands(self) -> band_statistics.Found: ...


class OwnFolder(Protocol):
    """The files of a folder; see `gcn_jax.data.folder.LabelledFolder`.

    What `read_classes` returns is the folder's own way to go from what its files hold to the labels of the classes.
    """

    root: pathlib.Path

    @property
    def name(self) -> str: ...

    @property
    def is_drawn(self) -> bool: ...

    @property
    def has_classes_file(self) -> bool: ...

    @property
    def class_file(self) -> str: ...

    @property
    def splits(self) -> dict[str, list[str]]: ...

    @property
    def survey(self) -> OwnSurvey: ...

    def class_lines(self, first_id: int = 0) -> tuple[str, ...]: ...

    def read_classes(self, legend: Legend) -> Any: ...

    def pixels(self, split: str, legend: Legend, meaning: Any, /) -> np.ndarray: ...

    def class_presence(self, split: str, legend: Legend, meaning: Any, /) -> np.ndarray: ...

    def image(self, name: str, white: int = 0, turned: bool = True) -> np.ndarray: ...

    def label(self, name: str, legend: Legend, meaning: Any, /) -> np.ndarray: ...


class FolderSource:
    """A split of the user's own folder, read in place.

    Args:
      folder: the user's own.
      split: "train" or "val".
      legend: the classes.
      exif: "apply" or "ignore": whether the orientation counts for photographs whose masks fit both ways.
      white: as in `decode_image`; 0: what the folder holds.
      depth: the kind of values that bands must have; "": any.
    """

    def __init__(self, folder: OwnFolder, split: str, legend: Legend, exif: str, white: int, depth: str = ""):
        self._folder, self._split, self._legend = folder, split, legend
        self._meaning = folder.read_classes(legend)
        self._pixels = folder.pixels(split, legend, self._meaning)
        self.image_ids: Sequence[str] = folder.splits[split]
        survey = folder.survey
        self.depth = band_statistics.kind_of(survey.bands, str(folder.root), depth) if survey.bands else "uint8"
        self._white = white or survey.white
        self._unturned = set(survey.stored) | (set(survey.either) if exif == "ignore" else set())
        self._tell(split, exif)

    def _tell(self, split: str, exif: str) -> None:
        survey, own, name = self._folder.survey, set(self.image_ids), f"{self._folder.name}/{split}"
        if count := len(own.intersection(survey.stored)):
            say(f"{name}: {count} photographs are not turned by EXIF, since their masks fit only as stored")
        if count := len(own.intersection(survey.either)):
            how = "turned (or --config.data.exif=ignore)" if exif == "apply" else "not turned (config.data.exif)"
            say(f"warning: {name}: masks of {count} photographs fit with EXIF's orientation and without: {how}")
        if survey.white:
            say(f"{name}: in images of more than 8 bits, {self._white} is white (config.data.white)")

    def pixels(self) -> np.ndarray:
        return self._pixels

    def class_presence(self) -> np.ndarray:
        return self._folder.class_presence(self._split, self._legend, self._meaning)

    def band_moments(self) -> band_statistics.Moments:
        """Those of the split's images, which have bands."""
        return band_statistics.moments_of(self._folder.survey.bands, self._split)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int, /) -> Sample:
        name = self.image_ids[int(index)]
        label = self._folder.label(name, self._legend, self._meaning)
        image = self._folder.image(name, self._white, name not in self._unturned)
        return {"image": image, "label": label, "image_id": name}
