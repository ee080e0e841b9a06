"""Draws the annotations of COCO's format: polygons, and run lengths as numbers or packed as text.

What pycocotools cannot bear is refused before it is called: it draws a polygon of two points as a box, and reads and
writes beyond its memory where run lengths or coordinates are wrong.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from gcn_jax.data.image_files import MAX_PIXELS
from gcn_jax.data.specs import VOID
from gcn_jax.errors import UserError

# An annotation that cannot be drawn, and why.
LeftOut = tuple[Any, str]
# The length of a polygon, in pixels, that is still drawn; the library takes 100 bytes for each.
_MAX_LENGTH = 2**22


def draw(
    annotations: Iterable[Mapping[str, Any]], height: int, width: int, name: str
) -> tuple[np.ndarray, list[LeftOut]]:
    """Draws annotations as a mask, larger ones first, so that the smaller ones are on top.

    How large one is says its "area", or, without that, the number of its pixels. A crowd ("iscrowd") is void where
    nothing else lies. What cannot be drawn is left out.

    Args:
      annotations: as COCO has them, each with our "class_id" added. "area" and "iscrowd" may be missing.
      height: of the image, pixels.
      width: of the image, pixels.
      name: of the image, for messages.

    Returns:
      uint8 [height, width], class ids; 0 is background, 255 void. And the ids of the annotations that were left out,
      each with the reason.

    Raises:
      UserError: if the image has more than `MAX_PIXELS` pixels.
    """
    drawn, left_out = _sorted(annotations, height, width, name)
    label = np.zeros((height, width), np.uint8)
    for annotation, runs in drawn:
        label[coco_mask.decode(runs).astype(bool)] = VOID if crowd(annotation) else annotation["class_id"]
    return label, left_out


def draw_planes(
    annotations: Iterable[Mapping[str, Any]], height: int, width: int, name: str, classes: int
) -> tuple[np.ndarray, list[LeftOut]]:
    """Draws annotations as a mask of each class, whatever lies over them; other arguments are as of `draw`.

    A crowd is void for its class where no other object of that class lies, an annotation of void for all classes.

    Args:
      classes: the number of classes, whose ids are 1, 2, ...

    Returns:
      uint8 [height, width, classes]: 1 where a class is, 0 where it is not, 255 void. And what was left out, as `draw`.
    """
    drawn, left_out = _sorted(annotations, height, width, name)
    planes = np.zeros((height, width, classes), np.uint8)
    is_void = [annotation["class_id"] == VOID or crowd(annotation) for annotation, _ in drawn]
    for value, chosen in ((VOID, True), (1, False)):
        for (annotation, runs), own in zip(drawn, is_void, strict=True):
            if own == chosen and (class_id := annotation["class_id"]) != 0:
                here = slice(None) if class_id == VOID else slice(class_id - 1, class_id)
                planes[..., here][coco_mask.decode(runs).astype(bool)] = value
    return planes, left_out


def _sorted(
    annotations: Iterable[Mapping[str, Any]], height: int, width: int, name: str
) -> tuple[list[tuple[Mapping[str, Any], dict[str, Any]]], list[LeftOut]]:
    """The annotations that can be drawn, each with its packed run lengths, in the order of drawing; and the others."""
    if height * width > MAX_PIXELS:
        raise UserError(f"{name}: {width}x{height} pixels are more than the limit of {MAX_PIXELS}")
    drawn, left_out = [], []
    for annotation in annotations:
        identity = annotation.get("id")
        try:
            runs = _packed(annotation.get("segmentation"), height, width)
        except ValueError as error:
            left_out.append((identity, str(error)))
            continue
        area = _positive(annotation.get("area")) or float(coco_mask.area(runs))
        known = identity if isinstance(identity, int | str) else 0
        drawn.append(((not crowd(annotation), -area, isinstance(identity, str), known), annotation, runs))
    return [(annotation, runs) for _, annotation, runs in sorted(drawn, key=lambda one: one[0])], left_out


def crowd(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation is marked as a crowd; without the mark it is none."""
    return str(annotation.get("iscrowd")).lower() in ("1", "1.0", "true")


def parts_of(annotation: Mapping[str, Any]) -> list[Any]:
    """The polygons and run lengths of an annotation's outline, as they are in the file; empty ones are left out."""
    outline = annotation.get("segmentation")
    if isinstance(outline, list) and outline and not any(isinstance(part, list | dict) for part in outline):
        outline = [outline]  # one polygon that no list holds
    return [part for part in (outline if isinstance(outline, list) else [outline]) if part]


