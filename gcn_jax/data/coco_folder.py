"""`coco`: the user's own images with annotations in COCO's format, of any categories, read in place.

The files of annotations that are found in DIR:

    for each split      annotations/NAME.json or NAME.json, of which NAME holds the word train, or val, valid or
                        validation: instances_train2017.json; or, in a folder train or valid, _annotations.coco.json
                        (Roboflow), its only .json, or that of its annotations/
    for both together   annotations/NAME.json of another NAME: instances_default.json (CVAT); or annotations.json
                        (labelme2coco), result.json (Label Studio), labels.json, via_export_coco.json (VIA),
                        _annotations.coco.json; or the only .json of DIR. A fifth of the images, drawn with config.seed,
                        are val.

An image is found by its `file_name`, from the folder of its annotations, from one named as them or their split
(train2017/, train/, images/train/), from DIR or from images/; or else by the last part of its name, if only one file
below DIR has that.

Id 0 is the background, then follow the categories in the order of their ids. A category called background or
_background_ is the background, one called void is void.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gcn_jax.console import bar, say
from gcn_jax.data import band_statistics, bands, coco_layout, splits
from gcn_jax.data.band_statistics import Moments
from gcn_jax.data.builders.archives import Folder
from gcn_jax.data.images import white_of
from gcn_jax.data.legend import NO_CLASS, Legend
from gcn_jax.data.outlines import LeftOut, draw, draw_planes, report
from gcn_jax.data.specs import VOID
from gcn_jax.errors import UserError
from gcn_jax.files import write_json

NAME = "coco"
SPLITS = ("train", "val")
_FORM = 2  # of what is kept of the survey; files of another form have other names


@dataclass(frozen=True)
class Survey:
    """What the files of a folder hold.

    Attributes:
      pixels: for each split the number of pixels of each label value, 256 numbers; ids are those of `class_lines`.
      sizes: height and width of the images whose annotations do not state them, by name.
      stored: names of the images whose annotations fit only the photograph as it is stored, not turned by its EXIF
        orientation.
      either: names of those that EXIF turns and whose annotations fit both ways.
      white: the largest value of white of images of more than 8 bits; 0 if there is none.
      held: for each split and each of its images the label values that it holds.
      bands: see `band_statistics.Found`.
    """

    pixels: dict[str, list[int]]
    sizes: dict[str, list[int]]
    stored: list[str]
    either: list[str]
    white: int
    held: dict[str, list[list[int]]]
    bands: band_statistics.Found = field(default_factory=dict)


class Checked(NamedTuple):
    """What was found in an image and its annotations; see `Survey`."""

    pixels: np.ndarray
    size: tuple[int, int]
    turn: str
    white: int
    left_out: list[LeftOut]
    image_kind: str
    moments: Moments | None


class CocoFolder:
    """The files of a folder in COCO's format; an `OwnFolder`.

    Args:
      data_dir: the folder.
      cache_dir: where the results of the survey are kept.
      seed: for the random split of a folder with one file of annotations.
      held_out: what was drawn for val before, see `splits.draw`.
      chosen: the bands to read; (): the images are photographs.
      multi_label: whether each category keeps a mask of its own where annotations overlap; there is no background then.

    Raises:
      UserError: naming the folder or the file that is wrong.
    """

    name = NAME
    has_classes_file = True

    def __init__(
        self,
        data_dir: str,
        cache_dir: pathlib.Path,
        seed: int,
        held_out: Sequence[str] = (),
        chosen: bands.Bands = (),
        *,
        multi_label: bool = False,
    ):
        if not data_dir:
            raise UserError("config.data_dir is empty: set it to the folder that holds the images and annotations")
        self.root = pathlib.Path(data_dir).expanduser()
        self.files = Folder(self.root)
        self._seed, self._held_out, self._cache, self._bands = seed, held_out, cache_dir / "folders", chosen
        self._multi_label = multi_label
        self._paths = coco_layout.find(self.root)
        self.is_drawn = len(self._paths) == 1
        self.class_file = next(iter(self._paths.values())).relative_to(self.root).as_posix()

    @cached_property
    def _listed(self) -> dict[str, coco_layout.Listed]:
        names = [path.relative_to(self.root).as_posix() for path in self._paths.values()]
        stamps = self.files.stamps(lambda: names)
        listed = {
            split: coco_layout.read(self.root, name, split, stamp)
            for split, name, stamp in zip(self._paths, names, stamps, strict=True)
        }
        train, *others = listed.values()
        for val in others:
            for one, other, path in ((train, val, self._paths["val"]), (val, train, self._paths["train"])):
                if lacking := [name for name in one.classes if name not in other.classes]:
                    raise UserError(f"{path}: lacks the category {lacking[0]!r}, which the other split has")
            if both := sorted(train.items.keys() & val.items.keys()):
                raise UserError(f"{self._paths['val']}: holds {both[0]}, which {self._paths['train']} holds, too")
        return listed

    @cached_property
    def _items(self) -> dict[str, coco_layout.Item]:
        return {name: item for listed in self._listed.values() for name, item in listed.items.items()}

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        """The names of the images in each split."""
        if self.is_drawn:
            found = splits.draw(self._items, self._seed, self._held_out)
        else:
            found = {split: list(listed.items) for split, listed in self._listed.items()}
        for split in SPLITS:
            if not found[split]:
                raise UserError(
                    f"config.data_dir={self.root}: no image is left for {split} ({len(self._items)} in all)"
                )
        return found

    def class_lines(self, first_id: int = 0) -> tuple[str, ...]:
        """The names of the classes, background first unless they may overlap; first_id has no meaning here."""
        del first_id
        classes = next(iter(self._listed.values())).classes
        return classes if self._multi_label else ("background", *classes)

    @cached_property
    def survey(self) -> Survey:
        """What all images and annotations hold; they are read with a progress bar, and what is found is kept on disk.

        Raises:
          UserError: naming the first bad file.
        """
        items = {split: [[name, self._items[name].path] for name in names] for split, names in self.splits.items()}
        paths = [path.relative_to(self.root).as_posix() for path in self._paths.values()]
        stamps = self.files.stamps(lambda: (*paths, *(path for some in items.values() for _, path in some)))
        marks = [*bands.marks(self._bands), *(["multi_label"] if self._multi_label else [])]
        digest = hashlib.sha256(json.dumps([NAME, _FORM, *items.items(), *stamps, *marks]).encode())
        path = self._cache / f"{digest.hexdigest()[:16]}.json"
        if not path.is_file():
            found = self._survey()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, asdict(found))
            except OSError as error:
                raise UserError(f"config.cache_dir: {path} cannot be written ({error.strerror})") from error
        return Survey(**json.loads(path.read_text(encoding="utf-8")))

    def _survey(self) -> Survey:
        found, white, left_out = Survey({}, {}, [], [], 0, {}), 0, {}
        total = sum(map(len, self.splits.values()))
        with ThreadPoolExecutor(os.cpu_count()) as pool, bar("checking images", total, "image") as progress:
            for split, names in self.splits.items():
                pixels, found.held[split] = np.zeros(256, np.int64), []
                for name, checked in zip(names, pool.map(self._check, names), strict=True):
                    pixels += checked.pixels
                    found.held[split].append(np.setdiff1d(np.flatnonzero(checked.pixels), NO_CLASS).tolist())
                    left_out[name] = checked.left_out
                    if not self._items[name].size:
                        found.sizes[name] = [*checked.size]
                    if checked.turn:
                        getattr(found, checked.turn).append(name)
                    if checked.moments:
                        band_statistics.note(found.bands, split, name, checked.image_kind, checked.moments)
                    white = max(white, checked.white)
                    progress.update()
                found.pixels[split] = pixels.tolist()
        for listed, path in zip(self._listed.values(), self._paths.values(), strict=True):
            some = [*listed.left_out, *(one for name in listed.items for one in left_out[name])]
            if line := report(some, listed.total, str(path)):
                say(line)
        return replace(found, white=white)

    def _check(self, name: str) -> Checked:
        """Reads an image and draws its annotations, at the size that these state."""
        item = self._items[name]
        path, data = str(self.root / item.path), self.files.read(item.path)
        image, turn = bands.decode(data, path, self._bands), ""
        height, width = item.size or image.shape[:2]
        if (turned := bands.orientation(data, path, self._bands)) != 1 and item.size:
            stored = image.shape[1::-1] if turned >= 5 else image.shape[:2]
            turn = ("either" if item.size == image.shape[:2] else "stored") if item.size == stored else ""
        if turn != "stored" and (height, width) != image.shape[:2]:
            own = f"{image.shape[1]}x{image.shape[0]}"
            raise UserError(f"{path}: the image is {own} pixels, but {width}x{height} in {item.origin}")
        label, left_out = self._draw(name, height, width)
        if self._multi_label:
            pixels = np.zeros(256, np.int64)
            pixels[: label.shape[-1]] = (label == 1).sum((0, 1))
            pixels[[VOID, NO_CLASS]] = (label == VOID).sum(), height * width
        else:
            pixels = np.bincount(label.reshape(-1), minlength=256)
        white = 0 if self._bands else white_of(data, path)
        moments = Moments.of_image(image) if self._bands else None
        return Checked(pixels, (height, width), turn, white, left_out, str(image.dtype), moments)

    def _draw(self, name: str, height: int, width: int) -> tuple[np.ndarray, list[LeftOut]]:
        item = self._items[name]
        how = json.loads(item.annotations), height, width, str(self.root / item.path)
        return draw_planes(*how, len(self.class_lines())) if self._multi_label else draw(*how)

    def read_classes(self, legend: Legend) -> np.ndarray:
        """The label of each id of `class_lines`, uint8 [256], by the classes' names.

        Raises:
          UserError: naming a category that is none of the classes.
        """
        labels = np.full(256, VOID, np.uint8)
        labels[NO_CLASS] = NO_CLASS
        for class_id, name in enumerate(self.class_lines()):
            if name not in legend.spec.class_names:
                raise UserError(f"{self.root}: the category {name!r} is none of the classes of {legend.origin}")
            labels[class_id] = legend.spec.class_names.index(name)
        return labels

    def pixels(self, split: str, legend: Legend, labels: np.ndarray) -> np.ndarray:
        """The number of pixels of each label value in a split, int64 [256]; labels is as `read_classes` returns it."""
        del legend
        counts = np.zeros(256, np.int64)
        np.add.at(counts, labels, self.survey.pixels[split])
        return counts

    def class_presence(self, split: str, legend: Legend, labels: np.ndarray) -> np.ndarray:
        """Whether an image of a split holds a label value, bool [N, 256]; labels is as `read_classes` returns it."""
        del legend
        held = self.survey.held[split]
        presence = np.zeros((len(held), 256), bool)
        for row, values in zip(presence, held, strict=True):
            row[labels[values]] = True
        return presence

    def image(self, name: str, white: int = 0, turned: bool = True) -> np.ndarray:
        """Reads an image, as `bands.decode` does."""
        path = self._items[name].path
        return bands.decode(self.files.read(path), str(self.root / path), self._bands, white=white, turned=turned)

    def label(self, name: str, legend: Legend, labels: np.ndarray) -> np.ndarray:
        """Draws an image's annotations, uint8 [H, W], or [H, W, classes]; labels is as `read_classes` returns it."""
        height, width = self._items[name].size or self.survey.sizes[name]
        drawn = self._draw(name, height, width)[0]
        if not self._multi_label:
            return labels[drawn]
        planes = np.zeros((height, width, legend.spec.num_classes), np.uint8)
        planes[..., labels[: drawn.shape[-1]]] = drawn
        return planes
