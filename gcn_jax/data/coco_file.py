"""Reads a file of COCO's format as people's tools write it: what it lists, and what in it cannot be used."""

import json
import pathlib
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from gcn_jax.console import say
from gcn_jax.data.legend import parse_classes
from gcn_jax.data.outlines import LeftOut, crowd, parts_of, whole
from gcn_jax.data.specs import VOID
from gcn_jax.errors import UserError

# An id; whole numbers that are written as text are numbers.
Key = int | str
BACKGROUND = ("background", "_background_")
_VOID = ("void", "_void_", "__ignore__")
_T = TypeVar("_T")


@dataclass(frozen=True)
class CocoImage:
    """An image that a file lists.

    Attributes:
      file_name: with slashes, without "./" or a drive; of a web address its path.
      height, width: pixels; None where the file does not say.
    """

    file_name: str
    height: int | None
    width: int | None

    def __str__(self) -> str:
        return self.file_name


@dataclass(frozen=True)
class CocoFile:
    """What a file lists.

    Attributes:
      categories: each category's name, in the order of their ids.
      images: the images, in the file's order.
      annotations: of each image, in the file's order; with ids as keys of `categories`.
      left_out: those of images or categories that are not in the file.
    """

    categories: dict[Key, str]
    images: dict[Key, CocoImage]
    annotations: dict[Key, list[dict[str, Any]]]
    left_out: list[LeftOut]


def read(content: bytes, name: str) -> CocoFile:
    """Reads a file of COCO's instances.

    Args:
      content: of the file.
      name: of the file, for messages.

    Raises:
      UserError: if it is not such a file, if two images or categories have one id, or if no annotation has an outline.
    """
    try:
        lists = json.loads(content)
        images, annotations, categories = (_records(lists, key) for key in ("images", "annotations", "categories"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{name}: not a COCO instances file ({type(error).__name__}: {error})") from error
    known = _unique(((key, _category_name(key, record)) for key, record in _keyed(categories, "category", name)), name)
    listed = _unique(((key, _image(key, record, name)) for key, record in _keyed(images, "image", name)), name)
    _check_outlines(annotations, name)
    placed: dict[Key, list[dict[str, Any]]] = {key: [] for key in listed}
    left_out: list[LeftOut] = []
    for annotation in annotations:
        image, category = _key(annotation.get("image_id")), _key(annotation.get("category_id"))
        if image not in listed:
            left_out.append((annotation.get("id"), f"the file lists no image {annotation.get('image_id')}"))
        elif category not in known:
            left_out.append((annotation.get("id"), f"the file lists no category {annotation.get('category_id')}"))
        else:
            annotation["category_id"] = category
            placed[image].append(annotation)
    order = sorted(known, key=lambda key: (isinstance(key, str), key))
    return CocoFile({key: known[key] for key in order}, listed, placed, left_out)


def _records(lists: dict[str, Any], key: str) -> list[dict[str, Any]]:
    records = lists[key]
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise TypeError(f"{key!r} is no list of records")
    return records


def _key(value: Any) -> Key | None:
    number = whole(value)
    return number if number is not None else value if isinstance(value, str) else None


def _keyed(records: list[dict[str, Any]], kind: str, name: str) -> Iterable[tuple[Key, dict[str, Any]]]:
    for place, record in enumerate(records, 1):
        key = _key(record.get("id"))
        if key is None:
            raise UserError(f"{name}: not a COCO instances file ({kind} {place} has the id {record.get('id')!r})")
        yield key, record


def _unique(pairs: Iterable[tuple[Key, _T]], name: str) -> dict[Key, _T]:
    found: dict[Key, _T] = {}
    for key, value in pairs:
        if found.setdefault(key, value) != value:
            raise UserError(f"{name}: {found[key]} and {value} have the same id, {key}")
    return found


def _category_name(key: Key, record: dict[str, Any]) -> str:
    return " ".join(str(record.get("name") or f"category {key}").replace(",", " ").split())


def _image(key: Key, record: dict[str, Any], name: str) -> CocoImage:
    file_name = record.get("file_name") or urllib.parse.urlsplit(str(record.get("coco_url") or "")).path
    path = pathlib.PureWindowsPath(str(file_name))  # which knows both kinds of slashes
    parts = [part for part in path.parts if part not in (path.anchor, ".")]
    if not parts:
        raise UserError(f"{name}: image {key} has no file_name")
    height, width = (size if (size := whole(record.get(side))) and size > 0 else None for side in ("height", "width"))
    return CocoImage("/".join(parts), height, width)


def _check_outlines(annotations: list[dict[str, Any]], name: str) -> None:
    """Raises `UserError` if no annotation has an outline, or if all outlines are in fractions of the image's size."""
    if not any(map(parts_of, annotations)):
        boxes = sum(bool(annotation.get("bbox")) for annotation in annotations)
        raise UserError(
            f"{name}: none of its {len(annotations)} annotations has an outline ({boxes} have a box), so that there is "
            f"nothing to learn from; export polygons or masks"
        )
    if all(_is_fraction(part) for annotation in annotations for part in parts_of(annotation)):
        raise UserError(f"{name}: its polygons are in fractions of the image's size; COCO's are in pixels")


def _is_fraction(part: Any) -> bool:
    try:
        return bool(np.abs(np.asarray(part, np.float64)).max() <= 1)
    except (TypeError, ValueError, OverflowError):  # run lengths, or what cannot be drawn
        return False


def class_labels(content: CocoFile, origin: str) -> tuple[tuple[str, ...], dict[Key, int]]:
    """The names of the classes after background, and the label of each category.

    Of several categories with one name all but one may lack annotations, as in files of Roboflow.
    """
    used = {annotation["category_id"] for own in content.annotations.values() for annotation in own}
    names: list[str] = []
    labels: dict[Key, int] = {}
    owners: dict[str, Key] = {}
    for key, name in sorted(content.categories.items(), key=lambda item: item[0] not in used):
        if name in owners and key in used:
            raise UserError(f"{origin}: the categories {owners[name]} and {key} are both called {name!r}; rename one")
        owners.setdefault(name, key)
    for key, name in content.categories.items():
        if owners[name] == key and name.lower() not in (*BACKGROUND, *_VOID):
            names.append(name)
    for key, name in content.categories.items():
        is_void = name.lower() in _VOID
        labels[key] = VOID if is_void else names.index(name) + 1 if name in names else 0
    if (found := parse_classes(["background", *names], origin).spec.class_names) != ["background", *names]:
        wrong = next(name for name in names if name not in found)
        raise UserError(f"{origin}: {wrong!r} cannot be the name of a class; rename the category")
    return tuple(names), labels


def take_marks(content: CocoFile, origin: str) -> None:
    """Takes crowds as objects where the mark only says that they are run lengths, as for brushed masks of CVAT."""
    outlined = [annotation for own in content.annotations.values() for annotation in own if parts_of(annotation)]
    marked = [annotation for annotation in outlined if crowd(annotation)]
    attributes = (annotation.get("attributes") for annotation in outlined)
    is_of_cvat = any(isinstance(some, dict) and "occluded" in some for some in attributes)
    if marked and (is_of_cvat or len(marked) == len(outlined)):
        for annotation in marked:
            annotation["iscrowd"] = 0
        say(f"{origin}: {len(marked)} annotations are marked as crowds, as CVAT marks masks; they are taken as objects")
