"""The user's own images with masks of each class, which may overlap: multi-label data, read in place.

    DIR/images/NAME.jpg         as in `gcn_jax.data.folder`
    DIR/masks/CLASS/NAME.png    where the class is: 0 and 1, or black and white; beside 1, 255 is void for this class.
                                Without the file the class is not in the image.
    DIR/classes.txt             one class per line, in the order of their planes, with a colour if you like. Without the
                                file the classes are the folders of masks/, by their names.

Splits and lists are those of a `gcn_jax.data.folder`.
"""

from typing import NamedTuple

import numpy as np

from gcn_jax.data.class_files import canonical_lines
from gcn_jax.data.folder import SPLITS, LabelledFolder
from gcn_jax.data.legend import NO_CLASS, Legend, Pair, parse_classes
from gcn_jax.data.masks import check_same_size, read_mask
from gcn_jax.data.specs import VOID
from gcn_jax.errors import UserError

_KIND = "classes"  # of the survey's pairs: (a folder's place among them, a value), (_ALL, 0) for all pixels
_ALL = -1


class Meaning(NamedTuple):
    """The class of each folder of masks, and those of them in which 255, white, is the class; otherwise it is void."""

    places: dict[str, int]
    white: frozenset[str]


class ClassFolders(LabelledFolder):
    """The files of a folder of images and of masks of each class, an `OwnFolder`; arguments as of `LabelledFolder`."""

    multi_label = True
    has_classes_file = True  # or folders, which name the classes as well

    @property
    def _folders(self) -> list[str]:
        return sorted(set(self._layout.class_of.values()))

    def class_lines(self, first_id: int = 0) -> tuple[str, ...]:
        """The classes as `parse_classes` takes them; first_id has no meaning here."""
        del first_id
        if path := self._layout.class_file:
            lines = canonical_lines(path.read_bytes(), str(path))
            self._check_folders(parse_classes(lines, str(path), multi_label=True))
            return lines
        lines = tuple(self._folders)
        for line in lines:
            if parse_classes(["another class", line, "a third"], multi_label=True).spec.class_names[1] != line:
                raise UserError(f"{self.root}: the folder of masks {line!r} cannot be the name of a class; rename it")
        parse_classes(lines, f"{self.root}, its folders of masks", multi_label=True)
        return lines

    def _check_folders(self, legend: Legend) -> None:
        for path, folder in self._layout.class_of.items():
            if folder not in legend.spec.class_names:
                raise UserError(f"{self.root / path}: {folder!r} is none of the classes of {legend.origin}")

    def _mask(self, name: str) -> tuple[str, dict[Pair, int], np.ndarray, str]:
        """As of `LabelledFolder`; a pair is that of a folder and a value, the values are those of one mask."""
        values, path = None, ""
        counts: dict[Pair, int] = {}
        for relative in self.pairs[name][1:]:
            first, path = path, str(self.root / relative)
            mask = read_mask(self.files.read(relative), path).of_one_class(path)
            if values is not None and values.shape != mask.shape:
                size = f"{mask.shape[1]}x{mask.shape[0]} pixels, but {first} {values.shape[1]}x{values.shape[0]}"
                raise UserError(f"{path}: the mask is {size}")
            values, place = mask, self._folders.index(self._layout.class_of[relative])
            found, numbers = np.unique(mask, return_counts=True)
            counts |= {(place, int(value)): int(number) for value, number in zip(found, numbers, strict=True)}
        if values is None:
            values = np.zeros(self.image(name).shape[:2], np.uint8)
        return _KIND, {**counts, (_ALL, 0): values.size}, values, path

    def read_classes(self, legend: Legend) -> Meaning:  # type: ignore[override]
        """What folders and values mean: 255 is void if a mask of the folder holds 1, or the list of classes says so.

        Raises:
          UserError: naming a mask of no class, or one that holds 255 but not the 1 of others.
        """
        self._check_folders(legend)
        names, pairs = legend.spec.class_names, list(self.survey.pixels[_KIND])
        is_stated = VOID in legend.void_ids
        with_ones = {self._folders[place] for place, value in pairs if value == 1}
        for split, images in zip(SPLITS, self.survey.held, strict=True):
            for name, (_, held) in zip(self.splits[split], images, strict=True):
                values = {pairs[i] for i in held}
                for relative in self.pairs[name][1:]:
                    folder = self._layout.class_of[relative]
                    place = self._folders.index(folder)
                    if (place, 255) in values and (place, 1) not in values and folder in with_ones and not is_stated:
                        raise UserError(
                            f"{self.root / relative}: holds 255 but no 1, which other masks of {folder} hold: if 255 "
                            f"is void, write a line 'void 255' into {self.class_file}, below the classes; if it is "
                            f"the class, save the masks of {folder} alike"
                        )
        white = frozenset(self._folders) - with_ones if not is_stated else frozenset()
        return Meaning({folder: names.index(folder) for folder in self._folders}, white)

    def pixels(self, split: str, legend: Legend, meaning: Meaning) -> np.ndarray:  # type: ignore[override]
        """The number of pixels of each class in a split, int64 [256]; see `gcn_jax.data.samples.Split`."""
        counts = np.zeros(256, np.int64)
        for pair, numbers in self.survey.pixels[_KIND].items():
            if (label := self._label(pair, meaning)) is not None:
                counts[label] += numbers[SPLITS.index(split)]
        return counts

    def _label(self, pair: Pair, meaning: Meaning) -> int | None:
        """What a pair counts as: a class, void, `NO_CLASS` for all pixels; None: it is where a class is not."""
        place, value = pair
        if place == _ALL:
            return NO_CLASS
        folder = self._folders[place]
        if value == 1 or (value == 255 and folder in meaning.white):
            return meaning.places[folder]
        return VOID if value == 255 else None

    def class_presence(self, split: str, legend: Legend, meaning: Meaning) -> np.ndarray:  # type: ignore[override]
        """Whether an image of a split holds a class, bool [N, 256]."""
        labels = [self._label(pair, meaning) for pair in self.survey.pixels[_KIND]]
        held = self.survey.held[SPLITS.index(split)]
        presence = np.zeros((len(held), 256), bool)
        for row, (_, places) in zip(presence, held, strict=True):
            row[[label for place in places if (label := labels[place]) not in (None, NO_CLASS)]] = True
        return presence

    def label(self, name: str, legend: Legend, meaning: Meaning) -> np.ndarray:  # type: ignore[override]
        """Reads an image's masks, uint8 [H, W, classes]: 1 where a class is, 0 where not, 255 where it is void."""
        planes = None
        for relative in self.pairs[name][1:]:
            folder, path = self._layout.class_of[relative], str(self.root / relative)
            values = read_mask(self.files.read(relative), path).of_one_class(path)
            if planes is None:
                planes = np.zeros((*values.shape, legend.spec.num_classes), np.uint8)
            check_same_size(planes, values, path)
            planes[..., meaning.places[folder]] = np.minimum(values, 1) if folder in meaning.white else values
        if planes is None:
            planes = np.zeros((*self.image(name).shape[:2], legend.spec.num_classes), np.uint8)
        return planes