def report(left_out: Sequence[LeftOut], total: int, name: str) -> str:
    """A line that tells how many annotations were left out, and the first ones; empty if none were.

    Args:
      left_out: from `draw`.
      total: the number of all annotations.
      name: of the file, for messages.

    Raises:
      UserError: if not one annotation is left.
    """
    if not left_out:
        return ""
    some = ", ".join(f"annotation {identity} ({reason})" for identity, reason in left_out[:3])
    some += ", ..." if len(left_out) > 3 else ""
    if len(left_out) == total:
        raise UserError(f"{name}: none of its {total} annotations can be drawn: {some}")
    return f"{name}: {len(left_out)} of {total} annotations cannot be drawn and were left out: {some}"


def _packed(outline: Any, height: int, width: int) -> dict[str, Any]:
    """An outline as the packed run lengths of all its parts together; raises `ValueError` that says what is wrong."""
    parts = parts_of({"segmentation": outline})
    if not parts:
        raise ValueError("no outline")
    runs, polygons = [], []
    for part in parts:
        if isinstance(part, dict):
            runs.append(_run_lengths(part, height, width))
        else:
            polygons.append(_polygon(part, height, width))
    surfaces = [polygon for polygon in polygons if len(polygon) >= 6]  # a point or a line covers nothing
    if not surfaces and not runs:
        count = len(polygons[0]) // 2
        raise ValueError(f"a polygon of {count} point{'s' if count > 1 else ''}")
    if surfaces:
        points = np.concatenate(surfaces).reshape(-1, 2)
        if (points.max(0) <= 0).any() or (points.min(0) >= (width, height)).any():
            raise ValueError(f"outside the image of {width}x{height} pixels")
        runs += coco_mask.frPyObjects([polygon.tolist() for polygon in surfaces], height, width)
    return coco_mask.merge(runs)


def _polygon(part: Any, height: int, width: int) -> np.ndarray:
    """A polygon's coordinates, checked, float64 [2 * points]."""
    try:
        numbers = np.asarray(part, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("a polygon that is no list of numbers") from error
    if numbers.ndim != 1:
        raise ValueError("a polygon that is no list of numbers")
    if len(numbers) % 2:
        raise ValueError(f"a polygon of {len(numbers)} numbers, which are no pairs of x and y")
    if not np.isfinite(numbers).all():
        raise ValueError("a polygon with a coordinate that is no number")
    largest = np.abs(numbers).max()
    if largest > 10 * max(height, width):
        raise ValueError(f"the coordinate {largest:g} is far outside the image of {width}x{height} pixels")
    points = numbers.reshape(-1, 2)
    length = np.abs(points - np.roll(points, 1, 0)).max(1).sum()
    if length > _MAX_LENGTH:
        raise ValueError(f"a polygon that is {length:.0f} pixels long")
    return numbers


def _run_lengths(part: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """Run lengths, checked, as the library packs them."""
    size, counts = part.get("size"), part.get("counts")
    if size is not None:
        found = [whole(value) for value in size] if isinstance(size, list | tuple) else []
        if found != [height, width]:
            raise ValueError(f"run lengths for the size {size}, but the image's is {[height, width]}")
    if isinstance(counts, str | bytes):
        numbers = np.array(_unpacked(counts), np.float64)
    else:
        try:
            numbers = np.asarray(counts, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError("run lengths that are no numbers") from error
    if numbers.ndim != 1 or not np.isfinite(numbers).all() or (numbers < 0).any() or (numbers % 1).any():
        raise ValueError("run lengths that are no whole numbers")
    if numbers.sum() != height * width:
        raise ValueError(f"run lengths for {numbers.sum():.0f} pixels, but the image has {height * width}")
    return coco_mask.frPyObjects({"size": [height, width], "counts": numbers.astype(int).tolist()}, height, width)


def _unpacked(counts: str | bytes) -> list[int]:
    """Unpacks run lengths: 5 bits a character, the lowest first; from the fourth on, differences to the last but one.

    Each character's code is 48 more than its bits, of which bit 5 says that the number goes on; bit 4 of a number's
    last character is its sign.
    """
    found: list[int] = []
    number = shift = 0
    for code in counts.encode() if isinstance(counts, str) else counts:
        bits = code - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("damaged run lengths")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            found.append(number + found[-2] if len(found) > 2 else number)
            number = shift = 0
    if shift:
        raise ValueError("damaged run lengths")
    return found


def whole(value: Any) -> int | None:
    """A whole number, also one that is written as text or with a decimal point; None if it is none."""
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None


def _positive(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and number > 0 else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
