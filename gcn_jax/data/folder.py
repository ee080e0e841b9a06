"""`folder`: the user's own images and masks, read in place; `layout` says which forms of a folder are found.

    DIR/images/NAME.jpg     any image format, turned upright by its EXIF orientation; may lie in folders of their own
    DIR/masks/NAME.png      class ids as grey values or palette indices, or colours; 255 is void
    DIR/train.txt, val.txt  NAMEs, one per line. If there is only one list, all other images are the other split. If
                            there is none, a fifth of the images, drawn with config.seed, are val.
    DIR/classes.txt         one class per line, in the order of their ids: "road", or with its colour "road 128 64 128".
                            Lines "void R G B" and "void N" give void's colour and an id that is void. Without the file
                            the masks are searched for ids.

Before the first use each pair of files is read and checked; later starts only list the files.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from gcn_jax.console import bar
from gcn_jax.data import band_statistics, bands, layout, splits
from gcn_jax.data.band_statistics import Moments
from gcn_jax.data.builders.archives import Folder
from gcn_jax.data.class_files import canonical_lines
from gcn_jax.data.images import white_of
from gcn_jax.data.legend import MAX_CLASSES, NO_CLASS, Legend, Pair, parse_classes
from gcn_jax.data.masks import check_same_size, read_mask
from gcn_jax.data.specs import VOID
from gcn_jax.errors import UserError
from gcn_jax.files import write_json

NAME = "folder"
SPLITS = ("train", "val")
_FORM = 2  # of what is kept of the survey; files of another form have other names


@dataclass(frozen=True)
class Survey:
    """What the files of a folder hold.

    Attributes:
      pixels: for each kind of mask the number of pixels of each pair in each of `SPLITS`.
      examples: for each kind the name of an image whose mask holds the pair.
      stored: names of the images whose masks fit only the photograph as it is stored, not turned by EXIF.
      either: names of those that EXIF turns and whose masks fit both ways.
      white: the largest value of white of images of more than 8 bits; 0 if there is none.
      held: for each of `SPLITS` and each of its images the kind of the mask, and the places in `pixels` of its pairs.
      bands: see `band_statistics.Found`.
    """

    pixels: dict[str, dict[Pair, list[int]]]
    examples: dict[str, dict[Pair, str]]
    stored: list[str]
    either: list[str]
    white: int
    held: list[list[tuple[str, list[int]]]]
    bands: band_statistics.Found = field(default_factory=dict)


class Checked(NamedTuple):
    """What was found in an image and its mask; see `Survey`."""

    kind: str
    counts: dict[Pair, int]
    turn: str
    white: int
    image_kind: str
    moments: Moments | None


class LabelledFolder:
    """The files of a folder of images and masks, an `OwnFolder`.

    Args:
      data_dir: the folder.
      cache_dir: where the results of the survey are kept.
      seed: for the random split of a folder that holds no lists.
      held_out: what was drawn for val before, see `splits.draw`.
      chosen: the bands to read; (): the images are photographs.

    Raises:
      UserError: naming the folder, the file or the line that is wrong.
    """

    name = NAME
    multi_label = False

    def __init__(
        self, data_dir: str, cache_dir: pathlib.Path, seed: int, held_out: Sequence[str] = (), chosen: bands.Bands = ()
    ):
        if not data_dir:
            raise UserError("config.data_dir is empty: set it to the folder that holds images/ and masks/")
        self.root = pathlib.Path(data_dir).expanduser()
        self.files = Folder(self.root)
        self._seed, self._held_out, self._cache, self._bands = seed, held_out, cache_dir / "folders", chosen
        self._layout = layout.find(self.root, bands.suffixes(chosen), self.multi_label)
        self.pairs = self._layout.pairs

    @cached_property
    def is_drawn(self) -> bool:
        """Whether neither lists nor folders say which images are for evaluation, so that a part is drawn."""
        return not self._lists and len(self._layout.by_folder) < 2

    @cached_property
    def _lists(self) -> dict[str, list[str]]:
        found = {split: layout.listed(self.root, split, self.pairs) for split in SPLITS}
        return {split: names for split, names in found.items() if names is not None}

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        """The names of the images in each split."""
        found = dict(self._lists)
        if self.is_drawn:
            found = splits.draw(self.pairs, self._seed, self._held_out)
        elif not found:
            found = dict(self._layout.by_folder)
        for split, other in (SPLITS, SPLITS[::-1]):
            if split not in found:
                found[split] = sorted(self.pairs.keys() - set(found[other]))
            if not found[split]:
                raise UserError(f"config.data_dir={self.root}: no image is left for {split} ({len(self.pairs)} in all)")
        return found

    @property
    def has_classes_file(self) -> bool:
        """Whether there is a list of classes."""
        return self._layout.class_file is not None

    @property
    def class_file(self) -> str:
        """The name of the list of classes; what it would be if there is none."""
        return str(self._layout.class_file.relative_to(self.root)) if self._layout.class_file else "classes.txt"

    def class_lines(self, first_id: int = 0) -> tuple[str, ...]:
        """The classes as `parse_classes` takes them; without a list of classes, made-up names for the masks' ids."""
        if path := self._layout.class_file:
            lines = canonical_lines(path.read_bytes(), str(path))
            parse_classes(lines, str(path), first_id)
            return lines
        pairs = {kind: list(found) for kind, found in self.survey.pixels.items()}
        ids = {value for found in pairs.values() for value, _ in found if value not in (-1, VOID, 65535)}
        last = max(ids, default=0)
        if all(value < 0 for found in pairs.values() for value, _ in found) or last - first_id >= MAX_CLASSES:
            self._check(parse_classes([f"class {i}" for i in range(MAX_CLASSES)], first_id=first_id))
        if last - first_id < 1:
            masks = self.root / layout.common(mask for _, mask in self.pairs.values())
            raise UserError(
                f"{masks}: the masks hold no id but {last} and {VOID}, which is void; class ids must be 0, 1, 2, ... "
                f"(or write classes.txt with a colour for each class: 'background 0 0 0' and 'person 255 255 255')"
            )
        return tuple(f"class {i}" for i in range(first_id, last + 1))

    @cached_property
    def survey(self) -> Survey:
        """What all images and masks hold; they are read with a progress bar, and what is found is kept on disk.

        Raises:
          UserError: naming the first bad file.
        """
        names = [name for split in SPLITS for name in self.splits[split]]
        stamps = self.files.stamps(lambda: (path for name in names for path in self.pairs[name]))
        marks = bands.marks(self._bands)
        digest = hashlib.sha256(json.dumps([_FORM, *self.splits.items(), *stamps, *marks]).encode())
        path = self._cache / f"{digest.hexdigest()[:16]}.json"
        if not path.is_file():
            found = self._survey()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, found)
            except OSError as error:
                raise UserError(f"config.cache_dir: {path} cannot be written ({error.strerror})") from error
        return _of_json(json.loads(path.read_text(encoding="utf-8")))

    def _survey(self) -> dict[str, Any]:
        masks: dict[str, dict[Pair, list[Any]]] = {}
        held: list[list[tuple[str, list[int]]]] = [[] for _ in SPLITS]
        turns: dict[str, list[str]] = {"stored": [], "either": []}
        white, values = 0, band_statistics.Found()
        total = sum(map(len, self.splits.values()))
        with ThreadPoolExecutor(os.cpu_count()) as pool, bar("checking images and masks", total, "pair") as progress:
            for place, split in enumerate(SPLITS):
                names = self.splits[split]
                for name, found in zip(names, pool.map(self._read, names), strict=True):
                    rows = masks.setdefault(found.kind, {})
                    for pair, number in found.counts.items():
                        rows.setdefault(pair, [len(rows), 0, 0, name])[1 + place] += number
                    held[place].append((found.kind, [rows[pair][0] for pair in found.counts]))
                    if found.turn:
                        turns[found.turn].append(name)
                    if found.moments:
                        band_statistics.note(values, split, name, found.image_kind, found.moments)
                    white = max(white, found.white)
                    progress.update()
        tables = {kind: [[*pair, *row[1:]] for pair, row in pairs.items()] for kind, pairs in masks.items()}
        return {"masks": tables, **turns, "white": white, "held": held, "bands": values}

    def _read(self, name: str) -> Checked:
        """Reads and checks an image and its mask."""
        image_path = str(self.root / self.pairs[name][0])
        kind, counts, values, mask_path = self._mask(name)
        data = self.files.read(self.pairs[name][0])
        image, turn = bands.decode(data, image_path, self._bands), ""
        if (turned := bands.orientation(data, image_path, self._bands)) != 1:
            stored = image.shape[1::-1] if turned >= 5 else image.shape[:2]
            if stored == values.shape:
                turn = "either" if image.shape[:2] == values.shape else "stored"
        if turn != "stored":
            check_same_size(image, values, mask_path)
        white = 0 if self._bands else white_of(data, image_path)
        moments = Moments.of_image(image) if self._bands else None
        return Checked(kind, counts, turn, white, str(image.dtype), moments)

    def _mask(self, name: str) -> tuple[str, dict[Pair, int], np.ndarray, str]:
        """The kind of an image's mask, the number of pixels of each pair, its values [H, W], and its path."""
        path = str(self.root / self.pairs[name][1])
        mask = read_mask(self.files.read(self.pairs[name][1]), path)
        return mask.kind, mask.counts(path), mask.values, path

    def read_classes(self, legend: Legend) -> dict[str, bool]:
        """For each kind of mask, whether colours count in it or ids; see `Legend.is_by_color`.

        Raises:
          UserError: naming a mask that holds a value or colour of no class, or one that contradicts the classes.
        """
        found = {}
        for kind, examples in self.survey.examples.items():
            paths = {pair: str(self.root / self.pairs[name][1]) for pair, name in examples.items()}
            found[kind] = legend.is_by_color(kind, paths)
        self._check(legend, found)
        return found

    def _check(self, legend: Legend, by_color: dict[str, bool] | None = None) -> None:
        for kind, examples in self.survey.examples.items():
            is_by_color = bool(by_color and by_color[kind])
            for pair, name in examples.items():
                if legend.labels(*(np.array([value]) for value in pair), by_color=is_by_color)[0] == NO_CLASS:
                    self.label(name, legend, {kind: is_by_color})

    def pixels(self, split: str, legend: Legend, by_color: dict[str, bool]) -> np.ndarray:
        """The number of pixels of each label value in a split, int64 [256]."""
        counts = np.zeros(256, np.int64)
        for kind, found in self.survey.pixels.items():
            ids, colors = np.array(list(found)).T
            labels = legend.labels(ids, colors, by_color=by_color[kind])
            np.add.at(counts, labels, [row[SPLITS.index(split)] for row in found.values()])
        return counts

    def class_presence(self, split: str, legend: Legend, by_color: dict[str, bool]) -> np.ndarray:
        """Whether an image of a split holds a label value, bool [N, 256]."""
        labels = {
            kind: legend.labels(*np.array(list(found)).T, by_color=by_color[kind])
            for kind, found in self.survey.pixels.items()
        }
        held = self.survey.held[SPLITS.index(split)]
        presence = np.zeros((len(held), 256), bool)
        for row, (kind, places) in zip(presence, held, strict=True):
            row[labels[kind][places]] = True
        return presence

    def image(self, name: str, white: int = 0, turned: bool = True) -> np.ndarray:
        """Reads an image, as `bands.decode` does."""
        path = self.pairs[name][0]
        return bands.decode(self.files.read(path), str(self.root / path), self._bands, white=white, turned=turned)

    def label(self, name: str, legend: Legend, by_color: dict[str, bool]) -> np.ndarray:
        """Reads a mask as labels, uint8 [H, W]; by_color is as `read_classes` returns it."""
        path = self.pairs[name][1]
        mask = read_mask(self.files.read(path), str(self.root / path))
        return mask.labels(legend, by_color.get(mask.kind, mask.kind == "RGB"), str(self.root / path))


def _of_json(found: dict[str, Any]) -> Survey:
    pixels, examples = {}, {}
    for kind, rows in found["masks"].items():
        pixels[kind] = {(value, color): [train, val] for value, color, train, val, _ in rows}
        examples[kind] = {(value, color): name for value, color, _, _, name in rows}
    others = {name: found[name] for name in ("stored", "either", "white", "held")}
    return Survey(pixels, examples, **others, bands=found.get("bands", {}))
