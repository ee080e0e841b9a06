"""`folder`: the user's own images and masks, read in place.

    DIR/images/NAME.jpg     any image format, turned upright by its EXIF orientation; may lie in folders of their own
    DIR/masks/NAME.png      class ids as grey values (8 or 16 bits) or palette indices, or colours; 255 is void
    DIR/train.txt, val.txt  NAMEs, one per line. If there is only one list, all other images are the other split. If
                            there is none, a fifth of the images, drawn with config.seed, are val.
    DIR/classes.txt         one class per line, in the order of their ids: "road", or with its colour "road 128 64 128".
                            A line "void R G B" gives void's colour. Without the file the masks are searched for ids.

Before the first use each pair of files is read and checked; later starts only list the files.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np

from gcn_jax.console import bar
from gcn_jax.data.builders.archives import Folder
from gcn_jax.data.images import IMAGE_SUFFIXES, MAX_CLASSES, NO_CLASS, check_same_size, decode_image, decode_label
from gcn_jax.data.specs import VOID, ClassSpec, DatasetSpec, voc_colors
from gcn_jax.errors import UserError
from gcn_jax.files import write_json

NAME = "folder"
SPLITS = ("train", "val")
_VAL_FRACTION = 0.2


def parse_classes(lines: Sequence[str], origin: str = "classes.txt") -> tuple[DatasetSpec, np.ndarray | None]:
    """Parses the lines of a classes.txt; empty lines and lines that start with # are skipped.

    Args:
      lines: "name" or "name R G B" (or with commas), one per class, in the order of their ids.
      origin: where the lines come from, for messages.

    Returns:
      The label space; and a table with the label of each colour, as `decode_label` needs it for masks in colours, or
      None if no line has a colour. In pictures, classes without a colour get VOC's colours.

    Raises:
      UserError: naming the line that is wrong.
    """
    classes: list[ClassSpec] = []
    void_color = DatasetSpec.void_color
    stated: dict[tuple[int, int, int], int] = {}
    palette = list(voc_colors())
    for number, line in enumerate(lines, 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        numbers = words[-3:] if len(words) > 3 and all(word.isdecimal() for word in words[-3:]) else []
        name = " ".join(words[: len(words) - len(numbers)])
        red, green, blue = map(int, numbers) if numbers else palette[len(classes) % 256]
        color = red, green, blue
        if max(color) > 255:
            raise UserError(f"{origin}, line {number}: colour {' '.join(numbers)} is not of 0-255")
        if (numbers and color in stated) or name in (c.name for c in classes):
            raise UserError(f"{origin}, line {number}: {line.strip()!r} repeats the name or colour of another class")
        if name == "void":
            class_id, void_color = VOID, color
        else:
            class_id = len(classes)
            classes.append(ClassSpec(name, color))
        if numbers:
            stated[color] = class_id
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise UserError(f"{origin}: {len(classes)} classes; there must be 2 to {MAX_CLASSES}")
    colors = None
    if stated:
        colors = np.full(2**24, NO_CLASS, np.uint8)
        stated.setdefault(void_color, VOID)
        for (red, green, blue), class_id in stated.items():
            colors[red << 16 | green << 8 | blue] = class_id
    return DatasetSpec(NAME, tuple(classes), void_color), colors


class LabelledFolder:
    """The files of a folder of images and masks.

    Args:
      data_dir: the folder.
      cache_dir: where the results of the survey are kept.
      seed: for the random split of a folder that holds no lists.

    Raises:
      UserError: naming the folder, the file or the line that is wrong.
    """

    def __init__(self, data_dir: str, cache_dir: pathlib.Path, seed: int):
        if not data_dir:
            raise UserError("config.data_dir is empty: set it to the folder that holds images/ and masks/")
        self.root = pathlib.Path(data_dir).expanduser()
        self.files = Folder(self.root)
        self._seed, self._cache = seed, cache_dir / "folders"
        for part in ("images", "masks"):
            if not (self.root / part).is_dir():
                raise UserError(f"config.data_dir={data_dir}: holds no folder {part}/")

    @cached_property
    def pairs(self) -> dict[str, tuple[str, str]]:
        """The paths of each name's image and mask, relative to the folder; sorted by name."""
        images, masks = self._by_name("images"), self._by_name("masks")
        if not images:
            raise UserError(f"{self.root / 'images'}: holds no image ({', '.join(IMAGE_SUFFIXES)})")
        for name in sorted(images.keys() ^ masks.keys()):
            if name in images:
                raise UserError(f"{self.root / images[name]}: has no mask; expected masks/{name}.png")
            raise UserError(f"{self.root / masks[name]}: has no image; expected images/{name}.jpg or the like")
        return {name: (images[name], masks[name]) for name in images}

    def _by_name(self, part: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in map(pathlib.PurePosixPath, self.files.names(part)):
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
                name = path.relative_to(part).with_suffix("").as_posix()
                if name in found:
                    raise UserError(f"{self.root / path}: {found[name]} has the same name; rename or remove one")
                found[name] = str(path)
        return found

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        """The names of the images in each split."""
        lists = {split: self._listed(split) for split in SPLITS if (self.root / f"{split}.txt").is_file()}
        if not lists:
            order = np.random.default_rng(self._seed).permutation(sorted(self.pairs)).tolist()
            count = max(1, round(_VAL_FRACTION * len(order)))
            lists = {"val": sorted(order[:count]), "train": sorted(order[count:])}
        for split, other in (SPLITS, SPLITS[::-1]):
            if split not in lists:
                lists[split] = sorted(self.pairs.keys() - set(lists[other]))
            if not lists[split]:
                raise UserError(f"config.data_dir={self.root}: no image is left for {split} ({len(self.pairs)} in all)")
        return lists

    def _listed(self, split: str) -> list[str]:
        path = self.root / f"{split}.txt"
        names = []
        for number, line in enumerate(self.files.read(path.name).decode(errors="replace").splitlines(), 1):
            name = line.strip().removeprefix("images/")
            if not name:
                continue
            if name not in self.pairs:
                name = str(pathlib.PurePosixPath(name).with_suffix(""))
            if name not in self.pairs:
                raise UserError(f"{path}, line {number}: {line.strip()!r} has no file in {self.root / 'images'}")
            names.append(name)
        if not names:
            raise UserError(f"{path}: is empty")
        return list(dict.fromkeys(names))

    @property
    def has_classes_file(self) -> bool:
        """Whether there is a classes.txt."""
        return (self.root / "classes.txt").is_file()

    def class_lines(self) -> tuple[str, ...]:
        """The lines of classes.txt; without that file, made-up names for the ids that the masks hold."""
        if self.has_classes_file:
            path = self.root / "classes.txt"
            lines = self.files.read(path.name).decode(errors="replace").splitlines()
            parse_classes(lines, str(path))
            return tuple(line.strip() for line in lines)
        num_classes = self.survey(MAX_CLASSES, None)["largest"][0] + 1
        if num_classes < 2:
            raise UserError(
                f"{self.root / 'masks'}: the masks hold no id but 0 and {VOID}, which is void; class ids must be 0, 1, "
                f"2, ... (or write classes.txt with a colour for each class, and colour the masks so)"
            )
        return tuple(f"class {i}" for i in range(num_classes))

    def survey(self, num_classes: int, colors: np.ndarray | None) -> dict:
        """Reads and checks all images and masks, with a progress bar, and keeps what was found for the next time.

        Args:
          num_classes: ids must be below it.
          colors: from `parse_classes`.

        Returns:
          "pixels": for each split the number of pixels of each label value, 256 numbers. "largest": the largest id, and
          the name of a mask that holds it.

        Raises:
          UserError: naming the first bad file.
        """
        names = [name for split in SPLITS for name in self.splits[split]]
        stamps = self.files.stamps(lambda: (path for name in names for path in self.pairs[name]))
        key = [*self.splits.items(), *stamps, None if colors is None else hashlib.sha256(colors.tobytes()).hexdigest()]
        path = self._cache / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
        if path.is_file():
            found = json.loads(path.read_text())
        else:
            found = self._survey(colors)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, found)
            except OSError as error:
                raise UserError(f"config.cache_dir: {path} cannot be written ({error.strerror})") from error
        largest, name = found["largest"]
        if largest >= num_classes:
            self.label(name, num_classes, colors)
        return found

    def _survey(self, colors: np.ndarray | None) -> dict:
        def check(name: str) -> np.ndarray:
            label = self.label(name, MAX_CLASSES, colors)
            check_same_size(self.image(name), label, str(self.root / self.pairs[name][1]))
            return np.bincount(label.reshape(-1), minlength=256)

        pixels, largest = {}, (0, "")
        total = sum(map(len, self.splits.values()))
        with ThreadPoolExecutor(os.cpu_count()) as pool, bar("checking images and masks", total, "pair") as progress:
            for split, names in self.splits.items():
                counts = np.zeros(256, np.int64)
                for name, found in zip(names, pool.map(check, names), strict=True):
                    counts += found
                    largest = max(largest, (int(np.flatnonzero(found[:MAX_CLASSES]).max(initial=0)), name))
                    progress.update()
                pixels[split] = counts.tolist()
        return {"pixels": pixels, "largest": largest}

    def image(self, name: str) -> np.ndarray:
        """Reads an image, uint8 [H, W, 3]."""
        path = self.pairs[name][0]
        return decode_image(self.files.read(path), str(self.root / path))

    def label(self, name: str, num_classes: int, colors: np.ndarray | None) -> np.ndarray:
        """Reads a mask as labels, uint8 [H, W]; num_classes and colors are as in `decode_label`."""
        path = self.pairs[name][1]
        return decode_label(self.files.read(path), str(self.root / path), num_classes, colors)
