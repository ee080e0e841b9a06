"""Finds the files of a folder in COCO's format: those of annotations, and the images that they list."""

import collections
import functools
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gcn_jax.console import say
from gcn_jax.data import coco_file
from gcn_jax.data.builders.archives import Folder, is_junk
from gcn_jax.data.coco_file import CocoImage, Key
from gcn_jax.data.outlines import LeftOut
from gcn_jax.data.texts import printable
from gcn_jax.errors import UserError

# The split that a word in a name stands for; of test splits nothing is read.
_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
# Other files that lie beside COCO's instances.
_OTHERS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
# Names that tools give to a file of annotations: Roboflow, labelme2coco, FiftyOne, Label Studio, VIA.
_NAMES = ("_annotations.coco.json", "annotations.json", "labels.json", "result.json", "via_export_coco.json")


@dataclass(frozen=True)
class Item:
    """An image and its annotations.

    Attributes:
      path: of the image, relative to the folder.
      record: what the annotations' file says of it.
      annotations: as JSON, since COCO's take several times the memory as Python's lists.
      origin: the annotations' file.
    """

    path: str
    record: CocoImage
    annotations: str
    origin: str

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, if both are stated."""
        height, width = self.record.height, self.record.width
        return (height, width) if height and width else None


@dataclass(frozen=True)
class Listed:
    """What a file of annotations lists.

    Attributes:
      classes: the names of its classes in the order of their ids, without background and void.
      items: the images and annotations, by the images' names.
      left_out: annotations that belong to no image or category of the file.
      total: the number of all annotations.
    """

    classes: tuple[str, ...]
    items: dict[str, Item]
    left_out: list[LeftOut]
    total: int


def find(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """The files of annotations, by their splits: "train" and "val"; or "" for one file of both together.

    Raises:
      UserError: if there is none, or if several could be meant.
    """
    if not root.is_dir():
        problem = "is a file; name the folder of it and its images" if root.is_file() else "no such folder"
        raise UserError(f"config.data_dir={root}: {problem}")
    found: dict[str, list[pathlib.Path]] = {"train": [], "val": [], "test": [], "": []}
    for path in _json_files(root / "annotations"):
        found[_split_of(path.stem)].append(path)
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and _split_of(path.name)):
        found[_split_of(folder.name)] += _named(_json_files(folder) or _json_files(folder / "annotations"))
    for path in _json_files(root):
        if split := _split_of(path.stem):
            found[split].append(path)
    del found["test"]
    loose = [path for path in _json_files(root) if not _split_of(path.stem)]
    if any(path.name in _NAMES for path in loose) or not any(found.values()):
        found[""] += _named(loose)
    for paths in (*found.values(), [*found[""], *found["train"], *found["val"]] if found[""] else []):
        if len(paths) > 1:
            names = " and ".join(str(path.relative_to(root)) for path in paths[:2])
            raise UserError(f"config.data_dir={root}: {names} could both be the annotations; leave one of them there")
    if not found["train"] and not found[""]:
        missing = (
            f"annotations for training beside {found['val'][0]}" if found["val"] else "annotations in COCO's format"
        )
        raise UserError(
            f"config.data_dir={root}: holds no {missing}; known: annotations/instances_train2017.json and "
            f"instances_val2017.json, train/_annotations.coco.json and valid/_annotations.coco.json, or one file "
            f"annotations/NAME.json or NAME.json"
        )
    return {split: paths[0] for split, paths in found.items() if paths}


def _json_files(folder: pathlib.Path) -> list[pathlib.Path]:
    paths = sorted(folder.glob("*.json"))
    return [path for path in paths if not is_junk(path.name) and not path.name.startswith(_OTHERS)]


def _named(paths: list[pathlib.Path]) -> list[pathlib.Path]:
    """Those with a name that a tool gives, if there are any."""
    return [path for path in paths if path.name in _NAMES] or paths


def _split_of(name: str) -> str:
    splits = [_WORDS[word] for word in re.findall("[a-z]+", name.lower()) if word in _WORDS]
    return splits[0] if splits else ""


def _find_images(
    root: pathlib.Path, annotations: pathlib.Path, split: str, images: Mapping[Key, CocoImage], files: Iterable[str]
) -> dict[Key, str]:
    """The path of each listed image, relative to the root.

    Args:
      root: the folder.
      annotations: the file that lists the images.
      split: its split; "" for both.
      images: what it lists.
      files: all files below the root, relative to it.

    Raises:
      UserError: naming the first image that is not there or could be several, or two with the same file.
    """
    known = {printable(path): path for path in files}
    same_name = collections.defaultdict(list)
    for path in known:
        same_name[path.rpartition("/")[2]].append(path)
    places = _places(root, annotations, split)
    found: dict[Key, str] = {}
    ids: dict[str, Key] = {}
    missing = []
    for key, image in images.items():
        candidates = _candidates(printable(image.file_name), places, known, same_name)
        if not candidates:
            missing.append(f"{image.file_name} of image {key}")
        elif len(candidates) > 1:
            raise UserError(f"{annotations}: image {key}, {image.file_name}, could be {' or '.join(candidates[:2])}")
        elif candidates[0] in ids:
            raise UserError(f"{annotations}: images {ids[candidates[0]]} and {key} are both {candidates[0]}")
        else:
            found[key] = known[candidates[0]]
            ids[candidates[0]] = key
    if missing:
        raise UserError(f"{annotations}: {len(missing)} of {len(images)} images are not below {root}: {missing[0]}")
    return found


def _places(root: pathlib.Path, annotations: pathlib.Path, split: str) -> list[str]:
    """The folders that images are looked for in, relative to the root, with a slash; those of the split first."""
    stem = annotations.stem.removeprefix("instances_")
    words = [word for word, meant in _WORDS.items() if split and meant == split]
    own = [
        annotations.parent.relative_to(root).as_posix(),
        *(f"{top}{name}" for name in (stem, *words) for top in ("", "images/")),
    ]
    return [f"{place}/" for place in own if place != "."] + ["", "images/"]


def _candidates(
    name: str, places: list[str], known: Mapping[str, str], same_name: Mapping[str, list[str]]
) -> list[str]:
    """The paths that a listed name may mean: the first place that holds it or an end of it, or all files named so."""
    parts = name.split("/")
    for start in range(max(1, len(parts) - 1)):
        for place in places:
            if (path := place + "/".join(parts[start:])) in known:
                return [path]
    found = same_name.get(parts[-1], [])
    return [path for path in found if path.startswith(tuple(places[:-2]))] or found


@functools.lru_cache(maxsize=2)
def read(root: pathlib.Path, name: str, split: str, stamp: str) -> Listed:
    """Reads a file of annotations and finds its images; a run asks several times, and COCO's take half a minute."""
    del stamp  # if the file changes, it is read again
    path = root / name
    files = Folder(root)
    content = coco_file.read(files.read(name), str(path))
    classes, labels = coco_file.class_labels(content, str(path))
    coco_file.take_marks(content, str(path))
    paths = _find_images(root, path, split, content.images, files.names(""))
    stems = collections.Counter(os.path.splitext(found)[0] for found in paths.values())
    items = {}
    for key, found in paths.items():
        stem = os.path.splitext(found)[0]
        own = content.annotations[key]
        for annotation in own:
            annotation["class_id"] = labels[annotation["category_id"]]
        items[printable(stem if stems[stem] == 1 else found)] = Item(
            found, content.images[key], json.dumps(own), str(path)
        )
    total = len(content.left_out) + sum(map(len, content.annotations.values()))
    if bare := sum(not own for own in content.annotations.values()):
        say(f"{path}: {bare} of {len(items)} images have no annotation, and are background")
    return Listed(classes, items, content.left_out, total)
